"""Metrics of a run as they come: JSON lines always, TensorBoard and other trackers where the recipe wants them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np

from ..errors import RunError, WriteError, one_line
from ..recipe.schema import Run
from ..shapes import UInt8
from ..system.extras import command_for, installed
from ..system.progress import Display
from .folder import RunFolder


class Tracker:
    """Writes on the main process and does nothing elsewhere.

    Args:
        name: of the run; the project's name for trackers that have projects.
        active: whether this is the main process.
        trackers: names of trackers that Accelerate knows, such as `tensorboard` or `wandb`.
    """

    def __init__(self, folder: RunFolder, name: str, *, active: bool, trackers: Sequence[str] = ()) -> None:
        self._folder, self._name, self._active = folder, name, active
        self._wanted = tuple(trackers) if active else ()
        self._started: list[Any] | None = None
        self._clock = (0, time.monotonic())

    def start_clock(self, step: int) -> None:
        """Begin to measure throughput at this step, after a pause for evaluation."""
        self._clock = (step, time.monotonic())

    def images_per_s(self, step: int, batch_size: int) -> float:
        """Throughput since the last call, in images per second."""
        then, start = self._clock
        self._clock = (step, time.monotonic())
        return (step - then) * batch_size / max(self._clock[1] - start, 1e-9)

    def train(
        self, step: int, epoch: int, lr: float, loss: float, terms: Mapping[str, float], images_per_s: float
    ) -> None:
        """One log line of training: means since the last one."""
        line = {"kind": "train", "step": step, "epoch": epoch, "lr": lr, "loss": loss, "terms": terms}
        if self._active:
            self._folder.log({**line, "images_per_s": round(images_per_s, 1)})
        scalars = {"loss/total": loss, "lr": lr, "images_per_s": images_per_s}
        self._plot(step, scalars | {f"loss/{name}": value for name, value in terms.items()})

    def evaluation(self, step: int, epoch: int, metrics: Mapping[str, float], ema: Mapping[str, float] | None) -> None:
        """One evaluation after `epoch` completed epochs."""
        if self._active:
            self._folder.log({"kind": "eval", "step": step, "epoch": epoch, "metrics": metrics, "ema": ema})
        self._plot(step, {f"val/{name}": value for name, value in metrics.items()})
        self._plot(step, {f"val_ema/{name}": value for name, value in (ema or {}).items()})

    def images(self, step: int, draw: Callable[[], Mapping[str, Sequence[UInt8[np.ndarray, "h w 3"]]]]) -> None:
        """Images by name, all of a name of one size, for the trackers that take images; drawn where there are any.

        Nothing is done where nothing else was logged: a tracker that is started anew would drop what it has of `step`.
        """
        images = draw() if self._started else {}
        for name, tracker in zip(self._wanted, self._started or (), strict=False):
            with self._told(name):
                for title, several in images.items():
                    if name == "mlflow":
                        import mlflow

                        for place, image in enumerate(several):
                            mlflow.log_image(image, f"{title}/{place}.png")
                    elif name == "tensorboard":
                        tracker.log_images({title: np.stack(several)}, step=step, dataformats="NHWC")
                    elif hasattr(tracker, "log_images"):
                        tracker.log_images({title: list(several)}, step=step)

    def _plot(self, step: int, scalars: Mapping[str, float]) -> None:
        if self._started is None:
            # Only now: before the first step the folder must stay free.
            started = []
            for name in self._wanted:
                with self._told(name):
                    started.append(self._start(name, step))
            self._started = started
        # MLflow refuses a name with a bar.
        named = {name.replace("|", "_"): value for name, value in scalars.items()}
        for name, tracker in zip(self._wanted, self._started, strict=True):
            with self._told(name):
                tracker.log(named, step=step)

    @contextmanager
    def _told(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            why = error.strerror or one_line(error)
            raise WriteError(f"cannot write to {name} of {self._folder.path}: {why}") from error

    def _start(self, name: str, step: int) -> Any:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        if name == "tensorboard":
            # What an interrupted run wrote from this step on is superseded.
            tracker = LOGGER_TYPE_TO_CLASS[name](name, str(self._folder.path), purge_step=step)
        else:
            tracker = LOGGER_TYPE_TO_CLASS[name](self._name)
        if hasattr(tracker, "start"):  # earlier versions of Accelerate start in the constructor
            tracker.start()
        return tracker

    def close(self, failed: bool = False) -> None:
        """Flush everything; `failed` says that the run did not come to its end."""
        for name, tracker in zip(self._wanted, self._started or (), strict=False):
            if failed and name == "mlflow":
                import mlflow

                mlflow.end_run("FAILED")  # what Accelerate ends is FINISHED
            with suppress(OSError) if failed else self._told(name):  # the failure was the first word
                tracker.finish()
        self._started = []


def trackers_of(run: Run, display: Display) -> tuple[str, ...]:
    """The trackers of a run: those of its recipe, and TensorBoard unless it is not wanted or not installed."""
    if not run.tensorboard:
        return run.trackers
    if not (installed("tensorboard") or installed("tensorboardX")):
        how = f"{command_for('tensorboard')}, or run.tensorboard=false"
        display.say_once(f"no TensorBoard, which is not installed ({how}); metrics.jsonl has every number")
        return run.trackers
    return ("tensorboard", *run.trackers)


def require_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used here; to be asked on every process.

    Raises:
        RunError: one that is not installed, or that this version of Accelerate does not know.
    """
    if not names:
        return
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

    available = {str(tracker) for tracker in get_available_trackers()}
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise RunError(f"run.trackers: this version of Accelerate does not know {name}; pip install -U accelerate")
        if name not in available:
            raise RunError(f"run.trackers: {name} is not installed; pip install {name}, or leave it out")
