"""The recipe's part on how long is trained, and how the learning rate goes."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .fields import Count, NonNegative, Part

_TIME = re.compile(r"(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def seconds_in(time: str) -> float:
    """Seconds of `2h`, `90m`, `600s` or `1h30m`.

    Raises:
        ValueError: another form, or no time at all.
    """
    found = _TIME.fullmatch(time.replace(" ", ""))
    hours, minutes, seconds = (float(one or 0) for one in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    if total <= 0:
        raise ValueError(f"'{time}' is no time; write for example 2h, 90m, 600s or 1h30m")
    return total


def _time(value: str) -> str:
    seconds_in(value)
    return value.replace(" ", "")


class Schedule(Part):
    """Cosine learning rate with a linear warm-up, set at every step."""

    epochs: Count = 300
    time: Annotated[str, AfterValidator(_time)] | None = None
    """In place of `epochs`: how long the whole training may take, such as `2h`, `90m` or `1h30m`. Some steps are
    measured before it, and as many epochs are trained as fit; nothing is cut off. What is resumed measures no more."""
    warmup_epochs: NonNegative = 5
    warmup_lr: NonNegative = 1e-6
    min_lr: NonNegative = 1e-5
    head_epochs: Annotated[int, Field(ge=0, le=10**9)] = 0
    """Epochs at the beginning, of `epochs`, in which heads and advised tokens alone learn."""
    patience: Count | None = None
    """Stop after so many evaluations in a row that were no better than the best; null trains to the end."""

    @model_validator(mode="before")
    @classmethod
    def _either(cls, content: Any) -> Any:
        if not isinstance(content, dict) or content.get("time") is None:
            return content
        if content.get("epochs") is not None:
            raise ValueError(
                f"time {content['time']} and epochs {content['epochs']} exclude each other: as many epochs are trained "
                "as fit into the time; remove one of them"
            )
        return {key: value for key, value in content.items() if key != "epochs"}

    @model_serializer(mode="wrap")
    def _without_unknown(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is written can be read again: with a time, nothing is known of epochs."""
        content: dict[str, Any] = plain(self)
        if self.time is not None:
            content.pop("epochs", None)
        return content
