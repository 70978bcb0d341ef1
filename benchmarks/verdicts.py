"""Recompute every verdict of an experiment from its run files, without this package: NumPy and SciPy alone.

What is claimed is read from `verdicts.json` (which numbers of which arms are added and taken away, and the margin),
every number from the files in `runs/`. Differences, means, p, Holm's correction and verdicts are computed anew and
compared; exit code 1 if any differs. Sizes of the paper's networks are written down here as others print them (timm's
tables, the authors of RedNet), in millions. Of the pre-registered experiment, what is claimed is written down here once
more, from docs/experiment.md: arms, margins, number of seeds, and which contrasts are primary.

python benchmarks/verdicts.py results/digits
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

ALPHA = 0.05
ROUNDED = 2e-6
"""Older files have six decimals, and so have the differences in `verdicts.json`; degrees of freedom have two."""
LEFT_OUT = ("means nothing here", "not measured")
"""Verdicts that rest on conditions in words: only the differences of such claims are compared."""
SIZES = {"regnety_006": 6.06, "regnety_040": 20.65, "regnety_160": 83.59, "rednet26": 9.2, "rednet101": 25.6}
SCALE = "imagenet"
"""Where speeds are those of the paper's models."""
FASTEST = {"throughput": max, "training_ms": min}

_CONV, _INV = ("resnet18", "resnet18-s1", "resnet18-s2"), ("rednet26", "rednet26-s1", "rednet26-s2")
_TURNED = {0: 1, 1: 2, 2: 0}
BOTH = [f"transformer_tiny.{_CONV[k]}.{_INV[k]}" for k in range(3)]
OF_ONE_KIND = {
    what: [f"transformer_tiny.{runs[k]}.{runs[_TURNED[k]]}" for k in range(3)]
    for what, runs in (("two convolution teachers", _CONV), ("two involution teachers", _INV))
}
PRIMARY = {f"Both kinds are better than {what}": others for what, others in OF_ONE_KIND.items()}
EXPLORATORY = {
    "By all heads, both kinds are better than": ("accuracy/average", False, 0.003),
    "Both kinds have a lower NLL than": ("loss/class", True, 0.01),
    "Both kinds have a lower calibration error than": ("ece/class", True, 0.003),
    "Both kinds stand corruptions better than": ("corruptions/class", True, 0.003),
}
"""Start of the text → metric, whether less is better, and margin."""
SEEDS = 6

Runs = dict[str, dict[int, dict[str, float]]]
Compared = tuple[str, dict[str, Any], dict[str, Any]]
"""What is judged, what is written of it, and what is found."""


