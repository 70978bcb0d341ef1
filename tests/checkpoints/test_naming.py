"""Which model a file of weights belongs to: timm's own registry is the oracle."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_deprecated_models, get_pretrained_cfg

from coadvise.checkpoints.naming import named_file
from coadvise.errors import CheckpointError
from coadvise.models.factory import build_model
from coadvise.models.timm_names import published_cfg


@pytest.mark.parametrize(
    ("file", "model"),
    [
        ("vit_base_patch16_224.mae.safetensors", "vit_base_patch16_224.mae"),
        ("tf_efficientnet_b0.ap_in1k.pth", "tf_efficientnet_b0.ap_in1k"),
        ("mixer_b16_224.miil_in21k-2a5d.pth.tar", "mixer_b16_224.miil_in21k"),
        ("resnet18.a1_in1k-0d5a.pth", "resnet18.a1_in1k"),
        ("resnet18-5c106cde.pth", "resnet18"),
        ("resnet18.of_mine.pth", "resnet18"),
        ("resnet18", "resnet18"),
        ("vit_base_patch16_224_in21k-e5005f0a.pth", "vit_base_patch16_224.augreg_in21k"),
        ("cit_small.best.safetensors", "cit_small"),
    ],
)
def test_a_tag_in_a_files_name_is_that_of_its_weights(tmp_path: Path, file: str, model: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / file)
    assert named_file(str(tmp_path / file)).model == model


def test_a_model_that_is_named_goes_before_the_files_name(tmp_path: Path) -> None:
    file = tmp_path / "vit_base_patch16_224.mae.safetensors"
    save_file({"x": torch.zeros(1)}, file)
    for model, found in {
        "vit_base_patch16_224": "vit_base_patch16_224.mae",  # which says more
        "vit_base_patch16_224.dino": "vit_base_patch16_224.dino",
        "vit_small_patch16_224": "vit_small_patch16_224",
    }.items():
        assert named_file(f"{model}={file}").model == found


def test_a_tag_that_timm_does_not_know_is_refused_where_it_was_written(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"no weights 'of_mine' of resnet18; write resnet18=.*list_pretrained"):
        named_file(f"resnet18.of_mine={tmp_path / 'a.safetensors'}")


def test_names_that_timm_has_replaced_stand_for_the_same_weights() -> None:
    for old, new in get_deprecated_models().items():
        assert new is not None and get_pretrained_cfg(old) is None
        if "_sam" not in old:  # weights that timm has no more
            assert published_cfg(old) == get_pretrained_cfg(new), old


@pytest.mark.filterwarnings("ignore:Mapping deprecated model name")
def test_a_replaced_name_of_a_model_for_one_size_is_made_for_the_images() -> None:
    with torch.device("meta"):
        model = build_model("vit_tiny_patch16_224_in21k", 3, image_size=96, options={"depth": 1})
        oracle = timm.create_model("vit_tiny_patch16_224", num_classes=3, img_size=96, depth=1)
    assert model.pos_embed.shape == oracle.pos_embed.shape
