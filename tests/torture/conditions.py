"""What machines do to a run: each time one message, nothing hangs, and the run goes on afterwards, bit for bit."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from helpers.processes import Done
from helpers.recipes import tiny
from helpers.runs import photographs

from . import compare, launch
from .cases import LONG, command, loaded, steps
from .launch import Launched, children, kill

SOON = 60.0
"""Seconds within which a run that cannot go on has to end."""
FEW = {**LONG, "data.train_size": 300, "schedule.epochs": 3}


@dataclass
class Found:
    """What came of a condition."""

    said: str = ""
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Places:
    """A calm run, images, and a folder for those that are disturbed."""

    folder: Path

    @property
    def calm(self) -> Path:
        return self.folder / "calm"

    @property
    def photos(self) -> Path:
        return self.folder / "photos"


def prepare(folder: Path) -> Places:
    """Images, and the runs that nothing disturbs."""
    places = Places(folder)
    photographs(places.photos, 100)
    for name in ("calm", "calm images"):
        done = start(places, folder / name).wait()
        assert done.returncode == 0, done.stderr[-2000:]
    return places


def start(places: Places, run: Path, how: Callable[..., Launched] = launch.alone, **changes: object) -> Launched:
    """Train in `run`, from images with loader processes where its name ends in `images`."""
    images = loaded(str(places.photos)) if run.name.endswith("images") else {}
    recipe = tiny(run, {**FEW, **images, **changes})
    return how(*command("train", recipe, places.folder / run.name), *(["--resume"] if run.exists() else []))


def one_message(done: Done) -> list[str]:
    """What is wrong with the end of a run that could not go on."""
    found = [f"exit code {done.returncode}"] if done.returncode != 2 else []
    if "Traceback" in done.stderr or len(re.findall(r"^(?:\[process \d+\] )?error: ", done.stderr, re.M)) != 1:
        found.append(f"no single message: {done.stderr[-1500:]}")
    return found


def after(places: Places, run: Path, step: int, **options: object) -> Launched:
    """A run that has come so far."""
    started = start(places, run, **options)  # type: ignore[arg-type]
    until = time.monotonic() + SOON
    while steps(run) < step and started.running() and time.monotonic() < until:
        time.sleep(0.002)
    return started


def end(started: Launched, found: Found) -> Done:
    """Wait for the end, which must come soon."""
    begin = time.monotonic()
    done = started.wait(SOON)
    found.seconds = time.monotonic() - begin
    if found.seconds >= SOON:
        found.failures.append(f"it still ran after {SOON:.0f} s")
    found.said = " ".join(done.stderr.split())[-400:]
    return done


def resumed(places: Places, run: Path, found: Found, how: Callable[..., Launched] = launch.alone) -> None:
    """Go on, and compare with the calm run, started in the same way."""
    calm = places.folder / ("calm images" if run.name.endswith("images") else "calm")
    if how is not launch.alone:
        calm = places.folder / f"calm {how.__name__}"
        if not calm.exists():
            start(places, calm, how).wait()
    done = start(places, run, how).wait()
    if done.returncode != 0:
        found.failures.append(f"it does not go on: exit code {done.returncode}: {done.stderr[-800:]}")
        return
    found.failures += [f"after going on: {line}" for line in compare.runs(calm, run)[:5]]


def disturbed(
    places: Places, run: Path, disturb: Callable[[], None], mend: Callable[[], None], step: int = 20
) -> Found:
    """Disturb a run after so many steps: it must end with one message; mended, it goes on."""
    found = Found()
    started = after(places, run, step)
    disturb()
    found.failures += one_message(end(started, found))
    mend()
    resumed(places, run, found)
    return found


# --- the conditions ----------------------------------------------------------------------------------------


def limited_files(places: Places, size: int) -> Found:
    """No file may become larger than this: an error of writing without any privilege."""
    run, found = places.folder / f"limited{size}", Found()
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size})); "
        "from coadvise.cli.main import main; main()"
    )
    started = start(places, run, lambda *words: launch.alone("-c", code, *words[1:]))
    found.failures += one_message(end(started, found))
    resumed(places, run, found)
    return found


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes in memory."""
    place.mkdir(parents=True, exist_ok=True)
    _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", place)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _mount(*words: object) -> None:
    subprocess.run(["mount", *map(str, words)], check=True)


def _filled(place: Path, left: int) -> Path:
    """Fill a disk but for so many bytes."""
    filler = place / "filler"
    with filler.open("wb") as file:
        free = shutil.disk_usage(place).free
        with suppress(OSError):
            file.write(bytes(max(free - left, 0)))
    return filler


def full_disk(places: Places, left: int) -> Found:
    """The disk is full but for so many bytes after some steps."""
    with small_disk(places.folder / f"disk{left}", 8 << 20) as disk:
        return disturbed(places, disk / "run", lambda: _filled(disk, left) and None, (disk / "filler").unlink)


