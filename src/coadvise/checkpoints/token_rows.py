"""Advised tokens of a file beside those of the CiT that its weights are for: by name, in whatever order."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from ..models.cit import CiT
from ..models.published import OF_TOKENS, tokens_in, with_rows_of
from .model_file import Header

NO_ORDER = (
    "its advised tokens are others, and it does not say in which order it has them; give best.safetensors or the "
    "folder of its run, or a model with the same tokens"
)


def token_order(tensors: Mapping[str, Tensor], header: Header | None, keys: list[str] | None) -> list[str] | None:
    """Advised tokens of a file in the order of their rows; None where nothing says it.

    Args:
        tensors: weights of the file, from `fit_cit`.
        keys: what the keys of the file say.
    """
    stored = tokens_in(tensors)
    if stored is None or len(stored) < 2:
        return stored
    found: object = keys
    if header is not None and header.given is None:  # of a module from Python its recipe says nothing
        found = header.recipe.student.options.get("teachers", header.recipe.tokens())
    names = [name for name in found if isinstance(name, str)] if isinstance(found, (Mapping, list)) else []
    return names if sorted(names) == sorted(stored) else None


def with_tokens_of(
    tensors: dict[str, Tensor], model: CiT, order: list[str] | None, fresh: bool
) -> tuple[dict[str, Tensor], str]:
    """A file's weights with position embeddings of advised tokens where the model has them.

    Args:
        order: from `token_order`.
        fresh: whether tokens that only the file has are left out, and those that only the model has start as it has
            them. What both have has to fit.

    Returns:
        The weights, unchanged where the rows are not known, and what is to be said of them.
    """
    names, stored = list(model.teachers), tokens_in(tensors)
    if order is None:
        return tensors, NO_ORDER if fresh and stored is not None and {*stored} != {*names} else ""
    position = tensors.get("pos_embed")
    rows = None if position is None or order == names else with_rows_of(position, model, order)
    if rows is None:
        return tensors, ""
    differing = {*order} ^ {*names}
    if differing and not fresh:
        return {**tensors, "pos_embed": rows}, ""
    of_them = lambda key: key.startswith(OF_TOKENS) and key.split(".")[1] in differing
    kept = {key: value for key, value in tensors.items() if not of_them(key)}
    own = {key: value for key, value in model.state_dict().items() if of_them(key)}
    if "head.weight" not in tensors:  # a backbone alone, whose heads are all those of the model
        own = {key: value for key, value in own.items() if not key.startswith("advised_heads.")}
    kept |= own
    left, new = (", ".join(sorted({*a} - {*b})) or "none" for a, b in ((order, names), (names, order)))
    said = f"advised tokens that are left out: {left}; that start anew: {new}" if differing else ""
    return {**kept, "pos_embed": rows}, said
