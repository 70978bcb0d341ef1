"""The files a report is made of, read leniently: what is missing or broken becomes a note, not a crash.

A demo may have been stopped half-way and a run may have been killed while it wrote a line; a report of the
rest is worth more than none.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import RunError
from ..run.reading import Run, _read_object, read_run
from .plots.disagreement import Disagreement


@dataclass(frozen=True)
class Arm:
    """One way of training, repeated over seeds; `runs` holds the finished ones."""

    id: str
    label: str
    biases: Sequence[str | None]
    runs: Sequence[Run]

    @property
    def kind(self) -> Literal["labels", "one", "same", "cross"]:
        """Labels only, one teacher, several teachers of one bias, or teachers of different biases."""
        if len(self.biases) < 2:
            return "one" if self.biases else "labels"
        return "cross" if len(set(self.biases)) > 1 else "same"

    @property
    def by_seed(self) -> dict[int | None, float]:
        """Top-1 of the class token by seed, as shares."""
        return {run.seed: run.accuracy for run in self.runs if run.accuracy is not None}

    @property
    def teachers(self) -> list[str]:
        """Names of the teachers, in the order of the first run that has them."""
        return list(dict.fromkeys(name for run in self.runs for name in run.result.get("teachers") or {}))

    @property
    def tokens(self) -> list[str]:
        """Names of the outputs over all runs."""
        return list(dict.fromkeys(name for run in self.runs for name in run.tokens))


@dataclass(frozen=True)
class TeacherRun:
    """A teacher and the run that trained it, None where that has not finished."""

    name: str
    label: str
    model: str | None
    run: Run | None


@dataclass(frozen=True)
class Demo:
    """Everything a demo's report is made of; `notes` say what is missing or was left out."""

    title: str
    arms: Sequence[Arm]
    teachers: Sequence[TeacherRun]
    comparisons: Sequence[tuple[str, str]]
    classes: Sequence[str]
    images: Sequence[Disagreement]
    notes: Sequence[str]

    def arm(self, arm_id: str) -> Arm | None:
        """The arm with that id."""
        return next((arm for arm in self.arms if arm.id == arm_id), None)

    def teacher_label(self, name: str) -> str:
        """What the reader calls the teacher; with its name where two teachers share a label."""
        labels = [teacher.label for teacher in self.teachers]
        for teacher in self.teachers:
            if teacher.name == name:
                return teacher.label if labels.count(teacher.label) == 1 else f"{teacher.label} ({name})"
        return name


def read_demo(folder: Path) -> Demo:
    """The demo in `folder`, with notes on everything that is missing.

    Raises:
        RunError: there is no readable demo.json.
    """
    if not (folder / "demo.json").is_file():
        raise RunError(f"{folder} holds no demo.json; run `coadvise demo` first, or name the folder it wrote")
    plan = _read_object(folder / "demo.json")
    notes: list[str] = []
    try:
        arms = [_read_arm(folder, entry, notes) for entry in plan.get("arms", [])]
        teachers = [_read_teacher(folder, entry, notes) for entry in plan.get("teachers", [])]
        comparisons = [(str(a), str(b)) for a, b in plan.get("comparisons", [])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        message = f"{folder / 'demo.json'} does not have the form that `coadvise demo` writes ({error!r})"
        raise RunError(f"{message}; run the demo again") from error
    known = {arm.id for arm in arms}
    for a, b in [pair for pair in comparisons if not known.issuperset(pair)]:
        notes.append(f"The comparison of {a} with {b} names an arm that this demo does not have.")
    classes, images = read_disagreements(folder / "disagreements.json", notes)
    title = str(plan.get("title") or "Co-advised training")
    return Demo(title, arms, teachers, comparisons, classes, images, notes)


def _read_arm(folder: Path, entry: Mapping[str, Any], notes: list[str]) -> Arm:
    label = str(entry.get("label") or entry["id"])
    runs: list[Run] = []
    for path in entry.get("runs", []):
        run = _finished(folder, path, f"{label}", notes)
        if run is None:
            continue
        if run.seed in {other.seed for other in runs}:
            notes.append(f"{label}: {path} repeats seed {run.seed} and is left out.")
            continue
        runs.append(run)
    return Arm(str(entry["id"]), label, list(entry.get("biases") or []), runs)


def _read_teacher(folder: Path, entry: Mapping[str, Any], notes: list[str]) -> TeacherRun:
    name, path = str(entry["name"]), entry.get("run")
    label = str(entry.get("label") or name)
    run = _finished(folder, path, f"teacher {label}", notes) if path else None
    model = entry.get("model") or (run and (run.result.get("student") or {}).get("model"))
    return TeacherRun(name, label, model or None, run)


def _finished(folder: Path, path: str, who: str, notes: list[str]) -> Run | None:
    """The run at `path`, or None with a note on why it cannot be used."""
    try:
        run = read_run(folder / path, path)
    except RunError as error:
        there = (folder / path / "result.json").is_file()
        notes.append(f"{who}: {path} " + (f"is left out: {error}." if there else "is missing."))
        return None
    if not run.result:
        epoch = max((line.get("epoch", 0) for line in run.lines), default=0)
        notes.append(f"{who}: {path} has not finished (last line: epoch {epoch}).")
        return None
    if run.accuracy is None:
        notes.append(f"{who}: {path} has no finite accuracy of the class token and is left out.")
        return None
    if run.bad_lines:
        notes.append(f"{who}: {run.bad_lines} unreadable line(s) of {path}/metrics.jsonl are left out.")
    skipped = {part: n for part, n in (run.result.get("skipped") or {}).items() if n}
    for part, n in skipped.items():
        notes.append(f"{who}: {path} skipped {n} unreadable image(s) of the {part} set.")
    return run


def read_disagreements(path: Path, notes: list[str]) -> tuple[list[str], list[Disagreement]]:
    """Class names and images of a file that `disagreement.disagreements` wrote; problems are added to `notes`."""
    if not path.is_file():
        notes.append(f"There is no {path.name}, so the figure of single images is missing.")
        return [], []
    try:
        value = _read_object(path)
    except RunError as error:
        notes.append(f"The figure of single images is missing: {error}.")
        return [], []
    classes = [str(name) for name in value.get("classes", [])]
    images = []
    for position, entry in enumerate(value.get("images", [])):
        try:
            images.append(_disagreement(entry, len(classes)))
        except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
            notes.append(f"Image {position + 1} of {path.name} is left out: {error!r}.")
    return classes, images


def _disagreement(entry: Mapping[str, Any], classes: int) -> Disagreement:
    outputs = {str(name): [float(p) for p in row] for name, row in entry["outputs"].items()}
    label = int(entry["label"])
    if not 0 <= label < classes:
        raise ValueError(f"label {label} of {classes} classes")
    for name, row in outputs.items():
        if len(row) != classes or not all(math.isfinite(p) for p in row):
            raise ValueError(f"{name} needs {classes} finite probabilities")
    png = base64.b64decode(entry["png"], validate=True)
    if not png.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("no PNG")
    return Disagreement(png, int(entry.get("index", -1)), label, outputs)
