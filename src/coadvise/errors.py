"""Errors meant for the user.

Every message says what is wrong, where, and how to fix it. The command line prints only the message, without a
traceback, and exits with code 2. An `assert` elsewhere means a bug in this package, never bad input.
"""

import difflib
from collections.abc import Iterable, Sequence


class CoadviseError(Exception):
    """Base of all errors that bad input can cause.

    Attributes:
        told: whether another process of the same run says it.
    """

    told = False


class RecipeError(CoadviseError):
    """A recipe that cannot be read or does not validate."""


class DataError(CoadviseError):
    """Images, labels or classes that are missing, unreadable or do not fit."""


class NoLabels(DataError):
    """None of some images has a label, as in a competition's test set."""


class ModelError(CoadviseError):
    """A model name, option, teacher or student that does not fit."""


class NoWeights(ModelError):
    """A model's published weights cannot be had; `why` says so alone, the message also how to fix it."""

    def __init__(self, why: str, how: str) -> None:
        super().__init__(f"{why}: {how}")
        self.why = why


class NoSharedClasses(ModelError):
    """A teacher and the data have too few names of classes in common."""


class CheckpointError(CoadviseError):
    """A checkpoint that is missing, unsafe, of an unknown format, or does not fit the model."""


class RunError(CoadviseError):
    """A run folder, a resume or a group of processes in a state in which a run must not start or continue."""


class LoaderError(RunError):
    """Loader processes that have ended or cannot be started. Nothing is wrong with what the run has computed so far."""


class WriteError(RunError, CheckpointError):
    """A file that cannot be written: the disk is full or read-only, or the folder is gone."""


_LISTED = 30  # words that a hint lists; a data set may have thousands of classes


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A hint ` (did you mean X?)`, or the known words when none is near."""
    known = sorted(known)
    if near := nearest(word, known):
        return near
    return f" (known: {', '.join(known[:_LISTED])}{', …' if len(known) > _LISTED else ''})" if known else ""


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint ` (did you mean X?)`, or nothing when no known word is near."""
    near = difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f" (did you mean {near[0]}?)" if near else ""


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its type where it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


def few(names: Sequence[str]) -> str:
    """The first names in quotation marks, and how many more there are."""
    shown = ", ".join(f"'{name}'" for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def shortened(text: str, length: int = 60) -> str:
    """A text of a user's, with `…` in place of what is beyond so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def escaped(text: str) -> str:
    """Text of which bytes that are not UTF-8, as names of files may have them, are written out: `caf\\xe9`."""
    return text.encode(errors="surrogateescape").decode(errors="backslashreplace")


def require(value: object, kind: type | tuple[type, ...], what: str, how: str, error: type[CoadviseError]) -> None:
    """Refuse an argument of another kind, in words: `{what} is of type str ('digits'); {how}`.

    Raises:
        CoadviseError: of the class `error`.
    """
    if not isinstance(value, kind):
        given = "None" if value is None else f"of type {type(value).__name__}"
        shown = f" ({value!r})" if isinstance(value, (str, int, float)) and len(str(value)) <= 60 else ""
        raise error(f"{what} is {given}{shown}; {how}")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error is PyTorch's or Python's word for too little memory, on a GPU or on the CPU."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # PyTorch's, by its name
        return True
    words = ("DefaultCPUAllocator", "can't allocate memory", "bad_alloc", "CUDA out of memory")
    return isinstance(error, RuntimeError) and any(word in str(error) for word in words)


class Interrupted(Exception):
    """The user stopped a run. The message says what is saved, and how to go on."""
