"""Strict loading of our checkpoints and of published weights. No code of a file ever runs.

`load_checkpoint` reads safetensors and PyTorch files (zip or the older format), finds the weights inside, strips
wrapper prefixes, renames published keys to ours, and checks every key and shape before it touches the model.
"""

import logging
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from timm.models.beit import Beit
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..errors import CheckpointError, ModelError, require
from ..models.advised import AdvisedViT
from ..models.answers import CLASSES_OF_FILE
from ..models.cit import CiT
from ..models.described import describe
from ..models.published import (
    OFFICIAL_TOKENS,
    fit_cit,
    fit_position,
    fit_rednet,
    fit_relative_positions,
    is_official,
    tokens_in,
)  # fmt: skip
from ..models.rednet import RedNet
from ..models.students import classifier_of
from .inert_pickle import load_inert
from .inside import IN_PYTHON, Choice, Say, Weights, of_training, weights_inside
from .model_file import header_in, is_safetensors, weights_file
from .token_rows import NO_ORDER, token_order, with_tokens_of

_log = logging.getLogger(__name__)
# What DistributedDataParallel and torch.compile put before every key.
_WRAPPERS = ("module.", "_orig_mod.")
# What averages count beside the weights.
_COUNTERS = ("n_averaged", "steps")
# What a ViT to which advised tokens were added has beside its own weights.
_ADDED = ("tokens.", "advised_heads.", "advised_norms.")
_SHOWN = 10


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    strict: bool = True,
    new_classifier: bool = False,
    weights: Weights | None = None,
    setting: str = IN_PYTHON,
) -> dict[str, str]:
    """Load weights from a file into a model, all or nothing.

    Understood are our safetensors (also a training checkpoint, of which the `model.` part is taken) and PyTorch
    files: timm's, DeiT's (the distilled models into a CiT with exactly one advised token), RedNet's as mmcls or
    the official wrapper wrote it, and the official CiT-SAK student's (into `cit_small_sa`). Position embeddings
    and tables of relative positions are resampled to the model's grid. Of a ViT to which advised tokens were added, a
    model without any gets the ViT's own weights.

    Args:
        model: receives the weights, converted to its own types and devices; unchanged after an error.
        path: the file, or a run's folder, of which its best weights are taken.
        strict: every key of the model and of the file must fit. Otherwise load what fits by name and shape and
            log the rest.
        new_classifier: for fine-tuning; where the file knows another number of classes, its classifier is left
            out and the model keeps its own, as it does where the file has none. A CiT keeps its own advised tokens
            where the file has none of these names, and those of other names are left out, which is logged.
        weights: of a training checkpoint with averaged weights, `ema` takes those and `plain` the others. By default
            timm's files give the averaged ones, as in timm, and all others the trained ones; where there are both, that
            is logged.
        setting: what messages call that choice: in a recipe it is made elsewhere.

    Returns:
        The metadata of a safetensors file, else an empty mapping.

    Raises:
        CheckpointError: missing, unreadable or unsafe file, or keys and shapes that do not fit.
    """
    require(model, nn.Module, "load_checkpoint's model", "give a module, and then the path of its weights", ModelError)
    how = "give the path of a file; a state dict in memory goes into model.load_state_dict"
    require(path, (str, os.PathLike), "a checkpoint's path", how, CheckpointError)
    path = weights_file(path)
    target = classifier_of(model)
    tensors, expected, metadata, order = _read_for(target, path, Choice(weights, setting, _log.warning))
    header, other = header_in(metadata, path), ""
    if isinstance(target, CiT):
        order = token_order(tensors, header, order)
        tensors, other = with_tokens_of(tensors, target, order, new_classifier)
    # Very old BatchNorm checkpoints lack the step counter, which plays no part with a fixed momentum.
    missing = [k for k in expected if k not in tensors and not k.endswith(".num_batches_tracked")]
    unexpected = [k for k in tensors if k not in expected]
    misshapen = [k for k in tensors if k in expected and tensors[k].shape != expected[k].shape]
    classifier = _classifier(target)
    if new_classifier:
        if classifier <= set(missing):  # a backbone alone
            missing = [k for k in missing if k not in classifier]
        heads = [k for k in misshapen if _is_head(k, getattr(target, "num_classes", None), tensors, expected)]
        misshapen = [k for k in misshapen if k not in heads]
        tensors = {k: v for k, v in tensors.items() if k not in heads}
    fitting = {k: v for k, v in tensors.items() if k in expected and k not in misshapen}
    shapes = [f"{k} is {tuple(tensors[k].shape)}, expected {tuple(expected[k].shape)}" for k in misshapen]
    problems = _describe({"missing": missing, "unexpected": unexpected, "wrongly shaped": shapes})
    if problems and (strict or not fitting):
        hint = _class_hint(target, misshapen, tensors, expected) if other != NO_ORDER else NO_ORDER
        if not (unexpected or misshapen) and classifier and classifier == set(missing):
            hint = "it is a backbone without classifier, with which only a student can start (new_classifier=True)"
        found = "\n".join(f"  {line}" for line in problems)
        raise CheckpointError(f"{path} does not fit {type(target).__name__}: {hint}\n{found}")
    if problems:
        _log.warning("%s: loaded %d of %d tensors; %s", path, len(fitting), len(expected), "; ".join(problems))
    if other:
        _log.warning("%s: %s", path, other)
    target.load_state_dict(fitting, strict=False)
    _forget_derived(target)
    # What a model that becomes a teacher is asked for: its classes, and where timm keeps it, how it sees images.
    setattr(target, CLASSES_OF_FILE, header.classes if header and not new_classifier else None)
    if header is not None:
        describe(target, header.recipe.data)
    return metadata


