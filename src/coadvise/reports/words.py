"""Plain words for the names of outputs."""

from __future__ import annotations

from collections.abc import Mapping

from ..names import AVERAGE, CLASS, MEAN

_OWN = {CLASS: "class token", AVERAGE.partition("/")[2]: "mean of all outputs"}


def output_title(name: str) -> str:
    """`class token`, `conv token`, `mean of all outputs`."""
    return _OWN.get(name, f"{name} token")


def tokens_sentence(tokens: Mapping[str, str | None], teachers: Mapping[str, str]) -> str:
    """What each output of a student is, in a sentence; nothing of a student with one.

    Args:
        tokens: advised tokens with their biases.
        teachers: models of the teachers, by their names.
    """
    if not tokens:
        return ""
    ways = {name: f"learns from teacher {name} ({model})" for name, model in teachers.items()}
    ways.setdefault(MEAN, "learns from the mean of all teachers")
    parts = [f"the {output_title(name)} {ways.get(name, 'learns the labels, too')}" for name in tokens]
    return f"The student has {1 + len(tokens)} outputs: the class token learns the labels, {', '.join(parts)}."
