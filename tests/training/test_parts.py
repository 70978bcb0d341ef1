"""Fine-tuning: rates by layer, frozen blocks, heads that learn first."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.recipes import CNN, tiny
from helpers.runs import assert_same_run, interrupted, run
from safetensors.torch import load_file
from torch import nn

from coadvise.errors import ModelError, RecipeError
from coadvise.losses import Objective
from coadvise.models.advised import add_tokens
from coadvise.models.compiling import compile_blocks, plain_attention
from coadvise.models.students import as_student
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.schema import Optim, Schedule
from coadvise.recipe.teacher import teacher_recipe
from coadvise.training.optimizer import make_optimizer, make_scheduler
from coadvise.training.parts import freeze, layers_of, still_norms
from coadvise.training.trained import Trained

SIZES: Any = {"patch_size": 2, "embed_dim": 24, "depth": 3, "num_heads": 2}
VIT = {"model": "vit_tiny_patch16_224", "options": SIZES}


def advised(name: str, **options: Any) -> nn.Module:
    return add_tokens(
        timm.create_model(name, img_size=8, num_classes=5, **SIZES, **options), {"conv": "conv", "x": None}
    )


def of_a_transformer(name: str) -> float:
    """Layer decay 0.5, backbone 0.1, tokens ×3, three blocks: each parameter's rate, by its name."""
    name = name.removeprefix("model.")
    first = name.split(".")[0]
    if first in ("tokens", "offsets"):
        return 3.0
    if first in ("head", "head_dist", "advised_heads"):
        return 1.0
    if first == "blocks":
        return 0.1 * 0.5 ** (3 - int(name.split(".")[1]))
    if first == "norm":
        return 0.1 * 0.5
    assert first in ("cls_token", "dist_token", "pos_embed", "patch_embed")
    return 0.1 * 0.5**4 * (3.0 if first in ("cls_token", "dist_token") else 1.0)


def of_a_resnet(name: str) -> float:
    """ResNet-10: a stem, then four blocks."""
    first = name.removeprefix("model.").split(".")[0]
    if first == "fc":
        return 1.0
    return 0.1 * 0.5 ** (5 - int(first[-1])) if first.startswith("layer") else 0.1 * 0.5**5


@pytest.mark.parametrize("kind", ["vit", "distilled", "cit", "cit_sa", "resnet"])
def test_every_parameter_has_its_rate(kind: str) -> None:
    student = {
        "vit": lambda: advised("vit_tiny_patch16_224"),
        "distilled": lambda: advised("deit_tiny_distilled_patch16_224"),
        "cit": lambda: timm.create_model("cit_tiny", img_size=8, **SIZES),
        "cit_sa": lambda: timm.create_model("cit_tiny_sa", img_size=8, teachers={"a": "conv", "b": "conv"}, **SIZES),
        "resnet": lambda: as_student(timm.create_model("resnet10")),
    }[kind]()
    settings = Optim(lr=1.0, lr_batch=None, layer_decay=0.5, backbone_lr=0.1, token_lr=1.0 if kind == "resnet" else 3.0)
    optimizer = make_optimizer(student, settings)
    scheduler = make_scheduler(optimizer, Schedule(epochs=10, warmup_epochs=2, min_lr=0.0), 5, 1.0)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(student.parameters()))
    grouped = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    scheduler.step_update(25)  # halfway down the cosine
    for name, parameter in student.named_parameters():
        expected = (of_a_resnet if kind == "resnet" else of_a_transformer)(name)
        assert grouped[id(parameter)]["lr"] == pytest.approx(0.5 * expected), name
        bare = parameter.ndim < 2 or "token" in name or "pos_embed" in name or "offsets" in name
        assert grouped[id(parameter)]["weight_decay"] == (0.0 if bare else 0.05), name


