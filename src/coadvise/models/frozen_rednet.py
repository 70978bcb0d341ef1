"""RedNet's blocks when they are frozen and their BatchNorm is folded: fewer passes over the feature maps.

On the CPU convolutions take ReLU and the shortcut with them. On a GPU an involution makes its kernels itself, and takes
BatchNorm and ReLU with it, where that has been found right and faster there.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import one_line, shortened
from ..ops import involution
from ..ops.convolution import activated, added_and_activated
from ..ops.generated import generated_involution
from ..shapes import Float
from ..system.clock import seconds_of
from .rednet import Bottleneck, Involution2d

_log = logging.getLogger(__name__)
# Images with which a layer is timed: enough to fill a GPU.
_IMAGES = 64
_ROUNDS = 5
# Largest difference that counts as rounding in 16 bits, relative to the largest value.
_ROUNDING = 2**-5


class FrozenInvolution(nn.Module):
    """An involution layer with the BatchNorm and ReLU behind it."""

    weight: Tensor | None
    bias: Tensor
    scale: Tensor
    shift: Tensor

    def __init__(self, layer: Involution2d, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.layer, self.norm = layer, norm
        self.register_buffer("weight", None, persistent=False)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c oh ow"]:
        layer = self.layer
        hidden = activated(layer.reduce.conv, layer.pool(x))
        if self.weight is not None and x.dtype == hidden.dtype == self.weight.dtype:
            parts = (self.weight, self.bias, self.scale, self.shift)
            return generated_involution(x, hidden, *parts, layer.kernel_size, layer.stride)
        y = involution(x, layer.expand(hidden), layer.kernel_size, layer.stride)
        return F.relu(self.norm(y), inplace=True)

    def make_kernels(self, dtype: torch.dtype) -> None:
        """Make the kernels inside of the involution from now on, for maps of this type."""
        expand, norm, taps = self.layer.expand, self.norm, self.layer.kernel_size**2
        assert norm.running_mean is not None and norm.running_var is not None and expand.bias is not None
        self.weight = expand.weight.to(dtype).reshape(-1, taps, expand.in_channels).transpose(0, 1).contiguous()
        self.bias = expand.bias.float().reshape(-1, taps).t().contiguous()
        scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
        self.scale = scale.float()
        self.shift = (norm.bias.double() - norm.running_mean.double() * scale).float()

    def keep_kernels(self) -> None:
        """Have the kernels in memory, as before `make_kernels`."""
        self.weight = None


class FrozenBottleneck(nn.Module):
    """A bottleneck whose convolutions have their BatchNorm folded in."""

    def __init__(self, block: Bottleneck, norm: nn.BatchNorm2d) -> None:
        super().__init__()
        self.conv1, self.conv3 = block.conv1, block.conv3
        self.involution = FrozenInvolution(block.conv2, norm)
        self.downsample = block.downsample

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b o oh ow"]:
        # A shortcut without a convolution is the block before it's output, which is there for this block alone: each
        # stage begins with a convolution. So it may be overwritten.
        return added_and_activated(self.conv3, self.involution(activated(self.conv1, x)), self.downsample(x))


def freeze_blocks(model: nn.Module) -> None:
    """Put the frozen forms in place of RedNet's blocks and stem, where their BatchNorm is folded."""
    for name, module in list(model.named_modules()):
        if isinstance(module, Bottleneck) and isinstance(module.bn2, nn.BatchNorm2d) and _folded(module):
            model.set_submodule(name, FrozenBottleneck(module, module.bn2))
        elif isinstance(module, nn.Sequential):
            _freeze_sequence(module)


def _folded(block: Bottleneck) -> bool:
    norms = [block.bn1, block.bn3, block.conv2.reduce.bn, *list(block.downsample.children())[1:]]
    return all(isinstance(norm, nn.Identity) for norm in norms)


def _freeze_sequence(sequence: nn.Sequential) -> None:
    parts = list(sequence)
    for i, (layer, norm, act) in enumerate(zip(parts, parts[1:], parts[2:], strict=False)):
        if not (isinstance(layer, Involution2d) and isinstance(norm, nn.BatchNorm2d) and isinstance(act, nn.ReLU)):
            continue
        if isinstance(layer.reduce.bn, nn.Identity):
            sequence[i], sequence[i + 1], sequence[i + 2] = FrozenInvolution(layer, norm), nn.Identity(), nn.Identity()


@torch.no_grad()
def choose_kernels(model: nn.Module, example: Float[Tensor, "b 3 h w"], dtype: torch.dtype) -> int:
    """Let involutions make their kernels themselves where that gives the same, and faster, on this device.

    Each form of layer is compared and timed on maps that it sees of `example`, under autocast in this type.

    Returns:
        Number of layers that make them.
    """
    layers = [module for module in model.modules() if isinstance(module, FrozenInvolution)]
    seen: dict[FrozenInvolution, Tensor] = {}
    handles = [
        layer.register_forward_pre_hook(lambda layer, inputs: seen.__setitem__(layer, inputs[0])) for layer in layers
    ]
    found: dict[Hashable, str | None] = {}
    with torch.autocast(example.device.type, dtype):
        model(example)
        for handle in handles:
            handle.remove()
        for layer, x in seen.items():
            form = (x.shape, layer.layer.kernel_size, layer.layer.stride)
            if form not in found:
                found[form] = _why_not(layer, x, dtype)
            if found[form] is None:
                layer.make_kernels(dtype)
    reasons = [reason for reason in found.values() if reason]
    if reasons:
        _log.warning("involution keeps its kernels in memory here, which is slower: %s", reasons[0])
    return sum(layer.weight is not None for layer in layers)


def _why_not(layer: FrozenInvolution, x: Tensor, dtype: torch.dtype) -> str | None:
    """Why a layer should not make its kernels: what fails, or an empty text where that is no faster."""
    x = x.repeat(max(_IMAGES // len(x), 1), 1, 1, 1).contiguous(memory_format=torch.channels_last)
    expected = layer(x)
    plain = seconds_of(lambda: layer(x), x.device)
    layer.make_kernels(dtype)
    try:
        different = float((layer(x).float() - expected.float()).abs().max())
        if not different <= _ROUNDING * max(float(expected.abs().max()), 1e-3):
            return f"made where they are used, they differ by {different:.2g}"
        return None if seconds_of(lambda: layer(x), x.device) < plain else ""
    except Exception as error:  # a compiler fails in many ways, and none of them ends a run
        return shortened(one_line(error), 200)
    finally:
        layer.keep_kernels()
