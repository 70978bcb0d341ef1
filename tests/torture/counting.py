"""A command that counts, is killed and goes on: rightly, or with one of the mistakes that runs could make.

`python -m torture.counting FOLDER MISTAKE`
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

STEPS, EVERY = 60, 3


def count(folder: Path, mistake: str) -> None:
    """Sum up in an order that matters; every few steps the sum is saved, and every step is logged."""
    folder.mkdir(exist_ok=True)
    saved, log = folder / "saved.json", folder / "log"
    step, total = json.loads(saved.read_text()) if saved.is_file() else (0, 1)
    if mistake == "repeats a step" and step:
        step -= 1
    if mistake == "fails when it goes on" and step:
        sys.exit("no")
    while step < STEPS:
        step += 1
        total = (31 * total + step) % 1_000_003
        time.sleep(0.005)
        with log.open("a") as file:
            file.write(f"{step}\n")
        if step % EVERY == 0:
            temporary = folder / f"{os.getpid()}.tmp"
            temporary.write_text(json.dumps([step, total]))
            # Long enough that one of some kills meets a file that is left, also where all cores are busy.
            time.sleep(0.05 if mistake == "leaves files" else 0.003)
            temporary.replace(saved)
            if mistake != "leaves files":
                for left in folder.glob("*.tmp"):
                    left.unlink()


def differences(one: Path, other: Path) -> list[str]:
    """Between two that have ended."""
    first, second = ((top / "saved.json").read_text() for top in (one, other))
    left = [f"{path.name} was left over" for path in other.glob("*.tmp")]
    return left + ([] if first == second else [f"{first} and {second}"])


if __name__ == "__main__":
    count(Path(sys.argv[1]), sys.argv[2])
