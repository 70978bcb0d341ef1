"""Damaged inputs of every format, sixty or more: each is read, or refused by an error that names its file."""

from __future__ import annotations

import pytest

from fuzz.engine import Limits, available, read_inputs
from fuzz.report import tally
from fuzz.targets import TARGETS

pytestmark = pytest.mark.skipif(not available(), reason="limits of time and memory need Linux")

# As many as take a second or two; `make fuzz` reads 10,000 of each.
INPUTS = {"recipe": 120, "setting": 200, "training state": 60, "pickle": 60}


@pytest.mark.parametrize("name", TARGETS)
def test_damaged_inputs_are_read_or_refused(name: str) -> None:
    found = tally(read_inputs(name, TARGETS[name], range(INPUTS.get(name, 80)), Limits()))
    assert not found.failed, "\n".join(found.lines())
    assert found.outcomes["read"] > 2 and found.outcomes["refused"] > 40, "both must be tried"
