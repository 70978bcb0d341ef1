"""Where a model's weights come from, and whether published ones can be had, before timm asks for them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.models import resolve_pretrained_cfg, split_model_name_tag

from ..errors import ModelError, NoWeights, one_line
from ..system.hub import silence
from .timm_names import current_name

# Names under which timm looks for weights, in its order.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
# Arguments of timm's factory that name files and addresses of weights.
_SOURCES = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


def without_sources(options: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a model without those that say where its weights come from."""
    kept = {name: value for name, value in options.items() if name not in _SOURCES}
    for source in ("pretrained_cfg_overlay", "pretrained_cfg"):  # the first one that says it, as in timm
        if isinstance(cfg := options.get(source), dict) and "global_pool" in cfg:  # which is no matter of weights
            kept.setdefault("global_pool", cfg["global_pool"])
    return kept


def require_reachable(name: str, pretrained: bool, options: Mapping[str, Any] | None = None) -> None:
    """Refuse a model whose files lie on the Hub, are not on this machine yet, and cannot be asked for.

    Args:
        options: arguments of the model, which may name other places of its weights.

    Raises:
        ModelError: the Hub does not answer, or may not be asked; `NoWeights` where it is for weights alone.
    """
    question = _question(name, pretrained, options or {})
    if question is None:
        return
    repository, file, revision = question
    error = silence(repository, file, revision=revision)
    if error is None:
        return
    silent = f"cannot be had (no answer from the Hugging Face Hub: {one_line(error)})"
    how = "connect to the internet, set pretrained: false, or give a checkpoint file"
    if pretrained:
        raise NoWeights(f"the published weights of {name} {silent}", how) from error
    raise ModelError(f"the settings of {name} {silent}: {how}") from error


def asks_the_hub(name: str, pretrained: bool, options: Mapping[str, Any] | None = None) -> bool:
    """Whether `require_reachable` has to ask the Hub."""
    return _question(name, pretrained, options or {}) is not None


def _question(name: str, pretrained: bool, options: Mapping[str, Any]) -> tuple[str, str, str | None] | None:
    """What the Hub has to be asked for: repository, file and revision; None where everything is here, or elsewhere."""
    files: tuple[str, ...]
    prefix, colon, address = name.partition(":")
    if prefix in ("hf-hub", "hf_hub"):
        files = ("config.json",)
    elif pretrained and not colon:
        variant, tag = split_model_name_tag(current_name(name))
        given, overlay = options.get("pretrained_cfg") or tag, options.get("pretrained_cfg_overlay")
        try:
            cfg = resolve_pretrained_cfg(variant, given, overlay)
        except (RuntimeError, TypeError, ValueError):  # a tag or a key that timm does not know, as it says itself
            return None
        if not cfg.hf_hub_id or cfg.file or cfg.state_dict:
            return None
        address, files = cfg.hf_hub_id, _WEIGHTS
    else:
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, tag = address.partition("@")
    revision, folder = tag or None, options.get("cache_dir")
    try:
        here = (try_to_load_from_cache(repository, file, cache_dir=folder, revision=revision) for file in files)
        if any(isinstance(file, str) for file in here):
            return None
    except ValueError:  # a name that no repository can have, as timm says when the model is made
        return None
    return repository, files[0], revision
