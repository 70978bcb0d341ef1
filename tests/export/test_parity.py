"""Whether logits of a file count as the model's: a naive loop in Python's numbers is the oracle."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from coadvise.errors import ModelError
from coadvise.evaluation.probe import Head, with_head
from coadvise.export.images import CheckImages
from coadvise.export.parity import TOLERANCE, require_parity
from coadvise.models.deviation import deviation
from coadvise.models.students import as_student


class Small(nn.Module):
    """A network as timm has them: features, and a last layer that can be replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.num_classes, self.fc = 4, nn.Linear(3, 4)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, classes: int) -> None:
        self.num_classes, self.fc = classes, nn.Linear(3, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(x.mean(dim=(2, 3)))


def probed() -> Any:
    """A linear probe that has seen three of four classes, and images."""
    torch.manual_seed(0)
    model, rng = as_student(Small()), np.random.default_rng(0)
    assert with_head(model, Head(rng.normal(size=(3, 3)) * 4, rng.normal(size=3), np.array([0, 2, 3])), 4)
    return SimpleNamespace(trained=SimpleNamespace(model=model), check=CheckImages(torch.randn(9, 3, 6, 6), "noise"))


@pytest.mark.parametrize(("off", "place", "right"), [
    (0.5, (0, 2, 3), False), (1e-2, (0, 2, 3), False), (2e-5, (0, 2, 3), True), (0.5, (1,), True), (9e3, (1,), False),
])  # fmt: skip
def test_a_class_without_images_does_not_make_others_look_alike(off: float, place: tuple, right: bool) -> None:
    job = probed()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = job.trained.model(torch.from_numpy(images)).numpy().copy()
        assert (found[:, 1] == -1e4).all()
        found[:, list(place)] += np.float32(off)  # of all of them, so that the top class stays
        return found

    if right:
        assert require_parity(job, logits, "engine").same == 9
    else:
        with pytest.raises(ModelError, match="engine does not compute what the model computes"):
            require_parity(job, logits, "engine")


def test_deviation_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    for scale in (0.1, 30.0):
        expected = rng.normal(size=(5, 7)) * scale
        expected[:, 3] = -1e4
        found = expected + rng.normal(size=expected.shape) * 1e-3 * scale
        largest = max(1.0, *(abs(z) for z in expected.flat if z > -1e3))
        parts = [abs(a - b) / (-b if b <= -1e3 else largest) for a, b in zip(found.flat, expected.flat, strict=True)]
        assert deviation(torch.from_numpy(found), torch.from_numpy(expected)) == pytest.approx(max(parts), rel=1e-12)
    assert not deviation(torch.tensor([torch.nan]), torch.tensor([1.0])) <= TOLERANCE
    assert deviation(torch.tensor([-1e4, -1e4]), torch.tensor([-1e4, -1e4])) == 0.0
