"""What is said when a training ends before its time: what happened, what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from ..errors import Interrupted, LoaderError, RunError, WriteError, one_line, shortened
from ..run.folder import RunFolder
from .processes import process_count

# What gloo says when the other end of a connection is no longer there.
_GONE = ("Connection closed by peer", "Connection reset by peer")
# What NCCL says where processes never worked together: two on one GPU, a network that does not reach the others.
_CANNOT_MEET = ("ncclInvalidUsage", "ncclSystemError", "ncclUnhandledCudaError", "ncclInvalidArgument")


@contextmanager
def explained(folder: RunFolder) -> Iterator[None]:
    """Turn the end of a run that could not save into one message, with the command that goes on.

    Raises:
        Interrupted: for KeyboardInterrupt, which is a second Ctrl-C or one before the first step.
        WriteError: a full or read-only disk, a folder that is gone.
        LoaderError: loader processes that have ended.
        RunError: the end of another process of the run.
    """
    try:
        yield
    except KeyboardInterrupt as stop:
        if lost := _loss_of_another(stop):  # whose launcher then stops this one, too
            raise _alone(folder, lost) from stop
        raise Interrupted(f"stopped without saving; {folder.way_on(process_count())}") from None
    except WriteError as error:
        raise WriteError(f"{error}; once that is mended, {folder.way_on(process_count())}") from error
    except LoaderError as error:
        raise LoaderError(f"{error}; {folder.way_on(process_count())}") from error
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        what = f"cannot read or write{where}: {error.strerror or one_line(error)}"
        raise RunError(f"{what}; once that is mended, {folder.way_on(process_count())}") from error
    except RuntimeError as error:
        if lost := _loss_of_another(error):
            raise _alone(folder, lost) from error
        raise


def _alone(folder: RunFolder, lost: BaseException) -> RunError:
    if any(word in str(lost) for word in _CANNOT_MEET):
        return RunError(
            f"the processes of this run cannot work together ({_told(lost)}); {folder.way_on(process_count())}"
        )
    what = "another process of this run has ended; if it has given no message it was killed, perhaps for want of memory"
    gone = any(word in str(lost) for word in _GONE)  # which is what was just said, in other words
    reason = "" if gone else f" ({_told(lost)})"
    return RunError(f"{what}{reason}; {folder.way_on(process_count())}")


def _told(lost: BaseException) -> str:
    """What a library says, shortened: NCCL names the cause last, behind a line of its source and its version."""
    return shortened(one_line(lost).rpartition("Last error: ")[2], 200)


def _loss_of_another(error: BaseException | None) -> BaseException | None:
    """The error, or one before it, by which this process has learnt that it cannot reach another one."""
    if error is None or process_count() == 1:
        return None
    lost = isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL", *_GONE))
    return error if lost or isinstance(error, DistError) else _loss_of_another(error.__context__)
