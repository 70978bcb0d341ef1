"""Commands of the package in one process or several, which can be killed in every way."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import psutil
from helpers import processes
from helpers.processes import Done

LIMIT = 240.0
"""Seconds after which a command counts as hanging."""


class Launched(Protocol):
    """A command that runs."""

    @property
    def pids(self) -> list[int]:
        """The processes that were started; of a launcher, the launcher."""
        ...

    def running(self) -> bool:
        """Whether any of them still runs."""
        ...

    def wait(self, timeout: float = LIMIT) -> Done:
        """Wait for the end; what takes longer is killed, and has a negative exit code."""
        ...


def children(launched: Launched) -> list[psutil.Process]:
    """Every process that those of a command have started, and so on."""
    found: list[psutil.Process] = []
    for pid in launched.pids:
        try:
            found += psutil.Process(pid).children(recursive=True)
        except psutil.NoSuchProcess:
            continue
    return found


def kill(launched: Launched) -> None:
    """SIGKILL to all, as when the machine goes down."""
    started = children(launched)
    for pid in launched.pids:
        _kill(pid)
    for one in started:
        _kill(one.pid)
    psutil.wait_procs(started, timeout=10)
    launched.wait(10)


def _kill(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Forked:
    """One process, or several that find each other as those of `torchrun` do, forked from one that has imported."""

    started: Sequence[processes.Started]

    @property
    def pids(self) -> list[int]:
        return [one.process.pid for one in self.started if one.process.pid is not None]

    def running(self) -> bool:
        return any(one.process.is_alive() for one in self.started)

    def wait(self, timeout: float = LIMIT) -> Done:
        until = time.monotonic() + timeout
        done = [one.wait(max(until - time.monotonic(), 0.1)) for one in self.started]
        codes = [one.returncode for one in done]
        code = min(codes) if min(codes) < 0 else max(codes)
        return Done(code, "".join(one.stdout for one in done), "".join(one.stderr for one in done))


def alone(*words: str) -> Forked:
    """`python -m WORDS`; with "-c" as first word, code."""
    return Forked([processes.start(*words)])


def pair(*words: str) -> Forked:
    """The same in two processes."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return Forked([processes.start(*words, environment=rank) for rank in ranks])


@dataclass(frozen=True)
class Opened:
    """A launcher as users start it."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def pids(self) -> list[int]:
        return [self.process.pid]

    def running(self) -> bool:
        return self.process.poll() is None

    def wait(self, timeout: float = LIMIT) -> Done:
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            for one in (*children(self), self.process):
                _kill(one.pid)
            code = self.process.wait()
        texts = [(self.folder / name).read_text(errors="replace") for name in ("stdout", "stderr")]
        shutil.rmtree(self.folder)
        return Done(code, *texts)


def torchrun(*words: str) -> Opened:
    """`torchrun --nproc-per-node 2 -m WORDS`."""
    return _open("torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *words)


def accelerate(*words: str) -> Opened:
    """`accelerate launch` with two processes on the CPU."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ("--cpu", "--num_processes", "2", "--num_machines", "1", "--main_process_port", port)
    more = ("--mixed_precision", "no", "--dynamo_backend", "no", "--num_cpu_threads_per_process", "1")
    return _open("accelerate.commands.launch", *options, *more, "-m", *words)


def _open(module: str, *words: str) -> Opened:
    folder = Path(tempfile.mkdtemp(prefix="launched-"))
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *words], stdout=out, stderr=err, stdin=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True,
        )  # fmt: skip
    return Opened(process, folder)
