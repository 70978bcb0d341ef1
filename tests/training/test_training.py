"""The loop: what it learns, what it writes, and that a resumed run is the uninterrupted one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from helpers.recipes import CNN, INN, tiny, with_weights
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from coadvise.checkpoints.build import build_student
from coadvise.errors import CheckpointError, Interrupted, ModelError, RunError
from coadvise.recipe.reading import dump_recipe
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics
from coadvise.system.progress import Display
from coadvise.training import train as training
from coadvise.training.optimizer import make_optimizer
from coadvise.training.train import train

QUIET = Display(quiet=True)


def run(recipe: Recipe, **options: Any) -> dict[str, Any]:
    return train(recipe, display=QUIET, **options)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Everything that a resume restores: weights, EMA, optimizer, generators."""
    return load_file(folder / "last.safetensors")


def assert_same_run(a: Path, b: Path) -> None:
    first, second = weights(a), weights(b)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert load_file(a / "best.safetensors").keys() == load_file(b / "best.safetensors").keys()
    best = [load_file(folder / "best.safetensors") for folder in (a, b)]
    assert all(torch.equal(best[0][key], best[1][key]) for key in best[0])
    lines = [[without_speed(line) for line in read_metrics(folder / "metrics.jsonl")] for folder in (a, b)]
    assert lines[0] == lines[1]
    results = [json.loads((folder / "result.json").read_text()) for folder in (a, b)]
    assert results[0]["final"] == results[1]["final"] and results[0]["best"] == results[1]["best"]


def without_speed(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "images_per_s"}


def test_the_whole_chain(tmp_path: Path) -> None:
    """Two teachers are trained, measured and used; every file is there and says what was done."""
    recipe = tiny(tmp_path / "run", teachers={"conv": CNN, "inv": INN})
    result = run(recipe)
    assert set(result["final"]) >= {
        "accuracy/class", "accuracy/conv", "accuracy/inv", "accuracy/average", "teacher/conv", "teacher/inv",
        "kl/conv|conv", "kl/conv|inv", "kl_reverse/inv|conv", "kl_reverse/inv|class",
    }  # fmt: skip
    assert result["teachers"]["inv"]["bias"] == "inv" and result["teachers"]["conv"]["samples"] == 101
    assert result["steps"] == 4 * (100 // 20) and result["images_seen"] == 400
    assert result["data"]["train"] == 100 and result["data"]["val"] == 101
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        "recipe.yaml", "manifest.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "result.json",
        "teachers",
    }  # fmt: skip
    lines = list(read_metrics(tmp_path / "run" / "metrics.jsonl"))
    train_lines = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in train_lines] == list(range(2, 21, 2))
    for line in train_lines:
        assert line["loss"] == pytest.approx(sum(line["terms"].values()), rel=1e-5)
        assert set(line["terms"]) == {"class", "conv", "inv"}
    assert [line["epoch"] for line in lines if line["kind"] == "eval"] == [1, 2, 3, 4]


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


