"""Learning rates, and which parameters decay or learn faster."""

from pathlib import Path

import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import assert_same_run, interrupted, run
from safetensors.torch import load_file
from torch import nn

from coadvise.checkpoints.build import build_student
from coadvise.errors import ModelError
from coadvise.run.folder import read_metrics
from coadvise.training.optimizer import make_optimizer


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
