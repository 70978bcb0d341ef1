"""Arms: the ways of training a model that the tables compare, by the names that the paper gives to models.

An arm does not contain the data or the size of a run: `reproduce.scales` has these. Two tables with the same arm share
its runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..names import MEAN

BIASES = {"resnet": "conv", "regnety": "conv", "rednet": "inv", "transformer": "attn", "mixer": "mlp", "swin": "attn"}


@dataclass(frozen=True)
class Teacher:
    """A model that is trained on labels alone, then frozen, and then teaches. One of the student's own kind and size is
    a self-teacher (Furlanello et al., "Born again neural networks", ICML 2018).

    Attributes:
        model: name at the paper's scale, such as `resnet18`.
        seed: of its weights and its data order.
        part: of the full number of epochs (Figure 4a).
        trained: False for one that keeps the random weights that it began with.
    """

    model: str
    seed: int = 0
    part: float = 1.0
    trained: bool = True

    @property
    def name(self) -> str:
        """Name of its token, of its column in a cache, and of itself in results: `resnet18-s1-e25`."""
        return self.model + (f"-s{self.seed}" if self.seed else "") + _part(self.part) + _random(self.trained)

    @property
    def bias(self) -> str:
        """`conv`, `inv`, `attn` or `mlp`."""
        return next(bias for family, bias in BIASES.items() if self.model.startswith(family))

    @property
    def arm(self) -> Arm:
        """The arm by which it was trained."""
        return Arm(self.model, part=self.part, trained=self.trained)


@dataclass(frozen=True)
class Arm:
    """One way of training one model.

    Attributes:
        model: name at the paper's scale.
        teachers: its teachers; none for labels alone.
        tokens: `own` gives each teacher a token where the model has tokens; `single` puts every term on one output.
        injected: tokens that learn the labels, by the bias of their stem (training "without distillation").
        stem: what makes the patch tokens.
        advice: `hard` is DeiT's distillation: the teacher's top class in place of its distribution; the others are
            those of `loss.advice`.
        part: of the full number of epochs.
        weight, temperature: factors on the scale's λ and τ of every advised token.
        mixing: whether the student's images are mixed (mixup, CutMix) as the scale does.
        live: whether its images are drawn anew in every epoch and its teachers asked in every step, where the scale
            has views that recur.
        token_lr: factor on the learning rate of the tokens.
        token_std: factor on the standard deviation from which advised tokens are drawn.
        change: what becomes of the teachers' advice: `advice.change` of the recipe. `mean` advises one token, which
            weighs as much as those of all the teachers together.
        trained: False for random weights that are never trained.
        gate: the images on which a teacher counts: `loss.gate` of the recipe.
    """

    model: str
    teachers: tuple[Teacher, ...] = ()
    tokens: Literal["own", "single"] = "own"
    injected: tuple[str, ...] = ()
    stem: str = "patchify"
    advice: Literal["soft", "hard", "standardised", "dist", "decoupled"] = "soft"
    part: float = 1.0
    weight: float = 1.0
    temperature: float = 1.0
    mixing: bool = True
    live: bool = False
    token_lr: float = 1.0
    token_std: float = 1.0
    change: Literal["none", "shuffled", "shuffled-in-class", "smoothed", "mean"] = "none"
    trained: bool = True
    gate: Literal["none", "right", "harder", "random"] = "none"

    @property
    def id(self) -> str:
        """Name of its runs: `transformer_tiny.resnet18.rednet26`, each departure from the default appended."""
        words = [self.model, *(teacher.name for teacher in self.teachers)]
        if self.tokens == "single":
            words.append("single")
        if self.advice != "soft":
            words.append(self.advice)
        if self.injected:
            words.append("labels-" + "-".join(self.injected))
        if self.stem != "patchify":
            words.append("stem-" + self.stem.replace("+", "-"))
        for name in ("weight", "temperature", "token_lr", "token_std"):
            if (factor := getattr(self, name)) != 1.0:
                words.append(f"{name.replace('_', '-')}-{100 * factor:.0f}")
        if not self.mixing:
            words.append("unmixed")
        if self.live:
            words.append("live")
        if self.change != "none":
            words.append(self.change)
        if self.gate != "none":
            words.append("gate-" + self.gate)
        return ".".join(words) + _part(self.part) + _random(self.trained)

    @property
    def advisers(self) -> tuple[str, ...]:
        """Names under which advice reaches the student, and of its advised tokens where it has some."""
        return (MEAN,) if self.change == "mean" else tuple(teacher.name for teacher in self.teachers)

    @property
    def is_transformer(self) -> bool:
        """Whether the model may have advised tokens."""
        return self.model.startswith("transformer")


def _part(part: float) -> str:
    return "" if part == 1.0 else f"-e{100 * part:.0f}"


def _random(trained: bool) -> str:
    return "" if trained else "-random"


def arm(model: str, *teachers: str | Teacher, **settings: object) -> Arm:
    """An arm in short form: teachers may be given by their model names alone."""
    members = tuple(Teacher(one) if isinstance(one, str) else one for one in teachers)
    return Arm(model, members, **settings)  # type: ignore[arg-type]
