"""Running the experiments: once, resumed, side by side, and stopped in every way."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
from helpers import processes
from helpers.experiments import SHORT, orders, short_setup
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from coadvise.errors import DataError, RunError
from coadvise.paper.ablations import CROSS, LABELS_ONLY, ONE_CONV
from coadvise.paper.arms import arm
from coadvise.paper.declared import Experiment, Row, Value
from coadvise.reproduce.command import MARK, _holds_others, find_experiments, reproduce
from coadvise.reproduce.measure import Shifted, groups_there, measure, read_result
from coadvise.reproduce.planner import Planner
from coadvise.reproduce.runner import Job, Orders, _threads, open_jobs, run_jobs
from coadvise.reproduce.setup import ExperimentSetup
from coadvise.run.folder import RunFolder
from coadvise.run.measurement import Measurement
from coadvise.system.digests import file_digest
from coadvise.system.files import atomic_file, write_json
from coadvise.system.progress import Display
from coadvise.system.workers import _device


@pytest.fixture
def setup(tmp_path: Path) -> ExperimentSetup:
    return short_setup(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> ExperimentSetup:
    """The runs of Figure 2, some of Table 7's: two jobs were done before, and the call goes on with the others."""
    setup = short_setup(tmp_path_factory.mktemp("finished"))
    experiments = find_experiments(["figure2"])
    write_json(setup.output / MARK, {})
    jobs, _ = open_jobs(Planner(setup), experiments, orders(setup))
    assert run_jobs(jobs[:2], orders(setup), Display(quiet=True))
    assert len(open_jobs(Planner(setup), experiments, orders(setup))[0]) == len(jobs) - 2
    reproduce(setup, experiments, orders(setup), Display(quiet=True))
    return setup


@pytest.fixture
def copied(finished: ExperimentSetup, setup: ExperimentSetup) -> ExperimentSetup:
    """The same in a folder of this test's own."""
    shutil.copytree(finished.output, setup.output)
    return setup


FIGURE2 = ("figure2.json", "attention.json")


@pytest.mark.usefixtures("blank_figures")
def test_what_is_done_runs_once(copied: ExperimentSetup) -> None:
    """All other tests of these runs would fail, too, if `finished` had not gone on where two jobs ended."""
    experiments, setup = find_experiments(["figure2"]), copied
    # A report is of its folder: it is written here once, and then again.
    page = reproduce(setup, experiments, orders(setup), Display(quiet=True))
    before = {path: path.read_bytes() for path in (page, page.with_suffix(".md"), *orders(setup).results.iterdir())}
    jobs, runs = open_jobs(Planner(setup), experiments, orders(setup))
    assert jobs == [] and len(runs) == 4
    assert reproduce(setup, experiments, orders(setup), Display(quiet=True)) == page
    assert {path: path.read_bytes() for path in before} == before
    for run in runs:
        result = read_result(orders(setup).results, run)
        assert result is not None and result.arm == run.arm.id
        assert 0 <= result.measured["accuracy/class"] <= 1
        assert set(result.advisers) == set(run.teachers)
    images, where = (json.loads((setup.output / name).read_text())["images"] for name in FIGURE2)
    assert 0 < len(where) <= 4 and len(where) <= len(images)
    for one in where:
        assert set(one["maps"]) == {"class", "resnet18", "rednet26"}
        for grid in one["maps"].values():
            assert np.shape(grid) == (4, 4) and 0 < np.sum(grid) < 1, "the tokens have the rest"
    text = page.with_suffix(".md").read_text()
    assert "figures/figure2.png" in text and "figures/attention.png" in text


def test_results_from_elsewhere_count_and_their_teachers_are_trained_again_when_needed(copied: ExperimentSetup) -> None:
    experiments, setup = find_experiments(["figure2"]), copied
    shutil.rmtree(setup.output / "runs")
    shutil.rmtree(setup.output / "caches")
    assert open_jobs(Planner(setup), experiments, orders(setup))[0] == []
    cross = Planner(setup).run(CROSS, 0)
    (orders(setup).results / f"{cross.name}.json").unlink()
    jobs, _ = open_jobs(Planner(setup), experiments, orders(setup))
    trained = {job.key for job in jobs if job.key.startswith("train")}
    assert trained == {f"train {run.name}" for run in (cross, *cross.teachers.values())}
    assert sum(job.key.startswith("advice") for job in jobs) == 2


