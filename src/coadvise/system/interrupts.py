"""Ctrl-C and SIGTERM: which handler answers them, and when.

Python handles signals only in the main thread; in other threads these blocks change nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, Self

from ..errors import Interrupted

Handler = Callable[[int, FrameType | None], Any]
STOPPING = (int(signal.SIGINT), int(signal.SIGTERM))


@contextmanager
def answered_by(handler: Handler, numbers: Sequence[int] = STOPPING) -> Iterator[dict[int, Any]]:
    """In the block `handler` gets these signals; yields the handlers that it replaces, by signal."""
    before: dict[int, Any] = {}
    with ExitStack() as restored:  # all of them, whatever raises
        if threading.current_thread() is threading.main_thread():
            for number in numbers:
                before[number] = signal.getsignal(number)
                restored.callback(signal.signal, number, before[number])
                signal.signal(number, handler)
        yield before


@contextmanager
def late_signals() -> Iterator[None]:
    """Ctrl-C and SIGTERM are answered after the block, by the handlers that were there before; a second one at once.

    For talking to other processes: an exception in the middle can leave a lock taken that this process then waits for
    when it ends, or give a process that starts half of what it reads.
    """
    before: dict[int, Any] = {}
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if number not in arrived:
            arrived.append(number)
            return
        arrived.remove(number)
        for _ in range(2):  # a handler that counts must have seen the first one, too
            before[number](number, frame)

    def hand_on() -> None:
        with ExitStack() as late:
            for number in arrived:
                late.callback(before[number], number, None)

    with ExitStack() as after:
        after.callback(hand_on)
        # A signal that is ignored, or that ends the process, goes on doing so.
        caught = [number for number in STOPPING if callable(signal.getsignal(number))]
        before |= {number: signal.getsignal(number) for number in caught}
        after.enter_context(answered_by(note, caught))
        yield


class StopRequest(ExitStack):
    """In its block the first Ctrl-C or SIGTERM only sets `wanted`; a second Ctrl-C raises KeyboardInterrupt.

    Args:
        echo: seconds in which a further Ctrl-C is the same one: some launchers hand on what a terminal has sent to all.
    """

    def __init__(self, echo: float = 0.0) -> None:
        super().__init__()
        self.wanted = False
        self._echo, self._first = echo, 0.0

    def __enter__(self) -> Self:
        self.enter_context(answered_by(self._note))
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.wanted:
            self._first = time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._first >= self._echo:
            raise KeyboardInterrupt
        self.wanted = True


def stop_without_parent(seconds: float = 120.0) -> None:
    """From now on this process gets SIGTERM when its parent has ended, and is ended if that takes so many seconds."""
    name = "parent watch"
    if any(thread.name == name for thread in threading.enumerate()):
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, name=name, daemon=True).start()


SENDER_KNOWN = hasattr(signal, "sigwaitinfo")
"""Whether the system says who has sent a signal; macOS and Windows do not."""


@contextmanager
def deaf_children() -> Iterator[None]:
    """Processes started in this block hold SIGTERM back from their first thread on; for `leave_signals_to_parent`.

    Those of a fork server do if the server itself was started in such a block.
    """
    if not SENDER_KNOWN:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_parent() -> None:
    """In a process that works for another one: Ctrl-C and SIGTERM are for that one, which may want to save first.

    Terminals, `timeout`, systemd and batch systems send them to all processes. SIGTERM from the parent itself ends this
    one: so Python ends processes that are left over.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None or not SENDER_KNOWN:
        return
    # In this thread and in all that follow; those that libraries have started before have it from `deaf_children`.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])

    def obey() -> None:
        while signal.sigwaitinfo([signal.SIGTERM]).si_pid != parent.pid:
            pass
        os._exit(0)

    threading.Thread(target=obey, daemon=True).start()


class Tasks:
    """Tasks of a process, one after the other. A signal interrupts the task that runs, and no further one starts.

    Attributes:
        busy: whether a task is running.
        stopped: whether a signal has arrived; further ones change nothing.
    """

    def __init__(self) -> None:
        self.busy = self.stopped = False

    def answer(self, number: int, frame: FrameType | None) -> None:
        """The handler of the signals; a training answers them itself and saves first (`StopRequest`)."""
        interrupted, self.stopped = self.busy and not self.stopped, True
        if interrupted:
            raise KeyboardInterrupt

    def run(self, task: Callable[..., Any], *arguments: Any) -> bool:
        """Run one task; False when a signal interrupted it or kept it from starting."""
        if self.stopped:
            return False
        try:
            self.busy = True
            task(*arguments)
        except (Interrupted, KeyboardInterrupt):
            self.stopped = True
            return False
        finally:
            self.busy = False
        return True
