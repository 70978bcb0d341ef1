"""The bias of a network by what it does: timm's families as their papers describe them."""

from __future__ import annotations

import pytest
import timm
import torch

from coadvise.models import bias
from coadvise.models.bias import bias_in, bias_of

FAMILIES = {
    "conv": (
        "test_byobnet", "convmixer_1024_20_ks9_p14", "test_convnext3", "cs3darknet_focus_s", "cspnext_tiny",
        "dla46x_c", "dpn48b", "test_efficientnet_evos", "tf_efficientnet_lite0.in1k", "lowformer_e1", "lcnet_035",
        "test_mambaout", "test_nfnet", "regnetx_002", "test_resnet", "resnetv2_18", "selecsls42", "legacy_seresnet18",
        "starnet_s050", "vgg11", "ese_vovnet19b_slim_dw", "legacy_xception", "xception41p", "lcnetv2_small",
    ),
    "attn": ("test_vit", "test_vit_relpos", "hiera_tiny_224"),
    "mlp": ("resmlp_12_224", "gmlp_ti16_224"),
    None: (
        "cpubone_nano", "efficientvit_b0", "test_coatnet", "visformer_tiny", "poolformer_s12", "sequencer2d_s",
        "mobilevit_xxs",
    ),
}  # fmt: skip
"""Kind → models of its families; None for those in which several kinds, or others, bring places together."""


@pytest.mark.parametrize(("kind", "model"), [(kind, model) for kind, models in FAMILIES.items() for model in models])
def test_timms_families(monkeypatch: pytest.MonkeyPatch, kind: str | None, model: str) -> None:
    monkeypatch.setattr(bias, "guess_bias", lambda name: None)  # nothing is known by its name
    assert bias_of(model) == kind


def test_involution_names_and_what_is_no_model() -> None:
    with torch.device("meta"):
        assert bias_in(timm.create_model("rednet26").eval(), torch.empty(2, 3, 64, 64)) == "inv"
    assert bias_of("rednet101") == "inv" and bias_of("resnet50.a1_in1k") == "conv"
    assert bias_of("run:runs/rednet26") == "inv" and bias_of("onnx:some.onnx") is None and bias_of("no model") is None


def test_pooling_by_attention_is_no_attention() -> None:
    """The last layer of CLIP's ResNets asks once for all places."""
    with torch.device("meta"):
        model = timm.create_model("test_vit3").eval()
        pool = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 3), torch.nn.Flatten(2))
        attend = lambda x: model.attn_pool(pool(x).mT)
        assert model.attn_pool is not None
        wrapped = torch.nn.Module()
        wrapped.forward = attend  # type: ignore[method-assign]
        width = model.embed_dim
        pool[0], pool[1] = torch.nn.Conv2d(3, width, 3), torch.nn.Conv2d(width, width, 3)
        assert bias_in(wrapped, torch.empty(2, 3, 16, 16)) == "conv"