def test_decay_spares_norms_biases_tokens_and_positions(tmp_path: Path) -> None:
    """One step of AdamW with zero gradient shrinks decayed weights alone: read off the optimizer's groups."""
    from timm.optim import create_optimizer_v2

    from coadvise.checkpoints.build import build_student

    recipe = tiny(tmp_path, {"student.model": "cit_tiny_sa"}, teachers={"conv": CNN, "inv": INN})
    student = build_student(recipe, 10)
    names = {id(p): name for name, p in student.named_parameters()}
    optimizer = create_optimizer_v2(student, opt="adamw", lr=1.0, weight_decay=0.05)
    decayed = {names[id(p)] for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    matrices = {name for name, p in student.named_parameters() if p.ndim > 1}
    assert decayed == {n for n in matrices if n not in ("cls_token", "pos_embed") and not n.startswith("tokens.")}


def test_accumulation_keeps_every_term(tmp_path: Path) -> None:
    """Two micro-batches of 10 are one batch of 20: same losses and weights, teachers included."""
    # BatchNorm-free student without drop path, so that the split cannot matter.
    changes = {"student.options.drop_path_rate": 0.0}
    teachers = {"conv": CNN, "inv": INN}
    run(tiny(tmp_path / "whole", changes, teachers=teachers))
    # The same teachers: they have BatchNorm, so that training them in halves would differ.
    split = tiny(tmp_path / "split", {**changes, "optim.accumulate": 2}, teachers=with_weights(tmp_path / "whole"))
    run(split)
    whole = list(read_metrics(tmp_path / "whole" / "metrics.jsonl"))
    parts = list(read_metrics(tmp_path / "split" / "metrics.jsonl"))
    for a, b in zip(whole, parts, strict=True):
        if a["kind"] == "train":
            assert b["terms"] == pytest.approx(a["terms"], rel=1e-4)
    a, b = weights(tmp_path / "whole"), weights(tmp_path / "split")
    for key in a:
        if key.startswith("model."):
            torch.testing.assert_close(a[key], b[key], atol=2e-4, rtol=1e-3)


def test_own_modules_from_python(tmp_path: Path) -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    recipe = tiny(tmp_path / "run")
    result = run(recipe, student=Linear(), teachers={"mine": Linear(), "yours": Linear()})
    terms = next(read_metrics(tmp_path / "run" / "metrics.jsonl"))["terms"]
    assert set(terms) == {"class", "mine", "yours"} and result["student"]["tokens"] == {}


def test_ema_is_evaluated_too(tmp_path: Path) -> None:
    result = run(tiny(tmp_path / "run", {"optim.ema": 0.5}))
    assert set(result["ema"]) == set(result["final"])
    state = weights(tmp_path / "run")
    assert not torch.equal(state["ema.head.weight"], state["model.head.weight"])


def test_bf16_trains_and_writes_float32(tmp_path: Path) -> None:
    """In bfloat16; on the CPU attention is not the fused one, which is slow there."""
    plain = torch.nn.functional.scaled_dot_product_attention
    with mock.patch("torch.nn.functional.scaled_dot_product_attention", side_effect=plain) as fused:
        result = run(tiny(tmp_path / "run", {"run.precision": "bf16", "run.device": "cpu"}))
    assert not [call for call in fused.call_args_list if call.args[0].dtype == torch.bfloat16]
    assert "bf16" in result["provenance"]["precision"]
    assert all(v.dtype == torch.float32 for k, v in weights(tmp_path / "run").items() if k.startswith("model."))


# --- resume ----------------------------------------------------------------------------------------------

FULL = {"optim.ema": 0.9, "student.options.proj_drop_rate": 0.1, "run.checkpoint_every": 3}


def interrupted(recipe: Recipe, step: int) -> None:
    """Train until Ctrl-C arrives within update `step`."""
    seen = 0

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        seen += module.training
        if module.training and seen == step:
            os.kill(os.getpid(), signal.SIGINT)

    def built(*args: Any) -> nn.Module:
        student = build_student(*args)
        next(student.children()).register_forward_pre_hook(hook)
        return student

    with mock.patch("coadvise.training.student.build_student", built), pytest.raises(Interrupted, match="is saved"):
        run(recipe)


@pytest.mark.parametrize("step", [1, 4, 5, 7, 13])
def test_resume_after_ctrl_c_equals_uninterrupted(tmp_path: Path, step: int) -> None:
    """In the middle of an epoch (5 steps), at its end, and between log lines."""
    run(tiny(tmp_path / "a", FULL))
    recipe = tiny(tmp_path / "b", FULL)
    interrupted(recipe, step)
    assert not (tmp_path / "b" / "result.json").exists()
    run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_resume_after_sigkill_equals_uninterrupted(tmp_path: Path) -> None:
    """A real process is killed at several moments, each time resumed, until it finishes."""
    changes = {**FULL, "schedule.epochs": 12}
    teachers = {"conv": CNN}
    run(tiny(tmp_path / "a", changes, teachers=teachers))
    recipe = tiny(tmp_path / "b", changes, teachers=teachers)
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(recipe))
    command = [sys.executable, "-m", "coadvise", "train", str(path), "--quiet"]
    killed = 0
    for after_lines in (1, 9, 17, None):
        last = tmp_path / "b" / "last.safetensors"
        arguments = command + (["--resume"] if last.exists() else [])
        # Bit for bit needs the same number of threads: sums are split over them.
        process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
        while process.poll() is None:
            lines = sum(1 for _ in read_metrics(tmp_path / "b" / "metrics.jsonl"))
            if after_lines is not None and lines >= after_lines and last.exists():
                process.kill()
                killed += 1
                break
            time.sleep(0.002)
        process.wait()
    assert killed == 3 and process.returncode == 0
    assert_same_run(tmp_path / "a", tmp_path / "b")


