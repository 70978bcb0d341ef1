"""Metrics reach TensorBoard and other trackers as they stand in metrics.jsonl."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any, ClassVar

import accelerate.tracking
import numpy as np
import pytest
from helpers.recipes import tiny
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from coadvise.errors import RunError
from coadvise.run.folder import RunFolder, read_metrics
from coadvise.run.pictures import read_pictures
from coadvise.run.tracking import Tracker
from coadvise.system.progress import Display
from coadvise.training.train import train


class Fake:
    """Stands for a tracker that is not installed here."""

    told: ClassVar[list[tuple[int, dict[str, float]]]] = []
    ended: ClassVar[list[str]] = []

    def __init__(self, name: str) -> None:
        self.name = name

    def start(self) -> None:
        self.ready = True

    def log(self, values: dict[str, float], step: int) -> None:
        assert self.ready
        self.told.append((step, values))

    def finish(self) -> None:
        self.ended.append(self.name)


def test_tensorboard_and_another_tracker_have_every_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard", "wandb"])
    monkeypatch.setattr(Fake, "told", [])
    monkeypatch.setattr(Fake, "ended", [])
    changes: dict[str, Any] = {"run.tensorboard": True, "run.trackers": ["wandb"], "optim.ema": 0.9}
    train(tiny(tmp_path / "run", changes | {"schedule.epochs": 2}), display=Display(quiet=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    expected: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(tmp_path / "run" / "metrics.jsonl"):
        if line["kind"] == "train":
            values = {
                "loss/total": line["loss"],
                "lr": line["lr"],
                **{f"loss/{k}": v for k, v in line["terms"].items()},
            }
        else:
            values = {f"val/{k}": v for k, v in line["metrics"].items()}
            values |= {f"val_ema/{k}": v for k, v in line["ema"].items()}
        for name, value in values.items():
            expected.setdefault(name, []).append((line["step"], value))
    for name, series in expected.items():
        written = [(event.step, event.value) for event in events.Scalars(name)]
        told = [(step, values[name]) for step, values in Fake.told if name in values]
        for (step, value), (there, found) in zip(series, written, strict=True):
            assert there == step and found == pytest.approx(value, rel=1e-6)
        assert told == series
    assert Fake.ended == ["tiny"]


def test_a_tracker_that_is_not_installed_is_named_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"run.trackers: mlflow is not installed; pip install mlflow, or leave it out"):
        train(tiny(tmp_path / "run", {"run.trackers": ["mlflow"]}), display=Display(quiet=True))
    assert not (tmp_path / "run").exists()


def test_one_tracker_may_be_a_word_and_counts_once(tmp_path: Path) -> None:
    assert tiny(tmp_path, {"run.trackers": "wandb"}).run.trackers == ("wandb",)
    assert tiny(tmp_path, {"run.trackers": ["wandb", "wandb"]}).run.trackers == ("wandb",)
    # What is tracked decides nothing: such a run is the one that it was.
    assert tiny(tmp_path, {"run.trackers": "wandb"}).fingerprint() == tiny(tmp_path).fingerprint()


def test_trackers_end_when_a_run_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "wandb", Fake)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["wandb"])
    monkeypatch.setattr(Fake, "ended", [])
    changes: dict[str, Any] = {"run.trackers": ["wandb"], "optim.lr": 1e30, "optim.clip": None}
    with pytest.raises(RunError, match="not finite"):
        train(tiny(tmp_path / "run", changes), display=Display(quiet=True))
    assert Fake.ended == ["tiny"]


def test_trackers_are_shown_mistakes_and_the_confusion_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorBoard's own reader finds them, at the last step; a tracker that takes no images gets none."""
    monkeypatch.setitem(accelerate.tracking.LOGGER_TYPE_TO_CLASS, "trackio", Fake)
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard", "trackio"])
    changes: dict[str, Any] = {"run.tensorboard": True, "run.trackers": ["trackio"], "schedule.epochs": 1}
    train(tiny(tmp_path / "run", changes | {"schedule.warmup_epochs": 0}), display=Display(quiet=True))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"), size_guidance={"images": 0})
    events.Reload()
    names = events.Tags()["images"]
    assert {name.partition("/")[0] for name in names} >= {"confusion matrix", "surest mistakes"}
    shown = read_pictures(tmp_path / "run" / "pictures.json")["surest mistakes"]
    for name in names:
        (event, *_) = events.Images(name)
        assert event.step == 5
    with Image.open(io.BytesIO(events.Images("surest mistakes")[0].encoded_image_string)) as image:
        assert image.size == (112 * len(shown), 112)  # TensorBoard puts them side by side
        strip = np.asarray(image.convert("RGB")).astype(float)
    for place, one in enumerate(shown):
        with Image.open(io.BytesIO(base64.b64decode(one.jpeg))) as picture:
            square = np.asarray(picture.convert("RGB").resize((112, 112), Image.Resampling.BICUBIC))
        assert np.abs(strip[:, 112 * place : 112 * (place + 1)] - square).mean() < 2


def test_nothing_is_drawn_where_nobody_takes_images(tmp_path: Path) -> None:
    tracker = Tracker(RunFolder(tmp_path), "tiny", active=True)
    tracker.evaluation(5, 1, {"accuracy/class": 0.5}, None)
    tracker.images(5, lambda: pytest.fail("drawn for nobody"))
