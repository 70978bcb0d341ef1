"""Reading inputs within limits of time and memory, in processes that may die of them.

A supervisor prepares a target once, and forks a reader, which reads one input after the other. The system itself ends a
reader that takes too long (timers) or asks for too much memory (RLIMIT_AS): then, and when native code crashes, one
input has failed, and another reader goes on behind it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import mmap
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from random import Random
from typing import Literal

from helpers import processes

from coadvise.errors import CoadviseError

Kind = Literal["read", "refused", "unnamed", "other error", "broken promise", "memory", "slow", "died"]
FINE: tuple[Kind, ...] = ("read", "refused")
SEED = 0


@dataclass(frozen=True)
class Limits:
    """What one input may take.

    Attributes:
        seconds: of the processor; for what blows up, so it leaves room for slow machines.
        waiting: seconds by the clock, for an input that waits for something; other processes may run beside.
        memory: bytes beyond what the reader had before.
    """

    seconds: float = 20.0
    waiting: float = 60.0
    memory: int = 2 << 30


Input = Mapping[str, bytes]
"""Files by name."""


class BrokenPromise(Exception):
    """Something was read or refused, but not as it must be: raised by a target."""


@dataclass(frozen=True)
class Target:
    """A format, and what reads it.

    Attributes:
        valid: inputs as they should be; each must be read, and does not count among the inputs otherwise.
        make: a damaged input.
        read: reads the files of a folder; returns what else than the folder an error may name.
        names: whether a message says which file it is about.
    """

    valid: Sequence[Input]
    make: Callable[[Random], Input]
    read: Callable[[Path], object]
    names: Callable[[Path, str], bool] = lambda folder, message: str(folder) in message


@dataclass(frozen=True)
class Outcome:
    """What became of an input; `what` is the message, or where the error was raised.

    Numbers below zero are those of valid inputs that were not read.
    """

    number: int
    kind: Kind
    seconds: float
    memory: int
    what: str = ""
    error: str = ""

    @property
    def fine(self) -> bool:
        return self.kind in FINE


Factory = Callable[[Path], Target]


def input_of(name: str, target: Target, number: int, seed: int = SEED) -> Input:
    """The input of that number: always the same."""
    return target.make(Random(f"{name} {seed} {number}"))


def read_inputs(
    name: str, factory: Factory, numbers: Sequence[int], limits: Limits, readers: int = 1, seed: int = SEED
) -> Iterator[Outcome]:
    """Read inputs, side by side by so many readers; outcomes come as they are there."""
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        started = []
        for reader in range(min(readers, len(numbers))):
            here, there = processes.CONTEXT.Pipe(duplex=False)
            arguments = (name, factory, numbers[reader::readers], limits, seed, Path(scratch, str(reader)), there)
            process = processes.CONTEXT.Process(target=_supervise, args=arguments)
            process.start()
            there.close()
            started.append((process, here))
        try:
            open_ones = [here for _, here in started]
            while open_ones:
                for one in wait(open_ones):
                    try:
                        said = one.recv()  # type: ignore[union-attr]
                    except EOFError:
                        open_ones.remove(one)  # type: ignore[arg-type]
                        continue
                    if isinstance(said, str):
                        raise RuntimeError(f"the fuzzer of {name} itself failed:\n{said}")
                    yield said
        finally:
            for process, _ in started:
                with contextlib.suppress(ProcessLookupError):  # the supervisor, and its reader
                    os.killpg(process.pid, signal.SIGKILL)
                process.kill()
                process.join()


def _supervise(
    name: str, factory: Factory, numbers: Sequence[int], limits: Limits, seed: int, scratch: Path, send: Connection
) -> None:
    import torch

    os.setpgrp()
    torch.set_num_threads(1)
    os.environ["XDG_CACHE_HOME"] = str(scratch / "cache")
    scratch.mkdir()
    os.chdir(scratch)
    try:
        target = factory(scratch)
        gc.collect()
        gc.freeze()
        current, at = mmap.mmap(-1, 8), 0
        while at < len(numbers):
            current[:] = (at).to_bytes(8, "little")
            reader = os.fork()
            if reader == 0:
                _reader(name, target, numbers[at:], at, limits, seed, scratch, send, current)
            _, status = os.waitpid(reader, 0)
            at = int.from_bytes(current[:], "little")
            if not os.WIFSIGNALED(status):
                break
            number = os.WTERMSIG(status)
            slow = number in (signal.SIGPROF, signal.SIGALRM)
            what = f"over {limits.seconds:g} s" if slow else signal.Signals(number).name
            send.send(Outcome(numbers[at], "slow" if slow else "died", limits.seconds if slow else 0.0, 0, what))
            at += 1
    except BaseException:
        send.send(traceback.format_exc())


def _reader(
    name: str, target: Target, numbers: Sequence[int], at: int, limits: Limits, seed: int, scratch: Path,
    send: Connection, current: mmap.mmap,
) -> None:  # fmt: skip
    """Read the inputs, and end this process."""
    try:
        warnings.simplefilter("ignore")
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(nothing, stream)
        for signalled in (signal.SIGPROF, signal.SIGALRM):
            signal.signal(signalled, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        for number, files in enumerate(target.valid):
            # Whatever is loaded late is loaded here, outside of the limits.
            valid = _judged(-1 - number, target, _written(files, scratch / "valid"), Limits(60, 120, 8 << 30))
            if valid.kind != "read" and at == 0:
                send.send(dataclasses.replace(valid, kind="broken promise", what=f"a valid input: {valid.what}"))
        for place, number in enumerate(numbers, at):
            folder = _written(input_of(name, target, number, seed), scratch / "input")
            current[:] = place.to_bytes(8, "little")
            send.send(_judged(number, target, folder, limits))
        os._exit(0)
    except BaseException:
        send.send(traceback.format_exc())
        os._exit(1)


def _written(files: Input, folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def _judged(number: int, target: Target, folder: Path, limits: Limits) -> Outcome:
    """Read one input within the limits."""
    before, start = _memory(), time.process_time()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    signal.setitimer(signal.ITIMER_PROF, limits.seconds)
    signal.setitimer(signal.ITIMER_REAL, limits.waiting)
    resource.setrlimit(resource.RLIMIT_AS, (before.virtual + limits.memory, hard))
    try:
        kind, what, error = _read(target, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    return Outcome(number, kind, time.process_time() - start, _memory().peak - before.resident, what, error)


def _read(target: Target, folder: Path) -> tuple[Kind, str, str]:
    try:
        target.read(folder)
    except CoadviseError as error:
        message = str(error)
        if _out_of_memory(error):
            return "memory", _place(error), message
        named = target.names(folder, message)
        return ("refused" if named else "unnamed"), message.replace(str(folder), "INPUT"), ""
    except BrokenPromise as error:
        return "broken promise", str(error).replace(str(folder), "INPUT"), ""
    except BaseException as error:
        kind: Kind = "memory" if _out_of_memory(error) else "other error"
        return kind, _place(error), f"{type(error).__name__}: {error}"[:1000]
    return "read", "", ""


_NO_MEMORY = re.compile(r"alloc\w* (?:memory|\d)|not enough memory|bad_alloc|out of memory|Unable to allocate", re.I)


def _out_of_memory(error: BaseException | None) -> bool:
    """Whether that is the cause, however it was worded afterwards."""
    while error is not None:
        if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _place(error: BaseException) -> str:
    """Where an error was raised: the last function of ours that it went through, and its type."""
    cause = error
    while isinstance(cause, CoadviseError) and (cause.__cause__ or cause.__context__):
        cause = cause.__cause__ or cause.__context__  # type: ignore[assignment]
    frames = [f for f in traceback.extract_tb(cause.__traceback__) if f"{os.sep}coadvise{os.sep}" in f.filename]
    if not frames:
        return f"{type(cause).__name__} outside of the package"
    frame = frames[-1]
    return f"{type(cause).__name__} in {frame.filename.rpartition(f'{os.sep}coadvise{os.sep}')[2]}, {frame.name}"


@dataclass(frozen=True)
class _Memory:
    """Bytes of this process: addresses, memory, and the most memory since the last look."""

    virtual: int
    resident: int
    peak: int


def _memory() -> _Memory:
    status = Path("/proc/self/status").read_text()
    sizes = {line.split(":")[0]: int(line.split()[1]) << 10 for line in status.splitlines() if line.endswith(" kB")}
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    return _Memory(sizes["VmSize"], sizes["VmRSS"], sizes["VmHWM"])


def available() -> bool:
    """Whether this system has what the limits need."""
    return sys.platform == "linux" and os.access("/proc/self/clear_refs", os.W_OK)
