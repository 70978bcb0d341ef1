"""RedNet (Li et al., "Involution", CVPR 2021), the involution teacher: ResNet with involution for convolution.

Sizes, widths and module names follow the published weights (`stem.0.conv`, `layer1.0.conv2…`), so that a
checkpoint needs few renames. Departure from the official code: sizes that a stride does not divide work.
The small stem (3×3, stride 1, no pool) is ours, for images of 32 or 64 px.
"""

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from timm.layers import DropPath, create_classifier
from timm.models import build_model_with_cfg, checkpoint_seq, generate_default_cfgs, register_model
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ..errors import ModelError
from ..ops import involution
from ..ops.involution_eager import GROUP_CHANNELS
from ..shapes import Float
from .published import fit_rednet, untrained

RedNetStem = Literal["imagenet", "small"]
EXPANSION = 4


class ConvBNReLU(nn.Module):
    """Convolution without bias, BatchNorm, ReLU; padding keeps the size at stride 1."""

    def __init__(self, in_chans: int, out_chans: int, kernel_size: int, stride: int = 1) -> None:
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_chans, out_chans, kernel_size, stride=stride, padding=padding, bias=False)
        self.bn = nn.BatchNorm2d(out_chans)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o oh ow"]:
        return self.act(self.bn(self.conv(x)))


