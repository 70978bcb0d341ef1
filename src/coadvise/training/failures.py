"""What is said when a training ends before its time: what happened, what is kept, and how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch.distributed import DistError

from ..errors import Interrupted, LoaderError, RunError, WriteError, one_line
from ..run.folder import RunFolder
from .processes import process_count


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
        if _lost_another(stop):  # whose launcher then stops this one, too
            raise RunError(_ALONE + folder.way_on(process_count())) from stop
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
        if not _lost_another(error):
            raise
        raise RunError(_ALONE + folder.way_on(process_count())) from error


_ALONE = "another process of this run has ended; if it has given no message it was killed, perhaps for want of memory; "


def _lost_another(error: BaseException | None) -> bool:
    """Whether this process has learnt that it cannot reach another one."""
    if error is None or process_count() == 1:
        return False
    words = ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer")
    lost = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return lost or isinstance(error, DistError) or _lost_another(error.__context__)
