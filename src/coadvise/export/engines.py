"""Exported files, opened by what runs them: no model is built, and for ONNX and OpenVINO no PyTorch is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import CheckpointError, one_line
from .card import INPUT, Card, card_in

if TYPE_CHECKING:
    from .parity import Logits


def onnx_logits(path: Path) -> Logits:
    """Run an ONNX file by ONNX Runtime on the CPU.

    Raises:
        CheckpointError: ONNX Runtime cannot load it.
    """
    return _onnx(path)[1]


def _onnx(path: Path) -> tuple[dict[str, str], Logits]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its errors have no common base
        raise CheckpointError(f"{path} cannot be loaded by ONNX Runtime: {one_line(error)[:300]}") from error
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    return metadata, lambda images: np.asarray(session.run(None, {INPUT: images})[0])


def open_exported(path: Path, card: Card | None = None) -> tuple[Card, Logits]:
    """A file or folder that `coadvise export` wrote: what it says of itself, and what runs it.

    Raises:
        CheckpointError: it is damaged, or of another kind.
    """
    metadata, logits = _onnx(path)
    return card or card_in(metadata, str(path)), logits


def is_exported(path: Path) -> bool:
    """Whether a path has the form of an exported file or folder that an engine runs."""
    return path.suffix in (".onnx", ".xml", ".pt2") or (path.is_dir() and any(path.glob("*.xml")))
