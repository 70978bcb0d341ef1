"""What is trained: the student and its loss as one region, which is compiled as one graph where that pays.

The region takes images, advice and targets, and gives the loss: nothing in between leaves it, so that a compiler sees
the whole of it, forward and backward. It stands inside of DistributedDataParallel and of what Accelerate does to a
model's `forward` (autocast, results in float32), neither of which then costs a break in the graph: gradients reach DDP
when the one backward graph has ended, and are reduced at once.

Only steps of training are compiled. Evaluation calls the student itself, as it is: it takes a small part of the time,
its last batch is smaller, and a graph of its own would take as long to compile again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import CoadviseError, out_of_memory, shortened
from ..losses import Kept, Objective
from ..losses.apart import heads_apart
from ..models.cit import CiT
from ..models.compiling import SIMPLER, Form, compile_blocks, compiled, kind_of, plain_again
from ..names import APART
from ..system.clock import now
from ..system.own_code import with_own_code
from ..system.recordings import Recordings


class Losses(NamedTuple):
    """The loss of a micro-batch.

    Attributes:
        total: scalar, what gradients are taken of.
        values: it and every term, in the order of `Trained.names`; without gradients, in one tensor.
    """

    total: Tensor
    values: Tensor


class Tried(NamedTuple):
    """A form in which a region was tried: seconds until it first ran forward and backward, and of that afterwards."""

    form: Form
    first: float
    step: float


@dataclass(frozen=True)
class Apart:
    """Heads of a student that are kept apart (`losses.apart`), and the weight of that term."""

    weight: float = 0.0
    heads: Sequence[nn.Linear] = ()


NOT_APART = Apart()
# The second is raised where PyTorch will not compile anew once more, and is no kind of the first.
COMPILER_FAILS = (torch._dynamo.exc.TorchDynamoException, torch._dynamo.exc.FailOnRecompileLimitHit)


class Trained(nn.Module):
    """A student with its loss.

    Args:
        teachers: names of those that advise.
        still: modules of the student that never leave evaluation mode.
        say: takes what the user is told when the region cannot be compiled.
        apart: a term of the student's own weights; none of weight 0.

    Attributes:
        names: of `Losses.values`: `total`, then the terms.
        form: in which the region runs.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        tokens: Sequence[str] = (),
        teachers: Iterable[str] = (),
        still: Iterable[nn.Module] = (),
        say: Callable[[str], None] = lambda words: None,
        apart: Apart = NOT_APART,
    ) -> None:
        super().__init__()
        self.student = student
        self.names = ("total", *objective.names(tokens, teachers), *([APART] if apart.weight else []))
        self.form: Form = "plain"
        self._objective, self._still, self._say, self._apart = objective, tuple(still), say, apart
        self._regions: dict[Form, Callable[..., Losses]] = dict.fromkeys(("plain", "blocks", "fused"), self._plain)
        self._first: FirstBatch | None = None
        self._recordings = Recordings()

    def train(self, mode: bool = True) -> Trained:
        super().train(mode)
        for module in self._still:
            module.eval()
        return self

    def forward(self, images: Tensor, advice: Mapping[str, Tensor], target: Tensor, kept: Kept | None = None) -> Losses:
        """Images (b, 3, h, w), each teacher's logits (b, k) and targets (b, k) → the loss.

        Args:
            kept: images on which a teacher counts, as in `co_advise_loss`.
        """
        if self._first is not None:
            first, self._first = self._first, None
            first(self, images, advice, target, kept)
        why: Exception | None = None
        while True:
            try:
                losses = self._run(images, advice, target, kept)
            except COMPILER_FAILS as error:  # a batch or a mode of another kind than those so far
                if self.form == "plain":
                    raise
                why = why or error
                self.use(SIMPLER[self.form])
            else:
                self._tell(why)
                return losses

    def use(self, form: Form, first: FirstBatch | None = None) -> None:
        """Take a form from now on.

        Args:
            first: called once with the next batch, such as `try_out`: what is compiled fails when it is called.
        """
        self._first = first
        if self.form == "blocks":
            plain_again(self.student)
        if self.form == "graphs" != form:
            del self._regions["graphs"]
            self._recordings.free()
        self.form = form
        if isinstance(self.student, CiT):
            self.student.fused_blocks = form == "fused"
        if form not in self._regions:
            kind = kind_of(self.student), str(self._objective), self.names, self._apart.weight
            # What has recorded graphs is shared with nothing: it cannot be called once their memory is free.
            own = with_own_code(self._plain, None if form == "graphs" else kind)
            self._regions[form] = compiled(own, form)
        if form == "blocks" and not compile_blocks(self.student):
            self.form = "plain"

    def try_out(
        self,
        images: Tensor,
        advice: Mapping[str, Tensor],
        target: Tensor,
        kept: Kept | None = None,
        tries: int = 0,
    ) -> Tried:
        """Run forward and backward in the form that is chosen, or in the first simpler one that works.

        No trace is left of it: not in weights, gradients, statistics of BatchNorm or generators.

        Args:
            tries: how often it is run again, to be measured.

        Raises:
            RuntimeError, CoadviseError: what fails in the plain form, too; or too little memory.
        """
        why: Exception | None = None
        while True:
            try:
                with _without_trace(self):
                    seconds = [self._try(images, advice, target, kept) for _ in range(1 + tries)]
            except Exception as error:  # compilers fail in many ways, and none of them ends a run
                if self.form == "plain" or isinstance(error, CoadviseError) or out_of_memory(error):
                    raise
                why = why or error
                self.use(SIMPLER[self.form])
            else:
                self._tell(why)
                return Tried(self.form, seconds[0], min(seconds[1:], default=seconds[0]))

    def _try(self, images: Tensor, advice: Mapping[str, Tensor], target: Tensor, kept: Kept | None) -> float:
        device = images.device
        start = now(device)
        total = self._run(images, advice, target, kept).total
        # Not `backward`, after which DistributedDataParallel would wait for the other processes.
        torch.autograd.grad(total, [p for p in self.parameters() if p.requires_grad], allow_unused=True)
        return now(device) - start

    def _run(self, images: Tensor, advice: Mapping[str, Tensor], target: Tensor, kept: Kept | None) -> Losses:
        if self.form != "graphs":
            return self._regions[self.form](images, advice, target, kept)
        # The next replay writes into the same memory, and a log line reads them later.
        torch.compiler.cudagraph_mark_step_begin()
        total, values = self._regions["graphs"](images, advice, target, kept)
        return Losses(total.clone(), values.clone())

    def _plain(self, images: Tensor, advice: Mapping[str, Tensor], target: Tensor, kept: Kept | None) -> Losses:
        logits = self.student.forward_tokens(images)  # type: ignore[operator]
        # The terms take logits to float32 themselves, one after the other.
        with torch.autocast(images.device.type, enabled=False):
            terms = self._objective.terms(logits, advice, target, kept)
            total, shown = terms.total, list(terms.values())
            if self._apart.weight:
                shown.append(heads_apart([head.weight for head in self._apart.heads]))
                total = total + self._apart.weight * shown[-1]
            return Losses(total, torch.stack([one.detach() for one in (total, *shown)]))

    def _tell(self, why: Exception | None) -> None:
        """Say once which form is left, and why the first one that failed did."""
        if why is not None:
            instead = {"whole": "without CUDA graphs", "blocks": "only its blocks are", "plain": "it runs as it is"}
            self._say(f"student and loss cannot be compiled as one ({_reason(why)}): {instead[self.form]}")


FirstBatch = Callable[[Trained, Tensor, Mapping[str, Tensor], Tensor, Kept | None], Any]
"""What is called with the first batch of a form."""


def _reason(error: Exception) -> str:
    """The first line of what a compiler says, and what it announces; the others are for those who write models."""
    if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
        return "its batches or modes are of more kinds than PyTorch compiles it for"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return shortened(" ".join(lines[:2]) if lines[0].endswith(":") else lines[0], 150)


@contextmanager
def _without_trace(module: nn.Module) -> Iterator[None]:
    """Restore buffers and random generators."""
    device = next(module.parameters()).device
    kept = [(buffer, buffer.clone()) for buffer in module.buffers()]
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
