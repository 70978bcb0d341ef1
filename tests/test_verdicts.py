"""The independent script agrees with the landed verdicts and finds what is changed."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

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
    assert done.returncode == 1 and "59 verdicts recomputed, 2 differences" in done.stdout
    assert changed["claim"] in done.stdout and "verdict is does not hold, the run files say holds" in done.stdout
