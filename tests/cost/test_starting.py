"""What `init` says of a pretrained teacher: on how many images it is right, and on which."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from coadvise.cost import starting
from coadvise.evaluation.probed import Probed
from coadvise.recipe.schema import Data


@pytest.mark.parametrize("part", [False, True])
def test_a_teacher_that_was_asked_about_a_part_is_not_called_so_good_on_all(
    part: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starting, "probed_teacher", lambda *args, **options: Probed(0.9, 5000, part, "resnet18"))
    looked = SimpleNamespace(data=Data(source="digits"), sources=())
    want: Any = SimpleNamespace(
        size=64, crop=1.0, device=torch.device("cpu"), looked=looked, path=Path("conv.safetensors"), display=None
    )
    teacher, (note,) = starting._probed(want, "resnet18", None)
    assert ("right on 90.0% of 5000 validation images (a part, its classes in balance):" in note) == part
    assert teacher.accuracy == (None if part else 0.9)  # which the recipe says of all validation images
