"""What a run's student and teachers answer for an image, and where the student's tokens look."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor, nn

from ..data.views.finish import Finish
from ..errors import ModelError, few
from ..evaluation.attention import attention_maps
from ..evaluation.features import classifiers, flat_features, watched
from ..evaluation.inference import eval_images
from ..evaluation.prediction import ODDS
from ..models.advised import AdvisedViT, why_no_tokens
from ..models.cit import CiT
from ..models.students import classifier_of
from ..names import CLASS
from ..shapes import Float, UInt8
from .opened import OpenedRun

Pixels = UInt8[np.ndarray, "b h w 3"]
TEACHER = "teacher/"
"""What the name of a teacher's output begins with, beside the token that has the same name."""


@dataclass(frozen=True)
class Asked:
    """What all outputs of a run say of b images.

    Attributes:
        odds: output (`class`, advised tokens, `teacher/NAME`) → probabilities (b, k); 0 for a class that a teacher does
            not know.
        features: what the class token's classifier sees (b, d); None where the model does not show it.
    """

    odds: Mapping[str, Float[np.ndarray, "b k"]]
    features: Float[np.ndarray, "b d"] | None


def seen_by(run: OpenedRun, content: bytes | Image, name: str) -> UInt8[np.ndarray, "h w 3"]:
    """An image as the evaluation of a run sees it: upright, resized and cropped.

    Raises:
        DataError: it cannot be read.
    """
    return eval_images(run.trained, [(content, name)])[0]


@torch.no_grad()
def ask(run: OpenedRun, pixels: Pixels) -> Asked:
    """Ask the student's tokens and the teachers that are at hand.

    The class token's probabilities are those of `coadvise predict`, by the same computation.

    Args:
        pixels: images as the run's evaluation sees them (`Classifier.pixels`).

    Raises:
        ModelError: an answer is not finite.
    """
    trained = run.trained
    images = Finish(trained.data, len(trained.classes), trained.device).images(torch.from_numpy(pixels))
    with _watched(trained.model) as seen:
        logits = {token: z.float().cpu().numpy() for token, z in trained.tokens(images).items()}
        features = None if CLASS not in seen else flat_features(seen[CLASS]).float().cpu().numpy()
    logits[CLASS] = run.classifier.logits(pixels)
    logits |= {f"{TEACHER}{name}": z.cpu().numpy() for name, z in run.teachers(images).items()}
    if wrong := [name for name, z in logits.items() if not _is_finite(name, z)]:
        raise ModelError(f"the answers of {few(wrong)} are not finite, so that nothing can be shown; try another image")
    odds = ODDS[trained.data.labels]
    return Asked({name: odds(z) for name, z in logits.items()}, features)


def _is_finite(name: str, logits: Float[np.ndarray, "b k"]) -> bool:
    """Whether an answer is one; −inf of a teacher is a class that it does not know, as long as others are left."""
    return bool(np.isfinite(logits.max(axis=1) if name.startswith(TEACHER) else logits).all())


@torch.no_grad()
def looks(run: OpenedRun, pixels: Pixels) -> dict[str, Float[Tensor, "b gh gw"]]:
    """Attention of each token to the patches; nothing where the model has none, or never holds it."""
    model = _with_tokens(run.trained.model)
    if model is None:
        return {}
    finish = Finish(run.trained.data, len(run.trained.classes), run.trained.device)
    return attention_maps(model, finish.images(torch.from_numpy(pixels)))


def why_no_looks(run: OpenedRun) -> str:
    """Why no attention can be shown for a run; empty where it can."""
    kind = type(classifier_of(run.trained.model)).__name__
    if _with_tokens(run.trained.model) is None:
        return f"{kind} has no tokens whose attention could be shown"
    side = run.trained.data.image_size
    blank = np.zeros((1, side, side, 3), np.uint8)
    return "" if looks(run, blank) else f"{kind} never holds the attention of its tokens to patches"


def _with_tokens(student: nn.Module) -> CiT | AdvisedViT | None:
    """The student as a model whose tokens' attention is known: a plain ViT is one with its class token alone."""
    model = classifier_of(student)
    if isinstance(model, (CiT, AdvisedViT)):
        return model
    return None if why_no_tokens(model) else AdvisedViT(model, {}).to(next(model.parameters()).device).eval()


def _watched(model: nn.Module) -> AbstractContextManager[dict[str, Tensor]]:
    """The inputs of the classifiers; nothing of a model that does not say which of its layers they are."""
    try:
        classifiers(model)
    except ModelError:
        return nullcontext({})
    return watched(model)
