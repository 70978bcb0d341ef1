"""The other students of Table 4 (ResNet-10, Mixer-Ti, Transformer-Ti), small-image stems, and single-head students.

`transformer_tiny` is CiT-Ti with the class token alone. A model with one head becomes a student through
`SingleHead`: its only output is `class`, so every loss term falls on it (Table 7, one token for everything).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.mlp_mixer import MlpMixer
from timm.models.regnet import RegNet
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from ..errors import ModelError, one_line
from ..names import ALL_HEADS, CLASS
from ..shapes import Float
from .cit import create_cit
from .published import untrained
from .rednet import RedNet


def small_stem(model: nn.Module) -> nn.Module:
    """Give a classifier its form for 32 or 64 px: a 3×3 stem with stride 1 and no pool, in place.

    A convolution that was larger than 3×3 is replaced by a fresh one (pretrained weights of it are lost); others
    keep their weights and only lose the stride.

    Args:
        model: a timm ResNet or RegNet, or a RedNet.

    Returns:
        The same model.

    Raises:
        ModelError: for other families.
    """
    if isinstance(model, RedNet):
        model.use_small_stem()
    elif isinstance(model, ResNet):
        first: Any = model.conv1
        if isinstance(first, nn.Conv2d):
            model.add_module("conv1", _conv3x3(first))
        else:  # three 3×3 convolutions, the first one with the stride
            first[0].stride = (1, 1)
        model.add_module("maxpool", nn.Identity())
        _divide_reductions(model.feature_info, first=2, others=4)
    elif isinstance(model, RegNet):
        stem: Any = model.stem.conv if hasattr(model.stem, "conv") else model.stem
        stem.stride = (1, 1)
        _divide_reductions(model.feature_info, first=2, others=2)
    else:
        raise ModelError(
            f"no small-image stem is known for {type(model).__name__}: choose a timm ResNet or RegNet or a RedNet, "
            f"or for models with patches set a smaller patch_size instead"
        )
    return model


def _conv3x3(old: nn.Conv2d) -> nn.Conv2d:
    weight = old.weight
    conv = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=old.bias is not None)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv.to(device=weight.device, dtype=weight.dtype)


def _divide_reductions(feature_info: Any, first: int, others: int) -> None:
    # timm counts how much smaller each feature map is than the image; that changed.
    infos = getattr(feature_info, "info", feature_info)
    for i, info in enumerate(infos):
        info["reduction"] //= others if i else first


class SingleHead(nn.Module):
    """A classifier as a student with the single token `class`."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model: nn.Module = model

    @property
    def token_names(self) -> tuple[str, ...]:
        return (CLASS,)

    @property
    def num_classes(self) -> int | None:
        """Number of classes as the model states it, or None."""
        return getattr(self.model, "num_classes", None)

    @property
    def pretrained_cfg(self) -> Mapping[str, Any]:
        """What timm knows of the model, as of the images it wants."""
        return getattr(self.model, "pretrained_cfg", None) or {}

    def no_weight_decay(self) -> set[str]:
        names: Any = getattr(self.model, "no_weight_decay", set)
        return {f"model.{name}" for name in names()}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """As timm's models.

        Raises:
            ModelError: the model cannot do that.
        """
        switch: Any = getattr(self.model, "set_grad_checkpointing", None)
        if switch is not None:
            switch(enable)
        elif enable:
            raise ModelError(f"{type(self.model).__name__} has no set_grad_checkpointing; leave it off")

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits.

        Raises:
            ModelError: if the wrapped model returns anything but logits (b, k).
        """
        logits = self.model(x)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelError(
                f"{type(self.model).__name__} returns {got}, a student must return logits (batch, classes): "
                f"wrap it in a module whose forward does"
            )
        return logits

    def forward_tokens(self, x: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b k"]]:
        return {CLASS: self(x)}


def answering_output(student: nn.Module, outputs: Collection[str]) -> str:
    """Name of the output by which a student answers at inference: `class`, or `average` (`inference="average"`).

    Args:
        outputs: names of all of them; the average of a single one is that one.
    """
    averaged = getattr(classifier_of(student), "inference", "") == ALL_HEADS and len(outputs) > 1
    return ALL_HEADS if averaged else CLASS


def classifier_of(student: nn.Module) -> nn.Module:
    """What `as_student` was given."""
    return student.model if isinstance(student, SingleHead) else student


def as_student(model: nn.Module) -> nn.Module:
    """The model itself if it has `forward_tokens`, otherwise the model as a `SingleHead`."""
    return model if hasattr(model, "forward_tokens") else SingleHead(model)


default_cfgs = generate_default_cfgs(
    {
        "resnet10.untrained": untrained(
            pool_size=(7, 7), fixed_input_size=False, first_conv="conv1", classifier="fc", interpolation="bilinear"
        ),
        "mixer_tiny.untrained": untrained(first_conv="stem.proj"),
        "transformer_tiny.untrained": untrained(),
        "transformer_small.untrained": untrained(),
    }
)


@register_model
def resnet10(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """ResNet-10: one basic block per stage (Table 4)."""
    return build_model_with_cfg(ResNet, "resnet10", pretrained, block=BasicBlock, layers=(1, 1, 1, 1), **kwargs)


@register_model
def mixer_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Mixer-Ti: 12 layers, width 192, patch 16 (Table 4)."""
    options = {"patch_size": 16, "num_blocks": 12, "embed_dim": 192, **kwargs}
    feature_cfg = {"out_indices": options.pop("out_indices", 3), "feature_cls": "getter"}
    return build_model_with_cfg(MlpMixer, "mixer_tiny", pretrained, feature_cfg=feature_cfg, **options)


