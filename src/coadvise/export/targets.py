"""All targets, by name."""

from __future__ import annotations

from ..errors import RunError, nearest
from .int8_file import INT8
from .job import Target
from .onnx_file import ONNX
from .openvino_folder import OPENVINO
from .program_file import PROGRAM
from .safetensors_file import SAFETENSORS
from .timm_folder import TIMM

TARGETS: dict[str, Target] = {target.name: target for target in (SAFETENSORS, TIMM, ONNX, OPENVINO, PROGRAM, INT8)}


def target_named(name: str) -> Target:
    """The target of that name.

    Raises:
        RunError: there is none.
    """
    if name not in TARGETS:
        raise RunError(f"--to is '{name}', must be one of {', '.join(TARGETS)}{nearest(name, TARGETS)}")
    return TARGETS[name]
