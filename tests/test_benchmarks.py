"""The GPU's benchmarks: the table of goals, parts that end, fail or take too long, and one that is tried."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from coadvise.data.loader import TrainLoader
from coadvise.training import choosing

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch):
    """Scripts of `benchmarks/` as modules."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def claims_of(path: Path, name: str, **values: float | None) -> None:
    claims = [{"what": what, "value": value, "unit": "×", "goal": ""} for what, value in values.items()]
    path.write_text(json.dumps({"benchmark": name, "claims": claims, "details": {}}))


@pytest.mark.parametrize(
    ("value", "goal", "said"),
    [
        (8.2, "≥ 8×", "met"),
        (7.9, "≥ 8×", "not met"),
        (9999.0, "≥ 10,000 images/s", "met"),  # to three digits it is 10,000
        (0.71, "≤ 0.7×", "not met"),
        (0.0, "≤ 0", "met"),
        (None, "≥ 8×", "not measured"),
        (3.0, "", ""),
    ],
)
def test_verdicts(load, value, goal, said):
    assert load("goals").verdict(value, goal) == said


def test_the_table_has_every_goal_of_every_file(load, tmp_path):
    goals = load("goals")
    claims_of(tmp_path / "step-cuda.json", "step", **{goals.GOALS[0].what: 8.21})
    rows = goals.table(tmp_path, "cuda", {"involution": "its 60 s were over"}).splitlines()[2:]
    assert len(rows) == len(goals.GOALS) and len({(one.file, one.what) for one in goals.GOALS}) == len(rows)
    assert rows[0] == f"| {goals.GOALS[0].what} | 8.21× | ≥ 8× | met |  |"
    assert "8.21" not in goals.table(tmp_path, "cuda", {}, since=time.time() + 60)  # of an earlier run
    row = next(row for row in rows if "involution forward" in row)
    assert row.endswith("|  | ≥ 50 % | not measured | its 60 s were over |")


PARTS = """
import sys, time
sys.path.insert(0, {benchmarks!r})
import gpu_run
from gpu_run import Part
gpu_run.NEEDED, gpu_run.HERE, gpu_run.GRACE = {needed!r}, gpu_run.Path({scripts!r}), 0.5
gpu_run.PARTS = (
    Part("step", "gpu_quick.py", 20, ("step",)), Part("involution", "bench_slow.py", {limit}, ("involution",)),
    Part("cache", "bench_broken.py", 20, ("cache",)),
)
sys.exit(gpu_run.main())
"""


