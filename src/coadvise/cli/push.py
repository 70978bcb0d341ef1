"""`coadvise push`: a trained model on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..system.progress import Display
from ..system.screen import printable
from .arguments import Quiet, out


def push(
    model: Annotated[Path, typer.Argument(help="a finished run's folder, or its best.safetensors")],
    repository: Annotated[str, typer.Argument(help="on the Hub, OWNER/NAME; made if it is not there")],
    private: Annotated[bool, typer.Option("--private", help="only you can see it")] = False,
    licence: Annotated[
        str | None, typer.Option("--license", help="of the weights, as the Hub names it: mit, …")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print what would go; nothing leaves the machine")] = False,
    replace_card: Annotated[bool, typer.Option("--replace-card", help="replace a README.md that is there")] = False,
    quiet: Quiet = False,
) -> None:
    """Upload a model to the Hugging Face Hub: a folder for timm, with a model card.

    Log in first with `hf auth login`, or set HF_TOKEN.

    Examples:

        coadvise push runs/pets me/pets --private

        coadvise push runs/pets me/pets --license apache-2.0 --dry-run
    """
    from ..export.hub import parcel, upload

    with parcel(model, repository, licence, Display(quiet=quiet)) as files:
        if dry_run:
            for name, size in files.sizes().items():
                out.print(f"{size:>12,} bytes  {name}")
            out.print(f"would go to {files.address}; nothing was sent. The model card:")
            print(printable(files.card.read_text(encoding="utf-8"), lines=True), end="")
            return
        out.print(f"uploaded to {upload(files, private=private, replace_card=replace_card)}")
