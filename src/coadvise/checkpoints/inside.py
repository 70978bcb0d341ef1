"""Which weights of a file: where training checkpoints keep them, and which of two kinds are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ..errors import CheckpointError
from .inert_pickle import Unplain

Say = Callable[[str], None]
Weights = Literal["ema", "plain"]
"""Of a file that has both: the averaged weights, or those that were trained."""
IN_PYTHON = "weights"
# Where files keep their weights, in the order in which they are looked for: that of timm, then others' names.
_TIMMS_AVERAGE = ("state_dict_ema", "model_ema")
_INSIDE: Mapping[Weights, tuple[str, ...]] = {
    "ema": (
        *_TIMMS_AVERAGE, "ema_state_dict", "ema_model_state_dict", "model_ema_state_dict", "model_state_dict_ema",
        "ema_model", "ema_state", "ema",
    ),
    "plain": ("state_dict", "model", "model_state", "model_state_dict", "module", "shadow"),
}  # fmt: skip
# Beside `model.…`, these mark a training checkpoint of ours.
_TRAINING = ("optimizer.", "ema.", "rng.", "scheduler.", "scaler.")


@dataclass(frozen=True)
class Choice:
    """Which weights the user wants of a file, and how he says so.

    Attributes:
        weights: None takes what its kind of file gives by default.
        setting: what the choice is called where it is made: `weights` in Python, else the key of a recipe.
        say: is told which weights are taken of a file that has averaged and other ones.
    """

    weights: Weights | None
    setting: str
    say: Say

    def said(self, weights: Weights) -> str:
        """The setting with a value, as the user writes it."""
        return f"{self.setting}={weights!r}" if self.setting == IN_PYTHON else f"{self.setting}={weights}"

    def among(self, places: Mapping[Weights, str], default: Weights, path: Path) -> Weights:
        """Which weights to take of those that are there; said where there are both."""
        if len(places) < 2:
            return next(iter(places))
        kind = self.weights or default
        taken, left = places[kind], next(place for other, place in places.items() if other != kind)
        self.say(f"{path} has averaged and other weights; taken are '{taken}' ({self.said(kind)}), not '{left}'")
        return kind

    def require(self, found: Weights | None, path: Path) -> None:
        """Refuse a file without the weights that were asked for.

        Raises:
            CheckpointError: names the setting.
        """
        if self.weights in (None, found):
            return
        what = "averaged weights" if self.weights == "ema" else "weights under the name of a training checkpoint's"
        raise CheckpointError(f"checkpoint {path} has no {what}, as {self.said(self.weights)} asks for: leave that out")


def weights_inside(content: Any, path: Path, choice: Choice) -> dict[str, Tensor]:
    """The state dict of an unpickled file, bare or in one of the usual places.

    Raises:
        CheckpointError: there is none, or not the one that is asked for.
    """
    found: Weights | None = None
    for _ in range(3):
        inside = _places(content)
        if not inside:
            break
        default: Weights = "ema" if inside.get("ema") in _TIMMS_AVERAGE else "plain"
        kind = choice.among(inside, default, path)
        found = "ema" if "ema" in (kind, found) else kind  # what is inside of averaged weights is averaged
        content = content[inside[kind]]
    choice.require(found, path)
    if isinstance(content, Mapping):
        if unplain := next((key for key, value in content.items() if isinstance(value, Unplain)), None):
            raise CheckpointError(f"checkpoint {path}: {unplain} is no plain tensor, save it dense and unquantised")
        tensors = {k: v.detach() for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
        if tensors:
            return tensors
    places = ", ".join(name for names in _INSIDE.values() for name in names)
    raise CheckpointError(
        f"checkpoint {path} holds no state dict (a mapping of names to tensors, bare or under "
        f"{places}): save model.state_dict(), not the model itself"
    )


def _places(content: Any) -> dict[Weights, str]:
    """Under which names a mapping has weights: of each kind the first."""
    if not isinstance(content, Mapping):
        return {}
    kinds = {kind: [name for name in names if _has_weights(name, content.get(name))] for kind, names in _INSIDE.items()}
    return {kind: names[0] for kind, names in kinds.items() if names}


def _has_weights(name: str, value: Any) -> bool:
    """Whether weights are there: under names of many meanings, such as `ema`, it may be settings."""
    if not isinstance(value, Mapping) or name in (*_TIMMS_AVERAGE, *_INSIDE["plain"]):
        return isinstance(value, Mapping)
    return any(isinstance(one, (Tensor, Unplain)) for one in value.values()) or any(
        isinstance(value.get(inner), Mapping) for inner in _INSIDE["plain"]
    )


def of_training(tensors: dict[str, Tensor], path: Path, choice: Choice) -> dict[str, Tensor]:
    """The model's part of a training checkpoint of ours; other files as they are.

    Raises:
        CheckpointError: it has not the weights that are asked for.
    """
    prefixes: Mapping[Weights, str] = {"plain": "model.", "ema": "ema."}
    parts = {kind: one for kind, one in prefixes.items() if any(key.startswith(one) for key in tensors)}
    if not any(key.startswith(_TRAINING) for key in tensors) or "plain" not in parts:
        parts = {}
    choice.require(choice.weights if choice.weights in parts else None, path)
    if not parts:
        return tensors
    prefix = parts[choice.among(parts, "plain", path)]
    return {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
