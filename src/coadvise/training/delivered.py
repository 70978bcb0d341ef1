"""What a run delivers, measured at its end: the weights of `best.safetensors`, in float32, as whoever loads them asks.

The evaluations while training are in the run's precision, and the last one is of the weights after the last epoch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from ..errors import CheckpointError
from ..models.students import classifier_of
from ..run.answers import Answers
from ..run.calibration import calibration_errors
from ..run.several import SeveralAnswers
from .loop import collected_answers, evaluate_on
from .setup import Setup
from .state import State


@dataclass(frozen=True)
class Delivered:
    """Metrics of the weights that a run delivers, by name, and their answers image by image."""

    metrics: Mapping[str, float]
    answers: Answers | SeveralAnswers


@contextmanager
def delivered_weights(setup: Setup, state: State) -> Iterator[nn.Module]:
    """The student in evaluation mode with the weights that the run delivers, on every process; afterwards as it was.

    Raises:
        CheckpointError: a file that is damaged.
    """
    student, path = classifier_of(state.student), setup.folder.best
    own = {name: value.detach().clone() for name, value in student.state_dict().items()}
    training = state.student.training
    try:
        if setup.accelerator.is_main_process:
            try:
                student.load_state_dict(load_file(path))
            except SafetensorError as error:
                raise CheckpointError(f"{path} cannot be read ({error}); train the run again") from error
        if setup.accelerator.num_processes > 1:
            for value in student.state_dict().values():
                broadcast(value, from_process=0)
        # What was compiled for training would be compiled again for another precision.
        with torch.compiler.set_stance("force_eager"):
            yield state.student.eval()
    finally:
        student.load_state_dict(own)
        state.student.train(training)


def measure_delivered(setup: Setup, state: State, student: nn.Module) -> Delivered:
    """Measure the delivered weights and write their answers, beside those of the teachers; on every process.

    Args:
        student: with these weights.
    """
    task, main, count = setup.validation.task, setup.accelerator.is_main_process, state.count
    collected = task.collect()
    metrics, _ = evaluate_on(setup, student, with_teachers=False, collected=collected, precise=True)
    found = collected_answers(setup, collected)
    found = dataclasses.replace(found, weights=count.best_weights, epoch=count.best_epoch)
    if main:
        before = task.read(setup.folder.answers) if setup.folder.answers.is_file() else None
        if before is not None and np.array_equal(before.index, found.index):
            found = dataclasses.replace(found, teachers=before.teachers)
        found.write(setup.folder.answers)
    if isinstance(found, Answers):
        metrics |= calibration_errors(found)
    return Delivered(metrics, found)