def test_a_channels_last_student_resumes_alike(tmp_path: Path) -> None:
    """Its weights and moments lie alike in memory again, which is what the fused AdamW walks through."""
    changes = {"student": {key: CNN[key] for key in ("model", "options", "small_stem")}}
    build, real, jobs = build_student, training.restore, []
    last = lambda *args: build(*args).to(memory_format=torch.channels_last)
    with (
        mock.patch(f"{__name__}.build_student", last),
        mock.patch("coadvise.training.student.build_student", last),
        mock.patch.object(training, "restore", lambda job: (real(job), jobs.append(job))),
    ):
        run(tiny(tmp_path / "a", **changes))
        recipe = tiny(tmp_path / "b", **changes)
        interrupted(recipe, 7)
        run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")
    (job,) = jobs
    for parameter, moments in job.optimizer.state.items():
        assert {parameter.stride()} == {moments[key].stride() for key in ("exp_avg", "exp_avg_sq")}
        assert parameter.is_contiguous(memory_format=torch.channels_last) or parameter.dim() != 4


def test_views_that_recur_resume_alike(tmp_path: Path) -> None:
    changes = {"data.views": 2, "data.augment.repeats": 3}
    run(tiny(tmp_path / "a", changes))
    recipe = tiny(tmp_path / "b", changes)
    interrupted(recipe, 12)
    run(recipe, resume=True)
    assert_same_run(tmp_path / "a", tmp_path / "b")


# --- what is refused -------------------------------------------------------------------------------------


