"""Advice beside timm's own distillation tasks: the same weights and images, the same losses and gradients.

Models and timm's losses are in float64 here; ours are computed in float32, whatever the logits.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.task import LogitDistillationTask, TokenDistillationTask
from torch import Tensor, nn

from coadvise import load_checkpoint
from coadvise.losses import co_advise_loss

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 48, "depth": 2, "num_heads": 3, "num_classes": 5}
WEIGHTS = {"class": 0.75, "regnet": 1.5}
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])
SOFT = torch.tensor([[0.7, 0.3, 0.0, 0.0, 0.0]] * 6, dtype=torch.float64)


@pytest.fixture
def double() -> object:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def teacher(images: Tensor) -> nn.Module:
    """A CNN whose statistics are those of the images, and whose answers are no guesses."""
    torch.manual_seed(3)
    model = timm.create_model("resnet10t", num_classes=5).double()
    nn.init.normal_(model.get_classifier().weight, std=0.5)
    model(images)
    return model.eval()


@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["labels", "mixed"])
@pytest.mark.parametrize(("kind", "tau"), [("soft", 1.0), ("soft", 3.0), ("hard", 1.0)])
def test_a_token_for_one_teacher_is_timms_token_task(
    tmp_path: Path, double: object, kind: str, tau: float, target: Tensor
) -> None:
    torch.manual_seed(1)
    theirs = timm.create_model("deit_tiny_distilled_patch16_224", **SIZES)
    for parameter in theirs.parameters():  # tokens and heads of a new model are 0, or alike
        nn.init.normal_(parameter, std=0.2) if parameter.ndim > 1 else None
    torch.save(theirs.state_dict(), tmp_path / "deit.pth")
    ours = timm.create_model("cit_tiny", **SIZES, teachers={"regnet": "conv"})
    load_checkpoint(ours, tmp_path / "deit.pth")
    images = torch.randn(6, 3, 32, 32)
    cnn = teacher(images)

    task = TokenDistillationTask(
        theirs, cnn, nn.CrossEntropyLoss(), distill_type=kind, temperature=tau, task_loss_weight=WEIGHTS["class"],
        distill_loss_weight=WEIGHTS["regnet"], dtype=torch.float64, verbose=False,
    )  # fmt: skip
    expected = task.train()(images, target)
    with torch.no_grad():
        advice = {"regnet": cnn(images)}
    temperatures = {"regnet": tau} if kind == "soft" else {}
    terms = co_advise_loss(
        ours.train().forward_tokens(images), advice, target, weights=WEIGHTS, temperatures=temperatures, kind=kind
    )
    torch.testing.assert_close(terms["class"], expected["task_loss"], rtol=2e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(terms["regnet"], expected["distill_loss"], rtol=2e-6, atol=0, check_dtype=False)
    torch.testing.assert_close(terms.total, expected["loss"], rtol=2e-6, atol=0, check_dtype=False)

    terms.total.backward()
    expected["loss"].backward()
    found = {key: value.grad for key, value in ours.named_parameters()}
    shared = {key: value.grad for key, value in theirs.named_parameters() if key in found}
    assert len(shared) == len(found) - 3  # the token, and weight and bias of its head, which have other names
    for key, gradient in shared.items():
        torch.testing.assert_close(found[key], gradient, rtol=1e-5, atol=1e-6, msg=key)
    torch.testing.assert_close(found["advised_heads.regnet.weight"], theirs.head_dist.weight.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [1.0, 3.0])
def test_advice_on_the_class_token_is_timms_logit_task(double: object, tau: float) -> None:
    torch.manual_seed(1)
    student = timm.create_model("vit_tiny_patch16_224", **SIZES)
    images = torch.randn(6, 3, 32, 32)
    cnn = teacher(images)
    task = LogitDistillationTask(
        student, cnn, nn.CrossEntropyLoss(), temperature=tau, task_loss_weight=WEIGHTS["class"],
        distill_loss_weight=WEIGHTS["regnet"], dtype=torch.float64, verbose=False,
    )  # fmt: skip
    task.student_mean, task.student_std = task.teacher.mean_kd, task.teacher.std_kd  # both see the same pixels
    expected = task.train()(images, LABELS)
    with torch.no_grad():
        advice = {"regnet": cnn(images)}
    logits = {"class": student(images)}
    terms = co_advise_loss(logits, advice, LABELS, weights=WEIGHTS, temperatures={"regnet": tau}, tokens="single")
    torch.testing.assert_close(terms.total, expected["loss"], rtol=2e-6, atol=0, check_dtype=False)
