"""ONNX: one file of standard operators, with a free batch."""

from __future__ import annotations

from pathlib import Path

from .engines import onnx_logits
from .job import Job, Target, Written
from .parity import require_parity
from .tracing import onnx_bytes


def _write(job: Job, path: Path) -> Written:
    path.write_bytes(onnx_bytes(job.trained, job.card))
    parity = require_parity(job, onnx_logits(path), "ONNX Runtime")
    return Written((f"ONNX Runtime: {parity.line} ({parity.images})",), {"parity": parity})


ONNX = Target(
    "onnx",
    "model.onnx",
    "one ONNX file for ONNX Runtime, OpenVINO, TensorRT, browsers",
    _write,
    packages=("onnx", "onnxscript", "onnxruntime"),
)
