"""The folder of a run: what is in it, and when it may be started, resumed or left alone.

recipe.yaml        the whole recipe, defaults written out
manifest.json      provenance
metrics.jsonl      one line for each log step and each evaluation
last.safetensors   everything a resume needs
best.safetensors   weights with the best validation accuracy, ready for `coadvise predict`
answers.safetensors   what the best weights answer for each validation image, and pictures.json some of these images;
                      attention.json has where the tokens look in a few
result.json        written last: its presence means the run is finished
teachers/NAME/     runs of the teachers that the recipe trains first
baselines/         what one would do instead: measured.json, and NAME/best.safetensors with a linear probe as last layer
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import RunError, WriteError
from ..recipe.reading import dump_recipe, load_recipe
from ..recipe.schema import FREE, Recipe, flat
from ..recipe.teacher import scaled
from ..system.files import read_json, remove_leftovers, write_atomic, write_json
from ..system.locks import HeldByAnother, held, locked_by_another
from .reading import read_metric_lines
from .result import RunResult

_ELSEWHERE = "choose another folder with run.output=FOLDER"
# Settings that say where images lie.
_PLACES = ("data.source ", "data.val_source ")
WRITTEN = (
    "recipe.yaml", "manifest.json", "metrics.jsonl", "last.safetensors", "best.safetensors", "answers.safetensors",
    "pictures.json", "attention.json", "result.json",
)  # fmt: skip


class RunFolder:
    """Paths and files of one run; only the main process writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last = path / "last.safetensors"
        self.best = path / "best.safetensors"
        self.metrics = path / "metrics.jsonl"
        self.teachers = path / "teachers"
        self.answers = path / "answers.safetensors"
        self.pictures = path / "pictures.json"
        self.looks = path / "attention.json"
        self.baselines = path / "baselines"
        self._result = path / "result.json"
        self._lock = path / ".run.lock"

    @classmethod
    def of(cls, recipe: Recipe) -> RunFolder:
        """The folder in which a recipe's run lies."""
        return cls(Path(recipe.run.output or f"runs/{recipe.name}"))

    def teacher(self, name: str) -> RunFolder:
        """The folder of a teacher's run."""
        return RunFolder(self.teachers / name)

    @property
    def finished(self) -> bool:
        """Whether the run has ended normally."""
        return self._result.is_file()

    @property
    def whole(self) -> bool:
        """Whether the run has ended normally and its weights are still there: they may be left behind in a copy."""
        return self.finished and self.best.is_file()

    def forget_result(self) -> None:
        """Let a finished run whose weights are gone be trained anew."""
        self._result.unlink()

    def result(self) -> RunResult:
        """The result of a finished run.

        Raises:
            RunError: it is missing or damaged.
        """
        return RunResult.read(self._result)

    def check(self, recipe: Recipe, resume: bool) -> None:
        """Refuse to start where something would be lost or mixed up.

        Raises:
            RunError: a finished run, an unfinished run without `resume`, another recipe, or a foreign folder.
        """
        if not self.path.exists():
            if resume:
                raise RunError(f"nothing to resume: {self.path} does not exist; start without --resume")
            return
        if not self.path.is_dir():
            raise RunError(f"{self.path} is a file; {_ELSEWHERE}")
        if locked_by_another(self._lock):  # before a message says how to go on with it
            raise RunError(self._in_use(self._lock.read_text(errors="replace")))
        self._require_free(recipe, resume)

    @contextmanager
    def checked(self, recipe: Recipe, resume: bool) -> Iterator[None]:
        """`check` as a block, for one process that decides for others."""
        self.check(recipe, resume)
        yield

    def _require_free(self, recipe: Recipe, resume: bool) -> None:
        recipe_file = self.path / "recipe.yaml"
        if not (recipe_file.is_file() and (self.path / "manifest.json").is_file()):
            # `begin` may have been killed between its two files; the first says whose it is.
            ours = {"teachers", "manifest.json"} if self._begun() else {"teachers"}
            if any(path.name not in ours and not path.name.startswith(".") for path in self.path.iterdir()):
                raise RunError(f"{self.path} holds other files; {_ELSEWHERE}")
            return
        if self.finished:
            self._require_no_more_epochs(recipe)
        if self.finished or self.last.is_file():
            self.require_same(recipe)
        if self.finished:
            how = f"see it with `coadvise report {self.path}`"
            raise RunError(f"{self.path} holds a finished run; {how}, or {_ELSEWHERE}")
        if self.last.is_file() and not resume:
            raise RunError(f"{self.path} holds an unfinished run; go on with --resume, or {_ELSEWHERE}")

    @contextmanager
    def owned(self, recipe: Recipe, resume: bool) -> Iterator[bool]:
        """Keep other processes from this run while the block lasts; the system frees it however this one ends.

        Yields:
            Whether they are kept from it: some network file systems have no locks.

        Raises:
            RunError: another process has the run, or did something to it since `check`; the folder cannot be written
                to.
        """
        made = not self.path.exists()
        try:
            with ExitStack() as stack:
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    locked = stack.enter_context(held(self._lock))
                except HeldByAnother as error:
                    raise RunError(self._in_use(str(error))) from None
                except OSError as error:
                    why = error.strerror or error
                    raise WriteError(f"cannot write to {self.path}: {why}; {_ELSEWHERE}") from error
                self._require_free(recipe, resume)
                if locked:
                    remove_leftovers(self.path, WRITTEN)
                yield locked
        finally:
            if made:
                with suppress(OSError):  # something was begun
                    self.path.rmdir()

    def _in_use(self, owner: str) -> str:
        return (
            f"{self.path} is being trained by {owner}; wait for its end or stop it, and then go on with "
            f"--resume, or {_ELSEWHERE}"
        )

    def _begun(self) -> bool:
        path = self.path / "manifest.json"
        manifest = read_json(path) if path.is_file() else None
        return isinstance(manifest, dict) and {"fingerprint", "command", "versions"} <= set(manifest)

    def require_same(self, recipe: Recipe) -> None:
        """Refuse a run of another recipe.

        Raises:
            RunError: names every setting that differs, as `optim.lr 0.001 → 0.002`.
        """
        old = load_recipe(self.path / "recipe.yaml")
        before, after = flat(old.model_dump(mode="json")), flat(recipe.model_dump(mode="json"))
        changes = [
            f"{key} {json.dumps(before.get(key))} → {json.dumps(after.get(key))}"
            for key in sorted(before.keys() | after.keys())
            if before.get(key) != after.get(key) and key not in FREE
        ]
        if changes:
            how = "use the same settings"
            if all(change.startswith(_PLACES) for change in changes):
                how += " (data that only moved need a link at the old place)"
            raise RunError(f"{self.path} holds a run of another recipe ({'; '.join(changes)}); {how}, or {_ELSEWHERE}")

    def _require_no_more_epochs(self, recipe: Recipe) -> None:
        schedule, wanted = load_recipe(self.path / "recipe.yaml").schedule, recipe.schedule.epochs
        if wanted <= schedule.epochs:
            return
        more = wanted - schedule.epochs
        words = ["coadvise", "train", str(self.path / "recipe.yaml"), f"schedule.epochs={more}"]
        words += ["schedule.warmup_epochs=0"] if schedule.warmup_epochs >= more else []
        words += ["schedule.head_epochs=0"] if schedule.head_epochs else []  # the heads are trained already
        if schedule.decay_epochs is not None:
            words += [f"schedule.decay_epochs={json.dumps(scaled(schedule.decay_epochs, more / schedule.epochs))}"]
        words += [f"student.checkpoint={self.best}", f"run.output={self.path}-more"]
        raise RunError(
            f"{self.path} holds a run that finished after {schedule.epochs} epochs, and cannot go on to {wanted}: its "
            f"learning rate has come down for the last time. Train all {wanted} in another folder (run.output=FOLDER), "
            f"or begin a new run from its best weights:\n  {shlex.join(words)}"
        )

    def begin(self, recipe: Recipe, manifest: dict[str, Any]) -> None:
        """Write the recipe and the provenance; metrics of a start that left no checkpoint are dropped."""
        write_json(self.path / "manifest.json", manifest)
        write_atomic(self.path / "recipe.yaml", dump_recipe(recipe))
        self.rewind(0)

    def log(self, line: dict[str, Any]) -> None:
        """Append one line to the metrics.

        Raises:
            WriteError: the disk is full or read-only, or the folder is gone.
        """
        try:
            with self.metrics.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise WriteError(f"cannot write to {self.metrics}: {error.strerror or error}") from error

    def rewind(self, step: int) -> None:
        """Drop metrics after `step`, and a line that a crash left half written."""
        kept = [line for line in read_metrics(self.metrics) if line["step"] <= step]
        write_atomic(self.metrics, "".join(json.dumps(line) + "\n" for line in kept))

    def finish(self, result: RunResult) -> None:
        """Mark the run as finished."""
        result.write(self._result)

    def how_to_resume(self, processes: int) -> str:
        """What is said of a run that was saved: the command that goes on."""
        return f"everything is saved; go on with:\n  {self._command(processes)}"

    def way_on(self, processes: int) -> str:
        """What to do with a run that was not saved just now, for a message."""
        if not (self.path / "recipe.yaml").is_file():
            return "use the same command again"
        start = "go on from the last checkpoint" if self.last.is_file() else "start again (no checkpoint is there yet)"
        return f"{start} with:\n  {self._command(processes)}"

    def _command(self, processes: int) -> str:
        machines = int(os.environ.get("GROUP_WORLD_SIZE", 1))  # as torchrun counts them
        # Where they meet is not known here.
        nodes = f"--nnodes {machines} --rdzv-backend c10d --rdzv-endpoint HOST:29500 " if machines > 1 else ""
        launcher = f"torchrun {nodes}--nproc-per-node {processes // machines} -m " if processes > 1 else ""
        words = ["coadvise", "train", str(self.path / "recipe.yaml"), f"run.output={self.path}", "--resume"]
        return launcher + shlex.join(words)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """Lines of a metrics file; a last line cut off by a crash is left out."""
    return iter(read_metric_lines(path)[0])
