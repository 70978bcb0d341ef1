"""Whether published weights can be had, before timm asks for them."""

from __future__ import annotations

from ..errors import ModelError, NoWeights, one_line
from ..system.hub import silence
from .timm_names import published_cfg

# Names under which timm looks for weights, in its order.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def require_reachable(name: str, pretrained: bool) -> None:
    """Refuse a model whose files lie on the Hub, are not on this machine yet, and cannot be asked for.

    Raises:
        ModelError: the Hub does not answer, or may not be asked; `NoWeights` where it is for weights alone.
    """
    question = _question(name, pretrained)
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


def asks_the_hub(name: str, pretrained: bool) -> bool:
    """Whether `require_reachable` has to ask the Hub."""
    return _question(name, pretrained) is not None


def _question(name: str, pretrained: bool) -> tuple[str, str, str | None] | None:
    """What the Hub has to be asked for: repository, file and revision; None where everything is here, or elsewhere."""
    files: tuple[str, ...]
    prefix, colon, address = name.partition(":")
    if prefix in ("hf-hub", "hf_hub"):
        files = ("config.json",)
    elif pretrained and not colon:
        try:
            cfg = published_cfg(name)
        except RuntimeError:  # a tag that timm does not know, as it says when the model is made
            return None
        if cfg is None or not cfg.hf_hub_id or cfg.file:
            return None
        address, files = cfg.hf_hub_id, _WEIGHTS
    else:
        return None
    from huggingface_hub import try_to_load_from_cache

    repository, _, tag = address.partition("@")
    revision = tag or None
    try:
        if any(isinstance(try_to_load_from_cache(repository, file, revision=revision), str) for file in files):
            return None
    except ValueError:  # a name that no repository can have, as timm says when the model is made
        return None
    return repository, files[0], revision
