"""Kinds of fields that a recipe is made of, and the base of its parts."""

from __future__ import annotations

import math
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)
from pydantic_core import PydanticCustomError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1, le=10**9)]
"""How many of something, at least one."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Triple = tuple[float, float, float]
# Of pixels in [0, 1], and with room for whoever counts them up to 255: beyond, nothing is left of an image in float32.
_Mean = Annotated[float, Field(ge=-1000, le=1000)]
_Deviation = Annotated[float, Field(ge=1e-6, le=1000)]
Means = tuple[_Mean, _Mean, _Mean]
Deviations = tuple[_Deviation, _Deviation, _Deviation]


class Part(BaseModel):
    """A frozen part of a recipe; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _as_meant(cls, content: Any) -> Any:
        """A name may look like a number, and `true` is no number though Python counts it as 1."""
        if not isinstance(content, dict):
            return content
        plain = dict(content)
        for key, value in content.items():
            types = kinds(cls.model_fields[key].annotation) if key in cls.model_fields else set()
            if isinstance(value, bool) and bool not in types and types & {int, float}:
                plain[key] = str(value).lower()  # which the field then refuses as no number
            elif isinstance(value, (int, float)) and types - {type(None)} == {str}:
                plain[key] = str(value)
        return plain


def kinds(annotation: Any) -> set[Any]:
    """The plain types of a field: `int | None` → {int, NoneType}."""
    if get_origin(annotation) in (Union, UnionType, Annotated):
        return {kind for part in get_args(annotation) for kind in kinds(part)}
    return {annotation} if isinstance(annotation, type) else set()


def _finite(value: Any) -> Any:
    """The value, where it holds no infinity and no NaN."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    for one in inside:
        _finite(one)
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is no finite number")
    return value


def _switches(options: Any) -> Any:
    """`on`, `off`, `yes` and `no` as a person means them; other settings get this from their type."""
    words = {"on": True, "yes": True, "true": True, "off": False, "no": False, "false": False}
    if not isinstance(options, dict):
        return options
    return {key: words.get(v.lower(), v) if isinstance(v, str) else v for key, v in options.items()}


def _switch(value: Any) -> Any:
    words = {"1": True, "on": True, "yes": True, "true": True, "0": False, "off": False, "no": False, "false": False}
    return words.get(str(value).lower(), value)


AutoSwitch = Annotated[Literal["auto", True, False], BeforeValidator(_switch)]
"""Yes, no, or what is found to be best."""

Off = Annotated[Literal[False], BeforeValidator(_switch)]
"""`false`, in place of a number."""


def or_say(words: str) -> WrapValidator:
    """One message for a field of several types, in place of one for each of them: `must be` and these words."""

    def checked(value: Any, plain: ValidatorFunctionWrapHandler) -> Any:
        try:
            return plain(value)
        except ValidationError as error:
            raise PydanticCustomError("several_types", "Input should be {words}", {"words": words}) from error

    return WrapValidator(checked)


Options = Annotated[dict[str, Any], BeforeValidator(_switches), AfterValidator(_finite)]
"""Keyword arguments of a model."""
