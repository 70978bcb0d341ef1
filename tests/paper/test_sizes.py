"""Sizes that the claims rest on are those of the networks themselves."""

import pytest
import timm
import torch

import coadvise  # noqa: F401  (registers the models)
from coadvise.paper.imagenet import EXPERIMENTS
from coadvise.paper.sizes import PARAMETERS


@pytest.mark.parametrize("name", PARAMETERS)
def test_sizes_are_counted_in_the_networks(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=1000)
    assert PARAMETERS[name] == sum(one.numel() for one in model.parameters())


def test_every_claim_about_sizes_has_them() -> None:
    claims = [claim for one in EXPERIMENTS.values() for claim in one.claims if claim.counted]
    assert len(claims) == 4 and all(value.arm.id in PARAMETERS for claim in claims for value in claim.values)
