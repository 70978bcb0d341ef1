"""`coadvise export`: a trained model in the form in which it runs elsewhere."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RunError
from ..system.imports import importing
from ..system.progress import Display
from .arguments import Quiet, next_steps, out


def export(
    model: Annotated[Path, typer.Argument(help="a finished run's folder, or its best.safetensors")],
    to: Annotated[str, typer.Option("--to", help="safetensors, timm, onnx, openvino, torch or int8")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="by default in RUN/export")] = None,
    images: Annotated[
        list[str] | None, typer.Option("--images", help="images to check it on; by default validation images")
    ] = None,
    max_drop: Annotated[
        float | None, typer.Option(min=0, help="points of accuracy that int8 may lose; 0.5 by default")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Write the model so that it runs elsewhere; what was written is checked on real images first.

    Examples:

        coadvise export runs/pets --to onnx

        coadvise export runs/pets --to int8 --max-drop 0.3
    """
    with importing():
        from ..export.exporting import export as run
        from ..export.targets import target_named

    target = target_named(to)
    if max_drop is not None and to != "int8":
        raise RunError(f"--max-drop says what int8 may lose, and --to {to} loses nothing; leave it out")
    display = Display(quiet=quiet)
    allowed = 0.5 if max_drop is None else max_drop
    place, written = run(model, target, output, images=tuple(images or ()), max_drop=allowed, display=display)
    for line in written.lines:
        display.say(line.replace("local-dir:FOLDER", f"local-dir:{place}"))
    out.print(f"wrote {place}")
    if to != "torch":  # code stands in such a file, and predict runs none
        next_steps(shlex.join(["coadvise", "predict", "IMAGE", "--model", str(place)]))