def read_only(places: Places, step: int) -> Found:
    """The folder of a run becomes read-only at the start, or after some steps."""
    with small_disk(places.folder / f"readonly{step}", 64 << 20) as disk:

        def disturb() -> None:
            _mount("--bind", disk, disk)
            _mount("-o", "remount,bind,ro", disk)

        unmount = lambda: subprocess.run(["umount", "-l", str(disk)], check=True) and None
        if step:
            return disturbed(places, disk / "run", disturb, unmount, step)
        disturb()
        found = Found()
        found.failures += one_message(end(start(places, disk / "run"), found))
        unmount()
        resumed(places, disk / "run", found)
        return found


def vanished_run(places: Places) -> Found:
    """The folder of a run is removed while it trains."""
    run, found = places.folder / "vanished", Found()
    started = after(places, run, 20)
    run.rename(places.folder / "elsewhere")
    found.failures += one_message(end(started, found))
    shutil.rmtree(run, ignore_errors=True)
    (places.folder / "elsewhere").rename(run)
    resumed(places, run, found)
    return found


def vanished_data(places: Places) -> Found:
    """The images are gone, as when a network drive is."""
    hidden = places.folder / "hidden"
    return disturbed(
        places, places.folder / "lost images", lambda: places.photos.rename(hidden) and None,
        lambda: hidden.rename(places.photos) and None,
    )  # fmt: skip


def killed_worker(places: Places) -> Found:
    """The system kills a loader process."""
    run, found = places.folder / "worker images", Found()
    started = after(places, run, 20)
    workers = [one for one in children(started) if "resource_tracker" not in " ".join(_words(one))]
    if not workers:
        kill(started)
        return Found(failures=["there is no loader process"])
    workers[0].send_signal(signal.SIGKILL)
    found.failures += one_message(end(started, found))
    resumed(places, run, found)
    return found


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def killed_rank(places: Places) -> Found:
    """The system kills one of two processes: the other ends, and says how to go on."""
    run, found = places.folder / "rank", Found()
    started = after(places, run, 20, how=launch.torchrun)
    ranks = children(started)
    _rank(ranks, "1").send_signal(signal.SIGKILL)
    done = end(started, found)
    if done.returncode == 0:
        found.failures.append("exit code 0")
    found.failures += _still_there(ranks)
    resumed(places, run, found, launch.torchrun)
    return found


def killed_launcher(places: Places) -> Found:
    """The system kills torchrun itself: its processes do not train on."""
    run, found = places.folder / "launcher", Found()
    started = after(places, run, 20, how=launch.torchrun)
    ranks = children(started)
    os.kill(started.pids[0], signal.SIGKILL)
    started.wait(10)
    begin = time.monotonic()
    found.failures += _still_there(ranks)
    found.seconds = time.monotonic() - begin
    resumed(places, run, found, launch.torchrun)
    return found


def _rank(processes: list[psutil.Process], rank: str) -> psutil.Process:
    return next(one for one in processes if one.environ().get("RANK") == rank)


def _still_there(processes: list[psutil.Process]) -> list[str]:
    """Processes that do not end by themselves."""
    alive = psutil.wait_procs(processes, timeout=SOON)[1]
    for one in alive:
        one.kill()
    return [f"{len(alive)} processes still ran after {SOON:.0f} s"] if alive else []


def small_shared_memory(places: Places, size: int) -> Found:
    """/dev/shm is smaller than the batches of the loader processes: the run ends well, or with one message."""
    run, found = places.folder / f"shared{size} images", Found()
    large = {"data.image_size": 64, "student.options.patch_size": 16, "optim.batch_size": 50}
    with small_disk(Path("/dev/shm"), size):
        done = end(start(places, run, **large), found)
    if done.returncode != 0:
        found.failures += one_message(done)
    return found


def two_at_once(places: Places) -> Found:
    """A second start on the folder of a running one is refused, and does not disturb it."""
    run, found = places.folder / "twice", Found()
    first = after(places, run, 20)
    second = start(places, run)
    found.failures += one_message(end(second, found))
    if first.wait().returncode != 0:
        found.failures.append("the first did not end well")
    found.failures += compare.runs(places.calm, run)[:5]
    return found


UNPRIVILEGED: dict[str, Callable[[Places], Found]] = {
    "files limited to 2 kB": lambda places: limited_files(places, 2000),
    "files limited to 100 kB": lambda places: limited_files(places, 100_000),
    "run folder vanishes": vanished_run,
    "images vanish": vanished_data,
    "loader process killed": killed_worker,
    "one of two processes killed": killed_rank,
    "launcher killed": killed_launcher,
    "two starts at once": two_at_once,
}
WITH_MOUNTS: dict[str, Callable[[Places], Found]] = {
    "disk full, no byte left": lambda places: full_disk(places, 0),
    "disk full, 4 kB left": lambda places: full_disk(places, 4096),
    "disk full, 100 kB left": lambda places: full_disk(places, 100_000),
    "read-only from the start": lambda places: read_only(places, 0),
    "becomes read-only": lambda places: read_only(places, 20),
    "1 MB of shared memory": lambda places: small_shared_memory(places, 1 << 20),
    "64 kB of shared memory": lambda places: small_shared_memory(places, 1 << 16),
}
