"""From the image to patch tokens (paper §3.2): patchify, or stems whose outputs are added.

A stem is three layers at half resolution with 64 channels, followed by a projection of (p/2)×(p/2) pixels
with stride p/2 and a bias, so that one token covers p×p pixels of the image as in ViT. The paper's are `conv` and
`inv`; `attn` and `mlp` are ours (`models.cells`), and `register_stem` adds others (docs/add-a-kind.md).
"""

import functools
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import PatchEmbed, to_2tuple
from torch import Tensor, nn

from ..errors import ModelError, did_you_mean
from ..ops.involution import exporting
from ..ops.norm_relu import can_fuse, norm_relu
from ..shapes import Float
from .cells import attention_stem, mlp_stem
from .last_block import watched
from .rednet import ConvBNReLU, involution_stem

PATCHIFY = "patchify"
STEM_WIDTH = 64
StemFactory = Callable[[int, tuple[int, int]], nn.Module]
"""Makes the layers of a stem from the image's channels and the patch size (height, width): a module that takes images
(b, c, h, w) of any size that patches tile, and gives maps (b, 64, h/2, w/2)."""


class Embedded(NamedTuple):
    """Patch tokens, and per stem the mean of that stem's own tokens (what aligned tokens start from)."""

    patches: Float[Tensor, "b n d"] | Float[Tensor, "b h w d"]
    means: dict[str, Float[Tensor, "b d"]]


def conv_stem(in_chans: int) -> nn.Sequential:
    """Convolution stem of the official code: 7×7 stride 2, then twice 3×3, each with BatchNorm and ReLU."""
    return nn.Sequential(
        ConvBNReLU(in_chans, STEM_WIDTH, 7, stride=2),
        ConvBNReLU(STEM_WIDTH, STEM_WIDTH, 3),
        ConvBNReLU(STEM_WIDTH, STEM_WIDTH, 3),
    )


class Layers(nn.Sequential):
    """A stem's layers; in training BatchNorm and the ReLU after it are one operation where there is one.

    The modules are PyTorch's own, so that what replaces or watches one of them, such as `convert_sync_batchnorm`, finds
    what it expects.
    """

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        layers = iter(self)
        for layer in layers:
            if type(layer) is ConvBNReLU and not watched(layer):
                x = _normed(layer.bn, layer.act, layer.conv(x))
            elif type(layer) is nn.BatchNorm2d:
                x = _normed(layer, next(layers), x)
            else:
                x = layer(x)
        return x