def load_added_tokens(
    student: AdvisedViT, path: str | os.PathLike[str], weights: Weights | None = None, setting: str = IN_PYTHON
) -> None:
    """Load the advised tokens and heads that a file has under the same names and in the same shapes, if any.

    Args:
        weights, setting: see `load_checkpoint`, which also says which are taken.

    Raises:
        CheckpointError: as for `load_checkpoint`, when the file cannot be read.
    """
    tensors, _ = _read(weights_file(path), Choice(weights, setting, lambda _: None))
    own = student.state_dict()
    added = {key: value for key, value in tensors.items() if key.startswith(_ADDED) and key in own}
    student.load_state_dict({k: v for k, v in added.items() if v.shape == own[k].shape}, strict=False)


def _forget_derived(model: nn.Module) -> None:
    """Make every module drop what it derived from its old weights; each keeps its own mode.

    timm's LeViT, TinyViT, EfficientFormer and EfficientViT keep gathered attention biases in evaluation mode and drop
    them in `train` alone.
    """
    modes = [(module, module.training) for module in model.modules()]
    for module, mode in modes:  # parents first: `train` reaches into children, which then get their own mode back
        module.train(mode)


def stored_classes(
    path: str | os.PathLike[str], model: nn.Module, weights: Weights | None = None, setting: str = IN_PYTHON
) -> int | None:
    """Number of classes of a checkpoint, read off the classifier that it has for `model`; None where it has none.

    Args:
        weights, setting: see `load_checkpoint`, which also says which are taken.

    Raises:
        CheckpointError: as for `load_checkpoint`, when the file cannot be read.
    """
    target = classifier_of(model)
    tensors, expected, *_ = _read_for(target, weights_file(path), Choice(weights, setting, lambda _: None))
    classes = getattr(target, "num_classes", None)
    found = {key for key in _classifier(target) if not key.startswith("advised_heads.")}
    heads = {key for key in found if expected[key].shape[:1] == (classes,)}
    if not all(k in tensors and _is_head(k, classes, tensors, expected) for k in heads):
        return None  # another architecture, of which `load_checkpoint` says more
    counts = {tensors[k].shape[0] for k in heads}
    return counts.pop() if len(counts) == 1 else None


def _classifier(model: nn.Module) -> set[str]:
    """Names of the parameters of a model's classifier, as far as it says which one that is."""
    if not hasattr(model, "get_classifier"):
        return set()
    found = model.get_classifier()  # type: ignore[operator]
    parts = found if isinstance(found, (tuple, list)) else (found,)  # timm's distilled models have two
    last = [p for part in parts if isinstance(part, nn.Module) for p in part.parameters()]
    heads = {key for key, one in model.named_parameters() if any(one is p for p in last)}
    return heads | {key for key, _ in model.named_parameters() if heads and key.startswith("advised_heads.")}


def _read_for(
    model: nn.Module, path: str | os.PathLike[str], choice: Choice
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, str], list[str] | None]:
    """A file's weights under the names of `model`, the model's own, the file's metadata, and the order of its advised
    tokens where its keys say it."""
    tensors, metadata = _read(Path(path), choice)
    expected = {k: v for k, v in model.state_dict().items() if isinstance(v, Tensor)}
    stripped = _strip(tensors, expected)
    _require_real(stripped, expected, path)
    fitted = _fit(stripped, model)
    _require_real(fitted, expected, path)  # under the names that they have now
    if is_official(stripped):
        return fitted, expected, metadata, list(OFFICIAL_TOKENS)
    # A safetensors file has its keys in another order than the model.
    return fitted, expected, metadata, None if is_safetensors(Path(path)) else tokens_in(fitted)


