"""The section on where the numbers of a report come from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from ..run.measurement import Measurement
from ..run.result import RunResult
from .page import Part, Section, Text
from .tables import ABSENT, Table, count, duration


def provenance_section(runs: Sequence[tuple[str, str, RunResult | Measurement]]) -> Section:
    """Everything needed to make the numbers again: a row for each run, and each distinct machine once.

    Args:
        runs: (label, path, result) of each run.
    """
    rows, machines = [], []
    for label, path, run in runs:
        source = run.provenance
        machine = {key: source.get(key) for key in ("commit", "system", "hardware", "versions")}
        if machine not in machines:
            machines.append(machine)
        identity = run.id if isinstance(run, Measurement) else run.fingerprint
        date = str(source.get("date", ABSENT))[:16].replace("T", " ")
        numbers = [duration(run.seconds), count(run.steps), count(run.images_seen)]
        rows.append([label, path, str(run.seed), identity[:12], *numbers, date, str(machines.index(machine) + 1)])
    columns = ["Arm", "Run", "Seed", "Recipe", "Time", "Steps", "Images seen", "Date (UTC)", "Machine"]
    total = sum(run.seconds for *_, run in runs)
    commands = list(dict.fromkeys(str(run.provenance.get("command", "")) for *_, run in runs))
    finished = "1 finished run" if len(runs) == 1 else f"{len(runs)} finished runs"
    parts: list[Part] = [Text(f"{finished}, {duration(total)} of training in all.")]
    if any(commands):
        parts += [Text("Commands:"), Text("\n".join(filter(None, commands)), "code")]
    parts.append(Table("Runs; “Recipe” is the first 12 digits of its fingerprint", columns, rows, "lllllrrll"))
    for i, machine in enumerate(machines, start=1):
        parts.append(Table(f"Machine {i}", ["What", "Value"], _machine_rows(machine), "ll"))
    return Section("provenance", "Provenance", parts, folded=True)


def _machine_rows(machine: Mapping[str, Any]) -> list[list[str]]:
    rows = [["commit", str(machine.get("commit") or "unknown")], ["system", str(machine.get("system") or ABSENT)]]
    for part in ("hardware", "versions"):
        for key, value in (machine.get(part) or {}).items():
            rows.append([key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)])
    return rows
