"""Processes that run trainings side by side, one thread pool each, and stop together after saving."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any

from .errors import Interrupted


def worker_pool(jobs: int, threads: int = 1, devices: int = 0) -> ProcessPoolExecutor:
    """Processes for `supervised` calls.

    Args:
        threads: of each process.
        devices: GPUs, which the processes take in turn; 0 leaves the choice to each run.
    """
    # Fork would copy the parent's thread pools, and CUDA's state.
    context = multiprocessing.get_context("spawn")
    places = context.Value("i", 0)
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_start, initargs=(threads, devices, places))


class _Worker:
    """State of a worker process: Ctrl-C reaches it, too, between runs and during them."""

    busy = False
    stopped = False


def _start(threads: int, devices: int, places: Any) -> None:
    if devices:
        with places.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = str(places.value % devices)
            places.value += 1
    import torch

    torch.set_num_threads(threads)
    signal.signal(signal.SIGINT, _interrupted)
    signal.signal(signal.SIGTERM, _interrupted)


def _interrupted(number: int, frame: object) -> None:
    if _Worker.stopped:  # asked twice, by the terminal and by `stop_workers`
        return
    _Worker.stopped = True
    if _Worker.busy:  # outside the training loop, which saves first (processes.Stop)
        raise KeyboardInterrupt


def supervised(work: Callable[..., Any], *arguments: Any) -> bool:
    """In a worker: do the work; False when a stop cut it off or kept it from starting."""
    if _Worker.stopped:
        return False
    _Worker.busy = True
    try:
        work(*arguments)
    except (Interrupted, KeyboardInterrupt):
        _Worker.stopped = True
        return False
    finally:
        _Worker.busy = False
    return True


def stop_workers(pool: ProcessPoolExecutor, futures: list[Future[bool]]) -> None:
    """Ask all workers to save and stop, whether or not a terminal's Ctrl-C has reached them, too."""
    for future in futures:
        future.cancel()
    for process in list((pool._processes or {}).values()):
        if process.is_alive() and process.pid is not None:
            os.kill(process.pid, signal.SIGTERM)  # a second SIGINT would stop a training before it has saved