def _require_real(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: str | os.PathLike[str]) -> None:
    """PyTorch would copy a complex tensor into a real one without its imaginary part."""
    for key, tensor in tensors.items():
        if tensor.is_complex() and key in expected and not expected[key].is_complex():
            raise CheckpointError(
                f"{path}: {key} has complex numbers, the model real ones; it was made for another architecture, or is "
                "damaged: take another file, or save real numbers"
            )


def read_checkpoint(
    path: str | os.PathLike[str], weights: Weights | None = None, say: Say = _log.warning
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Weights and metadata of a file, keys as they are but for `module.` and `_orig_mod.`, on the CPU.

    Args:
        weights: see `load_checkpoint`.
        say: is told which weights are taken of a file that has averaged and other ones.

    Raises:
        CheckpointError: if the file is missing, unreadable, unsafe or holds no weights, or not those.
    """
    return _read(Path(path), Choice(weights, IN_PYTHON, say))


def _read(path: Path, choice: Choice) -> tuple[dict[str, Tensor], dict[str, str]]:
    if not path.is_file():
        state = "is no file" if path.exists() else "does not exist"
        raise CheckpointError(f"checkpoint {path} {state}: check the path")
    if path.stat().st_size == 0:
        raise CheckpointError(f"checkpoint {path} is empty: it was not written completely, get it again")
    if is_safetensors(path):
        tensors, metadata = _read_safetensors(path)
        tensors = of_training(tensors, path, choice)
    else:
        tensors, metadata = weights_inside(load_inert(path), path, choice), {}
    for key, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise CheckpointError(f"checkpoint {path}: {key} is no plain tensor, save it dense and unquantised")
    return _strip_wrappers(tensors), metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            return tensors, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"checkpoint {path} is no readable safetensors file ({error}): get it again") from error


def _strip_wrappers(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    while True:
        names = [key for key in tensors if key not in _COUNTERS]
        prefix = next((p for p in _WRAPPERS if names and all(k.startswith(p) for k in names)), None)
        if prefix is None:
            return tensors
        tensors = {key[len(prefix) :]: tensors[key] for key in names}


def _strip(tensors: dict[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off what stands before every name, as a wrapper's attribute does, where the model has no such names."""
    bare = tensors
    if all(key.startswith(("model.", *_ADDED)) for key in tensors) and not any(
        key in expected for key in tensors if not key.startswith(_ADDED)
    ):
        bare = {key: value for key, value in tensors.items() if not key.startswith(_ADDED)}
    while bare and not any(key in expected for key in bare):
        first = next(iter(bare)).partition(".")[0] + "."
        if not all(key.startswith(first) and len(key) > len(first) for key in bare):
            break
        bare = {key[len(first) :]: value for key, value in bare.items()}
    return bare if any(key in expected for key in bare) or all(key.startswith("model.") for key in tensors) else tensors


def _fit(tensors: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    if isinstance(model, CiT):
        return fit_cit(tensors, model)
    if isinstance(model, RedNet):
        return fit_rednet(tensors, model)
    tensors = fit_relative_positions(tensors, model)
    if isinstance(model, (VisionTransformer, Eva, Beit)) and "pos_embed" in tensors:
        bare = getattr(model, "no_embed_class", False)  # of which BEiT has no choice
        prefix = 0 if bare else model.num_prefix_tokens
        position = fit_position(tensors["pos_embed"], prefix, model.patch_embed.grid_size)
        return {**tensors, "pos_embed": position}
    return tensors


def _describe(keys: Mapping[str, list[str]]) -> list[str]:
    """A line for each kind of problem, with its first keys."""
    return [
        f"{len(found)} {what}: {', '.join(found[:_SHOWN])}"
        + (f", and {len(found) - _SHOWN} more" if len(found) > _SHOWN else "")
        for what, found in keys.items()
        if found
    ]


def _is_head(key: str, classes: int | None, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether a tensor differs in nothing but the number of classes."""
    return expected[key].shape[:1] == (classes,) and tensors[key].shape[1:] == expected[key].shape[1:]


def _class_hint(
    model: nn.Module, misshapen: list[str], tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]
) -> str:
    """What to do: another number of classes is told apart from another architecture."""
    classes = getattr(model, "num_classes", None)
    stored = {tensors[key].shape[0] for key in misshapen if tensors[key].ndim}
    if all(_is_head(key, classes, tensors, expected) for key in misshapen) and len(stored) == 1:
        found = stored.pop()
        return (
            f"the checkpoint has {found} classes, the model {classes}: create the model with "
            f"num_classes={found} (then reset_classifier({classes}) gives it a new head), or use another file"
        )
    return "it was made for another architecture or other options; create the model as it was trained"
