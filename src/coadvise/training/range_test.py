"""Learning-rate range test: real training steps while the rate rises exponentially, and what the losses say of it.

After Smith, Cyclical Learning Rates for Training Neural Networks (2017), section 3.3. Nothing of the run is touched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.optim import Optimizer

from ..advice.cache import kept_weights, require_fitting
from ..advice.request import CacheRequest
from ..data.sources.base import ImageSource
from ..data.sources.unlabelled import open_for_training
from ..data.views.finish import Batch
from ..errors import RunError
from ..models.teachers import FrozenTeacher
from ..recipe.schema import Recipe
from ..run.folder import RunFolder
from ..shapes import Float
from ..system.progress import QUIET, Display
from .advising import stored_or_live
from .loop import train_step
from .optimizer import peak_lr
from .processes import start_processes
from .published import settled
from .setup import Setup
from .state import State
from .student import new_student, normalised_otherwise
from .teachers import built_teacher, on_device
from .trial import endless, on_trial

# The test ends where the loss is so many times the lowest one.
DIVERGED = 4.0
# Standard deviation of the smoothing, in steps for the square root of their number: three for a hundred. So more steps
# mean both less noise and a sharper curve.
SMOOTHING = 0.3
# A fall counts as one from so many standard deviations of the smoothed loss on: it is the largest of many differences.
CLEAR = 6.0
# Steps without which there is nothing to smooth.
FEWEST = 10


@dataclass(frozen=True)
class RangeTest:
    """What a range test saw, by learning rates after the warm-up (`peak`, scaled to the batch).

    Attributes:
        rates, losses, smoothed: one for each step; the loss is that before the step of its rate.
        lowest: rate from which on the smoothed loss rises: training diverges from about here.
        steepest: rate at which it falls fastest, below `lowest`.
        diverged: whether the losses rose so far that the test ended before its last rate.
        clear: whether the smoothed loss fell by more than its noise explains.
    """

    rates: Float[np.ndarray, " n"]
    losses: Float[np.ndarray, " n"]
    smoothed: Float[np.ndarray, " n"]
    lowest: float
    steepest: float
    diverged: bool
    clear: bool

    @property
    def third(self) -> float:
        """A third of `lowest`."""
        return self.lowest / 3


def rise(
    step: Callable[[float], float], low: float, high: float, steps: int
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"], bool]:
    """Take steps at exponentially rising rates until the loss explodes.

    Args:
        step: takes one at a rate, and gives the loss before it.

    Returns:
        The rates and the losses of the steps that were taken, and whether the loss exploded.
    """
    rates, losses = np.geomspace(low, high, steps), list[float]()
    for rate in rates:
        losses.append(step(float(rate)))
        if not math.isfinite(losses[-1]):
            return rates[: len(losses) - 1], np.array(losses[:-1]), True
        # Three in a row: one hard batch is no explosion.
        if len(losses) > FEWEST and min(losses[-3:]) > DIVERGED * min(losses):
            return rates[: len(losses)], np.array(losses), True
    return rates, np.array(losses), False


def judged(rates: Float[np.ndarray, " n"], losses: Float[np.ndarray, " n"], diverged: bool, steps: int) -> RangeTest:
    """Smooth the losses and find the two rates.

    Args:
        steps: of a whole test, of which these may be a part.

    Raises:
        RunError: too few steps before the loss exploded, or a loss that never fell.
    """
    from scipy.ndimage import gaussian_filter1d  # comes with scikit-learn; slow to import

    if len(losses) < FEWEST:
        raise RunError(
            f"the loss was no longer finite after {len(losses)} steps, at a learning rate of {rates[-1]:.1e}; begin "
            "lower (--low), or see whether the data and the weights are sound"
        )
    # Of logarithms: an explosion would drown what came before it.
    logs = np.log(np.maximum(losses, np.finfo(np.float64).tiny))
    width = SMOOTHING * math.sqrt(steps)
    smooth = gaussian_filter1d(logs, width, mode="nearest")
    lowest = int(smooth.argmin())
    if lowest < 2:
        raise RunError(
            f"the loss did not fall at any learning rate from {rates[0]:.1e} to {rates[-1]:.1e}; give a wider range "
            "(--low, --high), or more steps (--steps)"
        )
    slope = np.gradient(smooth, np.log(rates))
    steepest = int(slope[: lowest + 1].argmin())
    # A mean under a Gaussian of that width is one of 2 √π · width independent losses.
    noise = float((logs - smooth)[: lowest + 1].std()) / math.sqrt(2 * math.sqrt(math.pi) * width)
    clear = float(smooth[: lowest + 1].max() - smooth[lowest]) > CLEAR * noise
    return RangeTest(rates, losses, np.exp(smooth), float(rates[lowest]), float(rates[steepest]), diverged, clear)


def find_lr(recipe: Recipe, low: float, high: float, steps: int, display: Display = QUIET) -> RangeTest:
    """A range test of a recipe's own training step: its student, data, teachers and loss, after the steps of
    `schedule.head_epochs` (as many of them as the test has).

    Teachers that the recipe trains take part where an earlier start has trained them; otherwise their tokens learn the
    labels here.

    Args:
        low, high: learning rates after the warm-up; `optim.lr` is scaled to the batch, these are not.

    Raises:
        CoadviseError: settings, data and models that do not fit each other; a loss that never fell.
    """
    accelerator = start_processes(recipe.run, recipe.optim)
    recipe = settled(recipe, RunFolder.of(recipe), accelerator, display)
    with accelerator.local_main_process_first():
        sources = open_for_training(recipe.data, recipe.teachers, display.say_once, several=True)
    teachers = _teachers(recipe, sources, display)
    recipe = _with_these(recipe, teachers)
    student = new_student(recipe, len(sources[0].class_names), accelerator.num_processes, None, tuple(teachers))
    if warning := normalised_otherwise(recipe, student):
        display.say(warning)
    ready = on_device(teachers, recipe.data, recipe.run.fuse_teachers, accelerator, QUIET)
    advise = stored_or_live(recipe, sources[0], teachers, ready, accelerator, display)
    with (
        on_trial(_not_compiled(recipe), sources, accelerator, student, ready, advise) as (setup, state),
        display.bar("rising", steps) as bar,
    ):
        batches = endless(setup)
        _heads_first(setup, state, batches, steps, display)

        def step(rate: float) -> float:
            set_rate(state.optimizer, rate)
            totals = [train_step(setup, state, next(batches)).total.detach() for _ in range(setup.optim.accumulate)]
            bar.advance()
            return _mean(totals, accelerator)

        rates, losses, diverged = rise(step, low, high, steps)
    return judged(rates, losses, diverged, steps)


def _not_compiled(recipe: Recipe) -> Recipe:
    """Compiling takes longer than so few steps win."""
    return recipe.model_copy(update={"run": recipe.run.model_copy(update={"compile": False})})


def _heads_first(setup: Setup, state: State, batches: Iterator[Batch], most: int, display: Display) -> None:
    """The steps in which the run lets heads and advised tokens learn alone, at its own rates: what rises afterwards is
    the rate at which all parts learn."""
    wanted = setup.schedule.head_epochs * setup.loader.steps_per_epoch
    if not wanted:
        return
    count, (waiting, norms) = min(wanted, most), setup.waiting
    of = "" if count == wanted else f" of the {wanted} of schedule.head_epochs"
    display.say(f"first {count} steps{of} in which heads and advised tokens learn alone")
    for norm in norms:
        norm.eval()
    for step in range(count):
        setup.scheduler.step_update(step)
        for _ in range(setup.optim.accumulate):
            train_step(setup, state, next(batches), waiting)
    setup.model.train()


def set_rate(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of all groups; those with a factor of their own keep it."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_scale", 1.0)


def as_setting(recipe: Recipe, rate: float) -> float:
    """The `optim.lr` that gives a rate after the warm-up: the inverse of its scaling to the batch."""
    return rate * recipe.optim.lr / peak_lr(recipe.optim)


def _mean(totals: list[Tensor], accelerator: Accelerator) -> float:
    return float(accelerator.reduce(torch.stack(totals).double().mean(), "mean").item())  # type: ignore[union-attr]


def _teachers(
    recipe: Recipe, sources: tuple[ImageSource, ImageSource], display: Display
) -> Mapping[str, FrozenTeacher]:
    """The teachers that are there: not those which the run would train first."""
    weights = {}
    if recipe.advice.source == "cache":
        require_fitting(CacheRequest.of(recipe), sources[0])
        weights = kept_weights(CacheRequest.of(recipe))
    loaded = {}
    for name, settings in recipe.teachers.items():
        run = RunFolder.of(recipe).teacher(name)
        found = weights.get(name) or (run.best if run.finished else None)
        if settings.train is not None and found is None:
            display.say(f"teacher {name} is still to be trained; its token learns the labels in this test")
            continue
        loaded[name] = built_teacher(
            recipe, name, found if settings.train is not None else None, sources[0].class_names
        )
    return loaded


def _with_these(recipe: Recipe, teachers: Mapping[str, FrozenTeacher]) -> Recipe:
    """The recipe without settings of teachers that take no part."""
    loss, tokens = recipe.loss, recipe.tokens()
    kept: dict[str, Any] = {
        "weights": {name: one for name, one in loss.weights.items() if name in teachers or name in tokens},
        "temperatures": {name: one for name, one in loss.temperatures.items() if name in teachers},
    }
    if loss.gate == "harder" and len(teachers) < 2:  # it chooses between teachers
        kept |= {"gate": "none", "gate_drop": None}
    return recipe.model_copy(update={"loss": loss.model_copy(update=kept)})