def test_settings_that_are_not_given_change_nothing(tmp_path: Path) -> None:
    recipe = tiny(tmp_path)
    off = {"optim.layer_decay": None, "optim.backbone_lr": 1.0, "student.freeze_blocks": 0, "schedule.head_epochs": 0}
    assert tiny(tmp_path, off).fingerprint() == recipe.fingerprint()
    text = str(recipe.content())
    assert not any(key.split(".")[1] in text for key in off)
    on = {"optim.layer_decay": 0.7, "optim.backbone_lr": 0.1, "student.freeze_blocks": 1, "schedule.head_epochs": 1}
    changed = tiny(tmp_path, on, teachers={"conv": CNN})
    assert len({tiny(tmp_path, {key: value}).fingerprint() for key, value in on.items()} | {recipe.fingerprint()}) == 5
    teacher = teacher_recipe(changed, "conv", tmp_path / "conv").content()
    assert not any(key.split(".")[1] in str(teacher) for key in off), "they are of the student"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights of VIT, as someone else may have trained them."""
    path = tmp_path_factory.mktemp("weights") / "vit.pth"
    torch.manual_seed(3)
    model = timm.create_model(VIT["model"], num_classes=10, img_size=8, **SIZES)  # type: ignore[arg-type]
    torch.save(model.state_dict(), path)
    return path


def fine_tuned(output: Path, weights: Path, changes: dict[str, Any]) -> Any:
    changes = {"student.checkpoint": str(weights), "schedule.epochs": 3, "optim.ema": 0.9, **changes}
    return tiny(output, changes, student={**VIT, "tokens": {"conv": "conv"}})


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"student.freeze_blocks": 2, "optim.layer_decay": 0.7, "run.grad_checkpointing": True},
            marks=pytest.mark.slow,
        ),
        {"schedule.head_epochs": 2, "optim.backbone_lr": 0.1, "optim.token_lr": 2.0, "optim.accumulate": 2},
    ],
    ids=["frozen", "heads first"],
)
def test_they_resume_bit_for_bit(weights: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    """In the first epoch, and after what waits has begun to learn."""
    run(fine_tuned(tmp_path / "a", weights, changes))
    for step in (3, 12):
        recipe = fine_tuned(tmp_path / str(step), weights, changes)
        interrupted(recipe, step * recipe.optim.accumulate)
        stopped = load_file(tmp_path / str(step) / "last.safetensors")
        run(recipe, resume=True)
        assert_same_run(tmp_path / "a", tmp_path / str(step))
        loaded = torch.load(weights)
        still = {name for name, value in loaded.items() if torch.equal(stopped[f"model.model.{name}"], value)}
        named = {name for name in loaded if not name.startswith("head.")}
        if "student.freeze_blocks" in changes:
            assert still == {name for name in named if not name.startswith(("blocks.2.", "norm."))}
        else:
            assert still == (named if step == 3 else set())
        assert all(torch.equal(stopped[f"ema.model.{name}"], loaded[name]) for name in still)
        assert not torch.equal(stopped["model.advised_heads.conv.weight"], loaded["head.weight"]), "it learns"


def test_frozen_batch_norms_keep_their_statistics() -> None:
    # A last norm of zeros would keep all gradients from its block.
    model = timm.create_model("resnet10", channels=[8, 8, 8, 8], num_classes=5, zero_init_last=False)
    student: Any = as_student(model)
    freeze(student, 2)
    trained = Trained(student, Objective(), still=still_norms(student, 2)).eval().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer = make_optimizer(student, Optim(lr=0.1, lr_batch=None))
    trained(torch.randn(4, 3, 32, 32), {}, torch.randint(5, (4,))).total.backward()
    optimizer.step()
    after = model.state_dict()
    still = {name for name, value in before.items() if torch.equal(after[name], value)}
    assert still == {name for name in before if name.startswith(("conv1.", "bn1.", "layer1.", "layer2."))}


def test_batch_norms_wait_with_the_rest(tmp_path: Path) -> None:
    student = {key: CNN[key] for key in ("model", "options", "small_stem")}
    changes = {"schedule.epochs": 2, "schedule.warmup_epochs": 0, "schedule.head_epochs": 1}
    recipe = tiny(tmp_path / "run", changes, student=student)
    interrupted(recipe, 4)
    stopped = load_file(tmp_path / "run" / "last.safetensors")
    running = {name: value for name, value in stopped.items() if name.startswith("model.") and "running" in name}
    assert running and all(float(value.std()) == 0 for value in running.values())  # as they were made
    run(recipe, resume=True)
    ended = load_file(tmp_path / "run" / "last.safetensors")
    assert all(float(ended[name].std()) > 0 for name in running)


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(192, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.last(x.flatten(1))
        return logits


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim.layer_decay": 0.7}, "optim.layer_decay: Own does not say which layers"),
        ({"optim.backbone_lr": 0.1}, r"optim.backbone_lr: Own has no get_classifier\(\)"),
        ({"schedule.head_epochs": 1}, r"schedule.head_epochs: Own has no get_classifier\(\)"),
        ({"student.freeze_blocks": 1}, "student.freeze_blocks: Own does not say which layers"),
    ],
)
def test_a_module_that_says_too_little_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        run(tiny(tmp_path / "run", changes), student=Own())
    assert not (tmp_path / "run").exists()


def test_what_cannot_be_frozen_is_refused(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"student\.freeze_blocks is 4; the student has 3 blocks"):
        run(fine_tuned(tmp_path / "run", weights, {"student.freeze_blocks": 4}))
    with pytest.raises(ModelError, match="would keep random weights"):
        run(tiny(tmp_path / "run", {"student.freeze_blocks": 1}))
    with pytest.raises(RecipeError, match=r"schedule\.head_epochs 4 must be smaller than schedule\.epochs 4"):
        tiny(tmp_path, {"schedule.head_epochs": 4})


def test_blocks_of_an_advised_vit_are_compiled_and_plain() -> None:
    student: Any = advised("vit_tiny_patch16_224")
    x = torch.randn(2, 3, 8, 8)
    fused = student.eval().forward_tokens(x)
    assert plain_attention(student, torch.device("cpu"), torch.bfloat16) == 3
    for token, logits in student.forward_tokens(x).items():
        torch.testing.assert_close(logits, fused[token])
    assert compile_blocks(student) == 3
    assert max(layers_of(student, "x").values()) == 4
    assert load_recipe("digits").optim.layer_decay is None
