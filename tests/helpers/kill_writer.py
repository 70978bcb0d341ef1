"""Write a cache undisturbed, then in a process that is killed at random moments, then in two processes at once.

`python -m helpers.kill_writer FOLDER TEACHER_FOLDER KILLS EPOCHS` writes FOLDER/calm, FOLDER/killed and FOLDER/shared,
each with the views of so many epochs, and prints the number of blocks that were done after each kill.
"""

import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import torch

from coadvise.advice.cache import written_blocks
from coadvise.system.progress import Display
from coadvise.training.caching import cache_advice
from helpers.caches import shrink
from helpers.recipes import CNN, INN, tiny

shrink()


def write(output: Path, teachers: Path) -> None:
    """One call of what `coadvise cache` does."""
    advisers = {
        name: {**settings, "train": None, "checkpoint": str(teachers / name / "best.safetensors")}
        for name, settings in {"conv": CNN, "inv": INN}.items()
    }
    changes = {"advice.folder": str(output / "cache"), "advice.top_k": 2, "schedule.epochs": int(sys.argv[4])}
    recipe = tiny(output / "run", changes, teachers=advisers)
    cache_advice(recipe, display=Display(quiet=True))


def written(output: Path) -> int:
    """Number of blocks that are done."""
    return written_blocks(output / "cache", "conv")


def start(output: Path, teachers: Path) -> int:
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        torch.set_num_threads(1)
        write(output, teachers)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


def finish(*processes: int) -> None:
    assert all(os.waitpid(process, 0)[1] == 0 for process in processes)


def killed(output: Path, teachers: Path, kills: int) -> list[int]:
    """Kill a writer so many times, each shortly after it has gone further, then let one finish."""
    generator, counts = random.Random(0), []
    for _ in range(kills):
        before = written(output)
        process = start(output, teachers)
        until = time.monotonic() + 20
        while written(output) == before and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(generator.random() * 0.05)
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        counts.append(written(output))
    finish(start(output, teachers))
    return counts


if __name__ == "__main__":
    root, teachers = Path(sys.argv[1]), Path(sys.argv[2])
    write(root / "calm", teachers)  # in this process: those that are forked find everything imported
    print(*killed(root / "killed", teachers, int(sys.argv[3])))
    finish(*(start(root / "shared", teachers) for _ in range(2)))
