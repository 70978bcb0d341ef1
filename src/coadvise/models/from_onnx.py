"""Classifiers in ONNX files, run by ONNX Runtime: on a GPU where it can, else on the CPU."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import ModelError, one_line, require
from ..system.extras import command_for
from .elsewhere import Found
from .stated import Size

_FLOATS = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(double)": np.float64}


class OnnxModel(nn.Module):
    """A classifier in an ONNX file: images (b, 3, h, w) → logits (b, k) in float32, on the device of the images.

    The file's batch may be fixed; the images are given to it in so many parts. A file that ends in a softmax gives
    probabilities, and their logarithms are logits.

    Attributes:
        file_digest: of the file and of those that hold its weights, so that what is computed with it can be told from
            what another file gives.

    Raises:
        ModelError: no ONNX file, or none of an image classifier.
    """

    file_digest: Tensor

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._sessions: dict[torch.device, Any] = {}
        session = self._session()
        inputs, outputs = session.get_inputs(), session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != 4:
            shapes = ", ".join(f"{one.name} {one.shape}" for one in inputs)
            raise ModelError(
                f"{path} takes {shapes or 'nothing'}; give a classifier that takes images (batch, 3, h, w)"
            )
        self.input, self.output = inputs[0].name, _logits_of(path, outputs)
        if inputs[0].type not in _FLOATS:
            raise ModelError(
                f"{path} takes images of {inputs[0].type}; give a file that takes normalised ones, of floating-point "
                "numbers"
            )
        self.dtype = _FLOATS[inputs[0].type]
        batch, *rest = (side if isinstance(side, int) and side > 0 else None for side in inputs[0].shape)
        self.batch, self.last = batch, rest[0] != 3 and rest[2] == 3  # channels last, as TensorFlow has them
        height, width = rest[:2] if self.last else rest[1:]
        self.image_size: Size | None = (height, width) if height and width else None
        self.probabilities = False
        self.register_buffer("file_digest", torch.tensor(list(_digest_of(path)), dtype=torch.uint8))

    def metadata(self) -> Mapping[str, str]:
        """Named texts in the file."""
        return dict(self._session().get_modelmeta().custom_metadata_map)

    def forward(self, x: Tensor) -> Tensor:
        images = x.detach().float().cpu().numpy()
        if self.last:
            images = images.transpose(0, 2, 3, 1)
        images = np.ascontiguousarray(images, dtype=self.dtype)
        step = self.batch or len(images)
        parts = [self._answers(x.device, images[at : at + step], step) for at in range(0, len(images), step)]
        z = torch.from_numpy(np.concatenate(parts)).to(x.device)
        return z.clamp_min(torch.finfo(torch.float32).tiny).log() if self.probabilities else z

    def _answers(self, device: torch.device, images: np.ndarray, step: int) -> np.ndarray:
        count = len(images)
        if count < step:  # a fixed batch is filled up
            images = np.concatenate([images, np.zeros((step - count, *images.shape[1:]), images.dtype)])
        z = np.asarray(self._session(device).run([self.output], {self.input: images})[0], dtype=np.float32)
        return z.reshape(len(z), -1)[:count] if z.ndim > 2 and z.shape[2:] == (1,) * (z.ndim - 2) else z[:count]

    def _session(self, device: torch.device | None = None) -> Any:
        """ONNX Runtime for a device, opened when it is used; for the CPU where none is given."""
        device = device or torch.device("cpu")
        if device not in self._sessions:
            runtime = _runtime()
            options = runtime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = torch.get_num_threads()
            providers: list[Any] = ["CPUExecutionProvider"]
            if device.type == "cuda" and "CUDAExecutionProvider" in runtime.get_available_providers():
                providers.insert(0, ("CUDAExecutionProvider", {"device_id": device.index or 0}))
            try:
                self._sessions[device] = runtime.InferenceSession(str(self.path), options, providers=providers)
            except Exception as error:  # its errors have no common base
                raise ModelError(f"{self.path} cannot be loaded by ONNX Runtime: {one_line(error)[:300]}") from error
        return self._sessions[device]

    def __deepcopy__(self, memo: Any) -> OnnxModel:
        return self  # a session cannot be copied, and nothing of it changes


_OURS = "coadvise-export"


def open_onnx(place: str, size: int | None = None) -> Found:
    """A classifier in an ONNX file. Files that `coadvise export` wrote say how they see images, and their classes.

    Args:
        size: side of the images, for a file that takes any.

    Raises:
        ModelError: it cannot be read or run, gives an image any number of classes, or says something that cannot be.
    """
    path = Path(place)
    if not path.is_file():
        raise ModelError(f"onnx:{place}: there is no such file; check the path")
    model = OnnxModel(path)
    said = _said(model.metadata(), path)
    if said.get("labels", "one") != "one":
        raise ModelError(
            f"{path} gives an image any number of classes, and ONNX files advise with one for each; give the folder of "
            "the run that it was exported from"
        )
    side = size or said.get("image_size") or 224
    height, width = model.image_size or (side, side)
    example = torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(0)) * 4 - 2
    try:
        z = model(example)
    except Exception as error:  # its errors have no common base
        raise ModelError(
            f"{path} cannot take images (2, 3, {height}, {width}): {one_line(error)[:300]}; give its image_size"
        ) from error
    if z.ndim != 2:
        raise ModelError(
            f"{path} gives {tuple(z.shape)} for two images; give a classifier's file: logits (batch, classes)"
        )
    model.probabilities = bool((z >= 0).all()) and torch.allclose(z.sum(dim=1), torch.ones(2), atol=1e-3)
    model.num_classes = z.shape[1]
    classes = said.get("classes")
    if classes is not None and len(classes) != z.shape[1]:
        raise ModelError(f"{path} names {len(classes)} classes and gives {z.shape[1]} logits; write it again")
    own = said.get("image_size")
    return Found(model.eval(), said.get("mean"), said.get("std"), model.image_size or (own and (own, own)), classes)


def _said(metadata: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What the file says of itself in the words of `coadvise export`; nothing of other files."""
    kinds = {"mean": (int, float), "std": (int, float), "classes": (str,)}
    found: dict[str, Any] = {}
    try:
        for key, kind in kinds.items():
            if key in metadata:
                values = json.loads(metadata[key])
                if not isinstance(values, list) or not values or not all(isinstance(one, kind) for one in values):
                    raise ValueError(f"{key} is no list")
                found[key] = tuple(values)
        if "image_size" in metadata:
            found["image_size"] = json.loads(metadata["image_size"])
            require(found["image_size"], int, "image_size", "it is a number of pixels", ModelError)
        if metadata.get("format", "").startswith(_OURS) and "labels" in metadata:
            found["labels"] = metadata["labels"]
    except (ValueError, RecursionError, ModelError) as error:
        if metadata.get("format", "").startswith(_OURS):
            raise ModelError(f"{path} has damaged metadata ({one_line(error)}): export it again") from error
        return {}
    return found


