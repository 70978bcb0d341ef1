"""Whether published weights can be had, before timm asks for them."""

from __future__ import annotations

from timm.models import get_pretrained_cfg

from ..errors import ModelError, one_line
from ..system.hub import silence

# Names under which timm looks for weights, in its order.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def require_reachable(name: str, pretrained: bool) -> None:
    """Refuse a model whose files lie on the Hub, are not on this machine yet, and cannot be asked for.

    Raises:
        ModelError: the Hub does not answer, or may not be asked.
    """
    files: tuple[str, ...]
    prefix, colon, address = name.partition(":")
    if prefix in ("hf-hub", "hf_hub"):
        files = ("config.json",)
    elif pretrained and not colon:
        try:
            cfg = get_pretrained_cfg(name, allow_unregistered=True)
        except RuntimeError:  # a tag that timm does not know, as it says when the model is made
            return
        if cfg is None or not cfg.hf_hub_id or cfg.file:
            return
        address, files = cfg.hf_hub_id, _WEIGHTS
    else:
        return
    from huggingface_hub import try_to_load_from_cache

    repository, _, tag = address.partition("@")
    revision = tag or None
    try:
        if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files):
            return
    except ValueError:  # a name that no repository can have, as timm says when the model is made
        return
    error = silence(repository, files[0], revision=revision)
    if error is not None:
        what = "the published weights" if pretrained else "the settings"
        raise ModelError(
            f"{what} of {name} cannot be had (no answer from the Hugging Face Hub: {one_line(error)}): connect to "
            f"the internet, set pretrained: false, or give a checkpoint file"
        ) from error
