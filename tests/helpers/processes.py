"""Modules that run as processes of their own, and do not import PyTorch anew each time.

One server process imports the package; each call forks from it (the standard library's `forkserver`) and does there
what `python -m MODULE ARGUMENTS` does, or `python -c CODE ARGUMENTS`. Such a process can be killed and interrupted like
any other.
"""

from __future__ import annotations

import dataclasses
import gc
import multiprocessing
import os
import runpy
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from coadvise.system.interrupts import STOPPING

CONTEXT = multiprocessing.get_context("forkserver")
# scikit-learn holds the digits.
CONTEXT.set_forkserver_preload(["coadvise.cli.main", "coadvise.training.caching", "sklearn.datasets", "tensorboard"])


@dataclasses.dataclass(frozen=True)
class Done:
    """A process that has ended: its exit code, and what it printed."""

    returncode: int
    stdout: str
    stderr: str


@dataclasses.dataclass(frozen=True)
class Started:
    """A process that runs, and the folder that takes what it prints."""

    process: ForkServerProcess
    folder: Path

    @property
    def pid(self) -> int:
        pid = self.process.pid
        assert pid is not None
        return pid

    def wait(self, timeout: float = 120) -> Done:
        """Wait for its end; a process that takes longer is killed, and has a negative exit code."""
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
        code = self.process.exitcode
        assert code is not None
        texts = [(self.folder / name).read_text() for name in ("stdout", "stderr")]
        shutil.rmtree(self.folder)
        return Done(code, *texts)


def start(
    module: str, *arguments: str, environment: Mapping[str, str | None] | None = None, group: bool = False
) -> Started:
    """Start `python -m MODULE ARGUMENTS` with one thread, in this process's folder and environment.

    With "-c" as module, the first argument is code.

    Args:
        environment: variables that are added, or removed where the value is None.
        group: it leads a session and a group of processes, as a command that a shell starts leads its group.
    """
    folder = Path(tempfile.mkdtemp(prefix="process-"))
    for name in ("stdout", "stderr"):
        (folder / name).touch()
    variables = {key: value for key, value in {**os.environ, **(environment or {})}.items() if value is not None}
    process = CONTEXT.Process(target=_run, args=(module, arguments, variables, os.getcwd(), folder, group))
    process.start()
    return Started(process, folder)


def run(
    module: str, *arguments: str, environment: Mapping[str, str | None] | None = None, timeout: float = 120
) -> Done:
    """Run `python -m MODULE ARGUMENTS` to its end, for so many seconds at most."""
    return start(module, *arguments, environment=environment).wait(timeout)


def run_together(module: str, *arguments: str, processes: int = 2) -> list[Done]:
    """The same in several processes that find each other as those of `torchrun` do; by rank."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        start(module, *arguments, environment={**common, "RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(processes)
    ]
    return [one.wait() for one in started]


def _run(
    module: str, arguments: tuple[str, ...], variables: dict[str, str], folder: str, output: Path, group: bool
) -> None:
    import torch

    if group:
        os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background processes have it ignored
    # The server is that of this process's own workers, and may have been started by those of a run.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    for number, name in ((1, "stdout"), (2, "stderr")):
        target = os.open(output / name, os.O_WRONLY)
        os.dup2(target, number)
        os.close(target)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(folder)
    torch.set_num_threads(1)
    gc.freeze()
    sys.argv = [module, *arguments]
    if module == "-c":
        sys.argv = ["-c", *arguments[1:]]
        exec(arguments[0], {"__name__": "__main__"})
    else:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