@register_model
def transformer_tiny(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Transformer-Ti: CiT-Ti with the class token alone, which is DeiT-Ti's architecture."""
    return create_cit("transformer_tiny", pretrained, kwargs, embed_dim=192, num_heads=3, teachers={})


@register_model
def transformer_small(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """CiT-S with the class token alone, which is DeiT-S's architecture."""
    return create_cit("transformer_small", pretrained, kwargs, embed_dim=384, num_heads=6, teachers={})


def _described(model: nn.Module) -> str:
    """A model's class, and what timm knows of it: its name, and the size of the images that it was made for."""
    kind, cfg = type(model).__name__, getattr(model, "pretrained_cfg", None)
    if not isinstance(cfg, Mapping) or not cfg.get("architecture"):
        return kind
    size: Any = cfg.get("input_size")
    made = f", made for {size[1]}×{size[2]}" if size and len(size) == 3 else ""
    return f"{cfg['architecture']}, {kind}{made}"


@torch.no_grad()
def student_tokens(
    student: nn.Module, image_size: int, device: torch.device, classes: int | None = None
) -> tuple[str, ...]:
    """Names of the student's outputs, found by one forward pass on zeros.

    Raises:
        ModelError: the student does not take images of that size (in pixels), has no class output, or not one logit for
            each of `classes`.
    """
    was_training = student.training
    try:
        logits = student.eval().forward_tokens(torch.zeros(1, 3, image_size, image_size, device=device))  # type: ignore[operator]
    except (ModelError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # models refuse a size in many ways, some without a word
        reason = one_line(error) if str(error).strip() else f"{type(error).__name__} without a reason"
        raise ModelError(
            f"the student ({_described(classifier_of(student))}) cannot take images of {image_size}×{image_size}: "
            f"{reason}; choose another data.image_size, model or option of it"
        ) from error
    finally:
        student.train(was_training)
    if not isinstance(logits, Mapping) or not all(isinstance(z, Tensor) for z in logits.values()):
        raise ModelError("the student's forward_tokens must give a mapping of output names to logits (batch, classes)")
    if CLASS not in logits:
        raise ModelError(f"the student's forward_tokens gives no '{CLASS}' (it gives: {', '.join(logits)})")
    for name, z in logits.items() if classes is not None else ():
        if tuple(z.shape) != (1, classes):
            found = f"{z.shape[1]} classes" if z.ndim == 2 else f"values of shape {tuple(z.shape)}"
            raise ModelError(
                f"the student's output '{name}' has {found}, the data has {classes} classes: make the student with "
                f"num_classes={classes}"
            )
    return tuple(logits)


@register_model
def small_stem_classifier(pretrained: bool = False, *, base: str = "resnet18", **kwargs: Any) -> nn.Module:
    """The timm model `base` with the stem for small images, as an architecture that has a name."""
    return build_model_with_cfg(_with_small_stem, "small_stem_classifier", pretrained, base=base, **kwargs)


def _with_small_stem(*, base: str, **options: Any) -> nn.Module:
    return small_stem(timm.create_model(base, **options))
