"""`coadvise compare`: finished runs side by side."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..system.screen import Table
from .arguments import AsJson, next_steps, out

if TYPE_CHECKING:
    from ..run.comparison import Comparison, Tested

MOST = 15
"""Classes that are printed; of more, those whose recall differs most."""


def compare(
    runs: Annotated[list[Path], typer.Argument(help="folders of finished runs; the first is what others are held to")],
    as_json: AsJson = False,
) -> None:
    """Put finished runs side by side: what differs in their recipes, in accuracy and in each class.

    Runs that differ in their seeds alone count as one kind: with two seeds or more of each, kinds are compared over
    seeds (paired t-test), otherwise over the same validation images (McNemar's exact test). Holm's correction.

    Examples:

        coadvise compare runs/labels-only runs/co-advised

        coadvise compare runs/a-seed0 runs/a-seed1 runs/b-seed0 runs/b-seed1
    """
    from ..run.comparison import compare as run

    found = run(runs)
    if as_json:
        print(json.dumps(_content(found), indent=1, ensure_ascii=False))
        return
    _print_runs(found)
    _print_differences(found)
    _print_classes(found)
    for one in found.tests:
        out.print(_said(one))
    words = ["coadvise", "report", str(found.kinds[-1].runs[-1].path)]
    next_steps(f"see where a run errs: {shlex.join(words)}")


def _print_runs(found: Comparison) -> None:
    table = Table("", "run", "seed", "right", "top-1", "weights")
    for kind in found.kinds:
        for run, share in zip(kind.runs, kind.shares, strict=True):
            of = len(run.answers.label)
            table.add_row(
                kind.letter, str(run.path), str(run.seed), f"{run.right:,} of {of:,}", f"{share:.1%}", run.weights
            )
    out.print(table)


def _print_differences(found: Comparison) -> None:
    table = Table(title="what differs", title_justify="left")
    for header in ("setting", *(kind.letter for kind in found.kinds)):
        table.add_column(header, overflow="fold")
    for key, values in found.differences.items():
        table.add_row(key, *values)
    out.print(table)


def _print_classes(found: Comparison) -> None:
    recalls = [kind.recall() for kind in found.kinds]
    named = [name for name in recalls[0] if any(recall[name] is not None for recall in recalls)]
    values = {name: [v for recall in recalls if (v := recall[name]) is not None] for name in named}
    spread = {name: max(values[name]) - min(values[name]) for name in named}
    shown = named if len(named) <= MOST else sorted(named, key=lambda name: -spread[name])[:MOST]
    cut = "" if len(named) <= MOST else f", the {MOST} of {len(named)} classes that differ most"
    table = Table("class", *(kind.letter for kind in found.kinds), title=f"recall{cut}", title_justify="left")
    for name in shown:
        table.add_row(name, *("–" if (v := recall[name]) is None else f"{v:.1%}" for recall in recalls))
    out.print(table)


def _said(one: Tested) -> str:
    points = f"{100 * one.difference:+.1f} points"
    p = "no p-value" if one.p is None else f"p = {one.p:.2g}"
    p += "" if one.corrected is None or one.corrected == one.p else f", corrected {one.corrected:.2g}"
    if one.over_seeds is not None:
        low, high = one.over_seeds.low, one.over_seeds.high
        between = "" if low is None or high is None else f" [{100 * low:+.1f}, {100 * high:+.1f}]"
        how = f"over {len(one.seeds)} seeds, paired t-test: {points}{between}, {p}"
    else:
        changed, a, b = one.images, one.first.letter, one.other.letter
        alone = "" if changed is None else f", right alone: {b} {changed.second}, {a} {changed.first}"
        how = f"over the same images, McNemar's exact test: {points}{alone}, {p}"
    return f"{one.other.letter} against {one.first.letter} {how}: {one.words}"


def _content(found: Comparison) -> dict[str, object]:
    return {
        "kinds": {
            kind.letter: {
                "runs": [str(run.path) for run in kind.runs], "seeds": [run.seed for run in kind.runs],
                "accuracy": kind.shares, "recall": kind.recall(),
            }
            for kind in found.kinds
        },
        "differences": {key: list(values) for key, values in found.differences.items()},
        "tests": [
            {
                "first": one.first.letter, "other": one.other.letter, "difference": one.difference,
                "test": "paired t over seeds" if one.over_seeds is not None else "McNemar over images",
                "seeds": list(one.seeds), "p": one.p, "corrected": one.corrected, "verdict": one.words,
            }
            for one in found.tests
        ],
    }  # fmt: skip
