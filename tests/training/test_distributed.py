"""Two processes (gloo) compute what one does, from the same global batch."""

import json
import os
import sys
from pathlib import Path

import pytest
import torch
from helpers import TESTS, processes
from helpers.recipes import CNN, INN, tiny, with_weights
from safetensors.torch import load_file

from coadvise.recipe.reading import dump_recipe
from coadvise.run.folder import read_metrics
from coadvise.system.progress import Display
from coadvise.training.train import train

# Dropout and drop path draw differently on each process; the teachers' BatchNorm is frozen.
CHANGES = {"student.options.drop_path_rate": 0.0, "run.log_every": 1}


def torchrun(*arguments: str) -> processes.Done:
    """What users type; its two processes import PyTorch anew, as theirs do."""
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS), *sys.path])}
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return processes.run(*launcher, *arguments, environment=environment, timeout=300)


def together(*arguments: str) -> str:
    """What both processes wrote to stderr; both must succeed."""
    done = processes.run_together(*arguments)
    assert all(one.returncode == 0 for one in done), [one.stderr[-3000:] for one in done]
    return "".join(one.stderr for one in done)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same recipe with one process, with two, and with two and two micro-batches each."""
    root = tmp_path_factory.mktemp("distributed")
    train(tiny(root / "teachers", teachers={"conv": CNN, "inv": INN}), display=Display(quiet=True))
    paths = {}
    for name, changes in (("one", {}), ("two", {}), ("four", {"optim.accumulate": 2})):
        recipe = tiny(root / name, {**CHANGES, **changes}, teachers=with_weights(root / "teachers"))
        (root / f"{name}.yaml").write_text(dump_recipe(recipe))
        script = ["helpers.gradients_of_first_step", str(root / f"{name}.yaml"), str(root / f"{name}-grad")]
        if name == "one":
            done = processes.run(*script)
            assert done.returncode == 0, done.stderr[-3000:]
        else:
            together(*script)
        paths[name] = root / name
    return paths


def losses(folder: Path) -> list[dict[str, float]]:
    return [line["terms"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


@pytest.mark.parametrize("other", ["two", "four"])
def test_losses_follow_the_single_process(runs: dict[str, Path], other: str) -> None:
    one, many = losses(runs["one"]), losses(runs[other])
    assert len(one) == len(many) == 20
    for a, b in zip(one, many, strict=True):
        assert b == pytest.approx(a, abs=1e-5)


def test_started_as_users_do(runs: dict[str, Path], tmp_path: Path) -> None:
    recipe = tiny(tmp_path / "run", CHANGES, teachers=with_weights(teachers_of(runs)))
    (tmp_path / "recipe.yaml").write_text(dump_recipe(recipe))
    done = torchrun("-m", "coadvise", "train", str(tmp_path / "recipe.yaml"), "--quiet")
    assert done.returncode == 0, done.stderr[-3000:]
    assert losses(tmp_path / "run") == losses(runs["two"])


def test_every_parameter_gets_the_same_gradient(runs: dict[str, Path]) -> None:
    root = runs["one"].parent
    one = load_file(root / "one-grad.0.safetensors")
    for rank in (0, 1):
        two = load_file(root / f"two-grad.{rank}.safetensors")
        assert one.keys() == two.keys() and len(one) > 20
        for name in one:
            torch.testing.assert_close(two[name], one[name], atol=1e-6, rtol=1e-4)


def test_evaluation_counts_each_sample_once(runs: dict[str, Path]) -> None:
    """101 validation images over two processes: were one counted twice, the accuracy could not be n/101."""
    one, two = (json.loads((runs[name] / "result.json").read_text()) for name in ("one", "two"))
    for name, value in two["final"].items():
        assert value == pytest.approx(one["final"][name], abs=1e-4), name
        if name.startswith(("accuracy", "teacher")):
            assert value * 101 == pytest.approx(round(value * 101), abs=1e-9)
    assert two["provenance"]["processes"] == 2


def test_interrupted_on_two_processes_and_resumed(runs: dict[str, Path], tmp_path: Path) -> None:
    """A run of two processes resumes with two, and not with one."""
    path = tmp_path / "stopped.yaml"
    changes = {**CHANGES, "run.checkpoint_every": 3}
    path.write_text(dump_recipe(tiny(tmp_path / "stopped", changes, teachers=with_weights(teachers_of(runs)))))
    assert "stopped after step 10" in together("helpers.stop_after", str(path), "8")
    alone = processes.run("coadvise", "train", str(path), "--resume")
    assert alone.returncode == 2 and "was trained by 2 process(es), now there are 1" in alone.stderr
    together("coadvise", "train", str(path), "--resume", "--quiet")
    # The steps before and after are those of the uninterrupted run, started in the same way.
    assert losses(tmp_path / "stopped") == losses(runs["two"])


@pytest.mark.slow
def test_batch_norm_of_a_student_resumes_alike(tmp_path: Path) -> None:
    """Each process gathers its own BatchNorm statistics; what is evaluated and saved is the same for all."""
    recipes = {}
    for name in ("a", "b"):
        changes = {"run.eval_every": 2, "optim.ema": 0.9, "student.model": "cit_tiny_sa", **CHANGES}
        recipes[name] = tmp_path / f"{name}.yaml"
        recipes[name].write_text(dump_recipe(tiny(tmp_path / name, changes)))
    together("coadvise", "train", str(recipes["a"]), "--quiet")
    assert "stopped after step 10" in together("helpers.stop_after", str(recipes["b"]), "8")
    together("coadvise", "train", str(recipes["b"]), "--resume", "--quiet")
    a, b = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("a", "b"))
    assert a["final"] == b["final"] and a["ema"] == b["ema"]
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[key], two[key]) for key in one)


# Each process makes a student of its own; what begins is that of the first.
OWN_STUDENT = """
import os, sys
import timm, torch
import coadvise
from coadvise.training import train
from safetensors.torch import save_file

