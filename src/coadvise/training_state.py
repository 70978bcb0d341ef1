"""Everything a resume needs, in one safetensors file: no pickle, and either whole or absent.

Tensors carry a prefix: `model.`, `ema.`, `optimizer.INDEX.`, `rng.cpu.RANK`, `rng.cuda.RANK`, `window.`. Numbers
are JSON in the file's header.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.optim import Optimizer

from .checkpoint import save_safetensors_atomic
from .errors import CheckpointError

FORMAT = "coadvise-training-1"


def optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """State of an optimizer as flat tensors, `INDEX.key`; parameter groups follow from the recipe."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


def load_optimizer(optimizer: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; learning rates and decay stay those of the recipe."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, key = name.split(".", 1)
        parameter = parameters[int(index)]
        if value.shape == parameter.shape:  # a fused update walks through memory, which may be channels-last
            value = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
        state.setdefault(int(index), {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def digest(tensors: Iterable[Any]) -> str:
    """Hash of the contents of tensors, to tell whether they are still those of an earlier start."""
    total = hashlib.sha256()
    for tensor in tensors:
        if not isinstance(tensor, Tensor | np.ndarray):  # a module's extra state
            total.update(repr(tensor).encode())
            continue
        values = tensor.detach().cpu().contiguous() if isinstance(tensor, Tensor) else torch.from_numpy(tensor)
        total.update(values.reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()[:16]


def rng_tensors(device: torch.device) -> dict[str, Tensor]:
    """State of this process's generators."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def load_rng(tensors: Mapping[str, Tensor], device: torch.device) -> None:
    """Inverse of `rng_tensors`."""
    torch.set_rng_state(tensors["cpu"].cpu())
    if device.type == "cuda" and "cuda" in tensors:
        torch.cuda.set_rng_state(tensors["cuda"].cpu(), device)


def save_state(path: Path, parts: Mapping[str, Mapping[str, Tensor]], numbers: Mapping[str, Any]) -> None:
    """Write parts (prefix → tensors) and JSON-ready numbers atomically."""
    tensors = {
        f"{prefix}.{name}": value.detach().cpu().contiguous()
        for prefix, group in parts.items()
        for name, value in group.items()
    }
    save_safetensors_atomic(path, tensors, {"format": FORMAT, "state": json.dumps(numbers)})


def load_state(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read what `save_state` wrote.

    Raises:
        CheckpointError: missing, damaged, or no training state.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != FORMAT:
                raise CheckpointError(f"{path} is no training state of this version of coadvise")
            parts: dict[str, dict[str, Tensor]] = {}
            for name in file.keys():  # noqa: SIM118 - safe_open is no mapping
                prefix, _, rest = name.partition(".")
                parts.setdefault(prefix, {})[rest] = file.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    return parts, json.loads(header["state"])


def load_module(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load a module's tensors exactly.

    Raises:
        CheckpointError: keys or shapes that differ.
    """
    try:
        module.load_state_dict(dict(tensors), strict=True)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit the model: {error}") from error
