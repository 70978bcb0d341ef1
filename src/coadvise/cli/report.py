"""`coadvise report`: a page about a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import out


def report(folder: Annotated[Path, typer.Argument(help="a run's folder")]) -> None:
    """Write report.html for a run: tables, curves, similarity to the teachers.

    Example:

        coadvise report runs/pets
    """
    from ..reports.run import run_report

    out.print(f"wrote {run_report(folder)}", markup=False)