whole = train._train_epochs
def watched(recipe, setup, state, given):
    last = whole(recipe, setup, state, given)
    save_file(state.ema.module.state_dict(), f"{sys.argv[2]}.{os.environ['RANK']}.safetensors")
    return last
train._train_epochs = watched
torch.manual_seed(int(os.environ["RANK"]))
student = timm.create_model("cit_tiny", img_size=8, patch_size=2, embed_dim=24, depth=1, num_heads=2, num_classes=10)
coadvise.train(coadvise.load_recipe(sys.argv[1]), student=student)
"""


def test_averaged_weights_of_a_student_from_python_are_those_of_all(tmp_path: Path) -> None:
    changes = {"optim.ema": 0.9, "schedule.epochs": 1, "schedule.warmup_epochs": 0, **CHANGES}
    (tmp_path / "recipe.yaml").write_text(dump_recipe(tiny(tmp_path / "run", changes)))
    together("-c", OWN_STUDENT, str(tmp_path / "recipe.yaml"), str(tmp_path / "ema"))
    one, two = (load_file(f"{tmp_path}/ema.{rank}.safetensors") for rank in (0, 1))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_a_cache_of_two_processes_is_that_of_one(runs: dict[str, Path], tmp_path: Path) -> None:
    """Records, profiles and checksums."""
    found = {}
    for name in ("one", "two"):
        changes = {"advice.folder": str(tmp_path / name), "advice.top_k": 2}
        recipe = tiny(tmp_path / "run", changes, teachers=with_weights(teachers_of(runs)))
        (tmp_path / f"{name}.yaml").write_text(dump_recipe(recipe))
        command = ("coadvise", "cache", str(tmp_path / f"{name}.yaml"), "--quiet")
        if name == "two":
            together(*command)
        else:
            assert processes.run(*command).returncode == 0
        files = sorted((tmp_path / name).rglob("*"))
        found[name] = {str(f.relative_to(tmp_path / name)): f.read_bytes() for f in files if f.is_file()}
    assert found["one"] == found["two"] and {"conv/profile.bin", "inv/00000.bin", "inv/column.json"} <= set(
        found["one"]
    )


def teachers_of(runs: dict[str, Path]) -> Path:
    return runs["one"].parent / "teachers"
