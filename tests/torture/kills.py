"""Killing a command at random moments, starting it again until it is done, and comparing with a calm one."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from .launch import Launched, kill

PER_ROUND = 5
"""Times that one folder is cut off, before it may end."""


@dataclass(frozen=True)
class Case:
    """A command that must end as if nothing had happened.

    Attributes:
        start: starts it on a folder, anew or, where that is begun, so that it goes on.
        differences: between the folders of a calm and a killed one; empty where there are none.
        progress: how far it has come, read from its files.
        step: the same in steps, of an epoch of so many; 0 where there are none.
    """

    name: str
    kills: int
    start: Callable[[Path], Launched]
    differences: Callable[[Path, Path], list[str]]
    progress: Callable[[Path], int]
    step: Callable[[Path], int] = lambda folder: 0
    epoch: int = 0


@dataclass
class Record:
    """What became of a case.

    Attributes:
        cuts: by folder, how far the command had come at each kill, with the kind of moment.
        failures: what went wrong, in words.
    """

    kills: int = 0
    rounds: int = 0
    seconds: float = 0.0
    cuts: list[list[tuple[str, int]]] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def most_in_an_epoch(self, epoch: int) -> int:
        """The most kills of one folder between two ends of an epoch."""
        if not epoch:
            return 0
        epochs = [[step // epoch for _, step in cuts] for cuts in self.cuts]
        return max((numbers.count(number) for numbers in epochs for number in numbers), default=0)


def torment(case: Case, folder: Path, rng: Random, killed: Callable[[], None] = lambda: None) -> Record:
    """Kill a command as often as the case says, some times on each folder, and compare what comes of it.

    Args:
        killed: called after each kill, for a progress bar.
    """
    record, begin = Record(), time.monotonic()
    calm = folder / "calm"
    done = case.start(calm).wait()
    usual = time.monotonic() - begin
    if done.returncode != 0:
        record.failures.append(f"undisturbed: exit code {done.returncode}: {done.stderr[-500:]}")
        return record
    while record.kills < case.kills:
        place = folder / f"killed{record.rounds}"
        record.cuts.append([])
        wanted = min(PER_ROUND, case.kills - record.kills)
        for _ in range(2 * wanted):  # one that ended too soon does not count
            if len(record.cuts[-1]) == wanted or not _cut(case, place, rng, usual, record):
                break
            killed()
        _finish(case, calm, place, record)
        record.rounds += 1
        if record.failures or record.rounds > 4 * case.kills:
            break
        shutil.rmtree(place)
    if record.kills < case.kills and not record.failures:
        record.failures.append(f"only {record.kills} of {case.kills} kills came before the end of the command")
    record.seconds = time.monotonic() - begin
    return record


def _cut(case: Case, place: Path, rng: Random, usual: float, record: Record) -> bool:
    """Start the command and kill it at some moment; False where it had ended by itself."""
    kind = rng.choice(("any time", "after progress", "after progress", "while a file is written"))
    started, before, begin = case.start(place), case.progress(place), time.monotonic()
    if kind == "any time":
        moment = rng.random() * usual
        reached = lambda: time.monotonic() - begin > moment
    elif kind == "after progress":
        goal = before + rng.choice((1, 1, 5, 20, 60))
        reached = lambda: case.progress(place) >= goal
    else:
        reached = lambda: case.progress(place) > before and any(place.rglob("*.tmp"))
    while started.running() and not reached() and time.monotonic() - begin < 2 * usual + 5:
        time.sleep(0.0005)
    if kind == "after progress":
        time.sleep(rng.random() * 0.03)
    if not started.running():
        done = started.wait()
        if done.returncode != 0:
            record.failures.append(f"{place.name}: exit code {done.returncode}: {done.stderr[-500:]}")
        return False
    kill(started)
    record.kills += 1
    record.cuts[-1].append((kind, case.step(place) if case.epoch else case.progress(place)))
    return True


def _finish(case: Case, calm: Path, place: Path, record: Record) -> None:
    """Let the command end, and compare."""
    if record.failures:
        return
    done = case.start(place).wait()
    cuts = ", ".join(f"{kind} at {step}" for kind, step in record.cuts[-1])
    if done.returncode != 0 and "finished run" not in done.stderr:
        record.failures.append(f"after kills ({cuts}): exit code {done.returncode}: {done.stderr[-500:]}")
        return
    differences = case.differences(calm, place)
    if differences:
        record.failures.append(f"after kills ({cuts}): {len(differences)} differences: {'; '.join(differences[:5])}")
