"""What timm knows of the weights that a name stands for, also under names that it has replaced."""

from __future__ import annotations

from timm.models import PretrainedCfg, get_deprecated_models, get_pretrained_cfg


def current_name(name: str) -> str:
    """timm's name of today: `vit_base_patch16_224.augreg_in21k` for `vit_base_patch16_224_in21k`; others stay."""
    current = get_deprecated_models().get(name)
    if not current:
        return name
    return current if knows_weights(current) else current.split(".")[0]  # two old names map to tags that are gone


def knows_weights(name: str) -> bool:
    """Whether timm knows weights under this very name, with its tag if it has one."""
    try:
        return get_pretrained_cfg(name) is not None
    except RuntimeError:
        return False


def published_cfg(name: str) -> PretrainedCfg | None:
    """timm's description of the weights that a name stands for; None where it has none.

    Raises:
        RuntimeError: a tag that timm does not know.
    """
    cfg: PretrainedCfg | None = get_pretrained_cfg(current_name(name))
    return cfg
