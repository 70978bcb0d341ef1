"""Learning rates, and which parameters decay or learn faster."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import assert_same_run, interrupted, run
from safetensors.torch import load_file
from torch import nn

from coadvise.checkpoints.build import build_student
from coadvise.errors import ModelError
from coadvise.recipe.schema import Optim, Schedule
from coadvise.run.folder import read_metrics
from coadvise.training.optimizer import make_optimizer, make_scheduler


def test_learning_rate_follows_warm_up_and_cosine(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run", {"run.log_every": 1, "optim.lr_batch": 40, "schedule.min_lr": 1e-5})
    run(recipe)
    found = [line["lr"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    peak, total, warm = 1e-3 * 20 / 40, 20, 5
    expected = [
        1e-6 + step * (peak - 1e-6) / warm
        if step < warm
        else 1e-5 + 0.5 * (peak - 1e-5) * (1 + torch.pi * 0 + float(torch.cos(torch.tensor(torch.pi * step / total))))
        for step in range(total)
    ]
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_single_step_is_at_the_peak_without_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    changes = {"optim.batch_size": 100, "schedule.epochs": 1, "schedule.warmup_epochs": 0, "run.log_every": 1}
    run(tiny(tmp_path / "run", changes))
    found = [line["lr"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if line["kind"] == "train"]
    assert found == [1e-3] and not caplog.records


def test_decay_spares_norms_biases_tokens_and_positions(tmp_path: Path) -> None:
    """One step of AdamW with zero gradient shrinks decayed weights alone: read off the optimizer's groups."""
    from timm.optim import create_optimizer_v2

    from coadvise.checkpoints.build import build_student

    recipe = tiny(tmp_path, {"student.model": "cit_tiny_sa"}, teachers={"conv": CNN, "inv": INN})
    student = build_student(recipe.student, recipe.tokens(), 10, recipe.data.image_size)
    names = {id(p): name for name, p in student.named_parameters()}
    optimizer = create_optimizer_v2(student, opt="adamw", lr=1.0, weight_decay=0.05)
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    matrices = {name for name, p in student.named_parameters() if p.ndim > 1}
    assert decayed == {n for n in matrices if n not in ("cls_token", "pos_embed") and not n.startswith("tokens.")}


def test_tokens_may_learn_faster(tmp_path: Path) -> None:
    """The first update of AdamW moves every weight by its learning rate: those of the tokens by a multiple of it."""
    changes = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "optim.batch_size": 100, "optim.weight_decay": 0.0}
    moved = {}
    for scale in (1.0, 4.0):
        recipe = tiny(tmp_path / str(scale), {**changes, "optim.token_lr": scale}, teachers={"conv": CNN})
        torch.manual_seed(recipe.run.seed)
        before = build_student(recipe.student, recipe.tokens(), 10, recipe.data.image_size).state_dict()
        run(recipe)
        after = load_file(tmp_path / str(scale) / "last.safetensors")
        moved[scale] = {name: (after[f"model.{name}"] - before[name]).abs().median().item() for name in before}
    for name in moved[1.0]:
        factor = 4.0 if name in ("cls_token", "tokens.conv") else 1.0
        assert moved[4.0][name] == pytest.approx(factor * moved[1.0][name], rel=1e-3), name


def test_token_lr_resumes_alike_and_needs_tokens(tmp_path: Path) -> None:
    changes = {"optim.token_lr": 5.0}
    run(tiny(tmp_path / "a", changes))
    recipe = tiny(tmp_path / "b", changes)
    interrupted(recipe, 7)
    run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    student = {key: CNN[key] for key in ("model", "options", "small_stem")}
    with pytest.raises(ModelError, match=r"optim.token_lr: the student has no class token"):
        run(tiny(tmp_path / "c", changes, student=student, teachers={"conv": CNN}))
    assert not (tmp_path / "c").exists(), "found before a teacher is trained"


