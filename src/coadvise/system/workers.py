"""Processes that run trainings side by side, one thread pool each, and stop together after saving.

They stop when the process that started them ends, for whatever reason: on Ctrl-C and SIGTERM it tells them to stop,
and each of them watches whether it still runs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, resource_tracker
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

from .imports import keep
from .interrupts import STOPPING, Tasks, answered_by, late_signals

_TASKS = Tasks()  # the tasks of this process, if it is a worker


def worker_context(modules: Sequence[str] = ()) -> BaseContext:
    """How workers are started: as copies of one process that has imported these modules, and begins to do so now.

    It does so beside this process, and once for all workers. Fork itself would copy this process's thread pools. Where
    there may be a GPU each worker imports them itself: a copy of a process that has as much as asked for GPUs has none.
    """
    gpu = any(Path(place).exists() for place in ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg"))
    if sys.platform != "linux" or gpu:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    if modules:
        context.set_forkserver_preload([*modules])
    # It ends with this process, and on no signal before: the workers would seem to have ended with it. What it starts
    # at first would let signals through.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return context


@contextmanager
def worker_pool(
    jobs: int, threads: int = 1, devices: int = 0, modules: Sequence[str] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Processes for `supervised` calls. An exception in the block stops them, and SIGTERM is such an exception.

    Args:
        threads: of each process.
        devices: GPUs, which the processes take in turn; 0 leaves the choice to each run.
        modules: see `worker_context`.

    Raises:
        KeyboardInterrupt: in the block, on SIGTERM as on Ctrl-C.
    """
    context = worker_context(modules)
    places = context.Value("i", 0)
    with (
        answered_by(signal.default_int_handler, [signal.SIGTERM]),
        ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(threads, devices, places)) as pool,
    ):
        try:
            yield pool
        except BaseException:
            stop_workers(pool)
            raise


def _start(threads: int, devices: int, places: Any) -> None:
    if devices:
        with places.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = _device(places.value % devices)
            places.value += 1
    import torch

    torch.set_num_threads(threads)
    for number in STOPPING:
        signal.signal(number, _TASKS.answer)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)  # see `worker_context`
    keep()  # PyTorch's half a million objects would be searched for garbage after each run
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _device(position: int) -> str:
    """The GPU at this position among those that CUDA_VISIBLE_DEVICES names."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return visible.split(",")[position].strip() if visible else str(position)


def _end_with_parent() -> None:
    """Stop when the parent has been killed; the pool would wait for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
    while _TASKS.busy:  # saving
        time.sleep(0.1)
    os._exit(1)


def supervised(work: Callable[..., Any], *arguments: Any) -> bool:
    """In a worker: do the work; False when a signal interrupted it or kept it from starting."""
    return _TASKS.run(work, *arguments)


def submit(pool: ProcessPoolExecutor, work: Callable[..., Any], *arguments: Any) -> Future[bool]:
    """Have a worker do something, see `supervised`. This may start a process, which no signal interrupts."""
    with late_signals():
        return pool.submit(supervised, work, *arguments)


def stop_workers(pool: ProcessPoolExecutor) -> None:
    """Have all workers save and stop, whether or not a terminal's Ctrl-C has reached them, too."""
    for process in list((pool._processes or {}).values()):
        process.terminate()  # a second SIGINT would stop a training before it has saved
    pool.shutdown(wait=True, cancel_futures=True)
