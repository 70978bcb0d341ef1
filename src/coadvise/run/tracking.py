"""Metrics of a run on disk: JSON lines always, TensorBoard where it is wanted."""

from __future__ import annotations

import time
from typing import Any

from .folder import RunFolder


class Tracker:
    """Writes on the main process and does nothing elsewhere.

    Args:
        folder: the run's folder.
        active: whether this is the main process.
        tensorboard: whether to write TensorBoard event files, too.
    """

    def __init__(self, folder: RunFolder, *, active: bool, tensorboard: bool) -> None:
        self._folder = folder
        self._active = active
        self._tensorboard = active and tensorboard
        self._board: Any = None
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
        self, step: int, epoch: int, lr: float, loss: float, terms: dict[str, float], images_per_s: float
    ) -> None:
        """One log line of training: means since the last one."""
        line = {"kind": "train", "step": step, "epoch": epoch, "lr": lr, "loss": loss, "terms": terms}
        self._write({**line, "images_per_s": round(images_per_s, 1)})
        scalars = {"loss/total": loss, "lr": lr, "images_per_s": images_per_s}
        self._plot(step, scalars | {f"loss/{name}": value for name, value in terms.items()})

    def evaluation(self, step: int, epoch: int, metrics: dict[str, float], ema: dict[str, float] | None) -> None:
        """One evaluation after `epoch` completed epochs."""
        self._write({"kind": "eval", "step": step, "epoch": epoch, "metrics": metrics, "ema": ema})
        self._plot(step, {f"val/{name}": value for name, value in metrics.items()})
        self._plot(step, {f"val_ema/{name}": value for name, value in (ema or {}).items()})

    def _write(self, line: dict[str, Any]) -> None:
        if self._active:
            self._folder.log(line)

    def _plot(self, step: int, scalars: dict[str, float]) -> None:
        if not self._tensorboard:
            return
        if self._board is None:
            from torch.utils.tensorboard import SummaryWriter  # slow to import

            # Only now: before the first step the folder must stay free. What an interrupted run wrote from this
            # step on is superseded.
            self._board = SummaryWriter(str(self._folder.path / "tensorboard"), purge_step=step)
        for name, value in scalars.items():
            self._board.add_scalar(name.replace("|", "_"), value, step)

    def close(self) -> None:
        """Flush everything."""
        if self._board is not None:
            self._board.close()
