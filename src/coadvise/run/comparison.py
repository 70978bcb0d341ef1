"""Finished runs side by side: how their recipes differ, and whether one is better than another by more than chance.

Runs whose recipes differ in their seeds alone are one *kind*. Two kinds with at least two seeds in common are compared
over these seeds, by a paired t-test; with fewer, over the validation images, by McNemar's exact test.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import RunError, few
from ..recipe.reading import load_recipe
from ..recipe.schema import FREE, flat
from ..significance import ALPHA, Changed, Paired, holm, mcnemar, paired_difference
from .answers import Answers, both_right
from .result import RunResult

SEEDS = ("run.seed", "data.seed")
ABSENT = "–"
"""Stands for a setting that a recipe does not give, or that is off."""
_ASIDE = {*FREE, *SEEDS, "name"}


@dataclass(frozen=True)
class Compared:
    """A finished run; `data_seed` is that of its order and augmentation."""

    path: Path
    result: RunResult
    settings: Mapping[str, str]
    answers: Answers
    data_seed: int = 0

    @property
    def seed(self) -> int:
        """Of its weights."""
        return self.result.seed

    @property
    def weights(self) -> str:
        """Which weights gave the answers."""
        one = self.answers
        return "last epoch" if one.epoch is None else f"epoch {one.epoch}{', averaged' * (one.weights == 'ema')}"

    @property
    def right(self) -> int:
        """Validation images named rightly."""
        return int(self.answers.right().sum())


@dataclass(frozen=True)
class Kind:
    """Runs of one recipe under a letter, `A` the first."""

    letter: str
    runs: tuple[Compared, ...]

    @property
    def shares(self) -> list[float]:
        """Top-1 of each run, as a share."""
        return [run.right / max(len(run.answers.label), 1) for run in self.runs]

    def recall(self) -> dict[str, float | None]:
        """Mean recall of each class over the runs that could read images of it; None where none could."""
        tables = [run.answers.counts() for run in self.runs]
        known = {name: [v for t in tables if (v := t[name].recall) is not None] for name in tables[0]}
        return {name: float(np.mean(values)) if values else None for name, values in known.items()}


@dataclass(frozen=True)
class Tested:
    """Another kind against the first.

    Attributes:
        seeds: that both have, where the test is over them.
        difference: of the shares, other minus first.
        images: where the test is over images: on how many one of both alone is right (`first` is that of kind A).
        p: of the test; `corrected` by Holm over all kinds that were compared.
    """

    first: Kind
    other: Kind
    difference: float
    seeds: tuple[int, ...] = ()
    over_seeds: Paired | None = None
    images: Changed | None = None
    corrected: float | None = None

    @property
    def p(self) -> float | None:
        """Before the correction."""
        return self.over_seeds.p if self.over_seeds is not None else self.images.p if self.images is not None else None

    @property
    def words(self) -> str:
        """What the test says."""
        a, b = self.first.letter, self.other.letter
        if self.corrected is None or self.corrected >= ALPHA:
            return f"no difference between {a} and {b} is shown"
        return f"{b} is better than {a}" if self.difference > 0 else f"{a} is better than {b}"


@dataclass(frozen=True)
class Comparison:
    """Runs of two or more kinds; `differences` has every setting that differs, with its value in each kind."""

    kinds: tuple[Kind, ...]
    differences: Mapping[str, tuple[str, ...]]
    tests: tuple[Tested, ...]


def compare(folders: Sequence[Path]) -> Comparison:
    """Compare finished runs.

    Raises:
        RunError: fewer than two runs, one given twice, one that has not finished or keeps no answers, or runs of other
            validation images.
    """
    if len(folders) < 2:
        raise RunError("there is nothing to compare: give the folders of two runs or more")
    places = [folder.resolve() for folder in folders]
    if twice := [str(f) for i, f in enumerate(folders) if places[i] in places[:i]]:
        raise RunError(f"{few(twice)} is given twice; give each run once")
    runs = [_read(folder) for folder in folders]
    for run in runs[1:]:
        _require_same_images(runs[0], run)
    kinds = _kinds(runs)
    settings = [kind.runs[0].settings for kind in kinds]
    keys = sorted({key for one in settings for key in one if any(other.get(key) != one[key] for other in settings)})
    rows = {key: tuple(one.get(key, ABSENT) for one in settings) for key in keys}
    if len({tuple(run.settings.items()) for run in runs}) == 1:  # seeds alone
        seeds = [(run.seed, run.data_seed) for run in runs]
        which = 1 if len({one for one, _ in seeds}) == 1 else 0
        rows = {SEEDS[which]: tuple(str(pair[which]) for pair in seeds)}
    tests = [_tested(kinds[0], other) for other in kinds[1:]]
    corrected = holm([one.p for one in tests])
    tests = [Tested(**{**vars(one), "corrected": p}) for one, p in zip(tests, corrected, strict=True)]
    return Comparison(kinds, rows, tuple(tests))


def _read(folder: Path) -> Compared:
    if not (folder / "result.json").is_file():
        if not folder.exists():
            raise RunError(f"{folder} does not exist; give the folders of finished runs, such as runs/NAME")
        raise RunError(
            f"{folder} holds no finished run; finish it with `coadvise train … --resume`, or give another folder"
        )
    result = RunResult.read(folder / "result.json")
    if result.several is not None:
        raise RunError(
            f"{folder} was trained on images of any number of classes (data.labels=several), and runs on images of one "
            "class each are what is compared here; see its mAP in its report"
        )
    answers = folder / "answers.safetensors"
    if not answers.is_file():
        raise RunError(f"{folder} is of an earlier version, which kept no answers to single images; train it again")
    loaded = load_recipe(folder / "recipe.yaml")
    recipe = loaded.model_dump(mode="json")
    settings = {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in flat(recipe).items()
        if key not in _ASIDE and json.dumps(value) not in ("null", "false", "{}", "[]")  # not given, or off
    }
    return Compared(folder, result, settings, Answers.read(answers), loaded.data.seed)


def _require_same_images(one: Compared, other: Compared) -> None:
    if one.answers.data != other.answers.data or one.answers.classes != other.answers.classes:
        sources = [f"{run.path}: {run.result.data.val:,} of {run.result.data.source}" for run in (one, other)]
        raise RunError(
            f"the runs were measured on other validation images ({'; '.join(sources)}), so their accuracies cannot be "
            "compared; give runs of the same data"
        )


def _kinds(runs: Sequence[Compared]) -> tuple[Kind, ...]:
    """Runs by recipe; where all have the same one, each is a kind of its own."""
    groups: dict[tuple[tuple[str, str], ...], list[Compared]] = {}
    for run in runs:
        groups.setdefault(tuple(run.settings.items()), []).append(run)
    parts = list(groups.values()) if len(groups) > 1 else [[run] for run in runs]
    letters = [chr(ord("A") + i) if i < 26 else f"K{i + 1}" for i in range(len(parts))]
    return tuple(Kind(letter, tuple(part)) for letter, part in zip(letters, parts, strict=True))


def _tested(first: Kind, other: Kind) -> Tested:
    by_seed = [dict(zip(_seeds(kind, (first, other)), kind.shares, strict=True)) for kind in (first, other)]
    shared = tuple(sorted(by_seed[0].keys() & by_seed[1].keys()))
    if len(shared) > 1:
        pairs = [[shares[seed] for seed in shared] for shares in by_seed]
        resolution = 0.5 / max(len(first.runs[0].answers.label), 1)
        found = paired_difference(pairs[1], pairs[0], resolution=resolution)
        return Tested(first, other, found.mean, seeds=tuple(seed for seed, _ in shared), over_seeds=found)
    one, two = (
        next(
            (run for run, key in zip(kind.runs, _seeds(kind, (first, other)), strict=True) if key in shared),
            kind.runs[0],
        )
        for kind in (first, other)
    )
    right = both_right(one.answers, two.answers)
    difference = float(right[1].mean() - right[0].mean()) if len(right[0]) else 0.0
    return Tested(first, other, difference, images=mcnemar(*right))


def _seeds(kind: Kind, kinds: Sequence[Kind]) -> list[tuple[int, int]]:
    """What runs are paired by: `run.seed`, and where that of several runs is the same, `data.seed`, too."""
    alike = any(len({run.seed for run in one.runs}) < len(one.runs) for one in kinds)
    return [(run.seed, run.data_seed if alike else 0) for run in kind.runs]
