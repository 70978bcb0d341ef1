"""The recipe's part on how weights are updated, and how a teacher is trained before the student."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from .data import Augmentation
from .fields import Count, Momentum, NonNegative, Off, Part, Positive, Probability, Seed, or_say
from .schedule import DecayEpochs, Schedule

OptimizerName = Literal["adamw", "sgd", "lamb"]
"""As timm calls them."""
HeavyBall = Annotated[float, Field(gt=0, lt=1)]
_COUNT_OR_OFF = "a whole number ≥ 1, or false"
_PART_OR_OFF = "a number between 0 and 1, or false"


class Optim(Part):
    """How weights are updated: without decay on norms, biases, tokens and position embeddings.

    The authors of ResNet, RegNet and involution let norms and biases decay, too; here they never do.
    """

    name: OptimizerName = "adamw"
    """`sgd`: with Nesterov's momentum, the decay being part of the gradient (L2). `lamb`: clips by `clip` alone, not to
    norm 1 as timm's does by itself."""
    batch_size: Count = 1024
    """Images for each update, over all processes and accumulated micro-batches."""
    lr: Positive = 5e-4
    """Base learning rate, multiplied by batch_size / lr_batch."""
    lr_batch: Count | None = 512
    """Batch size that `lr` is stated for; null uses `lr` as it is."""
    weight_decay: NonNegative = 0.05
    """How strongly weights are drawn to 0."""
    momentum: HeavyBall = 0.9
    """Of `sgd`."""
    betas: tuple[Momentum, Momentum] = (0.9, 0.999)
    """Of `adamw` and `lamb`."""
    eps: Positive = 1e-8
    """Of `adamw` and `lamb`."""
    clip: Positive | None = None
    """Largest gradient norm; null is off."""
    accumulate: Count = 1
    """Micro-batches that make up one update."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Decay of the averaged weights, which are evaluated too; null is off."""
    token_lr: Positive = 1.0
    """Factor on the learning rate of the class token and the advised tokens, not of their position embeddings."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] | None = None
    """Factor on the learning rate from each layer to the one before it; heads and advised tokens have the full rate."""
    backbone_lr: Positive = 1.0
    """Factor on the learning rate of everything but heads and advised tokens."""


OWN: dict[str, tuple[str, ...]] = {"adamw": ("betas", "eps"), "lamb": ("betas", "eps"), "sgd": ("momentum",)}
"""Settings that only some optimizers have."""


class TeacherTraining(Part):
    """How a teacher is trained before the student; what is not given is taken from the recipe."""

    epochs: Count | None = None
    """Epochs over the training images, as `schedule.epochs`."""
    optimizer: OptimizerName | None = None
    """As `optim.name`; with another than the recipe's, `lr` is to be given, too."""
    lr: Positive | None = None
    """Base learning rate, as `optim.lr`."""
    lr_batch: Annotated[Off | Count | None, Field(union_mode="left_to_right"), or_say(_COUNT_OR_OFF)] = None
    """Batch size that `lr` is stated for; `false` uses `lr` as it is."""
    momentum: HeavyBall | None = None
    """As `optim.momentum`."""
    weight_decay: NonNegative | None = None
    """As `optim.weight_decay`."""
    clip: Annotated[Off | Positive | None, Field(union_mode="left_to_right"), or_say("a number > 0, or false")] = None
    """Largest gradient norm; `false` is off."""
    ema: Annotated[Off | HeavyBall | None, Field(union_mode="left_to_right"), or_say(_PART_OR_OFF)] = None
    """Decay of the averaged weights; `false` is off."""
    schedule: Literal["cosine", "step"] | None = None
    """As `schedule.name`."""
    decay_epochs: DecayEpochs = None
    """Of `step`, in the teacher's own epochs."""
    decay_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Of `step`, as `schedule.decay_rate`."""
    warmup_epochs: NonNegative | None = None
    """As `schedule.warmup_epochs`."""
    warmup_lr: NonNegative | None = None
    """As `schedule.warmup_lr`."""
    min_lr: NonNegative | None = None
    """As `schedule.min_lr`."""
    batch_size: Count | None = None
    """As `optim.batch_size`."""
    drop_path: Probability | None = None
    """`drop_path_rate` of the teacher while it is trained."""
    seed: Seed | None = None
    """Seed of the teacher's weights, as `run.seed`."""
    augment: Augmentation | None = None
    """As `data.augment`, for the teacher alone."""

    def content(self) -> dict[str, Any]:
        """All settings, without those that were added later and are not given: as an earlier version wrote them."""
        content = self.model_dump(mode="json")
        return {key: value for key, value in content.items() if value is not None or key not in _LATER_OF_TRAINING}


_LATER_OF_TRAINING = (
    "optimizer", "lr_batch", "momentum", "clip", "ema", "schedule", "decay_epochs", "decay_rate", "warmup_lr", "min_lr",
)  # fmt: skip


def optim_problems(optim: Optim, schedule: Schedule) -> Iterable[str]:
    """Settings of another optimizer, and what cannot be done with this one."""
    for key in dict.fromkeys(key for keys in OWN.values() for key in keys if key not in OWN[optim.name]):
        if getattr(optim, key) != Optim.model_fields[key].default:
            yield f"optim.{key} is not a setting of optim.name={optim.name}; leave it out"
    if optim.name == "lamb" and schedule.head_epochs:
        yield (
            "optim.name=lamb counts its steps for all weights at once, so those that begin to learn after "
            "schedule.head_epochs would take steps that are too long; take adamw or sgd"
        )


def training_problems(place: str, train: TeacherTraining, optim: Optim, schedule: Schedule) -> Iterable[str]:
    """What does not go together in how a teacher is trained, as the recipe says at `place`."""
    kind = train.optimizer or optim.name
    if kind != optim.name and train.lr is None:
        yield f"{place}.optimizer is {kind}, the recipe's is {optim.name}: give {place}.lr, whose scale is another"
    if kind != "sgd" and train.momentum is not None:
        yield f"{place}.momentum is not a setting of {kind}; leave it out"
    way = train.schedule or schedule.name
    if way == "step":
        if train.decay_epochs is None and schedule.decay_epochs is None:
            yield f"{place}.schedule=step needs {place}.decay_epochs, such as 30 (every 30 epochs) or [60, 80]"
        if schedule.time is not None and train.epochs is None:
            yield f"{place}.schedule=step needs {place}.epochs: in a time, no epoch of a step is known"
        return
    for key in ("decay_epochs", "decay_rate"):
        if getattr(train, key) is not None:
            yield f"{place}.{key} is of {place}.schedule=step; leave it out with {way}"
