"""Goals of the GPU benchmarks, each with the file that answers it; needs nothing but Python's library."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

BEGUN = "934e134"
"""Commit whose figures the speed of the GPU is compared with."""


class Goal(NamedTuple):
    """One line of the table.

    Attributes:
        file: `NAME-cuda.json` has the claim.
        what: how the claim is called there.
        goal: empty where a line is shown without one.
    """

    file: str
    what: str
    goal: str = ""
    unit: str = "×"


GOALS = (
    Goal("step", "co-advised step, bf16, against the plain baseline", "≥ 8×"),
    Goal("step", f"co-advised step against that of {BEGUN}", "≥ 2.4×"),
    Goal("step", f"peak memory of the co-advised step over that of {BEGUN}", "≤ 0.7×"),
    Goal("step", "peak memory of the co-advised step", unit=" GiB"),
    Goal("step", "peak memory of the plain baseline", unit=" GiB"),
    Goal("step", "live co-advised step over the labels-only step of its student", "≤ 1.35×"),
    Goal("step", "co-advised step, bf16, part of the speed of a matrix product", unit=" %"),
    Goal("step", "co-advised student alone, part of the speed of a matrix product", "≥ 20 %", " %"),
    Goal("step", "waits of the host for the device in a step, between log lines", "≤ 0", ""),
    Goal("students", "cit_small alone, part of the speed of a matrix product", "≥ 35 %", " %"),
    Goal("students", "cit_small alone, images/s", "≥ 10,000 images/s", " images/s"),
    Goal("involution", "involution forward, the floor over our time (geometric mean)", "≥ 50 %", " %"),
    Goal("involution", "involution backward, the floor over our time (geometric mean)", "≥ 40 %", " %"),
    Goal("inference", "RedNet-101 against RegNetY-4GF, each in its best form", "≥ 0.8×"),
    Goal("small_images", "training on 64 px images, Ti student, advice given", "≥ 60,000 images/s", " images/s"),
    Goal("small_images", "device busy meanwhile", "≥ 95 %", " %"),
    Goal("training", "coadvise train from stored advice, Ti student, 64 px", "≥ 50,000 images/s", " images/s"),
    Goal("training", "coadvise train cifar10, live teachers", "≥ 30,000 images/s", " images/s"),
    Goal("training", "from the command to the first step of cifar10, caches warm", "≤ 15 s", " s"),
    Goal("cache", "step with stored advice over labels alone, 64 px, CiT-Ti with patches of 8", "≤ 1.03×"),
    Goal("inference", "cit_small against timm's DeiT-S distilled, compiled, bf16", "≥ 0.99×"),
)


def goal_of(file: str, what: str) -> Goal:
    """The line of a claim; one without a goal where the table has none."""
    return next((one for one in GOALS if (one.file, one.what) == (file, what)), Goal(file, what))


def verdict(value: float | None, goal: str) -> str:
    """`met`, `not met`, `not measured`; empty for a value without a goal. What is shown of the value decides."""
    if value is None:
        return "not measured"
    found = re.match(r"([≥≤]) ([\d.,]+)", goal)
    if found is None:
        return ""
    bound, value = float(found[2].replace(",", "")), float(f"{value:.3g}")
    return "met" if (value >= bound if found[1] == "≥" else value <= bound) else "not met"


def shown(value: float | None, unit: str) -> str:
    """`8.21×`, `52,400 images/s`; empty where nothing was measured."""
    if value is None:
        return ""
    return f"{value:,.0f}{unit}" if abs(value) >= 1000 else f"{value:.3g}{unit}"


def claims_in(folder: Path, device: str, since: float) -> dict[tuple[str, str], dict[str, Any]]:
    """Claims by the name of their file and their own, of files that were written since a time."""
    found = {}
    for path in sorted(folder.glob(f"*-{device}.json")):
        if path.stat().st_mtime < since:
            continue
        content = json.loads(path.read_text(encoding="utf-8"))
        found |= {(content["benchmark"], claim["what"]): claim for claim in content["claims"]}
    return found


def table(folder: Path, device: str, missing: dict[str, str], since: float = 0.0) -> str:
    """All goals as Markdown: what was measured, whether it is met, and what stands in the way.

    Args:
        missing: why there is nothing from a file, by its name.
        since: files from before that time do not count.
    """
    claims = claims_in(folder, device, since)
    rows = ["| what | measured | goal | outcome | why |", "|---|---:|---:|---|---|"]
    for file, what, goal, unit in GOALS:
        claim = claims.get((file, what), {})
        value = claim.get("value")
        why = claim.get("why") or ("" if claim else missing.get(file, "not run"))
        rows.append(f"| {what} | {shown(value, unit)} | {goal} | {verdict(value, goal)} | {why.replace('|', '/')} |")
    return "\n".join(rows) + "\n"
