"""`coadvise report` and `demo`: a page about what was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .arguments import out


def report(folder: Annotated[Path, typer.Argument(help="a run's folder, or a demo's")]) -> None:
    """Write report.html for a run or a demo: tables, curves, similarity to the teachers.

    Example:

        coadvise report runs/pets
    """
    from ..reports.demo import write_report
    from ..reports.run import run_report

    page = write_report(folder) if (folder / "demo.json").is_file() else run_report(folder)
    out.print(f"wrote {page}", markup=False)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the demo")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="students of each kind")] = 5,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs side by side; by default one for each core, four at most")
    ] = None,
) -> None:
    """See the method work in minutes: teachers and students on real handwritten digits, then a report.

    Example:

        coadvise demo --output runs/demo
    """
    from ..reproduce.demo import run_demo

    page = run_demo(output, seeds=seeds, jobs=jobs)
    out.print(f"\nreport: {page}", markup=False)
