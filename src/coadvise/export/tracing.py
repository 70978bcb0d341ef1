"""A trained model as a program: `torch.export` with a free batch, and ONNX of it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule

from ..checkpoints.trained import TrainedModel
from ..errors import ModelError, one_line
from ..models.students import classifier_of
from .card import INPUT, OUTPUT, Card
from .graph import tidy

if TYPE_CHECKING:
    import onnx

OPSET = 20
"""The first one with GELU as an operator."""
LARGEST = 2**31 - 2**24
"""Bytes of weights in one ONNX file; the rest is for the graph."""


def program_of(trained: TrainedModel) -> ExportedProgram:
    """`forward` of a model: images (b, 3, h, w), normalised → logits (b, k), for any b.

    Raises:
        ModelError: PyTorch cannot follow the model.
    """
    side = trained.data.image_size
    # Two images, since PyTorch takes a size of 1 for a constant.
    example = torch.zeros(2, 3, side, side, device=trained.device)
    model = classifier_of(trained.model)
    try:
        with torch.no_grad(), _hushed():
            program = torch.export.export(model, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False)
    except Exception as error:  # a foreign model fails in many ways
        raise ModelError(
            f"{trained.recipe.student.model} cannot be exported with a free batch: {one_line(error)[:300]}"
        ) from error
    _forget_places(program)
    return program


def _forget_places(program: ExportedProgram) -> None:
    """Drop the lines of source that each operation comes from: files would name the folders of this machine."""
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)


def onnx_model(trained: TrainedModel, card: Card) -> onnx.ModelProto:
    """The same as ONNX, with its card.

    Raises:
        ModelError: PyTorch cannot translate the model.
    """
    model = translated(trained)
    for key, text in card.metadata().items():
        model.metadata_props.add(key=key, value=text)
    return model


def translated(trained: TrainedModel) -> onnx.ModelProto:
    """The graph alone."""
    size = sum(tensor.numel() * tensor.element_size() for tensor in trained.model.state_dict().values())
    if size > LARGEST:
        raise ModelError(
            f"{trained.recipe.student.model} has {size / 2**30:.1f} GiB of weights, more than the 2 GiB of one ONNX "
            "file; export it with --to torch"
        )
    program = program_of(trained)
    try:
        # Without gradients, as the program was made: else PyTorch computes masked attention in another way, whose
        # answer lies in memory differently, and fails at what comes after it.
        with torch.no_grad(), _hushed():
            made = torch.onnx.export(
                program, dynamo=True, external_data=False, verbose=False, input_names=[INPUT], output_names=[OUTPUT],
                opset_version=OPSET, dynamic_shapes=({0: "batch"},),
            )  # fmt: skip
            assert made is not None
            tidy(made.model)
    except Exception as error:  # of PyTorch's exporter and of the libraries under it
        raise ModelError(
            f"{trained.recipe.student.model} cannot be translated to ONNX: {one_line(error)[:300]}"
        ) from error
    return made.model_proto


def onnx_bytes(trained: TrainedModel, card: Card) -> bytes:
    """The content of an ONNX file."""
    return onnx_model(trained, card).SerializeToString()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Without what exporters say to their own developers."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