def run_parts(folder: Path, limit: float = 1.0, needed: tuple[str, ...] = (), *words: str) -> subprocess.Popen[str]:
    """The runner with three parts: one writes and ends, one is slow and has a child, one fails."""
    (folder / "gpu_quick.py").write_text(
        "import json, os, sys; out = sys.argv[sys.argv.index('--output') + 1]\n"
        "claim = {'what': 'co-advised step, bf16, against the plain baseline', 'value': 8.5, 'unit': '×'}\n"
        "json.dump({'benchmark': 'step', 'claims': [claim], 'details': {}}, open(out + '/step-cpu.json', 'w'))\n"
    )
    (folder / "bench_slow.py").write_text(
        "import subprocess, time; child = subprocess.Popen(['sleep', '60'])\n"
        f"open({str(folder / 'child')!r}, 'w').write(str(child.pid)); time.sleep(60)\n"
    )
    (folder / "bench_broken.py").write_text("raise SystemExit('no')\n")
    code = PARTS.format(benchmarks=str(BENCHMARKS), needed=needed, scripts=str(folder), limit=limit)
    command = [sys.executable, "-c", code, str(folder / "out"), "--device", "cpu", *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(child: Path) -> bool:
    """Whether the slow part's child is gone."""
    try:
        os.kill(int(child.read_text()), 0)
    except ProcessLookupError:
        return True
    return Path(f"/proc/{child.read_text()}/stat").read_text().split()[2] == "Z"


def test_a_part_that_fails_or_takes_too_long_costs_no_other(tmp_path):
    process = run_parts(tmp_path)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1, said
    assert "not all of it: involution: its 1 s were over; cache: it ended with 1" in said
    page = (tmp_path / "out" / "gpu.md").read_text()
    assert "| 8.5× | ≥ 8× | met |" in page and page.count("its 1 s were over") == 2
    assert ended(tmp_path / "child")


def test_sigterm_leaves_what_there_is(tmp_path):
    process = run_parts(tmp_path, 60.0)
    deadline = time.monotonic() + 20
    while not (tmp_path / "child").is_file() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and "not all of it: the rest: stopped by SIGTERM" in said
    assert "| 8.5× | ≥ 8× | met |" in (tmp_path / "out" / "gpu.md").read_text() and ended(tmp_path / "child")


def test_what_is_missing_is_named_in_one_line(tmp_path):
    process = run_parts(tmp_path, 1.0, ("json", "no_such_module", "nor_this"))
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 1 and said.startswith("error: missing here: no_such_module, nor_this;")
    assert said.count("\n") == 1 and not (tmp_path / "out").exists()


def test_the_earlier_tree_is_put_beside_this_one(load, tmp_path):
    runner = load("gpu_run")
    claims_of(
        tmp_path / "step-cuda.json", "step",
        **{"co-advised step, bf16, against the plain baseline": 9.0, "peak memory of the co-advised step": 12.0},
    )  # fmt: skip
    old = {"seconds": {"eager": 0.5, "attention and MLP compiled": 0.4, "plain": 1.2}, "memory_gib": {"eager": 20.0}}
    (tmp_path / "old.json").write_text(json.dumps(old))
    runner.join_old(tmp_path, tmp_path, "cuda")
    claims = json.loads((tmp_path / "step-cuda.json").read_text())["claims"]
    assert {claim["what"]: claim["value"] for claim in claims[2:]} == {
        "co-advised step against that of 934e134": pytest.approx(9.0 / 3.0),
        "peak memory of the co-advised step over that of 934e134": pytest.approx(0.6),
    }


def test_a_run_that_is_watched_has_the_time_that_it_says_it_takes(load, monkeypatch):
    """Caches are cold at first: student and teachers are compiled before there is a step."""
    train, runner = load("gpu_train"), load("gpu_run")
    assert train.limit(2, 0.0) > choosing.SECONDS + 2 * choosing.TEACHER_SECONDS
    assert train.limit(0, 0.0) > choosing.SECONDS
    inner = train.WRITING + train.limit(0) + train.limit(2) + train.AGAIN
    (part,) = (part for part in runner.PARTS if part.name == "training")
    monkeypatch.setattr(sys, "argv", ["gpu_run.py", "out"])
    assert inner < train.longest() <= part.seconds <= runner.options_of().seconds - 2 * runner.GRACE


def test_small_images_are_timed_in_whole_epochs(load, tmp_path, monkeypatch):
    """The pipeline starts as often as in a training."""
    words = ["--device", "cpu", "--sizes", "tiny", "--rounds", "2", "--output", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["bench_small_images.py", *words])
    monkeypatch.setenv("COADVISE_COMMIT", "c0ffee")
    bench, timed, epoch = load("bench_small_images"), list[list[int]](), TrainLoader.epoch
    monkeypatch.setattr(load("gpu_training").Training, "in_forms", lambda *_: {})

    def starts(self, number, start=0):
        timed[-1].append(start)
        return epoch(self, number, start)

    def turns(sides, rounds, device):
        for _ in range(rounds):
            timed.append([])
            sides["loop"]()
        timed.append([])
        return {"loop": 1.0}

    timed.append([])
    monkeypatch.setattr(TrainLoader, "epoch", starts)
    monkeypatch.setattr(bench, "interleaved", turns)
    with pytest.raises(SystemExit) as left:
        bench.main()
    content = json.loads((tmp_path / "small_images-cpu.json").read_text())
    assert left.value.code == 0 and timed[1:3] == [[0], [0]], content
    assert content["details"]["seconds"] == 1 / 4 and content["claims"][0]["value"] == 16 * 4


def test_a_part_is_tried(load, tmp_path, monkeypatch):
    """The whole script of one part at tiny sizes; a failure would be told in its file and by its exit code."""
    words = ["--device", "cpu", "--sizes", "tiny", "--rounds", "1", "--output", str(tmp_path), "--work", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["gpu_step.py", *words])
    monkeypatch.setenv("COADVISE_COMMIT", "c0ffee")
    with pytest.raises(SystemExit) as left:
        load("gpu_step").main()
    content = json.loads((tmp_path / "step-cpu.json").read_text())
    assert left.value.code == 0, content
    values = {claim["what"]: claim["value"] for claim in content["claims"]}
    assert values["co-advised step, bf16, against the plain baseline"] > 0
    assert content["details"]["check"]["cosine of the gradients"] > 0.99
    assert content["details"]["profile"]["top"] and content["provenance"]["commit"]
