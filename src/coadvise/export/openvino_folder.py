"""OpenVINO: a folder of two files, the graph and its weights in fp32, with a free batch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ModelError, WriteError, one_line
from .card import Card
from .engines import GRAPH, SECTION, openvino_logits
from .job import Job, Target, Written
from .parity import require_parity
from .tracing import onnx_bytes

if TYPE_CHECKING:
    import openvino


def openvino_model(content: bytes, card: Card) -> openvino.Model:
    """OpenVINO's form of an ONNX model.

    Raises:
        ModelError: OpenVINO cannot translate it.
    """
    import openvino

    try:
        model = openvino.Core().read_model(content)
    except RuntimeError as error:
        raise ModelError(f"OpenVINO cannot read the model: {one_line(error)[:300]}") from error
    for key, text in card.metadata().items():
        model.set_rt_info(text, [SECTION, key])
    return model


def save(model: openvino.Model, folder: Path) -> None:
    """Write graph and weights into a folder, in the types that they have.

    Raises:
        WriteError: the disk is full.
    """
    import openvino

    try:
        openvino.save_model(model, folder / GRAPH, compress_to_fp16=False)
    except RuntimeError as error:
        raise WriteError(f"OpenVINO cannot write the model: {one_line(error)[:300]}; check free space") from error


def _write(job: Job, folder: Path) -> Written:
    save(openvino_model(onnx_bytes(job.trained, job.card), job.card), folder)
    parity = require_parity(job, openvino_logits(folder / GRAPH), "OpenVINO")
    return Written((f"OpenVINO: {parity.line} ({parity.images})",), {"parity": parity})


OPENVINO = Target(
    "openvino",
    "openvino",
    "a folder for OpenVINO, in fp32",
    _write,
    folder=True,
    packages=("onnx", "onnxscript", "openvino"),
)
