"""Reports of landed results, made of their files; `cd tests && python -m helpers.landed cifar-long` makes one."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from coadvise.paper.beyond import BEYOND
from coadvise.paper.declared import Experiment
from coadvise.paper.imagenet import EXPERIMENTS
from coadvise.reports.paper import write_paper_report
from coadvise.reports.results import About
from coadvise.reproduce.beside import beside_paper
from coadvise.reproduce.command import find_experiments
from coadvise.reproduce.scales import SCALES
from coadvise.reproduce.setup import set_up
from coadvise.run.measurement import Measurement
from coadvise.system.files import write_atomic

from . import SHARED

ROOT = Path(__file__).resolve().parents[2] / "results"
# Measured by other commands, and shown in the report.
ASIDE = ("figure2.json", "attention.json", "headroom/headroom.json")


class Made(NamedTuple):
    """How landed results were made: the scale, changed settings, and the images where they are not the scale's own."""

    scale: str
    changed: list[str]
    data: str | None

    @property
    def source(self) -> str:
        """What `--data` would be here."""
        return "digits" if self.scale == "digits" else str(SHARED / "data" / (self.data or "cifar10"))


def made_at(folder: Path) -> Made:
    """As the command noted it, with the name of other images added to that; without a note, the folder's name is the
    scale's."""
    path = folder / "reproduce.json"
    mark = json.loads(path.read_text()) if path.is_file() else {"scale": folder.name, "changed": []}
    return Made(mark["scale"], mark["changed"], mark.get("data"))


def write_report(folder: Path, output: Path) -> list[Experiment]:
    """Write the report of a folder's result files into another folder.

    Returns:
        The experiments in it: those that the folder's own report has.
    """
    files = {path.stem: Measurement.read(path) for path in sorted((folder / "runs").glob("*.json"))}
    heads = re.findall(r"^## (\w+)(?: (\d))?: ", (folder / "report.md").read_text(), re.M)
    known = {*EXPERIMENTS, *(one.name for one in BEYOND)}
    experiments = find_experiments([name for kind, number in heads if (name := kind.lower() + number) in known])
    for name in ASIDE:
        if (folder / name).is_file():
            write_atomic(output / name, (folder / name).read_bytes())
    # Not of teachers: the twin of a teacher is another seed of it.
    seeds = max(Counter(run.arm for run in files.values() if run.arm.startswith("transformer")).values())
    made = made_at(folder)
    # What else a report says of its scale follows from the settings, not from the images.
    few = ("digits", [*made.changed, "data.train_size=200"])
    source, settings = few if made.data is None else (made.source, made.changed)
    setup = set_up(SCALES[made.scale], output, source=source, settings=settings)
    title = SCALES[made.scale].title if made.data is None else setup.title
    about = About(
        made.scale, title, seeds, made.changed, setup.particulars(), settings=beside_paper(setup, experiments)
    )
    write_paper_report(output, files, experiments, about)
    return experiments


def write_again(folder: Path) -> None:
    """Replace the landed report by that of the files that lie beside it now."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place)
        write_report(folder, output)
        for name in ("report.md", "verdicts.json"):
            write_atomic(folder / name, (output / name).read_bytes())
        for name in ("figures", "tables"):
            shutil.rmtree(folder / name, ignore_errors=True)
            if (output / name).is_dir():  # tables alone have no figures
                shutil.copytree(output / name, folder / name)


if __name__ == "__main__":
    for name in sys.argv[1:] or sys.exit("name folders of results/, such as cifar-long"):
        write_again(ROOT / name)
