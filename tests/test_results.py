"""Landed results of the paper's experiments: the report is what their files give, and every verdict is traceable."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from helpers.landed import ROOT, made_at, write_report

from coadvise.paper.beyond import BEYOND, SWEEP
from coadvise.paper.imagenet import EXPERIMENTS
from coadvise.paper.kinds import SEEDS
from coadvise.reports.results import Results
from coadvise.reproduce.planner import Planner, in_order
from coadvise.reproduce.scales import SCALES
from coadvise.reproduce.setup import set_up
from coadvise.run.measurement import Measurement

LANDED = sorted(path.parent for path in ROOT.glob("*/verdicts.json"))


def require_images(folder: Path, needed: bool) -> None:
    """Skip where the images are needed that the landed results were made with, and are not there."""
    if needed and not Path(made_at(folder).source).is_dir():
        pytest.skip(f"no data in {made_at(folder).source}")


@pytest.mark.usefixtures("blank_figures")
@pytest.mark.parametrize("folder", LANDED, ids=lambda folder: folder.name)
def test_a_landed_report_is_made_of_its_files(folder: Path, tmp_path: Path) -> None:
    require_images(folder, made_at(folder).data is not None)
    experiments = write_report(folder, tmp_path)
    for name in ("report.md", "verdicts.json", *(f"tables/{one.name}.tex" for one in experiments)):
        assert (tmp_path / name).read_text() == (folder / name).read_text(), name
    assert {p.name for p in tmp_path.glob("figures/*")} == {p.name for p in folder.glob("figures/*")}
    for verdict in json.loads((folder / "verdicts.json").read_text()):
        assert all((folder / "runs" / name).is_file() for name in verdict["files"])


@pytest.mark.parametrize("folder", LANDED, ids=lambda folder: folder.name)
def test_landed_runs_say_where_they_come_from(folder: Path) -> None:
    for path in (folder / "runs").glob("*.json"):
        content = json.loads(path.read_text())
        assert re.fullmatch("[0-9a-f]{40}", content["provenance"]["commit"]), f"{path.name} was run on changed code"
        assert {"command", "hardware", "versions", "date"} <= set(content["provenance"])
        assert path.stem == f"{content['arm']}.s{content['seed']}.{content['id'][:8]}"
        assert content["scale"] == made_at(folder).scale
        # Data lie beside the repository wherever that is; a folder of one machine tells a reader nothing.
        told = f"{content['settings'].get('data.source', '')} {content['provenance']['command']}"
        assert not re.search(r"(?<![\w.])/\w+/", told), f"{path.name}: {told}"


@pytest.mark.parametrize("folder", LANDED, ids=lambda folder: folder.name)
def test_landed_runs_are_those_that_would_be_run_now(folder: Path, tmp_path: Path) -> None:
    require_images(folder, made_at(folder).scale != "digits")
    scale, changed, _ = made = made_at(folder)
    planner = Planner(set_up(SCALES[scale], tmp_path, source=made.source, settings=changed))
    names = {run.name for run in in_order(planner, [*EXPERIMENTS.values(), *BEYOND], SEEDS)}
    assert {path.stem for path in (folder / "runs").glob("*.json")} <= names


@pytest.mark.parametrize(("folder", "name"), [("digits", "the digits"), ("cifar-cpu", "CIFAR-10")])
def test_the_sweep_in_the_readme_is_that_of_its_files(folder: str, name: str) -> None:
    files = {path.stem: Measurement.read(path) for path in (ROOT / folder / "runs").glob("*.json")}
    results = Results(files)
    text = (ROOT / "README.md").read_text()
    section = text.split(f"### What holds the second kind back on {name}\n")[1].split("\n## ")[0]
    lines = section.splitlines()
    shown = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")][2:]
    rows = [row for row in SWEEP.rows if results.series(row.ours["both"])]
    words = {1: "one seed", 2: "two seeds", 3: "three seeds", 4: "four seeds", 5: "five seeds"}
    counts = {len(results.series(value)) for row in rows for value in row.ours.values()}
    full = len(counts) == 1
    if full:
        assert f"{words[counts.pop()]} in every cell" in section
        titles = [row.labels[0] for row in rows]
    else:
        seeds = [len(results.series(row.ours["both"])) for row in rows]
        titles = [row.labels[0] + (f" ({words[n]})" if n > 1 else "") for row, n in zip(rows, seeds, strict=True)]
    assert [cells[0] for cells in shown] == titles
    for row, (title, none, one, both, single, kind, tokens) in zip(rows, shown, strict=True):
        series = {key: results.series(value) for key, value in row.ours.items()}
        mean = {key: 100 * statistics.mean(values.values()) for key, values in series.items() if values}
        if none or full:
            assert none == f"{mean['none']:.1f}", title
        assert [one, both, single] == [f"{mean[key]:.1f}" for key in ("one", "both", "single")], title
        differences = [round(mean["both"] - mean[key], 1) for key in ("one", "single")]
        apart = [f"{gap:+.1f}".replace("-", "−") if gap else "0.0" for gap in differences]
        assert [kind, tokens] == apart, title


@pytest.mark.parametrize("folder", LANDED, ids=lambda folder: folder.name)
def test_the_readme_counts_the_claims_as_the_report_does(folder: Path) -> None:
    headline = next(line for line in (folder / "report.md").read_text().splitlines() if line.startswith("**"))
    assert headline.strip("*") in " ".join((ROOT / "README.md").read_text().split())


def test_there_are_landed_results() -> None:
    assert "digits" in [folder.name for folder in LANDED]
