"""Processes that save and stop with the one that started them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing.synchronize import Event
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from accelerate import Accelerator
from helpers import processes  # noqa: F401  its server, if these tests are the first to start one

from coadvise.system import interrupts
from coadvise.system.interrupts import (
    SENDER_KNOWN,
    StopRequest,
    Tasks,
    answered_by,
    deaf_children,
    late_signals,
    leave_signals_to_parent,
)
from coadvise.system.workers import submit, supervised, worker_pool
from coadvise.training.processes import Stop


def slow_to_save(folder: Path, name: str) -> None:
    try:  # before the file is seen, which is when the signal comes
        (folder / f"{name} begun").touch()
        time.sleep(60)
    finally:
        time.sleep(1)
        (folder / f"{name} saved").touch()


def test_everything_is_saved_before_the_block_is_left_and_nothing_more_is_begun(tmp_path: Path) -> None:
    with pytest.raises(KeyError), worker_pool(1) as pool:
        futures = [pool.submit(supervised, slow_to_save, tmp_path, name) for name in "abcd"]
        while not (tmp_path / "a begun").exists():
            time.sleep(0.05)
        raise KeyError
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a begun", "a saved"]
    assert futures[0].result() is False
    assert all(future.cancelled() or future.result() is False for future in futures[1:])


IMPORTS = """
import os, signal, sys, time
from pathlib import Path
from coadvise.system.workers import submit, worker_context, worker_pool

def note(folder):
    signals, end = signal.pthread_sigmask(signal.SIG_BLOCK, ()), time.monotonic() + 200
    held = next(line for line in Path(f"/proc/{os.getppid()}/status").read_text().splitlines() if "SigBlk" in line)
    deaf = all(int(held.split()[1], 16) >> number - 1 & 1 for number in (signal.SIGINT, signal.SIGTERM))
    Path(folder, str(os.getpid())).write_text(f"{'sklearn' in sys.modules} {'torch' in sys.modules} {signals} {deaf}")
    while len(os.listdir(folder)) < 2 and time.monotonic() < end:  # the other call is for the other worker
        time.sleep(0.01)

if __name__ == "__main__":
    context = worker_context(["sklearn", "torch"])
    with worker_pool(2, modules=["sklearn", "torch"]) as pool:
        for future in [submit(pool, note, sys.argv[1]) for _ in range(2)]:
            assert future.result()
    print(context.get_start_method(), {"torch", "sklearn"} & set(sys.modules))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or Path("/dev/nvidiactl").exists(), reason="workers import anew here")
def test_workers_come_from_a_process_that_has_imported_what_they_need(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "script.py").write_text(IMPORTS)
    words = [sys.executable, str(tmp_path / "script.py"), str(tmp_path / "notes")]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "forkserver set()", "")
    assert [one.read_text() for one in (tmp_path / "notes").iterdir()] == ["True True set() True"] * 2


@pytest.fixture
def answered() -> Iterator[list[int]]:
    """Handlers that raise, as those of a worker and of the command line do, and the signals that they got."""
    seen: list[int] = []

    def answer(number: int, frame: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, answer) for number in (signal.SIGINT, signal.SIGTERM)}
    yield seen
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_block(answered: list[int], number: int) -> None:
    handler, reached = signal.getsignal(number), False
    with pytest.raises(KeyboardInterrupt), late_signals():
        os.kill(os.getpid(), number)
        time.sleep(0.01)
        reached = not answered
    assert reached and answered == [number] and signal.getsignal(number) is handler


def test_a_second_signal_is_answered_at_once(answered: list[int]) -> None:
    reached = False
    with pytest.raises(KeyboardInterrupt), late_signals():
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        reached = True
    assert not reached and answered == [signal.SIGINT]


def test_two_presses_of_ctrl_c_end_a_training_that_hangs() -> None:
    """Its own handler counts them: the first asks for a stop, the second kills."""
    reached = False
    with pytest.raises(KeyboardInterrupt), Stop(Accelerator()) as stop, late_signals():
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)
        reached = True
    assert not reached and stop.requested()


def test_a_ctrl_c_that_a_launcher_hands_on_is_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(interrupts, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    with StopRequest(echo=0.2) as stop:
        for clock[0] in (100.0, 100.19):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        assert stop.wanted
        clock[0] = 100.21
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)


def stubborn(ready: Event) -> None:
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()  # as libraries do when they are imported
    leave_signals_to_parent()
    ready.set()
    time.sleep(60)


@pytest.mark.skipif(not SENDER_KNOWN, reason="this system does not say who has sent a signal")
@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_worker_ends_on_its_parents_word_alone(method: str) -> None:
    context = multiprocessing.get_context(method)
    ready = context.Event()
    worker = context.Process(target=stubborn, args=(ready,))
    with deaf_children():
        worker.start()
    assert ready.wait(60)
    for name in ("TERM", "INT", "TERM"):
        subprocess.run(["kill", f"-{name}", str(worker.pid)], check=True)
    worker.join(0.5)
    assert worker.is_alive()
    worker.terminate()
    worker.join(10)
    assert worker.exitcode == 0


def test_a_process_is_started_in_peace(answered: list[int]) -> None:
    class Pool:
        started = False

        def submit(self, *work: object) -> str:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
            self.started = True
            return "future"

    pool: Any = Pool()
    with pytest.raises(KeyboardInterrupt):
        submit(pool, print)
    assert pool.started and answered == [signal.SIGTERM]


def test_a_block_that_fails_still_hands_its_signal_on(answered: list[int]) -> None:
    with pytest.raises(KeyboardInterrupt), late_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.01)
        raise OSError
    assert answered == [signal.SIGTERM]


def test_an_ignored_signal_stays_ignored_and_other_threads_leave_signals_alone(answered: list[int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with late_signals():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGINT)
    handler, inside = signal.getsignal(signal.SIGTERM), []

    def elsewhere() -> None:
        with late_signals():
            inside.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert inside == [handler] and answered == []


def test_handlers_come_back_after_the_block() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        seen: list[int] = []
        with answered_by(lambda number, frame: seen.append(number), [signal.SIGTERM]) as others:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)
        assert seen == [signal.SIGTERM] and others == {signal.SIGTERM: signal.SIG_DFL}
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_ends_the_task_at_work_and_all_that_would_follow() -> None:
    tasks, reached = Tasks(), []

    def task(name: str, stop: bool) -> None:
        if stop:
            tasks.answer(signal.SIGTERM, None)
        reached.append(name)

    assert tasks.run(task, "first", False)
    assert not tasks.run(task, "second", True) and tasks.stopped and not tasks.busy
    tasks.answer(signal.SIGINT, None)  # by the terminal, and again by the process that started this one
    assert not tasks.run(task, "third", False) and reached == ["first"]
