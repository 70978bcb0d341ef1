"""The result of a finished run, `result.json`, as one typed value.

Training writes it, reports and the paper's experiments read it. The keys of the file are the fields below; keys that an
earlier version did not write have defaults.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, TypeAdapter, ValidationError, with_config

from ..errors import RunError
from ..names import ALL_HEADS, CLASS
from ..system.files import read_json, write_json
from .per_class import ClassCounts


def _without_nulls(metrics: Any) -> Any:
    return {k: v for k, v in metrics.items() if v is not None} if isinstance(metrics, Mapping) else metrics


Metrics = Annotated[Mapping[str, float], BeforeValidator(_without_nulls)]
"""Metrics by name; null, which other programs write for what is not finite, is left out."""


@dataclass(frozen=True)
class StudentFacts:
    """The model that was trained: its parameters, and its advised tokens with their biases."""

    model: str
    parameters: int
    tokens: Mapping[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True)
class TeacherFacts:
    """A teacher, and its top-1 (a share) on so many validation images before the training.

    Attributes:
        asked: validation images of the classes that it knows, where it does not know them all.
        source: where it came from as it is: a file, an address, or a model's name for published weights; None for one
            that the run trained, or that was given from Python.
        opens: what `coadvise predict --model` takes for it, if anything.
    """

    model: str
    bias: str | None
    parameters: int
    accuracy: float | None = None
    samples: int | None = None
    asked: int | None = None
    source: str | None = None
    opens: str | None = None


@dataclass(frozen=True)
class DataFacts:
    """Where the images came from, how many there were, and the names of their classes.

    Attributes:
        train: training images with labels.
        unlabelled: training images without.
    """

    source: str
    train: int
    val: int
    classes: tuple[str, ...]
    unlabelled: int = 0


@dataclass(frozen=True)
class Best:
    """The best evaluation: top-1 (or mAP) as a share, after which epoch, and of which weights."""

    value: float
    epoch: int
    weights: str


@dataclass(frozen=True)
class Skipped:
    """How many images could not be read; `names` has the first of the training images."""

    train: int = 0
    val: int = 0
    names: tuple[str, ...] = ()


ASKED = 50_000
"""Validation images that a probe is asked about; of more so many, drawn without regard to their classes."""


@dataclass(frozen=True)
class Probe:
    """A linear probe on the features of a model as it starts, without any training of the model.

    Attributes:
        of: whose features: `student`, or the name of a teacher.
        right: validation images named rightly, of so many `samples`: in earlier versions at most 5,000, in balance.
        train: training images that it was fitted to, which it saw in `image_size` pixels.
        strength: scikit-learn's `C`, chosen by cross-validation among the training images.
        expected: the accuracy in that cross-validation, as a share.
        parameters: of the model with the probe in place of its last layer.
        seconds: that the whole probe took.
    """

    of: str
    model: str
    right: int
    samples: int
    train: int
    image_size: int
    features: int
    strength: float
    expected: float
    parameters: int
    seconds: float

    @property
    def accuracy(self) -> float:
        """Share of validation images named rightly."""
        return self.right / self.samples


@dataclass(frozen=True)
class SeveralProbe:
    """A linear probe for images of any number of classes, as `Probe`; it is judged by its mAP on `samples` images."""

    of: str
    model: str
    mean_average_precision: float
    samples: int
    train: int
    image_size: int
    features: int
    strength: float
    expected: float
    parameters: int
    seconds: float


@dataclass(frozen=True)
class LabelsAlone:
    """The run's student trained on the labels alone, without its teachers.

    Attributes:
        right: validation images named rightly, of so many `samples`.
        alone: images that this student names rightly and the co-advised one does not; `advised` the other way round.
        p: of McNemar's exact test between both; None where they never differ.
        epochs: that were trained, in so many `seconds`.
        model: of the student, which has so many `parameters`.
    """

    right: int
    samples: int
    alone: int
    advised: int
    p: float | None
    epochs: int
    seconds: float
    model: str
    parameters: int


@dataclass(frozen=True)
class Baselines:
    """What one would do instead of training the student with its teachers.

    Attributes:
        labels: training it without them, where that was asked for.
        several: probes for images of any number of classes, in place of `probes`.
        images_per_s: answered by the student, the teachers (by name) and the probes' models (`probe NAME`), on the
            device of the training, in float32 and batches of eight, without reading.
        failed: name of a model → why there is no probe of it.
    """

    probes: tuple[Probe, ...] = ()
    images_per_s: Mapping[str, float] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    labels: LabelsAlone | None = None
    several: tuple[SeveralProbe, ...] = ()

    def write(self, path: Path) -> None:
        """Write them atomically as a file of their own."""
        write_json(path, self.content())

    def content(self) -> dict[str, Any]:
        """What is written of them."""
        content = dataclasses.asdict(self)
        if self.labels is None:  # as in an earlier version
            del content["labels"]
        if not self.several:
            del content["several"]
        return content

    @classmethod
    def read(cls, path: Path) -> Baselines:
        """Read a file that `write` wrote.

        Raises:
            RunError: the file is missing, no JSON, or has fields of another form.
        """
        return parsed(TypeAdapter(cls), read_json(path), path)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class EarlyStop:
    """A run that ended before its last epoch: how many were planned, and after how many evaluations without a better
    answer it stopped."""

    planned: int
    patience: int

    @property
    def in_vain(self) -> str:
        """The evaluations without a better answer, in words."""
        return "1 evaluation was" if self.patience == 1 else f"{self.patience} evaluations in a row were"


@dataclass(frozen=True)
class SeveralFacts:
    """Of a run on images that have any number of classes.

    Attributes:
        average_precision: of each class that validation images have, as the student answers.
        chance: mAP of answers by chance, the mean share of images that have such a class.
    """

    average_precision: Mapping[str, float]
    chance: float


@with_config(ConfigDict(extra="ignore"))
@dataclass(frozen=True)
class RunResult:
    """A finished run.

    Attributes:
        fingerprint: of the recipe.
        epochs: that were trained.
        images_seen: training images over all epochs.
        seconds: of training, without evaluation.
        final: metrics after the last epoch, by name (see `evaluation.metrics.batch_metrics`).
        ema: the same of the averaged weights, if there are any.
        provenance: commit, command, versions and hardware (see `run.provenance.manifest`).
        baselines: what one would do instead; None where it was not measured.
        per_class: counts of each class by what the delivered weights answer; in earlier versions those after the last
            epoch, or empty.
        delivered: metrics, in float32 and without the teachers, of the weights that the run delivers, those of `best`;
            empty in earlier versions.
        several: of images that have any number of classes; None for one class each. The metrics and `best` are then
            what `run.several.SeveralAnswers.metrics` gives in place of accuracies.
        answering: the output by which the student answers at inference, and by which it is judged; in earlier versions
            `class` always.
    """

    name: str
    fingerprint: str
    seed: int
    student: StudentFacts
    teachers: Mapping[str, TeacherFacts]
    data: DataFacts
    epochs: int
    steps: int
    images_seen: int
    seconds: float
    final: Metrics
    ema: Metrics | None
    best: Best
    skipped: Skipped = Skipped()
    provenance: Mapping[str, Any] = field(default_factory=dict)
    baselines: Baselines | None = None
    per_class: Mapping[str, ClassCounts] = field(default_factory=dict)
    stopped_early: EarlyStop | None = None
    delivered: Metrics = field(default_factory=dict)
    several: SeveralFacts | None = None
    answering: str = CLASS

    @property
    def samples(self) -> int:
        """Validation images that could be read."""
        return self.data.val - self.skipped.val

    @property
    def metrics(self) -> Metrics:
        """Metrics of the weights that the run delivers; in earlier versions after the last epoch."""
        return self.delivered or self.final

    @property
    def accuracy(self) -> float | None:
        """Top-1 of what the student answers, as a share; None where it is missing or not finite."""
        return self.answered("accuracy")

    def answered(self, what: str) -> float | None:
        """Of `metrics` that of what the student answers (`accuracy`, `ece`, `map`, …); None: missing or not finite."""
        value = self.metrics.get(f"{what}/{self.answering}")
        return value if value is not None and math.isfinite(value) else None

    @property
    def tokens(self) -> list[str]:
        """Names of the outputs: `class` first, `average` of all heads last."""
        return tokens_of(self.final)

    @property
    def weights(self) -> str:
        """Which weights `metrics` are of: `epoch 9 of 10`, `epoch 9 of 10, averaged weights`."""
        if not self.delivered:
            return f"{self.epochs:,} epochs"
        return f"epoch {self.best.epoch:,} of {self.epochs:,}{', averaged weights' * (self.best.weights == 'ema')}"

    def kl(self, teacher: str, token: str, direction: Direction) -> float | None:
        """KL divergence on the validation set in nats; None where it was not measured."""
        if any(key.startswith("kl_reverse/") for key in self.final):
            kind = "kl" if direction == "teacher‖token" else "kl_reverse"
            return self.final.get(f"{kind}/{teacher}|{token}")
        # The first versions wrote the reverse as kl/TOKEN|TEACHER; with tokens named after teachers that is two things.
        if teacher in self.tokens and token in self.teachers:
            return None
        return self.final.get(f"kl/{teacher}|{token}" if direction == "teacher‖token" else f"kl/{token}|{teacher}")

    def write(self, path: Path) -> None:
        """Write the file atomically."""
        content = dataclasses.asdict(self)
        if self.baselines is not None:
            content["baselines"] = self.baselines.content()
        for later in ("baselines", "per_class", "stopped_early", "delivered", "several"):  # an earlier version had none
            if not content[later]:
                del content[later]
        if self.answering == CLASS:
            del content["answering"]
        if not content["data"]["unlabelled"]:
            del content["data"]["unlabelled"]
        for facts in content["teachers"].values():
            for later in ("asked", "source", "opens"):
                if facts[later] is None:
                    del facts[later]
        write_json(path, content)

    @classmethod
    def read(cls, path: Path) -> RunResult:
        """Read a file that `write` wrote, now or in an earlier version.

        Raises:
            RunError: the file is missing, no JSON, or has fields of another form; it names the first of them.
        """
        return parsed(_ADAPTER, read_json(path), path)


Direction = Literal["teacher‖token", "token‖teacher"]
_ADAPTER = TypeAdapter(RunResult)


def parsed(adapter: TypeAdapter[Any], content: Any, path: Path) -> Any:
    """Content of a result file as a typed value.

    Raises:
        RunError: a field that is missing or of another type.
    """
    try:
        return adapter.validate_python(content)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        what = "should be an object" if first["type"].startswith("dataclass") else first["msg"].lower()
        raise RunError(
            f"{path} does not have the form of a result ({place}: {what}); run the command that writes it again"
        ) from error


def tokens_of(metrics: Mapping[str, float]) -> list[str]:
    """Outputs that have an accuracy, or a mAP: `class` first, `average` of all heads last."""
    names = [key.partition("/")[2] for key in metrics if key.startswith(("accuracy/", "map/"))]
    return sorted(names, key=lambda name: (name != CLASS, name == ALL_HEADS))
