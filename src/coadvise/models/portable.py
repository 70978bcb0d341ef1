"""A trained student as a model that timm can make again from a name and arguments, without its advised heads.

A ViT whose advised tokens look on answers by itself. A CiT with plain patches and learned tokens is timm's ViT with
register tokens: the same weights under other names; and so is a distilled DeiT whose own token was advised. Nothing of
this package is needed for those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import timm
import torch
from timm.models import model_entrypoint
from torch import Tensor, nn

from ..recipe.schema import Student
from .advised import AdvisedViT
from .cit import CiT
from .hub import without_sources
from .rednet import RedNet
from .students import classifier_of

# Arguments of a CiT that timm's ViT does not have.
_OF_CIT = ("teachers", "stem", "align", "inference", "token_std", "separate", "read_at", "weight_init")


# Weights of advised tokens, and of what reads them; the last two are a distilled DeiT's.
_OF_TOKENS = ("tokens.", "offsets.", "advised_heads.", "advised_norms.", "dist_token", "head_dist.")


@dataclass(frozen=True)
class Portable:
    """A model that gives the student's answer, and how timm makes it.

    Attributes:
        model: as `timm.create_model(architecture, num_classes=…, **arguments)` makes it, with the student's weights.
        arguments: beside the number of classes.
    """

    model: nn.Module
    architecture: str
    arguments: Mapping[str, Any]

    @property
    def ours(self) -> bool:
        """Whether timm knows the architecture only after `import coadvise`."""
        return model_entrypoint(self.architecture).__module__.startswith(f"{__package__.partition('.')[0]}.")


def portable(student: nn.Module, settings: Student) -> Portable:
    """The student's class output as a model of timm.

    Args:
        student: in evaluation mode.
        settings: that it was made from.
    """
    model: Any = classifier_of(student)
    advised = model if isinstance(model, AdvisedViT) else None
    model = model if advised is None else advised.model
    name, options = settings.model.partition(".")[0], dict(settings.options)
    if ":" in settings.model:  # an address, of which timm made what it says there
        name, options = model.pretrained_cfg["architecture"], {**_recorded(model), **options}
    # The weights go along, and nothing drops out in evaluation.
    options = {k: v for k, v in without_sources(options).items() if not k.endswith(("drop_rate", "path_rate"))}
    if advised is not None and advised.own_token is not None:  # timm's own class answers with the mean of both heads
        return _with_registers(model, options, [model.dist_token])
    if isinstance(model, CiT):
        apart = model.separate != "none" and model.teachers
        if not (model.patch_embed.biases or model.aligned or apart) and model.inference == "class":
            return _with_registers(model, options, [model.tokens[name] for name in model.teachers])
        options["teachers"] = model.teachers
        options |= {"separate": model.separate} if apart else {}
        options |= {"read_at": model.read_at} if model.read_at else {}
    if isinstance(model, RedNet) and settings.small_stem:
        options["stem"] = "small"
    elif settings.small_stem:
        return Portable(model, "small_stem_classifier", {"base": name, **options})
    if name == "resnet10":
        return Portable(model, "resnet18", {"layers": [1, 1, 1, 1], **options})
    size = getattr(getattr(model, "patch_embed", getattr(model, "stem", None)), "img_size", None)
    return Portable(model, name, options | ({} if size is None else {"img_size": size}))


def _recorded(model: nn.Module) -> dict[str, Any]:
    """Arguments that timm has noted of a model."""
    noted: Any = getattr(model, "_model_args", None) or getattr(model, "pretrained_model_args", None) or {}
    return {key: value for key, value in noted.items() if key not in ("num_classes", "in_chans")}


def _with_registers(model: Any, options: Mapping[str, Any], tokens: Sequence[Tensor]) -> Portable:
    """timm's ViT whose registers are the advised tokens, each (1, 1, d), of a CiT or of a distilled DeiT."""
    attention: Any = model.blocks[0].attn
    arguments = {
        **{key: value for key, value in options.items() if key not in _OF_CIT},
        "img_size": model.patch_embed.img_size,
        "patch_size": model.patch_embed.patch_size,
        "embed_dim": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": attention.num_heads,
        "reg_tokens": len(tokens),
    }
    architecture = "vit_small_patch16_224"
    plain = timm.create_model(architecture, num_classes=model.num_classes, **arguments)
    weights = {key: value for key, value in model.state_dict().items() if not key.startswith(_OF_TOKENS)}
    if tokens:
        weights["reg_token"] = torch.cat([*tokens], dim=1).detach()
    plain.load_state_dict(weights)
    return Portable(plain.eval(), architecture, arguments)
