"""The bias of a network by what it does: timm's families as their papers describe them."""

from __future__ import annotations

import pytest
import timm
import torch
from timm.models import model_entrypoint

from coadvise.models import bias
from coadvise.models.bias import bias_in, bias_of
from coadvise.recipe.address import guess_bias

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
    assert guess_bias(model) in (None, kind)


def test_involution_names_and_what_is_no_model() -> None:
    with torch.device("meta"):
        assert bias_in(timm.create_model("rednet26").eval(), torch.empty(2, 3, 64, 64)) == "inv"
    assert bias_of("rednet101") == "inv" and bias_of("resnet50.a1_in1k") == "conv"
    assert bias_of("run:runs/rednet26") == "inv" and bias_of("onnx:some.onnx") is None and bias_of("no model") is None


CONVOLVING = "byobnet convnext densenet efficientnet regnet resnet resnetv2 vgg"
ATTENDING = (
    "beit cait deit eva hiera naflexvit swin_transformer swin_transformer_v2 swin_transformer_v2_cr vision_transformer "
    "vision_transformer_relpos vision_transformer_sam"
)
BY_FILE = {"rednet": "inv", "mlp_mixer": "mlp"} | dict.fromkeys(CONVOLVING.split(), "conv")
BY_FILE |= dict.fromkeys(ATTENDING.split(), "attn")
"""timm's files of models and ours, each of one kind."""


def test_no_name_of_timms_is_guessed_wrong() -> None:
    """Of all its models; those of other files are of no kind, or not known by their names."""
    known: dict[str, set[str | None]] = {}
    for name in timm.list_models():
        file = model_entrypoint(name).__module__.rpartition(".")[2]
        if file != "students":
            known.setdefault(file, set()).add(guess_bias(name))
    assert {file: found - {None} for file, found in known.items() if found != {None}} == {
        file: {kind} for file, kind in BY_FILE.items()
    }
    assert known["swin_transformer"] == known["deit"] == {"attn"} and known["mlp_mixer"] == {"mlp"}
    ours = {"transformer_tiny": "attn", "mixer_tiny": "mlp", "resnet10": "conv", "cit_tiny_sa": None}
    foreign = {
        "transformers:google/vit-base-patch16-224": "attn", "transformers:google/vit-hybrid-base-bit-384": None,
        "transformers:microsoft/swinv2-tiny-patch4-window8-256": "attn", "torchvision:vit_b_16": "attn",
        "transformers:facebook/dinov2-small-imagenet1k-1-layer": "attn", "torchvision:maxvit_t": None,
    }  # fmt: skip
    for name, kind in {**ours, **foreign}.items():
        assert guess_bias(name) == kind, name


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
