"""Sections that the report of a demo and that of one run share: similarity to the teachers, provenance."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import report_demo as words
from .plots import Drawing, KlMap, draw, kl_maps
from .report_inputs import Run, finite
from .report_page import Section, Text
from .tables import NONE, Table, count, duration

_DIRECTIONS: tuple[words.Direction, ...] = ("teacher‖token", "token‖teacher")
_FRAME = "A frame marks the token that is nearest to the teacher, by its mean; no test was made."
_UNTOLD = (
    "Some results do not name the direction, so KL between an advised token and a teacher cannot be told apart from "
    "its reverse there and is left out; evaluate the runs again."
)


def similarity_section(
    groups: Sequence[tuple[str, Sequence[Run]]], label: dict[str, str], first: str
) -> Section | None:
    """KL of each token to each teacher (Table 5 of the paper, which leaves the direction open)."""
    found = [
        table
        for name, runs in groups
        for direction in _DIRECTIONS
        if (table := words.divergence(name, runs, direction)) is not None
    ]
    if not found:
        return None
    maps = [
        KlMap(
            f"{table.label}: KL({table.direction.replace('‖', ' ‖ ')})",
            table.tokens,
            [label.get(name, name) for name in table.teachers],
            [[cell.mean if cell else None for cell in row] for row in table.cells],
        )
        for table in found
    ]
    nearest = words.nearest_sentences(found, label)
    alt = "Heat maps of the KL divergence between tokens and teachers. " + " ".join(nearest)
    return Section(
        "similarity",
        "How near each token is to each teacher",
        [
            Text(
                "KL divergence between the class probabilities of a token and of a teacher on the validation set, in "
                "nats, at temperature 1, in both directions.",
                "note",
            ),
            draw("similarity", alt, lambda: kl_maps(maps)),
            *([Text(_FRAME, "note")] if nearest else []),
            *(Text(sentence) for sentence in nearest),
            words.divergences_table(found, label, first),
            *(
                [Text(_UNTOLD, "warning")]
                if any(not run.directions_named for _, runs in groups for run in runs if run.result.get("teachers"))
                else []
            ),
        ],
    )


def provenance_section(runs: Sequence[tuple[str, Run]]) -> Section:
    """Everything needed to make the numbers again: a row a run, and each distinct machine once."""
    rows, machines = [], []
    for label, run in runs:
        result, source = run.result, run.result.get("provenance") or {}
        machine = {key: source.get(key) for key in ("commit", "system", "hardware", "versions")}
        if machine not in machines:
            machines.append(machine)
        rows.append(
            [
                label,
                run.path,
                str(result.get("seed", NONE)),
                str(result.get("fingerprint", NONE))[:12],
                duration(finite(result.get("seconds"))),
                count(finite(result.get("steps"))),
                count(finite(result.get("images_seen"))),
                str(source.get("date", NONE))[:16].replace("T", " "),
                str(machines.index(machine) + 1),
            ]
        )
    columns = ["Arm", "Run", "Seed", "Recipe", "Time", "Steps", "Images seen", "Date (UTC)", "Machine"]
    total = sum(finite(run.result.get("seconds")) or 0.0 for _, run in runs)
    commands = list(dict.fromkeys(str((run.result.get("provenance") or {}).get("command", "")) for _, run in runs))
    parts: list[Text | Table | Drawing] = [Text(f"{len(runs)} finished runs, {duration(total)} of training in all.")]
    if any(commands):
        parts += [Text("Commands:"), Text("\n".join(filter(None, commands)), "code")]
    parts.append(Table("Runs; “Recipe” is the first 12 digits of its fingerprint", columns, rows, "lllllrrll"))
    for i, machine in enumerate(machines, start=1):
        parts.append(Table(f"Machine {i}", ["What", "Value"], _machine_rows(machine), "ll"))
    return Section("provenance", "Provenance", parts, folded=True)


def _machine_rows(machine: Mapping[str, Any]) -> list[list[str]]:
    rows = [["commit", str(machine.get("commit") or "unknown")], ["system", str(machine.get("system") or NONE)]]
    for part in ("hardware", "versions"):
        for key, value in (machine.get(part) or {}).items():
            rows.append([key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)])
    return rows
