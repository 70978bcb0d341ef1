"""Commands that compute nothing: seconds and memory until they have answered, beside another tree of this package.

Each command is a process of its own, and the two trees take turns; medians. `floor` is what Typer, Rich and pydantic
alone need.

git worktree add /tmp/old 934e134
python benchmarks/bench_start.py /tmp/old/src
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parents[1]
RUN = HERE / "tests" / "fixtures" / "934e134" / "run"
COMMANDS = ("--help", "recipes", "recipe cit-s optim.lr=1e-3", "schema", "doctor --help", "train digits optim.lrr=1")


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and MB that were resident at the peak."""

    seconds: float
    memory: float


def cost(words: list[str], tree: Path) -> Cost:
    """What one process needs."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *words], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, _, usage = os.wait4(process.pid, 0)
    return Cost(time.perf_counter() - start, usage.ru_maxrss / 1024)


def medians(words: list[str], trees: list[Path], rounds: int) -> list[Cost]:
    """Of each tree; the first turn, in which Python may compile its files, does not count."""
    turns = [[cost(words, tree) for tree in trees] for _ in range(rounds + 1)][1:]
    return [
        Cost(statistics.median(c.seconds for c in side), statistics.median(c.memory for c in side))
        for side in zip(*turns, strict=True)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, nargs="?", help="the src folder of the tree to compare with")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    options, _ = parser.parse_known_args()
    ours = HERE / "src"
    trees = [ours, *([options.other.resolve()] if options.other else [])]
    names = ["here", *(["other", "other / here"] if options.other else [])]
    table = Table("command", *(f"{n}, s" for n in names), *(f"{n}, MB" for n in names))
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(RUN, f"{folder}/run")
        for command in ("floor", *COMMANDS, f"report {folder}/run"):
            words = (
                ["-c", "import typer, rich, pydantic"] if command == "floor" else ["-m", "coadvise", *command.split()]
            )
            found = medians(words, trees, options.rounds)
            cells = []
            for values, unit in (([c.seconds for c in found], ".2f"), ([c.memory for c in found], ".0f")):
                ratio = [f"{values[1] / values[0]:.1f}×"] if options.other else []
                cells += [*(format(value, unit) for value in values), *ratio]
            table.add_row(command.split("/")[0], *cells)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
