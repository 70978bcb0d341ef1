"""What a student is worth beside its top-1: the mean of its heads, likelihood, calibration, corruptions."""

from __future__ import annotations

from collections.abc import Sequence

from ..paper.ablations import SEVEN_ARMS
from ..paper.arms import Arm
from ..paper.declared import Value
from .page import Part, Text
from .results import Results
from .tables import ABSENT, Table, mean_sd, number
from .titles import arm_title

_COLUMNS = {
    "accuracy/class": "Top-1 (%)",
    "accuracy/average": "All heads (%)",
    "loss/class": "NLL (nat)",
    "ece/class": "ECE (%)",
    "corruptions/class": "Mean corruption error (%)",
}
"""Metric → its column."""
_SEVERAL = ("accuracy/average", "corruptions/class")
"""What a student beside the arms that carry the claim must have to be shown: several heads, and corruptions."""


def outcomes_parts(arms: Sequence[Arm], results: Results) -> list[Part]:
    """A table of the arms that carry the claim, and of other students with tokens that saw corrupted images.

    Args:
        arms: with finished runs.
    """
    first = [arm for arm in SEVEN_ARMS if arm in arms]
    others = [arm for arm in arms if arm not in first and all(results.series(Value(arm, one)) for one in _SEVERAL)]
    chosen = first + others
    keys = [key for key in _COLUMNS if any(results.series(Value(arm, key)) for arm in chosen)]
    if not set(keys) - {"accuracy/class"}:
        return []
    rows = [[arm_title(arm), *(_cell(arm, key, results) for key in keys), _runs(arm, keys, results)] for arm in chosen]
    columns = ["Arm", *(_COLUMNS[key] for key in keys), "n"]
    caption = "Outcomes beside top-1: mean ± standard deviation over n runs"
    missing = [_COLUMNS[key].partition(" (")[0] for key in _COLUMNS if key not in keys]
    return [Table(caption, columns, rows), *(Text(text, "note") for text in _notes(chosen, missing, results))]


def _notes(arms: Sequence[Arm], missing: Sequence[str], results: Results) -> list[str]:
    runs = [run for arm in arms for run in results.runs(arm)]
    of = lambda counts: " or ".join(f"{n:,}" for n in sorted({n for n in counts if n is not None})) or ABSENT
    text = (
        "Of the class token; all heads: top-1 of the mean of their logits. NLL: mean negative log-likelihood of the "
        "right class, at temperature 1. Smaller is better. These three are of the last epoch; calibration and "
        "corruptions are of the epoch with the best top-1, which is another one where a run was evaluated more than "
        "once. No test was made here."
    )
    if _COLUMNS["ece/class"].partition(" (")[0] not in missing:
        compared = of(run.likeness_images for run in runs)  # which older files do not say
        images = "" if compared == ABSENT else f" on {compared} of the validation images,"
        text += (
            " ECE: mean distance between confidence and accuracy over equally wide bins of confidence,"
            f"{images} of students that were compared with their teachers."
        )
    counts = of(run.corrupted_images for run in runs)
    if counts != ABSENT:
        text += f" Mean corruption error: over 15 kinds of corruption at five severities, on {counts} images."
    return [text, *([f"Not measured of these arms: {', '.join(missing)}."] if missing else [])]


def _cell(arm: Arm, key: str, results: Results) -> str:
    summary = results.summary(Value(arm, key))
    if summary is None or key != "loss/class":
        return mean_sd(summary)
    return number(summary.mean) + ("" if summary.sd is None else f" ± {number(summary.sd)}")


def _runs(arm: Arm, keys: Sequence[str], results: Results) -> str:
    """How many runs the numbers rest on: several counts where some lack a number."""
    return ", ".join(map(str, sorted({len(results.series(Value(arm, key))) for key in keys} - {0})))
