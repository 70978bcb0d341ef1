"""The recipe's part on how long is trained, and how the learning rate goes."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from .fields import Count, NonNegative, Part, Positive, or_say

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


def _ascending(epochs: list[float]) -> list[float]:
    if any(later <= earlier for earlier, later in pairwise(epochs)):
        raise ValueError(f"epochs {epochs} must ascend, each once")
    return epochs


Ascending = Annotated[list[Positive], Field(min_length=1), AfterValidator(_ascending)]
"""Some moments, one after the other."""
_EPOCHS = "a number > 0, such as 30 (every 30 epochs), or an ascending list of such numbers, such as [60, 80]"
DecayEpochs = Annotated[Positive | Ascending | None, Field(union_mode="left_to_right"), or_say(_EPOCHS)]


class Schedule(Part):
    """Learning rate with a linear warm-up, set at every step."""

    name: Literal["cosine", "step"] = "cosine"
    """`cosine`: down to `min_lr`. `step`: times `decay_rate` at each of `decay_epochs`."""
    epochs: Count = 300
    """How often the training images are gone through."""
    time: Annotated[str, AfterValidator(_time)] | None = None
    """In place of `epochs`: how long the whole training may take, such as `2h`, `90m` or `1h30m`. Some steps are
    measured before it, and as many epochs are trained as fit; nothing is cut off. What is resumed measures no more."""
    warmup_epochs: NonNegative = 5
    """Epochs, or parts of one, in which the learning rate rises."""
    warmup_lr: NonNegative = 1e-6
    """Learning rate from which it rises."""
    min_lr: NonNegative = 1e-5
    """Where the cosine ends."""
    decay_epochs: DecayEpochs = None
    """Of `step`: every so many epochs, or at each of a list of them; the warm-up counts as epochs."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Of `step`: factor on the learning rate."""
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


def schedule_problems(schedule: Schedule) -> Iterable[str]:
    """What no single setting can see."""
    warmup, epochs, timed = schedule.warmup_epochs, schedule.epochs, schedule.time is not None
    if warmup >= epochs and warmup > 0 and not timed:
        yield f"schedule.warmup_epochs {warmup:g} must be smaller than schedule.epochs {epochs}"
    if schedule.head_epochs >= epochs and not timed:
        yield f"schedule.head_epochs {schedule.head_epochs} must be smaller than schedule.epochs {epochs}"
    if schedule.name == "step":
        if schedule.decay_epochs is None:
            yield "schedule.name=step needs schedule.decay_epochs, such as 30 (every 30 epochs) or [60, 80]"
        if timed:
            yield "schedule.time does not know at which epochs a step falls; take schedule.name=cosine, or give epochs"
        return
    for key, default in (("decay_epochs", None), ("decay_rate", 0.1)):
        if getattr(schedule, key) != default:
            yield f"schedule.{key} is of schedule.name=step; leave it out with {schedule.name}"