class Involution2d(nn.Module):
    """Involution layer: generates the kernel of each pixel from that pixel and applies it.

    With a stride the kernels come from the input averaged over stride×stride pixels (at the border over those
    that exist), so the output is ceil(h / stride) × ceil(w / stride).
    """

    def __init__(self, channels: int, kernel_size: int, stride: int = 1, reduction: int = 4) -> None:
        super().__init__()
        if channels % GROUP_CHANNELS:
            raise ModelError(
                f"an involution layer needs a multiple of {GROUP_CHANNELS} channels, got {channels}: "
                f"choose a width that is a multiple of {GROUP_CHANNELS}"
            )
        self.kernel_size, self.stride = kernel_size, stride
        self.pool = nn.Identity() if stride == 1 else nn.AvgPool2d(stride, ceil_mode=True, count_include_pad=False)
        self.reduce = ConvBNReLU(channels, channels // reduction, 1)
        self.expand = nn.Conv2d(channels // reduction, kernel_size**2 * (channels // GROUP_CHANNELS), 1)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c oh ow"]:
        kernel = self.expand(self.reduce(self.pool(x)))  # b g·K² oh ow
        return involution(x, kernel, self.kernel_size, self.stride)


class Bottleneck(nn.Module):
    """1×1 convolution, 7×7 involution with the stride, 1×1 convolution, and the shortcut."""

    def __init__(self, in_chans: int, width: int, stride: int, drop_path: float) -> None:
        super().__init__()
        out_chans = width * EXPANSION
        self.conv1 = nn.Conv2d(in_chans, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = Involution2d(width, 7, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_chans, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_chans)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or in_chans != out_chans:
            shortcut = nn.Conv2d(in_chans, out_chans, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(out_chans))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o oh ow"]:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        y = F.relu(self.bn2(self.conv2(y)), inplace=True)
        y = self.drop_path(self.bn3(self.conv3(y)))
        return F.relu(y + self.downsample(x), inplace=True)


def involution_stem(in_chans: int, width: int) -> nn.Sequential:
    """RedNet's stem (3×3 convolution with stride 2, 3×3 involution, 3×3 convolution); also CiT's."""
    half = width // 2
    if half % GROUP_CHANNELS:
        raise ModelError(
            f"RedNet's stem has an involution on half its width: width {width} must be a multiple of "
            f"{2 * GROUP_CHANNELS} (a multiple of {GROUP_CHANNELS} with stem='small')"
        )
    return nn.Sequential(
        ConvBNReLU(in_chans, half, 3, stride=2),
        Involution2d(half, 3),
        nn.BatchNorm2d(half),
        nn.ReLU(inplace=True),
        ConvBNReLU(half, width, 3),
    )


class RedNet(nn.Module):
    """RedNet with timm's model interface.

    Args:
        layers: bottlenecks per stage; stage i has width·2^i channels inside and four times as many outside.
        width: channels of the stem and inside the first stage; a multiple of 32, of 16 with the small stem.
        stem: `imagenet` (stride 2, then a max-pool) or `small` (3×3, stride 1, no pool) for 32 or 64 px.

    Raises:
        ModelError: if the width does not fit the groups of 16 channels.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        width: int = 64,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        stem: RedNetStem = "imagenet",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if width <= 0 or width % GROUP_CHANNELS:
            raise ModelError(f"RedNet's width is {width}; it must be a multiple of {GROUP_CHANNELS}")
        if not layers or min(layers) < 1:
            raise ModelError(f"RedNet needs at least one bottleneck in each stage, got layers={tuple(layers)}")
        if stem not in ("imagenet", "small"):
            raise ModelError(f"RedNet's stem is {stem!r}; choose 'imagenet' or 'small'")
        self.num_classes, self.in_chans, self.width = num_classes, in_chans, width
        self.drop_rate, self.grad_checkpointing = drop_rate, False
        self.stem: nn.Module = involution_stem(in_chans, width) if stem == "imagenet" else nn.Identity()
        self.maxpool: nn.Module = nn.MaxPool2d(3, stride=2, padding=1)
        self.feature_info = [{"num_chs": width, "reduction": 2, "module": "stem"}]
        self.stage_names = tuple(f"layer{i + 1}" for i in range(len(layers)))
        channels, rates = width, iter(_drop_path_rates(drop_path_rate, sum(layers)))
        for i, name in enumerate(self.stage_names):
            blocks = []
            for j in range(layers[i]):
                stride = 2 if i > 0 and j == 0 else 1
                blocks.append(Bottleneck(channels, width * 2**i, stride, next(rates)))
                channels = width * 2**i * EXPANSION
            self.add_module(name, nn.Sequential(*blocks))
            self.feature_info.append({"num_chs": channels, "reduction": 4 * 2**i, "module": name})
        self.num_features = channels
        self.global_pool, self.fc = create_classifier(channels, num_classes, pool_type=global_pool)
        self.head_hidden_size = channels * self.global_pool.feat_mult()
        self.init_weights(zero_init_last)
        if stem == "small":
            self.use_small_stem()
        self.to(device=device, dtype=dtype)

    @torch.jit.ignore
    def init_weights(self, zero_init_last: bool = True) -> None:
        """He-normal (fan-out) convolutions; residual branches start at zero, as in the official code."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if zero_init_last:
            for module in self.modules():
                if isinstance(module, Bottleneck):
                    nn.init.zeros_(module.bn3.weight)

    @torch.jit.ignore
    def use_small_stem(self) -> None:
        """Replace the stem by a fresh 3×3 convolution with stride 1 and drop the pool, for 32 or 64 px."""
        reference = next(self.parameters())
        stem = ConvBNReLU(self.in_chans, self.width, 3).to(device=reference.device, dtype=reference.dtype)
        nn.init.kaiming_normal_(stem.conv.weight, mode="fan_out", nonlinearity="relu")
        self.stem, self.maxpool = stem.train(self.training), nn.Identity()
        for i, info in enumerate(self.feature_info):
            info["reduction"] = 2 ** max(i - 1, 0)

    @torch.jit.ignore
    def no_weight_decay(self) -> set[str]:
        return set()

    @torch.jit.ignore
    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        return {"stem": r"^stem", "blocks": r"^layer(\d+)" if coarse else r"^layer(\d+)\.(\d+)"}

    @torch.jit.ignore
    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.grad_checkpointing = enable

    @torch.jit.ignore
    def get_classifier(self) -> nn.Module:
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a fresh one; `num_classes=0` removes it."""
        reference = next(self.parameters())
        pool = self.global_pool.pool_type if global_pool is None else global_pool
        self.num_classes = num_classes
        self.global_pool, self.fc = create_classifier(
            self.num_features, num_classes, pool_type=pool, device=reference.device, dtype=reference.dtype
        )
        self.head_hidden_size = self.num_features * self.global_pool.feat_mult()
        self.global_pool.train(self.training)
        self.fc.train(self.training)

    def _stage(self, name: str, x: Tensor) -> Tensor:
        stage = getattr(self, name)
        return checkpoint_seq(stage, x) if self.grad_checkpointing and self.training else stage(x)

    def forward_intermediates(
        self,
        x: Float[Tensor, "b c h w"],
        indices: int | list[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Feature maps after the stem (index 0) and each stage, as in timm; `norm` has no effect here."""
        if output_fmt != "NCHW":
            raise ModelError(f"RedNet's feature maps are NCHW, not {output_fmt}")
        take, last = feature_take_indices(1 + len(self.stage_names), indices)
        x = self.stem(x)
        intermediates = [x] if 0 in take else []
        x = self.maxpool(x)
        for i, name in enumerate(self.stage_names[:last] if stop_early else self.stage_names, start=1):
            x = self._stage(name, x)
            if i in take:
                intermediates.append(x)
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | list[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last one that `indices` needs; returns the indices kept."""
        take, last = feature_take_indices(1 + len(self.stage_names), indices)
        for name in self.stage_names[last:]:
            delattr(self, name)
        pruned, self.stage_names = last < len(self.stage_names), self.stage_names[:last]
        self.num_features = int(self.feature_info[last]["num_chs"])  # type: ignore[call-overload]
        if prune_head or pruned:
            self.reset_classifier(0, "")
        return take

    def forward_features(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b f oh ow"]:
        x = self.maxpool(self.stem(x))
        for name in self.stage_names:
            x = self._stage(name, x)
        return x

    def forward_head(self, x: Float[Tensor, "b f h w"], pre_logits: bool = False) -> Float[Tensor, "b ..."]:
        x = self.global_pool(x)
        x = F.dropout(x, p=self.drop_rate, training=self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """Logits (b, k); without head features, and without pooling a map (timm's conventions)."""
        return self.forward_head(self.forward_features(x))


def _drop_path_rates(last: float, depth: int) -> list[float]:
    """Stochastic depth grows linearly from 0 at the first block."""
    return [last * i / max(depth - 1, 1) for i in range(depth)]


_LAYERS = {
    "rednet26": (1, 2, 4, 1),
    "rednet38": (2, 3, 5, 2),
    "rednet50": (3, 4, 6, 3),
    "rednet101": (3, 4, 23, 3),
    "rednet152": (3, 8, 36, 3),
}
_CFG = untrained(
    pool_size=(7, 7), fixed_input_size=False, interpolation="bilinear", first_conv="stem.0.conv", classifier="fc"
)
default_cfgs = generate_default_cfgs({f"{name}.untrained": _CFG for name in _LAYERS})


def _create_rednet(variant: str, pretrained: bool, kwargs: dict[str, Any]) -> nn.Module:
    stages = len(kwargs.setdefault("layers", _LAYERS[variant]))
    return build_model_with_cfg(
        RedNet,
        variant,
        pretrained,
        pretrained_filter_fn=fit_rednet,
        feature_cfg={"out_indices": tuple(range(1 + stages))},
        **kwargs,
    )


@register_model
def rednet26(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RedNet-26, 9.2 M parameters."""
    return _create_rednet("rednet26", pretrained, kwargs)


@register_model
def rednet38(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RedNet-38, 12.4 M parameters."""
    return _create_rednet("rednet38", pretrained, kwargs)


@register_model
def rednet50(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RedNet-50, 15.5 M parameters."""
    return _create_rednet("rednet50", pretrained, kwargs)


@register_model
def rednet101(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RedNet-101, 25.7 M parameters."""
    return _create_rednet("rednet101", pretrained, kwargs)


@register_model
def rednet152(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """RedNet-152, 34.0 M parameters."""
    return _create_rednet("rednet152", pretrained, kwargs)
