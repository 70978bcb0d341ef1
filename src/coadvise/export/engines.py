"""Exported files, opened by what runs them: no model is built."""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CheckpointError, RunError, one_line
from ..system.extras import command_for
from .card import Card, card_in

if TYPE_CHECKING:
    from .parity import Logits

GRAPH = "model.xml"
"""File of an OpenVINO folder that is opened; the weights lie beside it."""
SECTION = "coadvise"
"""Where the metadata are in OpenVINO's `rt_info` and in timm's `config.json`."""
CARD_FILE = "coadvise.json"
"""File in a PyTorch program that holds the metadata."""
PROGRAM = ".pt2"


def is_exported(path: Path) -> bool:
    """Whether a path is, by its name, one that `open_exported` opens."""
    return path.suffix in (".onnx", ".xml", PROGRAM) or (path / GRAPH).is_file()


def open_exported(path: Path, card: Card | None = None) -> tuple[Card, Logits]:
    """A file or folder that `coadvise export` wrote: what it says of itself, and what runs it on the CPU.

    Raises:
        CheckpointError: it is missing, damaged, or of another kind; programs of `torch.export` are not opened.
        RunError: the package that runs it is not installed.
    """
    path = path / GRAPH if path.is_dir() else path
    if path.suffix == PROGRAM:
        raise CheckpointError(
            f"{path}: PyTorch runs code that stands in such a file when it loads it, so it is not opened here; give "
            "the same model as --to onnx writes it, or load a file that you trust with torch.export.load"
        )
    if path.suffix not in (".onnx", ".xml"):
        raise CheckpointError(f"{path} is no exported model; give an .onnx file or a folder with {GRAPH}")
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist; check the path")
    metadata, logits = _onnx(path) if path.suffix == ".onnx" else _openvino(path)
    return card or card_in(metadata, str(path)), logits


def onnx_logits(path: Path) -> Logits:
    """Run an ONNX file by ONNX Runtime, on the CPU."""
    return _onnx(path)[1]


def openvino_logits(path: Path) -> Logits:
    """Run an OpenVINO graph or an ONNX file by OpenVINO on the CPU, in fp32 where it is not in int8."""
    return _openvino(path)[1]


def program_logits(path: Path) -> Logits:
    """Run a program of `torch.export` that has just been written: loading one may run code that stands in it."""
    import torch

    content = io.BytesIO(path.read_bytes())  # of a path, PyTorch wants a name that ends in .pt2
    module = _loaded(path, lambda: torch.export.load(content)).module()

    def logits(images: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return np.asarray(module(torch.from_numpy(images)).numpy())

    return logits


def _onnx(path: Path) -> tuple[dict[str, str], Logits]:
    try:
        import onnxruntime
    except ImportError as error:
        raise _missing(path, "onnxruntime") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = _loaded(path, lambda: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))
    metadata = dict(session.get_modelmeta().custom_metadata_map)
    wanted = session.get_inputs()[0]  # its name is `images`, unless another program wrote the file

    def logits(images: np.ndarray) -> np.ndarray:
        return np.asarray(_ran(path, images, lambda: session.run(None, {wanted.name: images}))[0])

    return metadata, _in_fixed_batches(logits, wanted.shape[0] if wanted.shape else None)


def _in_fixed_batches(logits: Logits, batch: object) -> Logits:
    """For any number of images what a file answers that takes so many at once; None or a name where it takes any."""
    if not isinstance(batch, int) or batch < 1:
        return logits

    def in_parts(images: np.ndarray) -> np.ndarray:
        more = -len(images) % batch
        filled = np.concatenate([images, np.zeros((more, *images.shape[1:]), images.dtype)])
        parts = [logits(np.ascontiguousarray(part)) for part in np.split(filled, len(filled) // batch)]
        return np.concatenate(parts)[: len(images)]

    return in_parts


def _openvino(path: Path) -> tuple[dict[str, str], Logits]:
    try:
        import openvino
    except ImportError as error:
        raise _missing(path, "openvino") from error
    core = openvino.Core()
    # Without it the processor decides, and computes in bf16 where it can.
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    # The weights of a graph are found beside it; an ONNX file may still have another name.
    model = _loaded(path, lambda: core.read_model(path if path.suffix == ".xml" else path.read_bytes()))
    metadata = {key: str(text) for key, text in _section(model).items()}

    # For the number of images at hand: with a free one OpenVINO is slower, and 2026.4 gets some int8 layers wrong.
    @functools.lru_cache(maxsize=2)  # batches, of which the last is smaller
    def compiled(count: int) -> openvino.CompiledModel:
        fixed = model.clone()
        shape = fixed.input(0).get_partial_shape()
        if shape[0].is_dynamic:
            shape[0] = count
            fixed.reshape(shape)
        return core.compile_model(fixed, "CPU", settings)

    def logits(images: np.ndarray) -> np.ndarray:
        return np.array(_ran(path, images, lambda: compiled(len(images))(images))[0])

    first = model.input(0).get_partial_shape()[0]
    return metadata, _in_fixed_batches(logits, None if first.is_dynamic else first.get_length())


def _section(model: Any) -> dict[str, Any]:
    if SECTION not in model.get_rt_info():
        return {}
    section = model.get_rt_info([SECTION]).astype(dict)
    return {key: value.value if hasattr(value, "value") else value for key, value in section.items()}


def _loaded(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except Exception as error:  # the engines' errors have no common base
        raise CheckpointError(
            f"{path} cannot be loaded, it is damaged or needs another version of what runs it: {one_line(error)[:300]}"
        ) from error


def _ran(path: Path, images: np.ndarray, run: Callable[[], Any]) -> Any:
    try:
        return run()
    except Exception as error:  # likewise
        raise CheckpointError(
            f"{path} does not take images of shape {images.shape}: {one_line(error)[:300]}; check --image-size"
        ) from error


def _missing(path: Path, package: str) -> RunError:
    return RunError(f"{path} needs {package}: {command_for(package)}")
