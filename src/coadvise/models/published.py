"""Published weights under our names: of the official code, DeiT, timm, mmcls.

`fit_cit` and `fit_rednet` are what timm calls `checkpoint_filter_fn`.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import resample_abs_pos_embed, resize_rel_pos_bias_table
from torch import Tensor, nn

from ..recipe.data import IMAGENET_MEAN, IMAGENET_STD


def untrained(**overrides: Any) -> dict[str, Any]:
    """timm's configuration of a model without published weights; by default a ViT's."""
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": None,
        "fixed_input_size": True,
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
        "first_conv": "patch_embed.proj",
        "classifier": "head",
        **overrides,
    }


def fit_cit(state_dict: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """Weights of the official CiT-SAK student, of DeiT (distilled or not) or of timm's ViT, for the CiT `model`.

    Keys are renamed, and position embeddings resampled where the grid differs. What does not fit stays as it is,
    for the caller to report.
    """
    names = list(model.teachers)
    if is_official(state_dict):
        state_dict = {_rename_official(key): value for key, value in state_dict.items()}
    elif "dist_token" in state_dict and len(names) == 1:
        prefixes = {"dist_token": f"tokens.{names[0]}", "head_dist.": f"advised_heads.{names[0]}."}
        state_dict = {_replace_prefix(key, prefixes): value for key, value in state_dict.items()}
    state_dict = dict(state_dict)
    if "pos_embed" in state_dict:
        stored = tokens_in(state_dict)
        prefix = model.num_prefix_tokens if stored is None else 1 + len(stored)
        state_dict["pos_embed"] = fit_position(state_dict["pos_embed"], prefix, model.patch_embed.grid_size)
    return state_dict


OF_TOKENS = ("tokens.", "offsets.", "advised_heads.", "advised_norms.")
"""What a CiT has for its advised tokens beside rows of its position embeddings."""
OFFICIAL_TOKENS = ("conv", "inv")
"""Those of the official CiT-SAK student, in the order of its rows."""


def is_official(state_dict: Mapping[str, Tensor]) -> bool:
    """Whether keys are those of the official CiT-SAK student."""
    return any(key.startswith(("conv_embed.", "inv_embed.")) for key in state_dict)


def tokens_in(state_dict: Mapping[str, Tensor]) -> list[str] | None:
    """Advised tokens of which weights have a head, in the order of the keys; none of a ViT's; None where heads were
    taken off, and their number is not known."""
    heads = list(dict.fromkeys(key.split(".")[1] for key in state_dict if key.startswith("advised_heads.")))
    if heads or "head.weight" in state_dict:
        return heads
    position = state_dict.get("pos_embed")
    if position is None or position.ndim != 3 or any(key.startswith(OF_TOKENS) for key in state_dict):
        return None
    patches = position.shape[1] - 1
    return [] if patches > 0 and math.isqrt(patches) ** 2 == patches else None


def with_rows_of(position: Tensor, model: Any, stored: Sequence[str]) -> Tensor | None:
    """Position embeddings from `fit_cit` with a row for each token of the CiT `model`, by name, in its order.

    Tokens that the weights do not have get the model's own rows.

    Args:
        stored: advised tokens of the weights in their order.

    Returns:
        None where the number of embeddings is another one than that of such tokens and the model's patches.
    """
    own = model.pos_embed.detach()
    if position.shape != (1, 1 + len(stored) + model.patch_embed.num_patches, own.shape[2]):
        return None
    given = position.to(own)
    rows = [
        given[:, 1 + stored.index(name)] if name in stored else own[:, place]
        for place, name in enumerate(model.teachers, start=1)
    ]
    return torch.cat([given[:, :1], *(row[:, None] for row in rows), given[:, 1 + len(stored) :]], dim=1)


def _replace_prefix(key: str, prefixes: Mapping[str, str]) -> str:
    for old, new in prefixes.items():
        if key.startswith(old):
            return new + key[len(old) :]
    return key


def _rename_official(key: str) -> str:
    """Key of the official CiT-SAK student → ours, for a model with tokens `conv` and `inv`."""
    if match := re.match(r"conv_embed\.conv\.(\d+)\.", key):
        layer, part = divmod(int(match[1]), 3)  # convolution, BatchNorm, ReLU, three times
        return f"patch_embed.stems.conv.stem.{layer}.{('conv', 'bn', 'act')[part]}.{key[match.end() :]}"
    key = _replace_prefix(
        key,
        {
            "conv_embed.": "patch_embed.stems.conv.",
            "inv_embed.": "patch_embed.stems.inv.",
            "head_conv.": "advised_heads.conv.",
            "head_inv.": "advised_heads.inv.",
        },
    )
    return _rename_involution(key) if key.startswith("patch_embed.stems.inv.") else key


def fit_rednet(state_dict: dict[str, Tensor], model: nn.Module | None = None) -> dict[str, Tensor]:
    """Rename published keys to ours: mmcls (`backbone.…`, `head.fc.…`), the wrapper (`model.…`, `classifier.…`)."""
    renamed = {}
    for key, value in state_dict.items():
        key = re.sub(r"^(backbone|model)\.", "", key)
        key = re.sub(r"^(head\.fc|classifier\.fc|classifier)\.", "fc.", key)
        renamed[_rename_involution(key)] = value
    return renamed


def _rename_involution(key: str) -> str:
    """Official names inside an involution layer (`conv1.conv`, `conv1.bn`, `conv2.conv`) → ours."""
    key = re.sub(r"(^|\.)conv1\.(conv|bn)\.", r"\1reduce.\2.", key)
    return re.sub(r"(^|\.)conv2\.conv\.", r"\1expand.", key)


def fit_position(position: Tensor, prefix: int, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1, prefix + patches, d) resampled to another grid of patches.

    A grid that was not square keeps no trace of its shape; its embeddings come back as they are, as do those that
    have the right number already.
    """
    patches = position.shape[1] - prefix if position.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    if patches == grid[0] * grid[1] or side == 0 or side * side != patches:
        return position
    return resample_abs_pos_embed(position, new_size=list(grid), old_size=[side, side], num_prefix_tokens=prefix)


_TABLE, _INDEX = "relative_position_bias_table", "relative_position_index"


def fit_relative_positions(state_dict: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Tables of relative positions (BEiT, Swin, …) resampled to the windows of `model`; what does not fit stays.

    Published files also have which entry belongs to which pair of places, which follows from the window.
    """
    own = model.state_dict()
    fitted = {key: value for key, value in state_dict.items() if not key.endswith(_INDEX) or key in own}
    for key, value in fitted.items():
        if key.endswith(f".{_TABLE}") and key in own and value.shape != own[key].shape:
            fitted[key] = _fit_table(value, own[key], model.get_submodule(key[: -len(_TABLE) - 1]))
    return fitted


def _fit_table(table: Tensor, own: Tensor, place: nn.Module) -> Tensor:
    """A table (entries, heads) in the shape of a module's own, where both are of squares."""
    window = getattr(place, "window_size", None)
    if window is None or table.ndim != 2 or own.ndim != 2 or table.shape[1] != own.shape[1] or table.is_complex():
        return table
    height, width = window
    of_tokens = len(own) - (2 * height - 1) * (2 * width - 1)  # entries for no pair of patches but for a class token
    entries = max(len(table) - of_tokens, 0)
    if not entries % 2 or math.isqrt(entries) ** 2 != entries:
        return table
    with warnings.catch_warnings():  # of how timm interpolates, which no user can change
        warnings.simplefilter("ignore", UserWarning)
        return resize_rel_pos_bias_table(table, (height, width), tuple(own.shape))