def test_tokens_of_modules_from_python(tmp_path: Path) -> None:
    """Whatever they are called and shaped, each parameter is in one group, and the tokens alone are scaled."""

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cls_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.dist_token = nn.Parameter(torch.zeros(1, 1, 4), requires_grad=False)
            self.named = nn.ModuleDict({"tokens": nn.Linear(4, 4)})
            self.tokens = nn.ParameterDict({"a": nn.Parameter(torch.zeros(4))})

    own = Own()
    optimizer = make_optimizer(own, tiny(tmp_path, {"optim.token_lr": 3.0}).optim)
    scaled = {id(p) for group in optimizer.param_groups if "lr_scale" in group for p in group["params"]}
    assert scaled == {id(own.cls_token), id(own.tokens["a"])}
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in own.parameters() if p.requires_grad)


SGD = {"optim.name": "sgd", "optim.lr": 0.05, "optim.momentum": 0.8, "optim.weight_decay": 0.01}


@pytest.mark.parametrize(
    "changes", [SGD | {"schedule.head_epochs": 1}, {"optim.name": "lamb", "optim.clip": None}], ids=["sgd", "lamb"]
)
def test_other_optimizers_resume_bit_for_bit(tmp_path: Path, changes: dict[str, Any]) -> None:
    changes = changes | {"optim.ema": 0.9, "optim.token_lr": 2.0}
    run(tiny(tmp_path / "a", changes))
    recipe = tiny(tmp_path / "b", changes)
    interrupted(recipe, 7)
    run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_sgd_and_lamb_against_their_formulas() -> None:
    """Two updates in float64, by hand; bias and norm do not decay, and LAMB gives these the plain step."""
    torch.manual_seed(0)
    gradients = [[torch.randn(3, 4).double() * 3, torch.randn(3).double() * 3] for _ in range(2)]
    for name in ("sgd", "lamb"):
        own = nn.Linear(4, 3).double()
        weights = [one.detach().clone() for one in own.parameters()]
        optimizer = make_optimizer(own, Optim(name=name, lr=0.1, lr_batch=None, weight_decay=0.2, momentum=0.7))
        first, second = [[torch.zeros_like(one) for one in weights] for _ in range(2)]
        for step, both in enumerate(gradients, 1):
            for parameter, gradient in zip(own.parameters(), both, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
            for i, (weight, gradient) in enumerate(zip(weights, both, strict=True)):
                decay = 0.2 if weight.ndim > 1 else 0.0
                if name == "sgd":
                    whole = gradient + decay * weight
                    first[i] = 0.7 * first[i] + whole
                    weights[i] = weight - 0.1 * (whole + 0.7 * first[i])
                    continue
                first[i] = 0.9 * first[i] + 0.1 * gradient
                second[i] = 0.999 * second[i] + 0.001 * gradient**2
                update = first[i] / (1 - 0.9**step) / ((second[i] / (1 - 0.999**step)).sqrt() + 1e-8) + decay * weight
                trust = weight.norm() / update.norm() if decay else 1.0
                weights[i] = weight - 0.1 * trust * update
        for parameter, weight in zip(own.parameters(), weights, strict=True):
            torch.testing.assert_close(parameter.detach(), weight, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("decay", [2, [1.5, 3]])
def test_steps_fall_at_their_epochs(decay: Any) -> None:
    """Each update's rate against a count of the moments that are past; groups keep their own factor."""
    own = nn.Linear(2, 2)
    optimizer = torch.optim.SGD([{"params": [own.weight], "lr_scale": 0.5}, {"params": [own.bias]}], lr=0.4)
    settings = Schedule(name="step", epochs=5, warmup_epochs=0.5, warmup_lr=0.1, decay_epochs=decay, decay_rate=0.2)
    scheduler = make_scheduler(optimizer, settings, 10, 0.4)
    moments = [1.5, 3] if isinstance(decay, list) else [2, 4]
    for step in range(50):
        scheduler.step_update(step)
        past = sum(step >= 10 * moment for moment in moments)
        expected = 0.1 + 0.3 * step / 5 if step < 5 else 0.4 * 0.2**past
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.5 * expected, expected]), step
