"""Plain words for the names of outputs."""

from __future__ import annotations

from collections.abc import Mapping

from ..names import ALL_HEADS, CLASS, MEAN

_OWN = {CLASS: "class token", ALL_HEADS: "mean of all outputs"}


def output_title(name: str) -> str:
    """`class token`, `conv token`, `mean of all outputs`."""
    return _OWN.get(name, f"{name} token")


def tokens_sentence(tokens: Mapping[str, str | None], teachers: Mapping[str, str], answering: str = CLASS) -> str:
    """What each output of a student is, in a sentence; nothing of a student with one.

    Args:
        tokens: advised tokens with their biases.
        teachers: models of the teachers, by their names.
        answering: the output that answers at inference.
    """
    if not tokens:
        return ""
    ways = {name: f"learns from teacher {name} ({model})" for name, model in teachers.items()}
    ways.setdefault(MEAN, "learns from the mean of all teachers")
    parts = [f"the {output_title(name)} {ways.get(name, 'learns the labels, too')}" for name in tokens]
    last = "" if answering == CLASS else f" It answers with the {output_title(answering)}."
    return f"The student has {1 + len(tokens)} outputs: the class token learns the labels, {', '.join(parts)}.{last}"
