"""int8: convolutions and matrix products with weights in 8 bits, by scales that are measured once; an ONNX file.

The scales are those of training images (static quantisation). Scales of the images at hand (dynamic quantisation)
would make the answer for an image depend on those that come with it. Everything else, such as normalisation, GELU and
softmax, and the products within attention, stays in fp32: in 8 bits it costs most of the accuracy and gains nothing.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..checkpoints.trained import TrainedModel
from ..data.sources.base import ImageSource
from ..errors import DataError, ModelError, one_line
from .card import INPUT
from .engines import onnx_logits, openvino_logits
from .images import batches, load, spread, training_source, validation_source
from .job import Job, Target, Written
from .parity import BATCH, Logits
from .tracing import onnx_model

if TYPE_CHECKING:
    import onnx

QUANTISED = ("MatMul", "Gemm", "Conv")
CALIBRATED = 128
"""Training images from which the scales are measured."""


@dataclass(frozen=True)
class Drop:
    """What int8 costs in an engine.

    Attributes:
        engine: its name.
        before, after: share of the validation images that are right, in fp32 and in int8.
        same: share of them of which both name the same class.
        count: validation images.
    """

    engine: str
    before: float
    after: float
    same: float
    count: int

    @property
    def points(self) -> float:
        """Accuracy lost, in points."""
        return 100 * (self.before - self.after)

    def exceeds(self, points: float) -> bool:
        """Whether more is lost than that; one image of 200 is half a point, whatever floating point makes of it."""
        return self.points > points + 1e-9

    @property
    def line(self) -> str:
        """In words."""
        gained = 0.0 - self.points  # no -0.00
        return (
            f"{self.engine}: accuracy {self.before:.2%} in fp32, {self.after:.2%} in int8 ({gained:+.2f} points) "
            f"on {self.count:,} validation images, top class the same on {self.same:.1%}"
        )


def _write(job: Job, path: Path) -> Written:
    if job.trained.data.labels == "several":
        raise ModelError(
            "int8 is checked by the accuracy of models that give an image one class, and this one gives it any number; "
            "export fp32 with --to onnx"
        )
    calibration, validation = _images_of(job.trained)
    whole = onnx_model(job.trained, dataclasses.replace(job.card, precision="int8"))
    quantise(whole, path, calibration)
    drops = _drops(job, {"ONNX Runtime": onnx_logits(path), "OpenVINO": openvino_logits(path)}, validation)
    worst = max(drops, key=lambda drop: drop.points)
    if worst.exceeds(job.max_drop):
        raise ModelError(
            f"int8 loses too much in {worst.line}; nothing was written. Allow more with --max-drop, or export fp32 "
            "with --to onnx"
        )
    _record(
        path, {"accuracy": {"fp32": worst.before, "int8": worst.after, "images": worst.count},
               "calibrated_on": len(calibration)},
    )  # fmt: skip
    lines = (f"scales from {len(calibration)} training images", *(drop.line for drop in drops))
    return Written(lines, {"drops": drops})


def _images_of(trained: TrainedModel) -> tuple[Tensor, ImageSource]:
    """Training images for the scales, and the validation images."""
    try:
        return load(trained, spread(training_source(trained), CALIBRATED))[0], validation_source(trained)
    except DataError as error:
        raise DataError(
            f"int8 needs the run's training and validation images: {one_line(error)}; put them back, or export fp32 "
            "with --to onnx"
        ) from error


def quantise(model: onnx.ModelProto, path: Path, calibration: Tensor) -> None:
    """Write a model with its convolutions and matrix products with weights in 8 bits.

    Args:
        calibration: images (n, 3, h, w), normalised.

    Raises:
        ModelError: ONNX Runtime cannot quantise the model.
    """
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._batches: Iterator[Tensor] = iter(calibration.split(BATCH))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {INPUT: batch.contiguous().numpy()}

    weights = {tensor.name for tensor in model.graph.initializer}
    products = [node for node in model.graph.node if node.op_type in QUANTISED]
    quantised = {node.name for node in products if weights.intersection(node.input)}
    options = {"OpTypesToExcludeOutputQuantization": list(QUANTISED)}
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)  # its advice is for those who write quantisers
    try:
        quantize_static(
            model, str(path), Reader(), quant_format=QuantFormat.QDQ, op_types_to_quantize=list(QUANTISED),
            nodes_to_quantize=sorted(quantised), per_channel=True, activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8, extra_options=options,
        )  # fmt: skip
    except OSError:
        raise
    except Exception as error:  # its errors have no common base
        raise ModelError(f"ONNX Runtime cannot quantise the model: {one_line(error)[:300]}") from error
    finally:
        logging.disable(level)
    made = onnx.load(path)
    _read_exact(made, quantised)
    path.write_bytes(made.SerializeToString())


@torch.no_grad()
def _drops(job: Job, engines: Mapping[str, Logits], source: ImageSource) -> list[Drop]:
    before, count = 0, 0
    after, same = dict.fromkeys(engines, 0), dict.fromkeys(engines, 0)
    with job.display.bar("validating in int8", len(source)) as bar:
        for images, label in batches(job.trained, source):
            expected = job.trained.model(images).argmax(1)
            before, count = before + int((expected == label).sum()), count + len(label)
            for name, logits in engines.items():
                found = _classes(logits, images)
                after[name] += int((found == label).sum())
                same[name] += int((found == expected).sum())
            bar.advance(len(label))
    if not count:
        raise DataError("no validation image can be read; put them back, or export fp32 with --to onnx")
    return [Drop(name, before / count, after[name] / count, same[name] / count, count) for name in engines]


def _classes(logits: Logits, images: Tensor) -> Tensor:
    return torch.cat([torch.from_numpy(logits(part.contiguous().numpy())).argmax(1) for part in images.split(BATCH)])


def _record(path: Path, facts: Mapping[str, object]) -> None:
    """Put what was measured into the file's metadata."""
    import onnx

    model = onnx.load(path)
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    path.write_bytes(model.SerializeToString())


def _read_exact(model: onnx.ModelProto, quantised: Collection[str]) -> None:
    """Let all nodes but the quantised ones read what was before it was rounded: residual sums, for one."""
    made_by = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        if node.name in quantised or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        for i, name in enumerate(node.input):
            rounded = made_by.get(name)
            if rounded is not None and rounded.op_type == "DequantizeLinear":
                source = made_by.get(rounded.input[0])
                if source is not None and source.op_type == "QuantizeLinear":
                    node.input[i] = source.input[0]


INT8 = Target(
    "int8",
    "model-int8.onnx",
    "an ONNX file with matrix products and convolutions in 8 bits",
    _write,
    packages=("onnx", "onnxscript", "onnxruntime", "openvino"),
)