def _normed(norm: nn.Module, act: nn.Module, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """`act(norm(x))`."""
    if (
        type(norm) is nn.BatchNorm2d
        and type(act) is nn.ReLU
        and norm.training
        and norm.momentum is not None
        and not (watched(norm) or watched(act))
        and can_fuse(x, *(others := (norm.weight, norm.bias, norm.running_mean, norm.running_var)))
    ):
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
        return norm_relu(x, *others, norm.momentum, norm.eps)  # type: ignore[arg-type]
    y: Tensor = act(norm(x))
    return y


STEMS: dict[str, StemFactory] = {
    "conv": lambda in_chans, patch: Layers(*conv_stem(in_chans)),
    "inv": lambda in_chans, patch: Layers(*involution_stem(in_chans, STEM_WIDTH)),
    "attn": lambda in_chans, patch: attention_stem(in_chans, STEM_WIDTH, patch),
    "mlp": lambda in_chans, patch: mlp_stem(in_chans, STEM_WIDTH, patch),
}
"""Stems by the bias that they stand for."""


def register_stem(bias: str, factory: StemFactory) -> None:
    """Make a stem known by the name of its bias: `stem: conv+BIAS` then has it, and tokens of that bias start from it.

    It has to be registered in every process that makes or loads such a model, before it does.

    Raises:
        ModelError: a name that a stem cannot have, or another stem has.
    """
    if not isinstance(bias, str) or not re.fullmatch(r"[A-Za-z]\w*", bias) or bias == PATCHIFY:
        raise ModelError(f"{bias!r} cannot name a stem: use letters, digits and _, and not '{PATCHIFY}'")
    if hasattr(nn.ModuleDict(), bias):
        raise ModelError(f"{bias!r} cannot name a stem, PyTorch uses it itself: give it another name")
    if not callable(factory):
        raise ModelError(
            f"the factory of stem {bias!r} is {factory!r}: give a function (in_chans, patch_size) → module"
        )
    if STEMS.setdefault(bias, factory) is not factory:
        raise ModelError(f"there is a stem {bias!r} already: choose another name")


def kinds_of(stem: object) -> tuple[str, ...]:
    """The stems that a name such as `conv+inv` joins; none for `patchify`.

    Raises:
        ModelError: a stem that is not known, or twice the same.
    """
    kinds = stem.split("+") if isinstance(stem, str) and stem != PATCHIFY else []
    unknown = [kind for kind in kinds if kind not in STEMS]
    if unknown or not isinstance(stem, str):
        hint = did_you_mean(unknown[0], [PATCHIFY, *STEMS]) if unknown else ""
        raise ModelError(
            f"stem is {stem!r}{hint}: choose {PATCHIFY}, or some of {', '.join(STEMS)}, joined as in conv+inv; a stem "
            "of your own has to be registered before (coadvise.register_stem)"
        )
    if len(set(kinds)) < len(kinds):
        raise ModelError(f"stem is {stem!r}: name each kind once")
    return tuple(kinds)


class Projection(nn.Conv2d):
    """A convolution whose windows lie side by side, as a matrix product: many times faster backward."""

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        if exporting() or torch.jit.is_tracing():
            return super().forward(x)
        return as_product(self, x, channels_last=True)


def as_product(projection: nn.Conv2d, x: Float[Tensor, "b c h w"], channels_last: bool) -> Float[Tensor, "b d gh gw"]:
    """`projection(x)` of windows that lie side by side.

    Args:
        channels_last: the order of a window's numbers, quicker if it is that of `x`. It is not read from `x`: batches
            of one training lie in memory in one way or the other, and the order of sums would change with it.
    """
    height, width = projection.kernel_size
    pixels = x.unflatten(3, (-1, width)).unflatten(2, (-1, height))
    windows = pixels.permute(0, 2, 4, 3, 5, 1) if channels_last else pixels.permute(0, 2, 4, 1, 3, 5)
    weight = projection.weight.permute(0, 2, 3, 1) if channels_last else projection.weight
    return F.linear(windows.flatten(3), weight.flatten(1), projection.bias).permute(0, 3, 1, 2)


class Stem(nn.Module):
    """One stem with its projection to the token width: (b, c, h, w) → (b, d, h/p, w/p)."""

    def __init__(self, kind: str, in_chans: int, embed_dim: int, patch: tuple[int, int], bias: bool) -> None:
        super().__init__()
        self.kind, self.stem = kind, STEMS[kind](in_chans, patch)
        half = (patch[0] // 2, patch[1] // 2)
        self.proj = Projection(STEM_WIDTH, embed_dim, half, stride=half, bias=bias)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        y = self.stem(x)
        wanted = (STEM_WIDTH, x.shape[2] // 2, x.shape[3] // 2)
        if tuple(y.shape[1:]) != wanted:
            raise ModelError(
                f"stem {self.kind!r} gives maps of {tuple(y.shape[1:])} for this image, wanted are {wanted}"
            )
        return self.proj(y)


class TokenEmbed(PatchEmbed):
    """timm's PatchEmbed with a choice of stems; returns `Embedded` instead of the tokens alone.

    With `patchify` the projection is `proj` as in timm, so that DeiT's weights drop in; stems are `stems.conv`,
    `stems.inv` and so on, and their outputs are added.
    """

    def __init__(self, *args: Any, stem: str = PATCHIFY, **kwargs: Any) -> None:
        device, dtype = kwargs.pop("device", None), kwargs.pop("dtype", None)
        kinds = kinds_of(stem)
        patch = to_2tuple(kwargs["patch_size"])
        if kinds and any(p % 2 for p in patch):
            raise ModelError(
                f"patch_size is {kwargs['patch_size']}, but stem {stem!r} halves the image first: "
                f"choose an even patch size, or stem 'patchify'"
            )
        super().__init__(*args, **kwargs)
        self.stem_name = stem
        if kinds:
            projection = self.proj
            del self.proj
            self.stems = nn.ModuleDict(
                {
                    kind: Stem(
                        kind,
                        projection.in_channels,
                        projection.out_channels,
                        patch,
                        projection.bias is not None,
                    )
                    for kind in kinds
                }
            )
        self.to(device=device, dtype=dtype)

    @property
    def biases(self) -> tuple[str, ...]:
        """The inductive biases that this embedding has a stem for."""
        return kinds_of(self.stem_name)

    def no_weight_decay(self) -> list[str]:
        """Names of the parameters that are not decayed: positions."""
        return [name for name, _ in self.named_parameters() if name.endswith(".position")]

    def init_weights(self) -> None:
        """He-normal (fan-in) for every convolution of the stems and their projections, as in the official code.

        A `patchify` projection keeps PyTorch's own initialisation, as in timm's ViT.
        """
        for kind in self.biases:
            for module in self.stems[kind].modules():
                if isinstance(module, nn.Conv2d):
                    nn.init.kaiming_normal_(module.weight, mode="fan_in", nonlinearity="relu")

    def set_input_size(self, img_size: Any = None, patch_size: Any = None) -> None:
        if patch_size is not None and self.biases and to_2tuple(patch_size) != self.patch_size:
            raise ModelError(
                f"the patch size of stem {self.stem_name!r} is fixed: create the model with patch_size={patch_size}"
            )
        super().set_input_size(img_size=img_size, patch_size=patch_size)
        check_image_size(self.img_size, self.patch_size, padded=self.dynamic_img_pad)

    def forward(self, x: Float[Tensor, "b c h w"], by_product: bool = False) -> Embedded:  # type: ignore[override]
        """The tokens of images, and the means of stems.

        Args:
            by_product: `proj` may be computed as a matrix product, not by its `forward`: quicker on the CPU, with sums
                in another order. One with hooks never is.
        """
        x = self._fit(x)
        if not self.biases:
            if by_product and _is_product(self.proj, x):
                return Embedded(self._tokens(as_product(self.proj, x, channels_last=False)), {})
            return Embedded(self._tokens(self.proj(x)), {})
        x = laid_out(x)
        maps = {kind: self.stems[kind](x) for kind in self.biases}
        means = {kind: m.mean(dim=(2, 3)) for kind, m in maps.items()}
        return Embedded(self._tokens(functools.reduce(torch.add, maps.values())), means)

    def _tokens(self, x: Tensor) -> Tensor:
        # b n d, or b h w d where the size is dynamic: the position embedding then needs the grid
        return self.norm(x.flatten(2).transpose(1, 2) if self.flatten else x.permute(0, 2, 3, 1))

    def _fit(self, x: Tensor) -> Tensor:
        size = (int(x.shape[2]), int(x.shape[3]))
        if self.strict_img_size and self.img_size is not None and size != self.img_size:
            raise ModelError(
                f"images are {size[0]}×{size[1]} px, the model is made for "
                f"{self.img_size[0]}×{self.img_size[1]} px: "
                f"create it with img_size={size}, or with dynamic_img_size=True"
            )
        if self.dynamic_img_pad:
            pad_h, pad_w = (-s % p for s, p in zip(size, self.patch_size, strict=True))
            return F.pad(x, (0, pad_w, 0, pad_h))
        check_image_size(size, self.patch_size)
        return x


def _is_product(projection: nn.Module, x: Tensor) -> bool:
    """Whether a projection on the CPU is a plain convolution of patches side by side."""
    if type(projection) is not nn.Conv2d or watched(projection) or type(x) is not Tensor or x.device.type != "cpu":
        return False
    plain = projection.stride == projection.kernel_size and projection.padding == (0, 0) and projection.groups == 1
    traced = torch.compiler.is_compiling() or torch.jit.is_tracing() or exporting()
    return plain and projection.dilation == (1, 1) and not traced


def laid_out(x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """Images channels-last: stems are faster that way, and involution wants it."""
    return x if exporting() else x.contiguous(memory_format=torch.channels_last)


def check_image_size(image: tuple[int, int], patch: tuple[int, int], *, padded: bool = False) -> None:
    """Raise ModelError where patches do not tile the image (in pixels), unless it is padded anyway."""
    if not padded and any(size % p for size, p in zip(image, patch, strict=True)):
        larger = tuple(-(-size // p) * p for size, p in zip(image, patch, strict=True))
        raise ModelError(
            f"image size {image[0]}×{image[1]} is not divisible by patch size {patch[0]}×{patch[1]}: "
            f"use {larger[0]}×{larger[1]} px, or another patch size"
        )
