"""The parts of a training step."""

from __future__ import annotations

from helpers.recipes import CNN, INN, tiny

from coadvise.cost.step import step_cost


def test_the_parts_of_a_step(tmp_path):
    recipe = tiny(tmp_path, teachers={"conv": CNN, "inv": INN})
    cost = step_cost(recipe, rounds=2)
    names = [f"teacher {name}" for name in recipe.teachers]
    assert list(cost.parts) == ["input", *names, "student forward", "backward", "optimizer"]
    assert all(value > 0 for value in cost.parts.values()) and cost.flops > 0 and 0 < cost.of_peak < 1
    assert cost.whole < 3 * sum(cost.parts.values())
