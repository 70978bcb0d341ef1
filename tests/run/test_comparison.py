"""Runs side by side, their tests against SciPy's, and what cannot be compared."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from helpers.recipes import tiny
from scipy import stats

from coadvise.errors import RunError
from coadvise.recipe.reading import dump_recipe
from coadvise.run.answers import Answers
from coadvise.run.comparison import compare
from coadvise.run.result import Best, DataFacts, RunResult, StudentFacts
from coadvise.system.files import write_json

N = 400


def made(
    folder: Path, level: float, seed: int = 0, data: str = "d", lr: float = 1e-3, skip: int = 0, data_seed: int = -1
) -> Path:
    """A finished run that is right on that share of its images."""
    rng = np.random.default_rng([seed, int(1000 * level)])
    label = np.random.default_rng(7).integers(0, 3, N)
    answer = np.where(rng.random(N) < level, label, (label + 1) % 3)[skip:]
    recipe = tiny(folder, {"optim.lr": lr, "run.seed": seed, "data.seed": seed if data_seed < 0 else data_seed})
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(dump_recipe(recipe))
    one = Answers(
        data, ("a", "b", "c"), np.arange(N)[skip:], label[skip:], {"class": answer},
        {"class": np.ones(N - skip, np.float32)},
    )  # fmt: skip
    one.write(folder / "answers.safetensors")
    share = float(one.right().mean())
    write_json(folder / "result.json", asdict(RunResult(
        name=folder.name, fingerprint="x", seed=seed, student=StudentFacts("m", 1), teachers={},
        data=DataFacts("digits", 10, N, ("a", "b", "c")), epochs=1, steps=1, images_seen=1, seconds=1,
        final={"accuracy/class": share}, ema=None, best=Best(share, 1, "student"),
    )))  # fmt: skip
    return folder


def right(folder: Path) -> np.ndarray:
    one = Answers.read(folder / "answers.safetensors")
    return one.outputs["class"] == one.label


def test_two_runs_are_compared_over_their_images(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", 0.7), made(tmp_path / "b", 0.8, lr=2e-3)
    found = compare([a, b])
    (tested,) = found.tests
    one, other = int((right(a) & ~right(b)).sum()), int((right(b) & ~right(a)).sum())
    expected = min(1, 2 * stats.binom.cdf(min(one, other), one + other, 0.5))
    assert tested.images is not None and (tested.images.first, tested.images.second) == (one, other)
    assert tested.p == pytest.approx(expected) and tested.corrected == tested.p < 0.05
    assert tested.difference == pytest.approx(right(b).mean() - right(a).mean())
    assert tested.words == "B is better than A"
    assert found.differences == {"optim.lr": ("0.001", "0.002")}
    recall = found.kinds[0].recall()
    label = Answers.read(a / "answers.safetensors").label
    assert recall["b"] == pytest.approx(right(a)[label == 1].mean())


def test_several_runs_of_each_kind_are_compared_over_their_seeds(tmp_path: Path) -> None:
    levels = {"a": (0.70, 0.72, 0.69), "b": (0.78, 0.80, 0.79)}
    runs = {k: [made(tmp_path / f"{k}{s}", v, seed=s, lr=1e-3 if k == "a" else 2e-3) for s, v in enumerate(vs)]
            for k, vs in levels.items()}  # fmt: skip
    found = compare([runs["a"][0], runs["b"][2], runs["a"][2], runs["b"][1], runs["a"][1], runs["b"][0]])
    (tested,) = found.tests
    shares = {k: [right(one).mean() for one in folders] for k, folders in runs.items()}
    assert tested.seeds == (0, 1, 2)
    assert tested.p == pytest.approx(stats.ttest_rel(shares["b"], shares["a"]).pvalue)


def test_no_run_is_lost_where_only_the_seed_of_the_data_differs(tmp_path: Path) -> None:
    """Such runs have one `run.seed`: paired by it, the last one alone would be looked at."""
    levels = {1e-3: (0.70, 0.72, 0.69), 2e-3: (0.78, 0.80, 0.79)}
    runs = [[made(tmp_path / f"{lr}-{i}", level, lr=lr, data_seed=i) for i, level in enumerate(each)]
            for lr, each in levels.items()]  # fmt: skip
    (tested,) = compare([*runs[0], *runs[1][::-1]]).tests
    shares = [[right(one).mean() for one in folders] for folders in runs]
    assert tested.seeds == (0, 0, 0) and tested.p == pytest.approx(stats.ttest_rel(shares[1], shares[0]).pvalue)
    assert compare(runs[0]).differences == {"data.seed": ("0", "1", "2")}


def test_of_runs_of_one_seed_those_of_the_same_data_are_compared(tmp_path: Path) -> None:
    one = [made(tmp_path / f"a{i}", level, data_seed=i) for i, level in enumerate((0.9, 0.6))]
    other = made(tmp_path / "b", 0.8, lr=2e-3, data_seed=1)
    (tested,) = compare([*one, other]).tests
    assert tested.difference == pytest.approx(right(other).mean() - right(one[1]).mean())


def test_seeds_alone_are_compared_run_by_run_with_holms_correction(tmp_path: Path) -> None:
    runs = [made(tmp_path / str(seed), level, seed=seed) for seed, level in enumerate((0.7, 0.75, 0.8))]
    found = compare(runs)
    assert found.differences == {"run.seed": ("0", "1", "2")}
    p = [one.p for one in found.tests]
    ranked = sorted(p)
    assert [one.corrected for one in found.tests] == pytest.approx(
        [min(1, 2 * ranked[0]) if x == ranked[0] else max(2 * ranked[0], x) for x in p]
    )


def test_images_that_one_run_could_not_read_are_left_out(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", 0.7), made(tmp_path / "b", 0.8, lr=2e-3, skip=100)
    (tested,) = compare([a, b]).tests
    assert tested.images is not None
    assert tested.images.first == int((right(a)[100:] & ~right(b)).sum())


def test_a_class_that_one_run_could_not_read_counts_in_the_others(tmp_path: Path) -> None:
    runs = [made(tmp_path / str(i), 0.7, lr=lr, seed=i % 2) for i, lr in enumerate((1e-3, 1e-3, 2e-3, 2e-3))]
    whole = Answers.read(runs[0] / "answers.safetensors")
    for run in (runs[1], runs[2]):
        one, seen = Answers.read(run / "answers.safetensors"), whole.label != 1
        kept = [{name: values[seen] for name, values in of.items()} for of in (one.outputs, one.confidence)]
        left = replace(one, index=one.index[seen], label=one.label[seen], outputs=kept[0], confidence=kept[1])
        left.write(run / "answers.safetensors")
    recall = [kind.recall() for kind in compare(runs).kinds]
    assert recall[0]["b"] == pytest.approx(whole.right()[whole.label == 1].mean()) and recall[1]["b"] is not None


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    a, b = made(tmp_path / "a", 0.7), made(tmp_path / "b", 0.8, data="other")
    with pytest.raises(RunError, match="other validation images"):
        compare([a, b])
    with pytest.raises(RunError, match="two runs or more"):
        compare([a])
    with pytest.raises(RunError, match="given twice"):
        compare([a, tmp_path / "." / "a"])
    with pytest.raises(RunError, match="nothing does not exist; give the folders of finished runs"):
        compare([a, tmp_path / "nothing"])
    (tmp_path / "begun").mkdir()
    with pytest.raises(RunError, match="no finished run"):
        compare([a, tmp_path / "begun"])
    (b / "answers.safetensors").unlink()
    with pytest.raises(RunError, match="of an earlier version"):
        compare([a, b])
