"""The section on how a run went: its losses, its learning rate, and the accuracy of each output."""

from __future__ import annotations

from ..run.reading import RunFiles, finite
from ..run.result import RunResult
from ..run.standing import chance_of, standings
from .page import Section
from .plots.accuracy import Curve, Level, run_curves
from .plots.style import draw
from .tables import percent
from .words import output_title


def curves_section(run: RunFiles) -> Section | None:
    """Loss terms and learning rate by step; top-1 (or mAP) of each output by epoch, beside teachers and chance."""
    steps = [line for line in run.lines if line.get("kind") == "train" and "step" in line]
    names = list(dict.fromkeys(name for line in steps for name in line.get("terms") or {}))
    terms: dict[str, Curve] = {
        _term(name): [
            (line["step"], v) for line in steps if (v := finite((line.get("terms") or {}).get(name))) is not None
        ]
        for name in names
    }
    rate = [(line["step"], v) for line in steps if (v := finite(line.get("lr"))) is not None]
    evaluations = [line.get("metrics") or {} for line in run.lines if line.get("kind") == "eval"]
    kinds = ("accuracy/", "map/")
    tokens = list(dict.fromkeys(key for metrics in evaluations for key in metrics if key.startswith(kinds)))
    several = any(key.startswith("map/") for key in tokens)
    accuracy: dict[str, Curve] = {output_title(key.partition("/")[2]): run.curve(key) for key in tokens}
    if averaged := run.curve(f"{'map' if several else 'accuracy'}/{run.answering}", "ema"):
        accuracy[f"{output_title(run.answering)}, averaged weights"] = averaged
    if not steps and not tokens:
        return None
    levels = [] if run.result is None else levels_of(run.result)
    ends = [f"{name} {percent(curve[-1][1])} %" for name, curve in accuracy.items() if curve]
    beside = "".join(f", {level.title} {percent(level.share)} %" for level in levels)
    what, whole = ("mAP", "mAP") if several else ("top-1", "accuracy")
    alt = (
        f"Loss terms ({', '.join(terms) or 'none'}) and learning rate by step; {whole} by epoch, last: "
        f"{', '.join(ends)}; lines{beside or ': none'}."
    )
    return Section(
        "curves", "Training", [draw("training", alt, lambda: run_curves(terms, rate, accuracy, what, levels))]
    )


def _term(name: str) -> str:
    """A loss by the output that it teaches; some terms are of no single one."""
    return output_title(name) if name != "apart" else "heads apart"


def levels_of(result: RunResult) -> list[Level]:
    """Teachers, the best first, and chance."""
    if result.several is not None:
        maps = {name: result.final.get(f"teacher_map/{name}") for name in result.teachers}
        known = [Level(f"teacher {name}", share) for name, share in maps.items() if share is not None]
        chance = [Level("chance", result.several.chance)]
    else:
        known = [Level(one.title, one.share) for one in standings(result) if one.kind == "teacher"]
        guessed = chance_of(result)
        chance = [] if guessed is None else [Level("commonest class always", guessed[0] / guessed[1])]
    return sorted(known, key=lambda one: -one.share) + chance
