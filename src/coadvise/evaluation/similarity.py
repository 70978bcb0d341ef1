"""Agreement between student tokens and teachers: error consistency, CKA of features, calibration, token collapse.

Also where each token looks: its attention to the patches.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..checkpoints.trained import TrainedModel
from ..data.loader import EvalLoader
from ..data.sources.base import ImageSource
from ..data.sources.subsets import Subset, balanced_subset
from ..models.advised import AdvisedViT
from ..models.cit import CiT
from ..models.students import answering_output
from ..names import ALL_HEADS, CLASS
from ..shapes import Float, Int
from .features import watched
from .inference import for_several
from .metrics import calibration_error, ensemble, error_consistency, linear_cka


@dataclass(frozen=True)
class Answers:
    """Outputs of a model on a set of images, on the CPU.

    Attributes:
        logits: token → (n, k).
        features: token → (n, d), what its classifier sees.
        cosines: `TOKEN|TOKEN` → mean cosine of the two after each block; empty for a model without tokens.
        answering: the output by which the model answers.
    """

    label: Int[Tensor, " n"]
    logits: Mapping[str, Float[Tensor, "n k"]]
    features: Mapping[str, Float[Tensor, "n d"]]
    cosines: Mapping[str, Sequence[float]]
    answering: str = CLASS

    @property
    def answer(self) -> Float[Tensor, "n k"]:
        """Logits by which the model answers."""
        if self.answering == ALL_HEADS:
            return torch.stack(list(self.logits.values())).mean(dim=0)
        return self.logits[self.answering]

    def right(self, token: str | None = None) -> Tensor:
        """Whether each answer, or that of a token, is right."""
        logits = self.answer if token is None else self.logits[token]
        return logits.argmax(dim=1) == self.label


@torch.no_grad()
def answers(trained: TrainedModel, source: ImageSource, batch_size: int = 250) -> Answers:
    """Compute the outputs of a trained model on a source, with the model's own preprocessing.

    Raises:
        DataError: an image is unreadable: none is left out, so that the rows of several models are the same images.
    """
    data = trained.data.model_copy(update={"on_error": "raise"})
    logits: dict[str, list[Tensor]] = {}
    features: dict[str, list[Tensor]] = {}
    labels, cosines = [], []
    loader = contextlib.closing(EvalLoader(source, data, batch_size, device=trained.device))
    with loader as batches, watched(trained.model) as seen, _blocks(trained.model) as blocks:
        for batch in batches:
            blocks.clear()
            for token, z in trained.tokens(batch.images).items():
                logits.setdefault(token, []).append(z.float().cpu())
                features.setdefault(token, []).append(seen[token].float().cpu())
            labels.append(batch.label.cpu())
            if blocks:
                cosines.append(_cosines(torch.stack(blocks)) * len(batch.label))
    label, pairs = torch.cat(labels), itertools.combinations(logits, 2)
    means = (torch.stack(cosines).sum(dim=0) / len(label)).T.tolist() if cosines else []
    return Answers(
        label,
        {token: torch.cat(parts) for token, parts in logits.items()},
        {token: torch.cat(parts) for token, parts in features.items()},
        {f"{a}|{b}": [round(v, 4) for v in row] for row, (a, b) in zip(means, pairs, strict=False)},
        answering_output(trained.model, logits),
    )


def _cosines(tokens: Float[Tensor, "l b t d"]) -> Float[Tensor, "l p"]:
    """Mean over the batch of the cosine of every pair of tokens, at every depth."""
    unit = F.normalize(tokens.double(), dim=-1)
    pairs = list(itertools.combinations(range(tokens.shape[2]), 2))
    return torch.stack([(unit[:, :, i] * unit[:, :, j]).sum(-1).mean(1) for i, j in pairs], dim=1).cpu()


@contextlib.contextmanager
def _blocks(model: nn.Module) -> Iterator[list[Tensor]]:
    """A token student's tokens behind each block, in order; nothing for another model."""
    blocks: list[Tensor] = []
    handles = []
    if isinstance(model, CiT) and model.num_prefix_tokens > 1:
        prefix = model.num_prefix_tokens
        for block in model.blocks:
            handles.append(block.register_forward_hook(lambda _, __, x: blocks.append(x[:, :prefix].detach())))
    elif isinstance(model, AdvisedViT) and CLASS in model.places(0):
        # The model's own answer goes through its blocks as well, without the advised tokens.
        tokens = lambda x: x[:, list(model.places(x.shape[1]).values())].detach()
        for block in model.model.blocks:
            handles.append(block.register_forward_hook(lambda _, __, x: blocks.append(tokens(x))))
    try:
        yield blocks
    finally:
        for handle in handles:
            handle.remove()


def likeness(
    student: TrainedModel,
    teachers: Mapping[str, TrainedModel],
    source: ImageSource,
    *,
    limit: int | None = None,
    batch_size: int = 250,
) -> tuple[dict[str, float], dict[str, Any]]:
    """Calibration of every token, and its similarity to every teacher.

    Args:
        source: validation images, the same for all; each model sees them in its own size.
        limit: so many of them, classes in balance; those that `data.on_error=skip` of the student leaves out are
            missing from these.

    Returns:
        Flat numbers `ece/TOKEN`, `kappa/TEACHER|TOKEN`, `cka/TEACHER|TOKEN`, `ensemble/accuracy` and `ensemble/upper`
        of the teachers and `ensemble/student`, all on the same images (undefined ones are absent), and in detail:
        `likeness images`, how many; `token_cosine`, pair → value after each block; `teachers`, their κ and CKA with
        each other.
    """
    if limit is not None and limit < len(source):
        source = Subset(source, balanced_subset(source.labels, limit))
    source = Subset(source, for_several(source, student.data))
    own = answers(student, source, batch_size)
    theirs = {name: answers(teacher, source, batch_size) for name, teacher in teachers.items()}
    numbers: dict[str, float | None] = {
        f"ece/{token}": calibration_error(z.softmax(dim=1), own.label) for token, z in own.logits.items()
    }
    for name, teacher in theirs.items():
        for token in own.logits:
            numbers[f"kappa/{name}|{token}"] = error_consistency(teacher.right(), own.right(token))
            numbers[f"cka/{name}|{token}"] = linear_cka(teacher.features[CLASS], own.features[token])
    if theirs:
        members = [teacher.answer for teacher in theirs.values()]
        numbers["ensemble/accuracy"], numbers["ensemble/upper"] = ensemble(members, own.label)
        numbers["ensemble/student"] = float(own.right(CLASS).double().mean())
    detail: dict[str, Any] = {"likeness images": len(own.label)}
    if own.cosines:
        detail["token_cosine"] = own.cosines
    for a, b in itertools.combinations(theirs, 2):
        pair = detail.setdefault("teachers", {}).setdefault(f"{a}|{b}", {})
        pair["kappa"] = error_consistency(theirs[a].right(), theirs[b].right())
        pair["cka"] = linear_cka(theirs[a].features[CLASS], theirs[b].features[CLASS])
    return {name: value for name, value in numbers.items() if value is not None}, detail
