"""A trained model leaves: one target's file, checked before it gets its final name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from ..checkpoints.model_file import weights_file
from ..checkpoints.trained import load_trained
from ..errors import RunError, WriteError
from ..run.folder import RunFolder
from ..system.extras import command_for, missing
from ..system.files import atomic_file, atomic_folder
from ..system.progress import QUIET, Display
from .job import Job, Target, Written


def export(
    source: Path,
    target: Target,
    output: Path | None = None,
    *,
    images: tuple[str, ...] = (),
    max_drop: float = 0.5,
    display: Display = QUIET,
) -> tuple[Path, Written]:
    """Write a trained model in another form.

    Args:
        source: folder of a finished run, or a file of a model of ours.
        output: the file or folder to write; by default in a folder `export` beside the model's file.
        images: see `Job`.
        max_drop: see `Job`.

    Returns:
        What was written, and what came of it.

    Raises:
        RunError: the run is unfinished, a package is missing, or the output is there already or has another ending.
        CheckpointError: the model's file is missing or damaged.
        ModelError: the model cannot be written so, or what was written does not compute the same.
        WriteError: the folder cannot be written to, or the disk is full.
    """
    if not max_drop >= 0:  # nan, too
        raise RunError(f"--max-drop is {max_drop:g}, must be ≥ 0 points")
    require_packages(target)
    weights = source
    if source.is_dir():
        weights = _weights_of(source)
    place = weights.parent / "export" / target.place if output is None else output
    if place.exists() or place.is_symlink():
        raise RunError(f"{place} exists; delete it, or choose another place with --output")
    ending = Path(target.place).suffix
    if not target.folder and place.suffix != ending:  # by which every reader knows it
        raise RunError(f"--output is {place}, must end in {ending} for --to {target.name}")
    job = Job(load_trained(weights, several=True), images, max_drop, display)
    try:
        with _temporary(place, target) as temporary:
            return place, target.write(job, temporary)
    except OSError as error:
        raise WriteError(
            f"cannot write to {place}: {error.strerror or error}; check the folder and free space"
        ) from error


def require_packages(target: Target) -> None:
    """Refuse a target that needs packages which are not installed.

    Raises:
        RunError: names them, and how to get them.
    """
    if absent := missing(target.packages):
        raise RunError(f"--to {target.name} needs {', '.join(absent)}: {command_for(absent[0])}")


def _weights_of(folder: Path) -> Path:
    run = RunFolder(folder)
    if not run.finished and (folder / "recipe.yaml").is_file():
        best = f"; or export the best weights so far, {run.best}" if run.best.is_file() else ""
        raise RunError(f"{folder} holds an unfinished run{best}; or {run.way_on(1)}")
    return run.best if run.finished else weights_file(folder)


@contextlib.contextmanager
def _temporary(place: Path, target: Target) -> Iterator[Path]:
    made = [folder for folder in (place.parent, *place.parent.parents) if not folder.exists()]
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_folder(place) if target.folder else atomic_file(place) as temporary:
            yield temporary
    except BaseException:
        for folder in made:
            with contextlib.suppress(OSError):  # something else was put there
                folder.rmdir()
        raise
