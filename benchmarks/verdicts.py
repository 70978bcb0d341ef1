"""Recompute every verdict of an experiment from its run files, without this package: NumPy and SciPy alone.

What is claimed is read from `verdicts.json` (which numbers of which arms are added and taken away, and the margin),
every number from the files in `runs/`. Differences, means, p, Holm's correction and verdicts are computed anew and
compared; exit code 1 if any differs.

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
"""Older files have six decimals, and so have the differences in `verdicts.json`."""
LEFT_OUT = ("means nothing here", "not measured")
"""Verdicts that rest on conditions in words: only the differences of such claims are compared."""

Runs = dict[str, dict[int, dict[str, float]]]
Compared = tuple[str, dict[str, Any], dict[str, Any]]
"""What is judged, what is written of it, and what is found."""


def read_runs(folder: Path) -> Runs:
    """Arm → seed → metric → number, those that are finite."""
    runs: Runs = defaultdict(dict)
    for path in sorted((folder / "runs").glob("*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        numbers = {k: float(v) for k, v in content["measured"].items() if v is not None and math.isfinite(v)}
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


def of_claims(claims: Sequence[dict[str, Any]], runs: Runs) -> Iterator[Compared]:
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
    tests = [_crossed(table, len(one["pairs"])) for table, one in zip(tables, contrasts, strict=True)]
    raw = [None if test is None else test[3] for test in tests]
    others = [i for i, one in enumerate(contrasts) if not one["primary"]]
    corrected = list(raw)
    for i, p in zip(others, holm([raw[i] for i in others]), strict=True):
        corrected[i] = p
    for one, table, test, p in zip(contrasts, tables, tests, corrected, strict=True):
        new: dict[str, Any] = {"differences": {f"{k}/{s}": v for (k, s), v in table.items()}, "mean": None}
        wanted, n = len(one["pairs"]) * one["seeds"], 0
        if test is not None:
            mean, se, df, _, n = test
            new |= {"mean": mean, "standard error": se, "degrees of freedom": df, "p": p}
        if n < wanted:
            new["verdict"] = f"not yet: {n} of {wanted}"
        elif test is not None:
            new["verdict"] = _contrasted(one, test, p)
        yield f"{one['experiment']}: {one['contrast']}", one, new


def _contrasted(one: dict[str, Any], test: tuple[float, float, float, float, int], p: float | None) -> str:
    mean, se, df, _, n = test
    if p is not None and p < ALPHA:
        return "holds" if mean > 0 else "does not hold"
    if stats.t.sf((one["margin"] - abs(mean)) / se, df) < ALPHA:
        return "no difference"
    return f"undecided at n = {n}"


def _crossed(table: dict[tuple[int, int], float], sets: int) -> tuple[float, float, float, float, int] | None:
    """Mean, standard error, degrees of freedom, p and n of a table of sets by seeds, both random."""
    seeds = sorted(seed for seed in {s for _, s in table} if all((k, seed) in table for k in range(sets)))
    if not seeds:
        return None
    d = np.array([[table[k, seed] for seed in seeds] for k in range(sets)])
    rows, columns = d.shape
    mean = d.mean()
    squares = {
        "sets": [columns * ((d.mean(axis=1) - mean) ** 2).sum(), rows - 1],
        "seeds": [rows * ((d.mean(axis=0) - mean) ** 2).sum(), columns - 1],
    }
    rest = ((d - d.mean(axis=1, keepdims=True) - d.mean(axis=0, keepdims=True) + mean) ** 2).sum()
    df = (rows - 1) * (columns - 1)
    square = lambda one: one[0] / one[1] if one[1] else 0.0
    for name in sorted(squares, key=lambda key: square(squares[key])):
        if square(squares[name]) <= square([rest, df]) or not df:
            rest, df = rest + squares[name][0], df + squares.pop(name)[1]
    error = square([rest, df])
    if not squares:
        variance, freedom = error, float(df)
    elif len(squares) == 1:
        (left,) = squares.values()
        variance, freedom = square(left), float(left[1])
    else:
        variance = sum(square(one) for one in squares.values()) - error
        freedom = variance**2 / (sum(square(one) ** 2 / one[1] for one in squares.values()) + error**2 / df)
    if freedom <= 0 or variance <= 0:
        return None
    se = math.sqrt(variance / d.size)
    return float(mean), se, freedom, float(2 * stats.t.sf(abs(mean) / se, freedom)), d.size


def problems(folder: Path) -> Iterator[str]:
    """What in `verdicts.json` differs from what the run files say."""
    runs = read_runs(folder)
    written = json.loads((folder / "verdicts.json").read_text(encoding="utf-8"))
    for name in dict.fromkeys(one["experiment"] for one in written):
        own = [one for one in written if one["experiment"] == name]
        claims, contrasts = ([one for one in own if kind in one] for kind in ("claim", "contrast"))
        for text, before, now in (*of_claims(claims, runs), *of_contrasts(contrasts, runs)):
            for key, value in now.items():
                if not _same(before[key], value):
                    yield f"{text}: {key} is {before[key]}, the run files say {value}"


def _same(before: Any, now: Any) -> bool:
    if isinstance(now, dict):
        return before.keys() == now.keys() and all(_same(before[key], value) for key, value in now.items())
    if isinstance(now, float) and isinstance(before, float | int):
        return math.isclose(before, now, rel_tol=1e-3, abs_tol=ROUNDED)
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
