"""Arms in words."""

import pytest

from coadvise.paper.arms import Arm, Teacher, arm
from coadvise.paper.beyond import BEYOND
from coadvise.paper.imagenet import EXPERIMENTS
from coadvise.reports.titles import arm_title


@pytest.mark.parametrize(
    ("one", "title"),
    [
        (arm("transformer_tiny"), "Transformer-Ti"),
        (arm("resnet50", part=0.5), "ResNet-50, 50 % of the epochs"),
        (arm("transformer_tiny", "resnet18", Teacher("resnet18", 1), tokens="single", weight=3.0),
         "Transformer-Ti ← ResNet-18 + ResNet-18 seed 1, single token, λ × 3"),
        (arm("transformer_small", "regnety_160", advice="hard"), "Transformer-S ← RegNetY-16GF, top class alone"),
        (arm("transformer_tiny", Teacher("rednet26", trained=False), change="shuffled", mixing=False),
         "Transformer-Ti ← RedNet-26 random weights, images not mixed, advice shuffled"),
    ],
)  # fmt: skip
def test_an_arm_is_said_in_words(one: Arm, title: str) -> None:
    assert arm_title(one) == title


def test_no_two_arms_have_one_title_and_none_shows_the_name_of_a_file() -> None:
    arms = {one for experiment in (*EXPERIMENTS.values(), *BEYOND) for one in experiment.arms()}
    titles = {arm_title(one) for one in arms}
    assert len(titles) == len(arms) and not any("_" in title or "net1" in title for title in titles)
