"""What a target is given to write a file from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from ..checkpoints.trained import TrainedModel
from ..system.progress import QUIET, Display
from .card import Card, card_of
from .images import CheckImages, check_images


@dataclass(frozen=True)
class Job:
    """One export.

    Attributes:
        trained: the model on the CPU, in evaluation mode; what is exported is its `forward`.
        images: image files, folders or patterns to check the result on; by default the run's validation images.
        max_drop: points of accuracy that int8 may lose.
        display: where notes and progress bars go.
    """

    trained: TrainedModel
    images: tuple[str, ...] = ()
    max_drop: float = 0.5
    display: Display = QUIET

    @cached_property
    def card(self) -> Card:
        """What the file will say of itself."""
        return card_of(self.trained)

    @cached_property
    def check(self) -> CheckImages:
        """The images to check the file on; read once."""
        return check_images(self.trained, self.images)


@dataclass(frozen=True)
class Written:
    """What came of an export, in lines for people and as facts for the record."""

    lines: tuple[str, ...] = ()
    facts: dict[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """A form in which a model leaves.

    Attributes:
        name: what `--to` is given.
        place: name of the file, or of the folder, in the run's folder `export`.
        summary: what it is good for, for the help.
        write: writes to a path that is not yet the final one: an empty file, or for `folder` an empty folder. What it
            leaves there gets its final name when it returns, and is removed when it raises. It checks what it wrote
            before it returns.
        folder: whether it writes a folder.
        packages: modules that it needs beside coadvise's own, as they are imported.
    """

    name: str
    place: str
    summary: str
    write: Callable[[Job, Path], Written]
    folder: bool = False
    packages: tuple[str, ...] = ()