@pytest.mark.usefixtures("blank_figures")
def test_a_spent_budget_stops_cleanly(setup: ExperimentSetup) -> None:
    experiments = find_experiments(["table7", "figure2"])
    none = Orders(setup.output / "results", 1, budget=0.0, jobs=1)
    page = reproduce(setup, experiments, none, Display(quiet=True))
    assert page.is_file() and not any((setup.output / name).exists() for name in FIGURE2)
    jobs, runs = open_jobs(Planner(setup), experiments, none)
    assert len([job for job in jobs if job.key.startswith("train")]) == len(runs)


# The command line, whose workers fork from it in place of a process that imports PyTorch first.
FORKED = """
import multiprocessing
from coadvise.cli.main import main
from coadvise.reproduce import work
from coadvise.system import workers
work.worker_context = workers.worker_context = lambda modules=(): multiprocessing.get_context("fork")
main()
"""


@pytest.mark.slow
def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["reproduce", "figure2", "--output", str(output), "--jobs", "1", *SHORT]
    started = processes.start("-c", FORKED, *words, group=True)
    deadline = time.monotonic() + 120
    while not list((output / "results").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(started.pid, signal.SIGKILL)
    assert started.wait().returncode == -signal.SIGKILL
    first = {path.name: path.read_bytes() for path in (output / "results").glob("*.json")}
    assert first
    command, environment = [sys.executable, "-m", "coadvise", *words], {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, content in first.items():
        assert (output / "results" / name).read_bytes() == content
    assert len(list((output / "results").glob("*.json"))) == 4 and (output / "report.html").is_file()
    assert all((output / name).is_file() for name in FIGURE2)


def long_run(output: Path) -> processes.Started:
    """A call of `reproduce` whose first student trains for long, and has begun to."""
    long = ["schedule.epochs=3000", "run.eval_every=3000"]
    words = ["reproduce", "table7", "--output", str(output), "--jobs", "1", *SHORT, *long]
    started = processes.start("coadvise", *words, group=True)
    deadline = time.monotonic() + 120
    # Empty at first: there is nothing to save before the first step.
    begun = lambda: any(path.stat().st_size for path in output.glob("runs/transformer_tiny.s0.*/metrics.jsonl"))
    while not begun() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not list(output.glob("runs/transformer_tiny.s0.*/last.safetensors")), "it is not saved before it is asked to"
    return started


@pytest.mark.parametrize(
    ("send", "number"),
    [
        pytest.param(os.killpg, signal.SIGINT, marks=pytest.mark.slow),
        (os.kill, signal.SIGTERM),
        pytest.param(os.killpg, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(os.kill, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_saves_what_runs(tmp_path: Path, send: Callable[[int, int], None], number: int) -> None:
    """From a terminal it reaches all processes, from `kill` or a cluster's scheduler perhaps the parent alone."""
    output = tmp_path / "out"
    started = long_run(output)
    send(started.pid, number)
    done = started.wait()
    said = done.stderr
    assert done.returncode == 130, said
    assert "everything is saved; the same command goes on" in said and "Traceback" not in said
    assert f"report of what is finished: {output / 'report.html'}" in said
    (folder,) = output.glob("runs/transformer_tiny.s0.*")
    assert (folder / "last.safetensors").is_file(), "the running one was saved"
    assert (output / "report.html").is_file()


@pytest.mark.slow
def test_workers_save_and_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    started = long_run(output)
    family = psutil.Process(started.pid).children(recursive=True)
    assert family
    os.kill(started.pid, signal.SIGKILL)
    assert started.wait().returncode == -signal.SIGKILL
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (folder,) = output.glob("runs/transformer_tiny.s0.*")
    assert (folder / "last.safetensors").is_file(), "the running one was saved"


def test_a_folder_in_which_another_call_begins_is_no_other_folder(tmp_path: Path) -> None:
    assert not _holds_others(tmp_path)
    with atomic_file(tmp_path / MARK):
        assert not _holds_others(tmp_path), "it is being written"
    assert not _holds_others(tmp_path), "it was written between two looks"
    (tmp_path / "mine.txt").touch()
    assert _holds_others(tmp_path) and _holds_others(tmp_path / "mine.txt")


def test_runs_brought_along_are_no_other_files(finished: ExperimentSetup, setup: ExperimentSetup) -> None:
    """As results/README.md brings the teachers: their runs alone, copied into a new folder."""
    teachers = [path for path in (finished.output / "runs").iterdir() if len(path.name.split(".")) == 3]
    assert {one.name.partition(".")[0] for one in teachers} >= {"resnet18", "rednet26"}
    for one in teachers:
        shutil.copytree(one, setup.output / "runs" / one.name)
    assert not _holds_others(setup.output)
    jobs, _ = open_jobs(Planner(setup), find_experiments(["figure2"]), orders(setup))
    trained = {job.folder for job in jobs if job.images}
    assert trained and not {one.name for one in teachers} & {folder.name for folder in trained if folder}
    (setup.output / "runs" / "mine").mkdir()
    assert _holds_others(setup.output)


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = processes.run("coadvise", "reproduce", "table7", "--output", str(tmp_path))
    assert done.returncode == 2 and "holds other files" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.usefixtures("blank_figures")
def test_advice_is_written_anew_when_a_teacher_was_trained_anew(copied: ExperimentSetup) -> None:
    setup = copied  # its teachers and their advice are there
    experiment = Experiment("table6", "t", "d", ("m",), (), [Row(("m",), {}, {"top1": Value(ONE_CONV)})])
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    run = Planner(setup).run(ONE_CONV, 0)
    (teacher,) = run.teachers.values()
    column = Path(str(run.recipe.advice.folder)) / "resnet18" / "teacher.json"
    before = column.read_bytes()
    known = read_result(orders(setup).results, run)
    assert known is not None
    taught = known.teacher_weights
    trained = load_file(RunFolder(teacher.folder).best)
    with safe_open(RunFolder(teacher.folder).best, "pt") as file:
        facts = file.metadata()
    trained["fc.bias"] = trained["fc.bias"] + 1.0
    save_file(trained, RunFolder(teacher.folder).best, facts)
    shutil.rmtree(run.folder)
    (orders(setup).results / f"{run.name}.json").unlink()
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    assert column.read_bytes() != before
    after = read_result(orders(setup).results, run)
    assert after is not None and after.teacher_weights == {"resnet18": file_digest(RunFolder(teacher.folder).best)}
    assert after.teacher_weights != taught


@pytest.mark.slow
@pytest.mark.usefixtures("blank_figures")
def test_a_student_half_taught_by_another_teacher_starts_anew(copied: ExperimentSetup) -> None:
    """Its teacher was trained again since: what it had learnt is not gone on with."""
    setup = copied  # its teachers and their advice are there
    experiment = Experiment("table6", "t", "d", ("m",), (), [Row(("m",), {}, {"top1": Value(ONE_CONV)})])
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    run = Planner(setup).run(ONE_CONV, 0)
    (teacher,) = run.teachers.values()
    result = RunFolder(run.folder).path / "result.json"
    result.unlink()
    (orders(setup).results / f"{run.name}.json").unlink()
    RunFolder(run.folder).last.write_text("half of the way")  # going on with this would fail
    trained = load_file(RunFolder(teacher.folder).best)
    with safe_open(RunFolder(teacher.folder).best, "pt") as file:
        facts = file.metadata()
    trained["fc.bias"] = trained["fc.bias"] + 1.0
    save_file(trained, RunFolder(teacher.folder).best, facts)
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    after = read_result(orders(setup).results, run)
    assert after is not None and after.teacher_weights == {"resnet18": file_digest(RunFolder(teacher.folder).best)}
    kinds = [json.loads(line)["kind"] for line in RunFolder(run.folder).metrics.read_text().splitlines()]
    assert kinds.count("eval") == 1 and result.is_file()


def test_a_run_without_its_weights_is_trained_anew(copied: ExperimentSetup) -> None:
    """As it is when folders are copied without their large files."""
    setup = copied
    taught = Planner(setup).run(CROSS, 0)
    teacher = taught.teachers["resnet18"]
    RunFolder(teacher.folder).best.unlink()
    (orders(setup).results / f"{taught.name}.json").unlink()
    shutil.rmtree(taught.folder)
    jobs, _ = open_jobs(Planner(setup), find_experiments(["figure2"]), orders(setup))
    (job,) = [job for job in jobs if job.key == f"train {teacher.name}"]
    assert job.epochs == teacher.recipe.schedule.epochs and [one.key for one in jobs].index(job.key) == 0
    function, *arguments = job.work
    function(*arguments)
    assert RunFolder(teacher.folder).whole
    known = read_result(orders(setup).results, teacher)
    assert known is not None and known.measured["accuracy/class"] == pytest.approx(
        RunFolder(teacher.folder).result().final["accuracy/class"]
    )


@pytest.mark.slow
def test_what_the_budget_stopped_is_not_said_to_be_done(setup: ExperimentSetup) -> None:
    wanted = Orders(orders(setup).results, 1, budget=15.0, jobs=2)
    jobs = [Job("a", "missing", (os.listdir, "/nowhere")), Job("b", "long", (time.sleep, 600))]
    with pytest.raises(RunError, match=r"missing failed: .*; 1 jobs are left, and the same command tries again"):
        run_jobs(jobs, wanted, Display(quiet=True))


@pytest.mark.usefixtures("blank_figures")
def test_a_failing_run_stops_none_of_the_others(setup: ExperimentSetup) -> None:
    experiments = find_experiments(["figure2"])
    planner = Planner(setup)
    bad = planner.run(arm("rednet26"), 0)
    bad.folder.mkdir(parents=True)
    write_json(setup.output / MARK, {})
    (bad.folder / "mine.txt").write_text("not a run")
    with pytest.raises(
        RunError,
        match=r"rednet26\.s0\S* failed: .*holds other files.*2 jobs are left, and the same command tries again",
    ):
        reproduce(setup, experiments, orders(setup), Display(quiet=True))
    _, runs = open_jobs(planner, experiments, orders(setup))
    done = {run.arm.id for run in runs if read_result(orders(setup).results, run)}
    assert done == {run.arm.id for run in runs if "rednet26" not in run.arm.id}
    assert (setup.output / "report.html").is_file()
    shutil.rmtree(bad.folder)
    reproduce(setup, experiments, orders(setup), Display(quiet=True))
    assert open_jobs(planner, experiments, orders(setup))[0] == []


def test_a_folder_for_results_that_cannot_be_written_is_found_before_anything_is_trained(
    setup: ExperimentSetup,
) -> None:
    setup.output.parent.joinpath("taken").write_text("x")
    taken = setup.output.parent / "taken"
    wanted = Orders(taken, 1)
    with pytest.raises(RunError, match=r"cannot write result files to .*taken: .*--results"):
        reproduce(setup, find_experiments(["table7"]), wanted, Display(quiet=True))
    assert taken.read_text() == "x" and [path.name for path in setup.output.iterdir()] == [MARK]


def test_missing_shifted_images_are_found_before_anything_is_trained(setup: ExperimentSetup, tmp_path: Path) -> None:
    for name in ("3", "unheard-of"):
        (tmp_path / "foreign" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "foreign" / name / "one.png")
    for sources, message in (
        ({"a": "folder:/nowhere"}, "nowhere"),
        ({"r": f"folder:{tmp_path / 'foreign'}"}, "unheard-of"),
        ({"c": str(tmp_path)}, "75 folders of ImageNet-C"),
    ):
        wanted = Orders(setup.output / "results", 1, jobs=1, shifted=Shifted(sources))
        with pytest.raises(DataError, match=message):
            reproduce(setup, find_experiments(["table1"]), wanted, Display(quiet=True))
    assert not setup.output.exists()


@pytest.mark.usefixtures("blank_figures")
def test_measures_of_other_weights_or_images_are_made_anew(setup: ExperimentSetup) -> None:
    experiment = Experiment("table6", "t", "d", ("m",), (), [Row(("m",), {}, {"top1": Value(LABELS_ONLY)})])
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    run, results = Planner(setup).run(LABELS_ONLY, 0), orders(setup).results
    path = results / f"{run.name}.json"
    content = json.loads(path.read_text())
    known = {**content, "groups": ["corruptions", "run"]}
    known["measured"] = {**content["measured"], "corruptions/class": 0.25, "throughput": 1.0}
    write_json(path, known)
    measure(run, ["run"], results, "digits", Shifted())
    kept = read_result(results, run)
    assert kept is not None and kept.measured["corruptions/class"] == 0.25 and kept.measured["throughput"] == 1.0
    elsewhere = {**known["measured"], "loss/class": content["measured"]["loss/class"] + 0.01}
    write_json(path, {**known, "measured": elsewhere})
    measure(run, ["run"], results, "digits", Shifted())
    anew = read_result(results, run)
    assert anew is not None and "corruptions/class" not in anew.measured and anew.groups == ("run",)
    assert anew.measured["throughput"] != 1.0
    assert anew.measured["loss/class"] == pytest.approx(content["measured"]["loss/class"], abs=1e-12)
    given, here = Shifted({"c": "/data/imagenet-c/"}), Measurement.parse(known, path)
    assert groups_there(here, given) == {"run"}
    zoomed, whole = (replace(here, sources={"corruptions": f"imagenet-c{word}"}) for word in ("", ", whole images"))
    assert groups_there(zoomed, given) == {"run"}, "as an earlier version measured it"
    assert groups_there(whole, given) == {"corruptions", "run"}
    assert groups_there(replace(here, sources={"corruptions": "imagenet-c"}), Shifted()) == {"corruptions", "run"}


@pytest.mark.usefixtures("blank_figures")
def test_shifted_images_elsewhere_train_nothing_anew(setup: ExperimentSetup, tmp_path: Path) -> None:
    experiment = Experiment(
        "table6", "t", "d", ("m",), (), [Row(("x",), {}, {"c": Value(LABELS_ONLY, "corruptions/class")})]
    )
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    wanted = Orders(setup.output / "results", 1, jobs=1, shifted=Shifted({"c": str(tmp_path)}))
    (job,) = open_jobs(Planner(setup), [experiment], wanted)[0]
    assert job.epochs == 0, "measured again, not trained"
    shutil.rmtree(setup.output / "runs")
    assert open_jobs(Planner(setup), [experiment], wanted)[0] == []


def test_workers_take_the_gpus_that_the_caller_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "6, GPU-ab12")
    assert [_device(i) for i in range(2)] == ["6", "GPU-ab12"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert [_device(i) for i in range(2)] == ["0", "1"]


@pytest.mark.parametrize(("text", "threads"), [("3", 3), ("4,2", 4), ("", 2), ("0", 2), ("many", 2)])
def test_threads_of_each_process(monkeypatch: pytest.MonkeyPatch, text: str, threads: int) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", text)
    assert _threads(2) == threads


@pytest.mark.slow
def test_two_calls_at_once_do_each_run_once(tmp_path: Path) -> None:
    """Both have the same jobs to do; what one is doing, the other waits for and then takes as done."""
    output = tmp_path / "out"
    words = ["reproduce", "figure2", "--output", str(output), "--jobs", "1", *SHORT]
    calls = [call.wait(300) for call in [processes.start("-c", FORKED, *words) for _ in range(2)]]
    said = [call.stderr for call in calls]
    assert [call.returncode for call in calls] == [0, 0], said
    assert any("jobs to do" in one for one in said)
    logs = list(output.glob("runs/*/metrics.jsonl"))
    assert len(logs) == 4
    for log in logs:
        kinds = [json.loads(line)["kind"] for line in log.read_text().splitlines()]
        assert kinds.count("eval") == 1, f"{log.parent.name} was trained {kinds.count('eval')} times"