def test_a_finished_run_is_not_overwritten(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    run(recipe)
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for resume in (False, True):
        with pytest.raises(RunError, match="holds a finished run"):
            run(recipe, resume=resume)
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before


def test_an_unfinished_run_is_continued_on_request_only(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    interrupted(recipe, 7)
    with pytest.raises(RunError, match="go on with --resume"):
        run(recipe)
    with pytest.raises(RunError, match=r"another recipe \(optim.lr 0.001 → 0.002\)"):
        run(tiny(tmp_path / "run", {"optim.lr": 2e-3}), resume=True)
    with pytest.raises(RunError, match=r"optim\.batch_size 20 → 10"):
        run(tiny(tmp_path / "run", {"optim.batch_size": 10}), resume=True)
    run(tiny(tmp_path / "run", {"run.log_every": 4, "data.workers": 1}), resume=True)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run")
    interrupted(recipe, 7)
    last = tmp_path / "run" / "last.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"last\.safetensors cannot be read"):
        run(recipe, resume=True)


def test_other_refusals(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="nothing to resume"):
        run(tiny(tmp_path / "none"), resume=True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(b"x")
    with pytest.raises(RunError, match="holds other files"):
        run(tiny(tmp_path / "photos"))
    with pytest.raises(RunError, match="fp16 needs a GPU"):
        run(tiny(tmp_path / "run", {"run.precision": "fp16"}))
    with pytest.raises(ModelError, match="BatchNorm"):
        run(tiny(tmp_path / "run", {"student.model": "cit_tiny_sa", "optim.batch_size": 1}))
    with pytest.raises(ModelError, match="no advised tokens"):
        run(tiny(tmp_path / "run", student={"model": "resnet10", "tokens": {"conv": "conv"}}))


def test_world_size_that_was_not_joined(tmp_path: Path) -> None:
    """Under `WORLD_SIZE=2` with one process only, Accelerate would train alone without a word."""
    path = tmp_path / "recipe.yaml"
    path.write_text(dump_recipe(tiny(tmp_path / "run")))
    environment = {name: value for name, value in os.environ.items() if name not in ("RANK", "MASTER_ADDR")}
    command = [sys.executable, "-m", "coadvise", "train", str(path)]
    done = subprocess.run(command, env={**environment, "WORLD_SIZE": "2"}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and "WORLD_SIZE is 2" in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_chance_level_teacher_stops_the_run_before_the_student(tmp_path: Path) -> None:
    changes = {"run.allow_weak": False}
    with pytest.raises(ModelError, match="near chance level"):
        run(tiny(tmp_path / "run", changes, teachers={"conv": {**CNN, "train": {"epochs": 1, "lr": 1e-7}}}))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def photographs(root: Path, per_class: int) -> str:
    """Three classes that even a tiny network tells apart by their colour, in folders, so sorted by class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", per_class), ("val", per_class)):
        for name, colour in (("dark", 30), ("grey", 128), ("light", 220)):
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = np.clip(rng.normal(colour, 10, size=(8, 8, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{i:03}.png")
    return str(root)


def test_teachers_are_checked_on_all_classes(tmp_path: Path) -> None:
    """A folder comes sorted by class: of its first images all would be dark, and no teacher better than chance."""
    data = {"source": photographs(tmp_path / "photos", 30), "train_size": None, "val_size": None}
    changes = {f"data.{key}": value for key, value in data.items()}
    changes |= {
        "run.allow_weak": False,
        "run.teacher_check_size": 30,
        "data.augment.mixup": 0,
        "data.augment.cutmix": 0,
    }
    teacher = {**CNN, "train": {"epochs": 15}}
    result = run(tiny(tmp_path / "run", {**changes, "run.tensorboard": True}, teachers={"conv": teacher}))
    assert result["teachers"]["conv"]["samples"] == 30 and result["teachers"]["conv"]["accuracy"] > 0.6
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_killed_between_the_first_two_files_of_a_run(tmp_path: Path) -> None:
    """The folder is still the run's own; one with somebody else's manifest is not."""
    run(tiny(tmp_path / "whole", teachers={}))
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "manifest.json").write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
    assert run(tiny(tmp_path / "cut", teachers={}))["steps"] == 20
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web page"}')
    with pytest.raises(RunError, match="holds other files"):
        run(tiny(tmp_path / "other", teachers={}))
    assert [path.name for path in (tmp_path / "other").iterdir()] == ["manifest.json"]


def test_a_refused_teacher_leaves_the_folder_usable(tmp_path: Path) -> None:
    """The teacher that was trained is kept, and `allow_weak` goes on with it."""
    teachers = {"conv": {**CNN, "train": {"epochs": 1, "lr": 1e-7}}}
    changes = {"run.allow_weak": False, "run.tensorboard": True}
    with pytest.raises(ModelError, match="near chance level"):
        run(tiny(tmp_path / "run", changes, teachers=teachers))
    before = (tmp_path / "run" / "teachers" / "conv" / "best.safetensors").read_bytes()
    run(tiny(tmp_path / "run", {**changes, "run.allow_weak": True}, teachers=teachers))
    assert (tmp_path / "run" / "teachers" / "conv" / "best.safetensors").read_bytes() == before


def test_any_timm_transformer_and_a_cit_can_teach(tmp_path: Path) -> None:
    """A ViT of fixed size is built for the data's, and a CiT keeps the tokens that its checkpoint records."""
    vit = {"model": "vit_tiny_patch16_224", "options": {"patch_size": 4, "depth": 1}, "train": {"epochs": 1}}
    cit = {"model": "cit_tiny", "options": {"patch_size": 4, "depth": 1}, "image_size": 16, "train": {"epochs": 1}}
    result = run(tiny(tmp_path / "run", teachers={"vit": vit, "cit": cit}))
    assert result["teachers"]["vit"]["samples"] == 101
    co_advised = str(tmp_path / "run" / "best.safetensors")
    bare = {"model": "cit_tiny", "checkpoint": co_advised}
    again = run(tiny(tmp_path / "again", teachers={"old": bare}))
    assert again["teachers"]["old"]["accuracy"] == pytest.approx(result["best"]["value"])


def test_average_inference_decides_what_is_best(tmp_path: Path) -> None:
    from coadvise.checkpoints.trained import load_trained
    from coadvise.data.sources.opening import open_sources
    from coadvise.evaluation.inference import class_probabilities

    recipe = tiny(tmp_path / "run", {"student.options.inference": "average"}, teachers={"conv": CNN})
    result = run(recipe)
    evaluations = [line["metrics"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "metrics" in line]
    assert result["best"]["value"] == max(metrics["accuracy/average"] for metrics in evaluations)
    source = open_sources(recipe.data)[1]
    probabilities = class_probabilities(load_trained(tmp_path / "run"), source)
    correct = (probabilities.argmax(dim=1).numpy() == source.labels).mean()
    assert correct == pytest.approx(result["best"]["value"])


def test_broken_weights_do_not_replace_good_ones(tmp_path: Path) -> None:
    """The weights break after step 7, between log lines; the checkpoint of step 7 stays."""
    from coadvise.checkpoints.build import build_student

    recipe = tiny(tmp_path / "run", {"run.checkpoint_every": 1, "run.log_every": 50})
    torch.manual_seed(0)
    student = build_student(recipe, 10)
    seen = 0

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        seen += module.training
        if seen == 8:
            with torch.no_grad():
                student.head.weight.fill_(float("nan"))

    student.patch_embed.register_forward_pre_hook(hook)
    with pytest.raises(RunError, match="weights are not finite at step 8"):
        run(recipe, student=student)
    assert all(torch.isfinite(v).all() for k, v in weights(tmp_path / "run").items() if v.is_floating_point())


def test_a_student_that_does_not_fit_is_refused_before_teachers_are_trained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no option 'dpth'"):
        run(tiny(tmp_path / "run", {"student.options.dpth": 1}, teachers={"conv": CNN}))
    assert not (tmp_path / "run").exists()


def test_divergence_is_named(tmp_path: Path) -> None:
    changes = {"optim.lr": 1e30, "optim.clip": None, "schedule.warmup_lr": 1e20}
    with pytest.raises(RunError, match="not finite at step"):
        run(tiny(tmp_path / "run", changes))


# --- what an earlier start left --------------------------------------------------------------------------


def test_other_data_or_teachers_are_not_resumed(tmp_path: Path) -> None:
    photos = Path(photographs(tmp_path / "photos", 30))
    changes = {"data.source": str(photos), "data.train_size": None, "data.val_size": None}
    recipe = tiny(tmp_path / "run", changes)
    seen = 0

    def hook(module: nn.Module, inputs: Any) -> None:
        nonlocal seen
        seen += module.training
        if module.training and seen == 6:
            os.kill(os.getpid(), signal.SIGINT)

    from coadvise.checkpoints.build import build_student

    torch.manual_seed(0)
    student = build_student(recipe, 3)
    student.patch_embed.register_forward_pre_hook(hook)
    with pytest.raises(Interrupted):
        run(recipe, student=student)
    (photos / "train" / "dark" / "000.png").unlink()
    with pytest.raises(RunError, match="training labels changed"):
        run(recipe, resume=True)


def test_the_advice_of_an_error_can_be_followed(tmp_path: Path) -> None:
    """A start that left no checkpoint does not bind the next one to its settings."""
    changes = {"optim.lr": 1e30, "optim.clip": None, "schedule.warmup_lr": 1e20}
    with pytest.raises(RunError, match=r"lower optim\.lr"):
        run(tiny(tmp_path / "run", changes))
    run(tiny(tmp_path / "run"))


def test_a_folder_of_the_user_is_not_taken_for_a_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "recipe.yaml").write_text("# my notes\n" + dump_recipe(tiny(tmp_path / "mine")))
    with pytest.raises(RunError, match="holds other files"):
        run(tiny(tmp_path / "mine"))
    assert "# my notes" in (tmp_path / "mine" / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"model": "rednett26", "train": {"epochs": 1}}, "no model is called"),
        ({"model": "resnet10", "checkpoint": "gone.pth"}, "does not exist"),
        ({**INN, "train": {"epochs": 1, "batch_size": 1000}}, "fewer samples than a batch"),
        ({**CNN, "options": {"channels": [8]}}, "cannot take images"),
    ],
)
def test_a_bad_second_teacher_stops_before_the_first_is_trained(tmp_path: Path, second: Any, words: str) -> None:
    from coadvise.errors import CoadviseError

    with pytest.raises(CoadviseError, match=words):
        run(tiny(tmp_path / "run", teachers={"first": CNN, "second": second}))
    assert not (tmp_path / "run").exists()


def test_an_index_map_fits_any_checkpoint(tmp_path: Path) -> None:
    """The number of a teacher's classes is read off its file, whoever wrote it."""
    import timm

    options = {"channels": [8, 8, 16, 16]}
    torch.save(timm.create_model("resnet10", num_classes=14, **options).state_dict(), tmp_path / "wide.pth")
    teacher = {"model": "resnet10", "options": options, "checkpoint": str(tmp_path / "wide.pth")}
    with pytest.raises(ModelError, match=r"knows 14 classes, the data has 10; give its index map"):
        run(tiny(tmp_path / "run", teachers={"wide": teacher}))
    result = run(tiny(tmp_path / "run", teachers={"wide": {**teacher, "classes": list(range(4, 14))}}))
    assert result["teachers"]["wide"]["samples"] == 101


def test_teachers_that_cannot_be_fused_or_run(tmp_path: Path) -> None:
    """Weight normalisation keeps a teacher from being fused, not from advising; a given wrapper stays as it was."""
    from coadvise.models.teachers import FrozenTeacher

    def cnn() -> nn.Sequential:
        conv = torch.nn.utils.weight_norm(nn.Conv2d(3, 8, 3))
        return nn.Sequential(conv, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean(dim=(2, 3)), x

    model = cnn()
    wrapped = FrozenTeacher(model)
    run(tiny(tmp_path / "run"), teachers={"mine": model, "wrapped": wrapped})
    assert wrapped.model is model
    with pytest.raises(ModelError, match="must return logits"):
        run(tiny(tmp_path / "two"), teachers={"two": Two()})
    deep = {"model": "inception_v3", "options": {"aux_logits": False}, "train": {"epochs": 1}}
    with pytest.raises(ModelError, match="cannot take images of 8×8"):
        run(tiny(tmp_path / "deep", teachers={"deep": deep}))


def test_average_without_advised_tokens_is_the_class_token(tmp_path: Path) -> None:
    assert run(tiny(tmp_path / "run", {"student.options.inference": "average"}))["best"]["value"] > 0


def test_a_student_from_python_says_so_in_its_file(tmp_path: Path) -> None:
    from coadvise.checkpoints.trained import load_trained

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    assert run(tiny(tmp_path / "run"), student=Linear())["student"]["model"] == "Linear"
    with pytest.raises(CheckpointError, match=r"given from Python \(Linear\)"):
        load_trained(tmp_path / "run")


# --- fast paths give the same run ------------------------------------------------------------------------


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


def test_fast_paths_are_taken_and_change_no_loss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fused teachers, compiled involution, fused AdamW and images in memory against the plain ways, in float32."""
    from coadvise.training.job import prepare

    from coadvise.data import loader as loading
    from coadvise.ops import involution_cpu, involution_eager

    jobs = []

    def spy(*args: Any) -> Any:
        jobs.append(prepare(*args))
        return jobs[-1]

    calls = {"compiled": 0, "eager": 0}
    for name, module in (("compiled", involution_cpu), ("eager", involution_eager)):
        plain = module.forward

        def counted(*args: Any, name: str = name, plain: Any = plain) -> Any:
            calls[name] += 1
            return plain(*args)

        monkeypatch.setattr(module, "forward", counted)
    monkeypatch.setattr("coadvise.training.train.prepare", spy)
    changes = {"run.log_every": 1, "run.precision": "fp32", "data.augment.policy": "light"}
    advisers = {"conv": CNN, "inv": INN}
    run(tiny(tmp_path / "fast", changes, teachers=advisers))
    job = jobs[-1]
    assert job.teachers.unfused() == () and job.optimizer.optimizer.defaults["fused"] and job.loader.stays
    if involution_cpu.library() is not None:
        assert calls["compiled"] > 0 and calls["eager"] == 0
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 0)
    monkeypatch.setattr(involution_cpu, "library", lambda: None)
    shutil.copytree(tmp_path / "fast" / "teachers", tmp_path / "plain" / "teachers")
    monkeypatch.setattr("coadvise.models.teachers.fused", lambda *_: None)
    run(tiny(tmp_path / "plain", changes, teachers=advisers))
    assert not jobs[-1].loader.stays and jobs[-1].teachers.unfused() == ("conv", "inv")
    fast, plain = losses(tmp_path / "fast"), losses(tmp_path / "plain")
    assert len(fast) == len(plain) > 5 and calls["eager"] > 0
    assert np.allclose(fast, plain, rtol=1e-4)


@pytest.mark.skipif(not any(map(shutil.which, ("g++", "c++", "clang++"))), reason="torch.compile needs a C++ compiler")
def test_a_compiled_student_learns_the_same(tmp_path: Path) -> None:
    changes = {"run.log_every": 1, "run.precision": "fp32", "schedule.epochs": 2, "student.options.drop_path_rate": 0.0}
    for name, setting in (("eager", False), ("compiled", True)):
        run(tiny(tmp_path / name, {**changes, "run.compile": setting}, teachers={}))
    assert np.allclose(losses(tmp_path / "eager"), losses(tmp_path / "compiled"), rtol=1e-4)


def test_tokens_may_learn_faster(tmp_path: Path) -> None:
    """The first update of AdamW moves every weight by its learning rate: those of the tokens by a multiple of it."""
    changes = {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "optim.batch_size": 100, "optim.weight_decay": 0.0}
    moved = {}
    for scale in (1.0, 4.0):
        recipe = tiny(tmp_path / str(scale), {**changes, "optim.token_lr": scale}, teachers={"conv": CNN})
        torch.manual_seed(recipe.run.seed)
        before = build_student(recipe, 10).state_dict()
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
    optimizer = make_optimizer(own, tiny(tmp_path, {"optim.token_lr": 3.0}), 1e-3)
    scaled = {id(p) for group in optimizer.param_groups if "lr_scale" in group for p in group["params"]}
    assert scaled == {id(own.cls_token), id(own.tokens["a"])}
    every = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert sorted(every) == sorted(id(p) for p in own.parameters() if p.requires_grad)
