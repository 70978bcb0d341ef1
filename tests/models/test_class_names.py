"""Names of classes: timm's, torchvision's and people's own are the same classes."""

import pytest
from timm.data import ImageNetInfo
from torchvision.models import ResNet18_Weights

from coadvise.models.class_names import imagenet_classes, places_of

TIMM = ImageNetInfo("imagenet-1k")


@pytest.mark.parametrize("own", [TIMM.label_descriptions(), ResNet18_Weights.DEFAULT.meta["categories"]])
def test_imagenets_classes_go_by_ids_and_by_words(own: list[str]) -> None:
    """Two libraries' lists stand in one order, the two cranes and the two maillots too."""
    ids = TIMM.label_names()
    assert places_of(own, ids) == list(range(1000))
    assert places_of(ids, own) == list(range(1000))
    assert places_of(own, ids[990:] + ids[:3]) == [*range(990, 1000), 0, 1, 2]


def test_one_word_is_enough_where_no_other_class_has_it() -> None:
    ids = TIMM.label_names()
    data = ["great_white_shark", "Tench", "golden-retriever", "crane", "my cat", "tusker", "missile"]
    assert places_of(ids, data) == [2, 0, 207, None, None, 101, ids.index("n03773504")]
    assert places_of(data, ["n02099601", "n01440764"]) == [2, 1]


def test_what_is_the_same_to_the_letter_comes_first() -> None:
    assert places_of(["cat", "Cat", "hot dog"], ["Cat", "CAT", "cat", "hot_dog"]) == [1, None, 0, 2]
    assert places_of(["a b", "a_b"], ["a-b"]) == [None]  # which one cannot be told
    assert places_of(["a", "a"], ["a"]) == [None]
    assert places_of(["n01440764", "tench"], ["tench", "goldfish"]) == [1, None]


def test_timms_weights_know_the_classes_that_they_are_for() -> None:
    assert imagenet_classes("resnet18") == tuple(TIMM.label_descriptions())
    assert len(imagenet_classes("vit_base_patch16_224.augreg_in21k") or ()) == 21843
    assert imagenet_classes("vit_base_patch16_clip_224.openai") is None
