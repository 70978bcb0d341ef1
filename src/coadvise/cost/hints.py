"""What a measured step says: what waits for what, and which setting would change it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ..recipe.schema import Recipe
from .step import StepCost

# Shares from which on something is said.
WAITS, IDLE, TEACHERS, NEAR_PEAK = 0.1, 0.1, 0.4, 0.4


def hints(cost: StepCost, recipe: Recipe, cores: int) -> list[str]:
    """Sentences, the one that matters most first; at least one.

    Args:
        cores: of this machine.
    """
    return [*itertools.chain(_input(cost, recipe, cores), _host(cost), _teachers(cost))] or [_largest(cost)]


def _input(cost: StepCost, recipe: Recipe, cores: int) -> Iterator[str]:
    if cost.waiting < WAITS:
        return
    waits = f"the device waits for its input {cost.waiting:.0%} of the time"
    workers = recipe.data.workers
    if cost.stays:
        yield f"{waits}, though the images stay on it: a larger optim.batch_size draws for more of them at once"
    elif workers < cores - 1:
        yield f"{waits}: raise data.workers (now {workers}, of {cores} cores)"
    elif recipe.data.augment.policy == "deit":
        yield f"{waits}, and no core is free: smaller image files, or data.augment.policy=light, cost less of them"
    else:
        yield f"{waits}, and no core is free: smaller image files cost less of them"


def _host(cost: StepCost) -> Iterator[str]:
    found = cost.profile
    if found is None or found.busy is None or 1 - found.busy < IDLE:
        return
    synchronised = sum(count for name, count in found.waits.items() if name.startswith("cuda"))
    why = f"{found.launches:,.0f} launches a step are more than the host makes in time"
    if synchronised >= 1:
        why = f"the host stops {synchronised:.0f} times a step to wait for it"
    change = "" if "compiled" in cost.compiled and "not" not in cost.compiled else "run.compile=true or "
    yield f"the device does nothing {1 - found.busy:.0%} of a step: {why}; {change}a larger optim.batch_size helps"


def _teachers(cost: StepCost) -> Iterator[str]:
    if cost.advised >= TEACHERS:
        yield (
            f"teachers take {cost.advised:.0%} of the step: `coadvise plan` says from when on stored advice "
            "(advice=cache) pays"
        )


def _largest(cost: StepCost) -> str:
    computed = {name: seconds for name, seconds in cost.parts.items() if name != "input"}
    name = max(computed, key=lambda part: computed[part])
    if cost.of_peak >= NEAR_PEAK:
        return f"nothing waits, and {cost.of_peak:.0%} of a matrix product's speed is reached: take a smaller model"
    return f"nothing waits; the largest part is {name}, {computed[name] / cost.whole:.0%} of the step"
