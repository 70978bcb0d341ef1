"""Names that tokens, results and reports share."""

from collections.abc import Iterable, Sequence

VERSION = "0.1.0"

CLASS = "class"
"""The class token, and the only output of a model with one head; no teacher may have this name."""
TOP1 = "accuracy/class"
"""Top-1 of the class token, as a share: what the paper measures."""
MEAN = "mean"
"""Name of the token that the mean of all teachers advises, where it does (`advice.change`)."""
APART = "apart"
"""The term of the loss that keeps heads apart (`loss.apart`), beside those of tokens and teachers."""
ALL_HEADS = "average"
"""The output that is the mean of all heads' logits, where there are several; some students answer with it."""
AVERAGE = f"accuracy/{ALL_HEADS}"
"""Top-1 by the mean of all heads' logits, where there are several."""


def told_apart(ways: Iterable[Sequence[str]]) -> list[str]:
    """A name for each of some things, no two alike.

    Args:
        ways: to name all of them, the best first; if every one of them gives two things the same name, those of the
            first way are numbered.
    """
    every = list(ways)
    for names in every:
        if len(set(names)) == len(names):
            return list(names)
    return [f"{name} ({number})" for number, name in enumerate(every[0], start=1)]
