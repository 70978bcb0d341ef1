"""The independent script agrees with the landed verdicts and finds what is changed."""

import json
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coadvise.crossed import crossed
from coadvise.paper.ablations import LABELS_ONLY
from coadvise.paper.kinds import BOTH_KINDS, KINDS_EXPERIMENT, TWO_CONV, TWO_INV
from coadvise.reports.paper import write_paper_report
from coadvise.reports.results import About
from tests.reports.test_contrasts import files

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "benchmarks" / "verdicts.py"
LANDED = sorted(path.parent for path in (ROOT / "results").glob("*/verdicts.json"))


def checked(*folders: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, folders)], capture_output=True, text=True, check=False
    )


def test_landed_verdicts_are_those_of_their_files(tmp_path: Path) -> None:
    assert "import coadvise" not in SCRIPT.read_text() and "from coadvise" not in SCRIPT.read_text()
    contrasts = tmp_path / "kinds"
    found = files({BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.5499})
    write_paper_report(contrasts, found, [KINDS_EXPERIMENT], About("cifar-long", "some images", seeds=6))
    for name, run in found.items():
        run.write(contrasts / "runs" / f"{name}.json")
    done = checked(*LANDED, contrasts)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(", 0 differences") == len(LANDED) + 1


def test_a_planted_change_is_found(tmp_path: Path) -> None:
    landed = next(folder for folder in LANDED if folder.name == "cifar-cpu")
    shutil.copytree(landed / "runs", tmp_path / "runs")
    verdicts = json.loads((landed / "verdicts.json").read_text())
    changed = next(one for one in verdicts if one["verdict"] == "holds")
    changed["verdict"] = "does not hold"
    other = next(one for one in verdicts if one["verdict"].startswith("undecided"))
    other["differences"]["0"] += 0.01
    (tmp_path / "verdicts.json").write_text(json.dumps(verdicts))
    done = checked(tmp_path)
    assert done.returncode == 1 and f"{len(verdicts)} verdicts recomputed, 2 differences" in done.stdout
    assert changed["claim"] in done.stdout and "verdict is does not hold, the run files say holds" in done.stdout


def test_sizes_and_speeds_are_compared_anew(tmp_path: Path) -> None:
    landed = next(folder for folder in LANDED if folder.name == "digits")
    (tmp_path / "runs").symlink_to(landed / "runs")
    verdicts = json.loads((landed / "verdicts.json").read_text())
    half, speed = (next(one for one in verdicts if part in one["claim"]) for part in ("at most 50 %", "as fast as"))
    half["verdict"], speed["verdict"] = "holds", "holds"
    (tmp_path / "verdicts.json").write_text(json.dumps(verdicts))
    done = checked(tmp_path)
    assert done.returncode == 1 and ", 2 differences" in done.stdout
    assert "verdict is holds, the run files say does not hold" in done.stdout
    assert "verdict is holds, the run files say not measured" in done.stdout


@pytest.fixture(scope="module")
def kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pre-registered experiment with all of its runs, made up."""
    folder = tmp_path_factory.mktemp("kinds")
    found = files({BOTH_KINDS: 0.55, TWO_CONV: 0.53, TWO_INV: 0.5499, (LABELS_ONLY,): 0.5}, spread=0.001)
    write_paper_report(folder, found, [KINDS_EXPERIMENT], About("cifar-long", "some images", seeds=6))
    for name, run in found.items():
        run.write(folder / "runs" / f"{name}.json")
    return folder


def first(written: list[dict[str, Any]]) -> dict[str, Any]:
    return next(one for one in written if one["primary"])


def narrower(written: list[dict[str, Any]]) -> None:
    first(written)["margin"] = 0.03


def other_p(written: list[dict[str, Any]]) -> None:
    first(written)["p"] = 0.049


def other_equal(written: list[dict[str, Any]]) -> None:
    first(written)["p (within the margin)"] = 0.001


def swapped(written: list[dict[str, Any]]) -> None:
    one = first(written)
    one["pairs"] = [pair[::-1] for pair in one["pairs"]]


def fewer(written: list[dict[str, Any]]) -> None:
    first(written)["seeds"] = 5


def left_out(written: list[dict[str, Any]]) -> None:
    written.remove(first(written))


def promoted(written: list[dict[str, Any]]) -> None:
    next(one for one in written if not one["primary"])["primary"] = True


def unnamed(written: list[dict[str, Any]]) -> None:
    first(written)["files"].pop()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda written: None, None),
        (narrower, "margin is 0.03, planned was 0.003"),
        (other_p, "p is 0.049"),
        (other_equal, "p (within the margin) is 0.001"),
        (swapped, "pairs is"),
        (fewer, "seeds is 5, planned was 6"),
        (left_out, "planned, and not there"),
        (promoted, "primary is True, planned was False"),
        (unnamed, "rests on other files than it says"),
    ],
)
def test_changed_contrasts_are_found(
    kinds: Path, tmp_path: Path, change: Callable[[list[dict[str, Any]]], None], said: str | None
) -> None:
    written = json.loads((kinds / "verdicts.json").read_text())
    change(written)
    (tmp_path / "verdicts.json").write_text(json.dumps(written))
    (tmp_path / "runs").symlink_to(kinds / "runs")
    found = list(runpy.run_path(str(SCRIPT))["problems"](tmp_path))
    assert found == [] if said is None else any(said in one for one in found), found


def test_changed_dropped_and_doubled_runs_are_found(kinds: Path, tmp_path: Path) -> None:
    problems = runpy.run_path(str(SCRIPT))["problems"]
    for at, change in enumerate(("measured", "dropped", "doubled")):
        folder = tmp_path / str(at)
        shutil.copytree(kinds, folder)
        path = folder / "runs" / f"{BOTH_KINDS[0].id}.s3.json"
        content = json.loads(path.read_text())
        if change == "measured":
            content["measured"]["accuracy/class"] += 0.001
            path.write_text(json.dumps(content))
        elif change == "dropped":
            path.unlink()
        else:
            path.with_name("another.json").write_text(json.dumps(content))
        if change == "doubled":
            with pytest.raises(SystemExit, match="a second file of"):
                list(problems(folder))
        else:
            assert any("0/3" in one for one in problems(folder)), change


def test_the_package_and_the_script_agree_on_tables_of_any_spread() -> None:
    script = runpy.run_path(str(SCRIPT))
    generator = np.random.default_rng(0)
    contrast = next(one for one in KINDS_EXPERIMENT.contrasts if "labels alone" in one.text)
    pairs = [[first.as_json(), second.as_json()] for first, second in contrast.pairs]
    for sets in (0.0, 0.0, 0.5, 2.0):
        for seeds in (0.0, 0.5, 2.0):
            d = generator.normal(size=(3, 6)) + sets * generator.normal(size=(3, 1))
            d += seeds * generator.normal(size=(1, 6))
            table = {(k, s): float(value) for (k, s), value in np.ndenumerate(d)}
            ours = crossed(table, correlation=contrast.correlation)
            theirs = script["_crossed"](table, {"pairs": pairs, "seeds": 6, "margin": 0.3})
            wanted = [ours.mean, ours.se, ours.df, ours.p, ours.p_within(0.3)]
            assert list(theirs.values()) == pytest.approx(wanted)