def read_runs(folder: Path) -> Runs:
    """Arm → seed → metric → number, those that are finite."""
    runs: Runs = defaultdict(dict)
    for path in sorted((folder / "runs").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = {k: float(v) for k, v in content["measured"].items() if v is not None and math.isfinite(v)}
        if content["seed"] in runs[content["arm"]]:
            raise SystemExit(f"{path}: a second file of {content['arm']} with seed {content['seed']}")
        runs[content["arm"]][content["seed"]] = numbers
    return runs


def series(runs: Runs, value: dict[str, Any], seeds: Sequence[int]) -> dict[int, float]:
    """A number by seed; of one fixed seed, the same for all."""
    own = runs.get(value["arm"], {})
    if value["seed"] is not None:
        fixed = own.get(value["seed"], {}).get(value["metric"])
        return {} if fixed is None else dict.fromkeys(seeds, fixed)
    return {seed: numbers[value["metric"]] for seed, numbers in own.items() if value["metric"] in numbers}


def differences(runs: Runs, plus: Sequence[dict[str, Any]], minus: Sequence[dict[str, Any]]) -> dict[int, float]:
    """By seed: the sum of some numbers less the sum of others, where all of them are there."""
    free = [value for value in (*plus, *minus) if value["seed"] is None]
    seeds = sorted(set.intersection(*(set(runs.get(value["arm"], {})) for value in free)) if free else {0})
    found = [[series(runs, value, seeds) for value in part] for part in (plus, minus)]
    shared = [seed for seed in seeds if all(seed in one for part in found for one in part)]
    return {seed: sum(one[seed] for one in found[0]) - sum(one[seed] for one in found[1]) for seed in shared}


def t_test(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and two-sided p; no p without spread."""
    x = np.array(values)
    if len(x) < 2 or x.std(ddof=1) <= ROUNDED:
        return float(x.mean()), None
    t = x.mean() / (x.std(ddof=1) / math.sqrt(len(x)))
    return float(x.mean()), float(2 * stats.t.sf(abs(t), len(x) - 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm's correction; a missing p counts as one of the family."""
    order = sorted((i for i, p in enumerate(p_values) if p is not None), key=lambda i: p_values[i] or 0.0)
    corrected: list[float | None] = [None] * len(p_values)
    for rank, i in enumerate(order):
        before = corrected[order[rank - 1]] if rank else 0.0
        corrected[i] = max(before or 0.0, min(1.0, (len(p_values) - rank) * (p_values[i] or 0.0)))
    return corrected


def scales(folder: Path) -> set[str]:
    """Of all runs."""
    return {json.loads(path.read_text(encoding="utf-8"))["scale"] for path in (folder / "runs").glob("*.json")}


def of_sizes_and_speeds(claim: dict[str, Any], runs: Runs, at_own_scale: bool) -> dict[str, Any]:
    """What a claim about sizes or speeds comes to: whether the first is more than so many times the second."""
    sides = []
    for side in (claim["plus"], claim["minus"]):
        if all(value["metric"] == "parameters" for value in side):
            sides.append([SIZES.get(value["arm"]) for value in side])
        else:
            found = [list(series(runs, value, []).values()) if at_own_scale else [] for value in side]
            sides.append([FASTEST[v["metric"]](one) if one else None for v, one in zip(side, found, strict=True)])
    numbers = [number for side in sides for number in side if number is not None]
    if len(numbers) < len(claim["plus"]) + len(claim["minus"]):
        return {"verdict": "not measured", "differences": {}}
    first, second = (sum(number or 0.0 for number in side) for side in sides)
    return {"verdict": "holds" if first > claim.get("times", 1.0) * second else "does not hold"}


def of_claims(claims: Sequence[dict[str, Any]], runs: Runs, at_own_scale: bool) -> Iterator[Compared]:
    """Each claim of an experiment: its text, what is written, and what is found."""
    kinds = [claim["says"] for claim in claims]
    found = [differences(runs, claim["plus"], claim["minus"]) for claim in claims]
    tests: list[tuple[float, float | None] | None] = []
    deciding: list[tuple[float, float | None] | None] = []
    for claim, values in zip(claims, found, strict=True):
        tested = kinds[claims.index(claim)] != "compared" and bool(values)
        tests.append(t_test(list(values.values())) if tested else None)
        deciding.append(_deciding(claim, list(values.values())) if tested else None)
    corrected: list[float | None] = [None] * len(claims)
    for near in (False, True):
        family = [i for i, kind in enumerate(kinds) if kind != "compared" and (kind in ("near", "below")) == near]
        p_values = [None if (one := deciding[i]) is None else one[1] for i in family]
        for i, p in zip(family, holm(p_values), strict=True):
            corrected[i] = p
    for i, claim in enumerate(claims):
        test, decides = tests[i], deciding[i]
        new: dict[str, Any] = {}
        if kinds[i] != "compared":
            new = {"differences": {str(k): v for k, v in found[i].items()}, "mean": None if test is None else test[0]}
            if claim["verdict"] not in LEFT_OUT:
                assert decides is not None
                new |= {
                    "p (Holm)": corrected[i],
                    "verdict": _verdict(kinds[i], decides[0], corrected[i], len(found[i])),
                }
        elif not claim["reason"].startswith("the runs are of different machines"):
            new = of_sizes_and_speeds(claim, runs, at_own_scale)
        yield f"{claim['experiment']}: {claim['claim']}", claim, new


def _deciding(claim: dict[str, Any], values: Sequence[float]) -> tuple[float, float | None]:
    """The test that decides: of the differences, or of their distance to the margin."""
    margin = claim["margin"]
    if claim["says"] == "below":
        return t_test([margin - value for value in values])
    if claim["says"] == "near":
        side = 1.0 if np.mean(values) >= 0 else -1.0
        return t_test([margin - side * value for value in values])
    return t_test(values)


def _verdict(kind: str, mean: float, p: float | None, n: int) -> str:
    if n < 2:
        return "undecided (one seed)"
    if p is None:
        return f"undecided at n = {n} (all differences equal)"
    if p >= ALPHA:
        return f"undecided at n = {n}"
    return "holds" if mean > 0 or kind == "differs" else "does not hold"


def of_contrasts(contrasts: Sequence[dict[str, Any]], runs: Runs) -> Iterator[Compared]:
    """Each contrast of an experiment: differences by set of teachers and seed, and the test of their mean."""
    tables = []
    for one in contrasts:
        table = {}
        for row, (first, second) in enumerate(one["pairs"]):
            own = differences(runs, [first], [second])
            table |= {(row, seed): value for seed, value in own.items() if seed < one["seeds"]}
        tables.append(table)
    wanted = [len(one["pairs"]) * one["seeds"] for one in contrasts]
    counts = [len(table) for table in tables]
    tests = [
        _crossed(table, one) if n == of else None
        for table, one, n, of in zip(tables, contrasts, counts, wanted, strict=True)
    ]
    p_values = _exploratory([None if test is None else test["p"] for test in tests], contrasts)
    within = _exploratory([None if test is None else test["within"] for test in tests], contrasts)
    for i, one in enumerate(contrasts):
        new: dict[str, Any] = {"differences": {f"{k}/{s}": v for (k, s), v in tables[i].items()}}
        test = tests[i]
        new |= {
            "mean": None if test is None else test["mean"],
            "standard error": None if test is None else test["se"],
            "degrees of freedom": None if test is None else test["df"],
            "p": p_values[i],
            "p (within the margin)": within[i],
        }
        if test is None:
            new["verdict"] = f"not yet: {counts[i]} of {wanted[i]}"
        elif (p := p_values[i]) is not None and p < ALPHA:
            new["verdict"] = "holds" if test["mean"] > 0 else "does not hold"
        elif (q := within[i]) is not None and q < ALPHA:
            new["verdict"] = "no difference (within ±"
        else:
            new["verdict"] = f"undecided at n = {counts[i]}"
        yield f"{one['experiment']}: {one['contrast']}", one, new


def _exploratory(p_values: Sequence[float | None], contrasts: Sequence[dict[str, Any]]) -> list[float | None]:
    """Holm's correction of those that are not primary."""
    others = [i for i, one in enumerate(contrasts) if not one["primary"]]
    corrected = list(p_values)
    for i, p in zip(others, holm([p_values[i] for i in others]), strict=True):
        corrected[i] = p
    return corrected


def _correlation(pairs: Sequence[Sequence[dict[str, Any]]]) -> float:
    """Of two sets, if a student's number is the mean of what each of its teachers does: names follow the model's."""
    names = sorted({name for pair in pairs for value in pair for name in value["arm"].split(".")[1:]})
    effects = np.zeros((len(pairs), len(names)))
    for row, pair in enumerate(pairs):
        for sign, value in zip((1.0, -1.0), pair, strict=True):
            own = value["arm"].split(".")[1:]
            for name in own:
                effects[row, names.index(name)] += sign / len(own)
    gram = effects @ effects.T
    if len(pairs) < 2 or not gram.trace():
        return 0.0
    return float((gram.sum() - gram.trace()) / (len(pairs) - 1) / gram.trace())


def _crossed(table: dict[tuple[int, int], float], one: dict[str, Any]) -> dict[str, Any]:
    """Mean, standard error, degrees of freedom and both p of a full table of sets by seeds, both random."""
    d = np.array([[table[k, seed] for seed in range(one["seeds"])] for k in range(len(one["pairs"]))])
    rows, columns = d.shape
    mean = d.mean()
    squares = {
        "sets": [columns * ((d.mean(axis=1) - mean) ** 2).sum(), rows - 1],
        "seeds": [rows * ((d.mean(axis=0) - mean) ** 2).sum(), columns - 1],
    }
    rest = ((d - d.mean(axis=1, keepdims=True) - d.mean(axis=0, keepdims=True) + mean) ** 2).sum()
    df = (rows - 1) * (columns - 1)
    square = lambda one: one[0] / one[1] if one[1] else 0.0
    shared = _correlation(one["pairs"])
    wider = (1 + (rows - 1) * shared) / (1 - shared)
    stays = rows > 1 and wider > 1 + 1e-9  # sets that correlate are not left out, whatever comes out for them
    for name in sorted(squares, key=lambda key: square(squares[key])):
        if stays and name == "sets":
            continue
        if square(squares[name]) <= square([rest, df]) or not df:
            rest, df = rest + squares[name][0], df + squares.pop(name)[1]
    error = square([rest, df])
    seeds = square(squares["seeds"]) if "seeds" in squares else 0.0
    sets = square(squares["sets"]) if "sets" in squares else 0.0
    if stays:
        parts = [(max(wider * sets, error), rows - 1), (seeds, columns - 1), (-error if seeds else 0.0, df)]
    elif sets:
        parts = [(wider * sets, rows - 1), (seeds, columns - 1), ((1 - wider) * error - (error if seeds else 0.0), df)]
    else:
        parts = [(seeds, columns - 1), (0.0 if seeds else error, df)]
    variance, spread = sum(size for size, _ in parts), sum(size**2 / of for size, of in parts if of)
    freedom = variance**2 / spread if spread else 0.0
    if freedom <= 0 or variance <= 1e-24:
        return {"mean": float(mean), "se": None, "df": None, "p": None, "within": None}
    se = math.sqrt(variance / d.size)
    sides = [stats.t.sf((one["margin"] - side * mean) / se, freedom) for side in (-1, 1)]
    p = float(2 * stats.t.sf(abs(mean) / se, freedom))
    return {"mean": float(mean), "se": se, "df": freedom, "p": p, "within": float(max(sides))}


def off_plan(contrasts: Sequence[dict[str, Any]]) -> Iterator[str]:
    """What of the contrasts of the pre-registered experiment is not as planned."""
    of = lambda arms, metric: [{"arm": arm, "metric": metric, "seed": None} for arm in arms]
    planned = {}
    for text, others in PRIMARY.items():
        planned[text] = (of(BOTH, "accuracy/class"), of(others, "accuracy/class"), 0.003, True)
    for what, others in OF_ONE_KIND.items():
        alone = of(["transformer_tiny"] * 3, "accuracy/class")
        planned[f"{what.capitalize()} are better than labels alone"] = (
            of(others, "accuracy/class"), alone, 0.003, False,
        )  # fmt: skip
        for start, (metric, less, margin) in EXPLORATORY.items():
            sides = of(BOTH, metric), of(others, metric)
            planned[f"{start} {what}"] = (*(sides[::-1] if less else sides), margin, False)
    found = {one["contrast"]: one for one in contrasts}
    for text in planned.keys() ^ found.keys():
        yield f"{text}: {'not planned' if text in found else 'planned, and not there'}"
    for text in planned.keys() & found.keys():
        first, second, margin, primary = planned[text]
        wanted = {
            "pairs": [list(pair) for pair in zip(first, second, strict=True)], "seeds": SEEDS, "margin": margin,
            "primary": primary,
        }  # fmt: skip
        for key, value in wanted.items():
            if found[text][key] != value:
                yield f"{text}: {key} is {found[text][key]}, planned was {value}"


def files_named(folder: Path, written: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Files that a contrast says to rest on, and which are not those of its arms."""
    arms: dict[str, set[str]] = defaultdict(set)
    for path in (folder / "runs").glob("*.json"):
        content = json.loads(path.read_text(encoding="utf-8"))
        arms[path.name] = {content["arm"], str(content["seed"])}
    for one in written:
        wanted = {
            name
            for row, pair in enumerate(one["pairs"])
            for seed in (key.split("/")[1] for key in one["differences"] if key.startswith(f"{row}/"))
            for value in pair
            for name, facts in arms.items()
            if facts == {value["arm"], seed}
        }
        if wanted != set(one["files"]):
            yield f"{one['contrast']}: rests on other files than it says: {sorted(wanted ^ set(one['files']))}"


def problems(folder: Path) -> Iterator[str]:
    """What in `verdicts.json` differs from what the run files say."""
    runs = read_runs(folder)
    at_own_scale = scales(folder) == {SCALE}
    written = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    for name in dict.fromkeys(one["experiment"] for one in written):
        own = [one for one in written if one["experiment"] == name]
        claims, contrasts = ([one for one in own if kind in one] for kind in ("claim", "contrast"))
        if name == "kinds":
            yield from sorted(off_plan(contrasts))
        yield from files_named(folder, contrasts)
        for text, before, now in (*of_claims(claims, runs, at_own_scale), *of_contrasts(contrasts, runs)):
            for key, value in now.items():
                if not _same(before[key], value, 0.0051 if key == "degrees of freedom" else ROUNDED):
                    yield f"{text}: {key} is {before[key]}, the run files say {value}"


def _same(before: Any, now: Any, within: float) -> bool:
    if isinstance(now, dict):
        return before.keys() == now.keys() and all(_same(before[key], value, within) for key, value in now.items())
    if isinstance(now, float) and isinstance(before, float | int):
        return math.isclose(before, now, rel_tol=1e-3, abs_tol=within)
    return bool(str(before).startswith(now)) if isinstance(now, str) else before == now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="+", help="folder with verdicts.json and runs/")
    wrong = 0
    for folder in parser.parse_args().folder:
        found = list(problems(folder))
        count = len(json.loads((folder / "verdicts.json").read_text(encoding="utf-8")))
        print(f"{folder}: {count} verdicts recomputed, {len(found)} differences")
        print(*found, sep="\n", end="\n" if found else "")
        wrong += len(found)
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