def _logits_of(path: Path, outputs: Any) -> str:
    """The output that has the logits: the only one, or the one of that name."""
    names = [one.name for one in outputs]
    if len(names) == 1 or "logits" in names:
        return "logits" if "logits" in names else names[0]
    flat = [one.name for one in outputs if len(one.shape) == 2]
    if len(flat) != 1:
        raise ModelError(f"{path} has several outputs ({', '.join(names)}); call the one with the logits 'logits'")
    return flat[0]


def _digest_of(path: Path) -> bytes:
    """Hash of a file and of those that hold its weights; PyTorch calls that one FILE.data."""
    content = path.read_bytes()
    total, usual = hashlib.sha256(content), f"{path.name}.data"
    for name in (usual, *sorted(_locations(content) - {usual})):
        beside = os.path.join(path.parent, name)
        if os.path.isfile(beside):
            with open(beside, "rb") as file:
                while part := file.read(1 << 20):
                    total.update(part)
    return total.digest()


def _locations(content: bytes) -> set[str]:
    """Names of the files that hold tensors of an ONNX file, as its entries `location` give them.

    Entries are looked for in the bytes: a digest must not depend on whether the package `onnx` is installed.
    """
    found = set()
    for entry in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]?)([\x00-\x7f])", content):
        low, high = entry[1], entry[2][0]  # protobuf's length: seven bits in a byte, the lowest first
        length = high if not low else (low[0] & 0x7F) | high << 7
        with contextlib.suppress(UnicodeDecodeError, ValueError):
            found.add(content[entry.end() : entry.end() + length].decode())
    # What lies elsewhere, ONNX Runtime does not read.
    return {name for name in found if name and not os.path.isabs(name) and ".." not in Path(name).parts}


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(f"onnx:… needs ONNX Runtime: {command_for('onnxruntime')}") from error
    return onnxruntime
