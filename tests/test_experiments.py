"""The paper's tables as declared, the runs they become, and the runner."""

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
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from coadvise.build import build_student
from coadvise.data.sources import open_sources
from coadvise.errors import DataError, RecipeError, RunError
from coadvise.experiments.ablations import CROSS, NONE, ONE_CONV, SEVEN_ARMS
from coadvise.experiments.arms import Adviser, Arm, arm
from coadvise.experiments.declared import Experiment, Row, Value
from coadvise.experiments.measure import Shifted, groups_of, groups_there, measure, read_result
from coadvise.experiments.paper import CIT_S, DEIT_TI_KD, EXPERIMENTS
from coadvise.experiments.reproduce import MARK, _told_apart, find_experiments, reproduce, seconds
from coadvise.experiments.runner import Orders, _threads, open_jobs, run_jobs
from coadvise.experiments.runs import Planner, Setup, column_recipe, file_digest, in_order, set_up
from coadvise.experiments.scales import SCALES, find_scale
from coadvise.experiments.sweep import SWEEP
from coadvise.files import write_json
from coadvise.inference import load_trained
from coadvise.models.students import small_stem
from coadvise.progress import Display
from coadvise.recipe import Recipe, flat
from coadvise.recipe_file import load_recipe
from coadvise.run_folder import RunFolder
from coadvise.workers import _device

ALL = list(EXPERIMENTS.values())
SHORT = ["schedule.epochs=1", "schedule.warmup_epochs=0", "school.epochs=1", "data.train_size=50", "data.val_size=40"]
PAPER = Path(__file__).resolve().parents[2] / "shared" / "paper" / "paper.txt"


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return set_up(find_scale("digits"), tmp_path / "out", settings=SHORT)


def orders(setup: Setup, seeds: int = 1, jobs: int = 1) -> Orders:
    return Orders(setup.output / "results", seeds, jobs=jobs)


def test_every_table_and_figure_is_declared() -> None:
    assert list(EXPERIMENTS) == [f"table{i}" for i in range(1, 10)] + ["figure1", "figure2", "figure4"]
    for experiment in ALL:
        keys = {column.key for column in experiment.columns}
        for row in experiment.rows:
            assert len(row.labels) == len(experiment.heads), (experiment.name, row.labels)
            assert {*row.paper, *row.ours} <= keys


def printed_numbers(title: str, until: str) -> list[str]:
    """Numbers as the paper prints them between two places of its text."""
    import re

    text = PAPER.read_text(encoding="utf-8")
    part = text[text.index(title) :]
    return re.findall(r"\d+\.\d+", part[: part.index(until)])


@pytest.mark.skipif(not PAPER.is_file(), reason=f"the paper's text is not at {PAPER}")
@pytest.mark.parametrize(
    ("name", "title", "until"),
    [
        ("table1", "Table 1. Performance", "of the teacher. A popular"),
        ("table3", "Table 3. Comparisons", "do not reveal"),
        ("table4", "Table 4. Performances", "Alternatively, the vertical"),
        ("table6", "Table 6. Performances", "involution-based RedNet-26, its"),
        ("table7", "Table 7. Performances", "Table 8."),
        ("table8", "Table 8. Performances", "between the teachers and"),
        ("table9", "Table 9. Performance", "and C but worse"),
    ],
)
def test_the_papers_numbers_are_those_of_its_text(name: str, title: str, until: str) -> None:
    ours = sorted(float(number) for row in EXPERIMENTS[name].rows for number in row.paper.values())
    text = sorted(float(number) for number in printed_numbers(title, until))
    # The text prints whole numbers, too (22 million parameters), which no pattern can tell from others.
    assert [number for number in ours if number % 1] == [number for number in text if number % 1]


def test_ids_are_unique_and_fit_a_file_name() -> None:
    arms = {one for experiment in [*ALL, SWEEP] for one in experiment.arms()}
    ids = [one.id for one in arms]
    assert len(ids) == len(set(ids))
    assert all(Recipe.model_fields["name"] is not None and len(name) < 100 and "/" not in name for name in ids)
    assert CROSS.id == "transformer_tiny.resnet18.rednet26"
    assert Adviser("resnet18", 1, 0.25).name == "resnet18-s1-e25"


@pytest.mark.parametrize("scale", sorted(SCALES))
def test_every_arm_can_be_built_at_every_scale(tmp_path: Path, scale: str) -> None:
    sizes = ["data.train_size=50", "data.val_size=40"]
    setup = set_up(find_scale(scale), tmp_path, source="digits", settings=sizes)
    runs = in_order(Planner(setup), [*ALL, SWEEP], 1)
    for run in runs:
        if scale in ("digits", "cifar-cpu") or run.arm.model in ("resnet10", "transformer_tiny", "mixer_tiny"):
            student = build_student(run.recipe, 10)
            tokens = getattr(student, "token_names", ())
            wanted = {
                *(() if run.arm.tokens == "single" or not run.arm.is_transformer else run.advisers),
                *run.arm.injected,
            }
            assert set(tokens) - {"class"} == wanted, run.arm.id


def test_a_sweep_changes_one_thing_of_the_students(setup: Setup) -> None:
    """Everything but what a row names is as in its first row, down to the teachers and the hash of what is the same."""
    planner = Planner(setup)
    rows = {row.labels[0]: {key: value.arm for key, value in row.ours.items()} for row in SWEEP.rows}
    plain = flat(planner.run(CROSS, 0).recipe.model_dump())
    changed = {}
    for title, arms in rows.items():
        run = planner.run(arms["both"], 0)
        now = flat(run.recipe.model_dump())
        free = ("name", "run.output", "advice.folder")
        changed[title] = {k: now.get(k) for k in now.keys() | plain.keys() if now.get(k) != plain.get(k)}
        changed[title] = {k: v for k, v in changed[title].items() if k not in free}
        if "half" not in title:
            assert {one.id for one in run.advisers.values()} == {
                one.id for one in planner.run(CROSS, 0).advisers.values()
            }
    lr = 10 * plain["optim.token_lr"]
    both = ("resnet18", "rednet26")
    weight = plain["loss.weights.resnet18"]
    assert rows["nothing"]["both"] == CROSS and changed["nothing"] == {}
    assert changed["twice the epochs"] == {"schedule.epochs": 2}
    assert changed["λ × 3"] == {f"loss.weights.{name}": 3 * weight for name in both}
    assert changed["λ × 10"] == {f"loss.weights.{name}": 10 * weight for name in both}
    temperatures = {f"loss.temperatures.{name}": 2.0 for name in both}
    assert {k: v for k, v in changed["τ = 2"].items() if k != "loss.temperatures"} == temperatures
    assert changed["images not mixed"].keys() <= {"data.augment.mixup", "data.augment.cutmix"}
    assert set(changed["images not mixed"].values()) == {0.0}
    assert changed["tokens' learning rate × 10"] == {"optim.token_lr": lr}
    early = planner.run(rows["teachers of half the epochs"]["both"], 0)
    assert [one.arm.part for one in early.advisers.values()] == [0.5, 0.5] and early.arm.part == 1.0
    nones = {arms["none"] for arms in rows.values()}
    assert {one.id for one in nones} == {
        f"transformer_tiny{word}" for word in ("", "-e200", ".unmixed", ".token-lr-1000")
    }


def test_stored_advice_is_read_where_it_was_written(tmp_path: Path) -> None:
    """Also where the views, which do not recur in a shorter run, are as many as its epochs."""
    setup = set_up(find_scale("digits"), tmp_path, settings=["schedule.epochs=8", "schedule.warmup_epochs=1"])
    planner = Planner(setup)
    folders = {}
    for one in [*SWEEP.arms(), *EXPERIMENTS["table4"].arms()]:
        run = planner.run(one, 0)
        for name in run.advisers:
            folder = column_recipe(planner, run, name).advice.folder
            assert folder == run.recipe.advice.folder, one.id
            folders[one] = folder
    assert len({folders[CROSS], folders[replace(CROSS, mixing=False)], folders[replace(CROSS, part=2.0)]}) == 3


def test_a_sweep_leaves_out_what_the_settings_make_the_same(tmp_path: Path) -> None:
    unmixed = ["data.augment.mixup=0", "data.augment.cutmix=0"]
    setup = set_up(find_scale("digits"), tmp_path, settings=[*SHORT, "weight=0", *unmixed])
    left = _told_apart(SWEEP, Planner(setup))
    titles = [row.labels[0] for row in left.rows]
    assert titles == [
        row.labels[0] for row in SWEEP.rows if row.labels[0] not in ("λ × 3", "λ × 10", "images not mixed")
    ]
    assert not any(word in claim.text for claim in left.claims for word in ("λ", "mixed"))
    assert "λ × 3, λ × 10, images not mixed" in left.notes[-1]
    assert _told_apart(EXPERIMENTS["table6"], Planner(setup)) is EXPERIMENTS["table6"]


def test_numbers_may_be_written_as_words(tmp_path: Path) -> None:
    words = ["optim.token_lr='2'", "schedule.epochs='10'", "schedule.warmup_epochs='1'"]
    setup = set_up(find_scale("digits"), tmp_path, settings=words)
    run = Planner(setup).run(replace(CROSS, part=2.0, token_lr=3.0), 0)
    assert (run.recipe.optim.token_lr, run.recipe.schedule.epochs) == (6.0, 20)


def test_the_names_of_runs_stay_when_settings_are_added(setup: Setup) -> None:
    """A setting of its own default changes no hash, so that results of earlier versions are found."""
    planner = Planner(setup)
    recipe = planner.run(CROSS, 0).recipe
    assert "optim.token_lr" not in recipe.deciding()
    faster = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"token_lr": 2.0})})
    assert faster.deciding()["optim.token_lr"] == 2.0
    assert faster.fingerprint() != recipe.fingerprint()
    # As they were before there was any such setting.
    before = {"digits": "b853c66a5ec78903", "cit-s": "89f3ecaf9c4de371"}
    assert {name: load_recipe(name).fingerprint() for name in before} == before


def test_scales_shrink_depth_and_width_alone(setup: Setup) -> None:
    planner = Planner(setup)
    cross, none = planner.run(CROSS, 0).recipe, planner.run(NONE, 0).recipe
    assert cross.student.options == none.student.options
    assert cross.tokens() == {"resnet18": "conv", "rednet26": "inv"}
    assert cross.data == none.data, "arms are compared on the same views"
    assert cross.schedule == none.schedule
    assert planner.run(CROSS, 1).recipe.data.seed == 1


def test_a_run_is_named_by_what_decides_its_numbers(tmp_path: Path, setup: Setup) -> None:
    first = Planner(setup).run(CROSS, 0)
    elsewhere = set_up(find_scale("digits"), tmp_path / "elsewhere", settings=SHORT)
    assert Planner(elsewhere).run(CROSS, 0).id == first.id
    assert Planner(setup).run(CROSS, 1).id != first.id
    other = set_up(find_scale("digits"), tmp_path / "out", settings=[*SHORT, "school.epochs=2"])
    changed = Planner(other).run(CROSS, 0)
    assert changed.id != first.id, "other teachers make another run"
    assert Planner(other).run(NONE, 0).id == Planner(setup).run(NONE, 0).id
    fewer = set_up(find_scale("digits"), tmp_path / "out", settings=[*SHORT, "data.train_size=40"])
    assert Planner(fewer).run(NONE, 0).id != Planner(setup).run(NONE, 0).id


def test_the_telling_runs_come_first_and_teachers_before_students(setup: Setup) -> None:
    runs = in_order(Planner(setup), ALL, 2)
    place = {run.id: i for i, run in enumerate(runs)}
    for run in runs:
        assert all(place[one.id] < place[run.id] for one in run.advisers.values())
    last_of_seven = max(place[run.id] for run in runs if run.arm in SEVEN_ARMS)
    assert last_of_seven < 2 * len(SEVEN_ARMS) + 5, "seven arms twice and the five teachers they have"
    partial = [run for run in runs if run.arm.part != 1.0 and not run.advisers]
    assert {run.seed for run in partial} == {0}


def test_runs_are_shared_between_tables(setup: Setup) -> None:
    both = in_order(Planner(setup), find_experiments(["table4", "table6"]), 1)
    apart = [in_order(Planner(setup), find_experiments([name]), 1) for name in ("table4", "table6")]
    assert len(both) < sum(map(len, apart))
    assert len({run.id for run in both}) == len(both)


def test_a_table_runs_once_and_goes_on_where_it_was(setup: Setup) -> None:
    experiments = find_experiments(["table7"])
    planner = Planner(setup)
    write_json(setup.output / MARK, {})
    jobs, runs = open_jobs(planner, experiments, orders(setup))
    assert run_jobs(jobs[:2], orders(setup), Display(quiet=True))
    rest, _ = open_jobs(Planner(setup), experiments, orders(setup))
    assert len(rest) == len(jobs) - 2
    page = reproduce(setup, experiments, orders(setup), Display(quiet=True))
    before = {path: path.read_bytes() for path in (page, page.with_suffix(".md"), *orders(setup).results.iterdir())}
    assert open_jobs(Planner(setup), experiments, orders(setup))[0] == []
    assert reproduce(setup, experiments, orders(setup), Display(quiet=True)) == page
    assert {path: path.read_bytes() for path in before} == before
    for run in runs:
        result = read_result(orders(setup).results, run)
        assert result is not None and result["arm"] == run.arm.id
        assert 0 <= result["measured"]["accuracy/class"] <= 1
        assert set(result["advisers"]) == set(run.advisers)


def test_results_from_elsewhere_count_and_their_teachers_are_trained_again_when_needed(setup: Setup) -> None:
    experiments = find_experiments(["table7"])
    reproduce(setup, experiments, orders(setup), Display(quiet=True))
    shutil.rmtree(setup.output / "runs")
    shutil.rmtree(setup.output / "caches")
    assert open_jobs(Planner(setup), experiments, orders(setup))[0] == []
    cross = Planner(setup).run(CROSS, 0)
    (orders(setup).results / f"{cross.name}.json").unlink()
    jobs, _ = open_jobs(Planner(setup), experiments, orders(setup))
    trained = {job.key for job in jobs if job.key.startswith("train")}
    assert trained == {f"train {run.id}" for run in (cross, *cross.advisers.values())}
    assert sum(job.key.startswith("advice") for job in jobs) == 2


def test_a_spent_budget_stops_cleanly(setup: Setup) -> None:
    experiments = find_experiments(["table7"])
    none = Orders(setup.output / "results", 1, budget=0.0, jobs=1)
    page = reproduce(setup, experiments, none, Display(quiet=True))
    assert page.is_file()
    jobs, runs = open_jobs(Planner(setup), experiments, none)
    assert len([job for job in jobs if job.key.startswith("train")]) == len(runs)


def test_killed_in_the_middle_it_goes_on(tmp_path: Path) -> None:
    output = tmp_path / "out"
    words = ["reproduce", "table7", "--output", str(output), "--jobs", "1", *SHORT]
    command = [sys.executable, "-m", "coadvise", *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True)
    deadline = time.monotonic() + 120
    while not list((output / "results").glob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    first = {path.name: path.read_bytes() for path in (output / "results").glob("*.json")}
    assert first
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    for name, content in first.items():
        assert (output / "results" / name).read_bytes() == content
    verdicts = json.loads((output / "verdicts.json").read_text())
    assert verdicts


def long_run(output: Path) -> subprocess.Popen[str]:
    """A call of `reproduce` whose first student trains for long, and has begun to."""
    long = ["schedule.epochs=3000", "run.eval_every=3000"]
    words = ["reproduce", "table7", "--output", str(output), "--jobs", "1", *SHORT, *long]
    process = subprocess.Popen(
        [sys.executable, "-m", "coadvise", *words], env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
        stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not list(output.glob("runs/transformer_tiny.s0.*/metrics.jsonl")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1.0)
    assert not list(output.glob("runs/transformer_tiny.s0.*/last.safetensors")), "it is not saved before it is asked to"
    return process


@pytest.mark.parametrize("send", [os.killpg, os.kill])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_saves_what_runs(tmp_path: Path, send: Callable[[int, int], None], number: int) -> None:
    """From a terminal it reaches all processes, from `kill` or a cluster's scheduler perhaps the parent alone."""
    output = tmp_path / "out"
    process = long_run(output)
    send(process.pid, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130, said
    assert "everything is saved; the same command goes on" in said and "Traceback" not in said
    (folder,) = output.glob("runs/transformer_tiny.s0.*")
    assert (folder / "last.safetensors").is_file(), "the running one was saved"
    assert (output / "report.html").is_file()


def test_workers_save_and_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    output = tmp_path / "out"
    process = long_run(output)
    family = psutil.Process(process.pid).children(recursive=True)
    assert family
    process.kill()
    process.communicate(timeout=60)  # workers hold its end of the pipe, too
    _, alive = psutil.wait_procs(family, timeout=60)
    assert not alive
    (folder,) = output.glob("runs/transformer_tiny.s0.*")
    assert (folder / "last.safetensors").is_file(), "the running one was saved"


def test_another_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    done = subprocess.run(
        [sys.executable, "-m", "coadvise", "reproduce", "table7", "--output", str(tmp_path)],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2 and "holds other files" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(("text", "value"), [("40m", 2400), ("2h", 7200), ("90s", 90), ("1.5h", 5400), ("3", 180)])
def test_budgets(text: str, value: float) -> None:
    assert seconds(text) == value


@pytest.mark.parametrize("text", ["", "x", "-3m", "3 days"])
def test_bad_budgets(text: str) -> None:
    with pytest.raises(RecipeError, match="no length of time"):
        seconds(text)


def test_bad_names() -> None:
    with pytest.raises(RecipeError, match="did you mean table4"):
        find_experiments(["tabel4"])
    with pytest.raises(RecipeError, match="choose of digits"):
        find_scale("digit5")


def test_groups_of_measurements() -> None:
    assert groups_of(["accuracy/class", "kl/a|b"]) == {"run"}
    assert groups_of(["corruptions/class", "r/class"]) == {"corruptions", "r"}


def test_arms_of_one_form_are_one_arm() -> None:
    assert arm("resnet18") == Arm("resnet18") and hash(arm("resnet18")) == hash(Arm("resnet18"))


def test_given_weights_stand_for_a_run(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=10, channels=[8, 16, 32, 64])
    small_stem(model)
    save_file(model.state_dict(), tmp_path / "given.safetensors")
    weights = {"resnet18": str(tmp_path / "given.safetensors")}
    setup = set_up(find_scale("digits"), tmp_path / "out", settings=SHORT, weights=weights)
    planner = Planner(setup)
    run, twin = planner.run(arm("resnet18"), 0), planner.run(arm("resnet18"), 1)
    assert run.given and not twin.given
    assert run.id != Planner(set_up(find_scale("digits"), tmp_path / "x", settings=SHORT)).run(arm("resnet18"), 0).id
    small = [Experiment("table6", "t", "d", ("m",), (), [], extra=(ONE_CONV,))]
    jobs, _ = open_jobs(planner, small, orders(setup))
    assert run_jobs(jobs, orders(setup), Display(quiet=True))
    result = read_result(orders(setup).results, run)
    assert result is not None and result["steps"] == 0 and result["provenance"]["weights"] == weights["resnet18"]
    trained = load_trained(run.folder)
    kept = trained.model.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in model.state_dict().items())
    other = timm.create_model("resnet18", num_classes=7, channels=[8, 16, 32, 64])
    save_file(small_stem(other).state_dict(), tmp_path / "given.safetensors")
    shutil.rmtree(setup.output)
    with pytest.raises(RunError, match=r"resnet18.* failed: .*is for 7 classes, the data has 10"):
        run_jobs(open_jobs(planner, small, orders(setup))[0], orders(setup), Display(quiet=True))


def test_given_weights_have_one_run_and_are_not_for_nothing(tmp_path: Path) -> None:
    weights = {"resnet18": "timm"}
    setup = set_up(find_scale("digits"), tmp_path / "out", settings=SHORT, weights=weights)
    runs = in_order(Planner(setup), find_experiments(["table6"]), 3)
    assert [run.seed for run in runs if run.arm == arm("resnet18")] == [0, 1], "the twin teaches, but is no third run"
    assert [run.seed for run in runs if run.arm == arm("resnet50")] == [0, 1, 2]
    with pytest.raises(RecipeError, match="--weights resnet18=…: table8 has no such model"):
        reproduce(setup, find_experiments(["table8"]), orders(setup), Display(quiet=True))
    assert not setup.output.exists()


def test_the_papers_scale_has_the_settings_of_the_built_in_recipes(tmp_path: Path) -> None:
    setup = set_up(find_scale("imagenet"), tmp_path, source="digits")
    ours, builtin = Planner(setup).run(CIT_S, 0).recipe, load_recipe("cit-s", ["data.source=digits"])
    assert ours.student.options == builtin.student.options == {"drop_path_rate": 0.1}
    for part in ("optim", "schedule"):
        assert getattr(ours, part) == getattr(builtin, part)
    assert ours.data.augment == builtin.data.augment
    assert ours.loss.label_weight == 1 and set(ours.loss.weights.values()) == {1.0}
    tiny = set_up(find_scale("tiny"), tmp_path, source="digits")
    assert Planner(tiny).run(NONE, 0).recipe.student.options == {"patch_size": 8, "drop_path_rate": 0.05}


def test_hard_advice_weighs_as_much_as_the_labels(setup: Setup) -> None:
    hard = Planner(setup).run(DEIT_TI_KD, 0).recipe
    assert set(hard.loss.weights.values()) == {1.0} and hard.student.options["inference"] == "average"
    assert set(Planner(setup).run(CROSS, 0).recipe.loss.weights.values()) == {10.0}
    other = Planner(set_up(find_scale("digits"), setup.output, settings=[*SHORT, "weight=3"]))
    assert set(other.run(CROSS, 0).recipe.loss.weights.values()) == {3.0}
    assert other.run(CROSS, 0).id != Planner(setup).run(CROSS, 0).id
    assert other.run(NONE, 0).id == Planner(setup).run(NONE, 0).id


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("student.options.depth=4", "the arms of the tables decide student"),
        ("loss.label_weight=2", "the arms of the tables decide loss"),
        ("run.seed=3", "the arms of the tables decide run.seed"),
        ("school.epocs=3", r"school\.\*: epocs is unknown \(did you mean epochs"),
        ("school.epochs=abc", r"epochs is 'abc', must be a valid integer"),
        ("school.augment=light", "augment is 'light'"),
        ("school.augment.policy=heavy", "augment.policy is 'heavy', must be one of"),
        ("weight=much", "must be a number ≥ 0"),
        ("weight=-1", "must be a number ≥ 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        set_up(find_scale("digits"), tmp_path, settings=[setting])


def test_a_setting_of_the_teachers_can_be_taken_away(tmp_path: Path) -> None:
    settings = ["school.epochs=null", "school.augment=null"]
    setup = set_up(find_scale("digits"), tmp_path, settings=settings)
    teacher, student = (Planner(setup).run(one, 0).recipe for one in (arm("resnet18"), NONE))
    assert teacher.schedule == student.schedule and teacher.data.augment == student.data.augment


def test_a_change_of_the_teachers_augmentation_starts_from_the_students(tmp_path: Path) -> None:
    setup = set_up(find_scale("cifar"), tmp_path, source="digits", settings=["school.augment.mixup=0"])
    teacher, student = (Planner(setup).run(one, 0).recipe.data.augment for one in (arm("resnet18"), NONE))
    assert teacher == student.model_copy(update={"mixup": 0.0})


def test_advice_of_other_teachers_or_views_is_stored_elsewhere(tmp_path: Path) -> None:
    def folder(*settings: str) -> str | None:
        setup = set_up(find_scale("digits"), tmp_path, settings=[*SHORT, *settings])
        return Planner(setup).run(CROSS, 0).recipe.advice.folder

    places = [folder(), folder("school.epochs=2"), folder("schedule.epochs=2"), folder("data.train_size=40")]
    assert len(set(places)) == 4
    many = ["schedule.epochs=40", "schedule.warmup_epochs=0"]
    assert folder(*many) == folder(*many, "schedule.epochs=50"), "both have all 25 views"


def test_advice_is_written_anew_when_a_teacher_was_trained_anew(setup: Setup) -> None:
    experiment = Experiment("table6", "t", "d", ("m",), (), [], extra=(ONE_CONV,))
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    run = Planner(setup).run(ONE_CONV, 0)
    (teacher,) = run.advisers.values()
    column = Path(str(run.recipe.advice.folder)) / "resnet18" / "teacher.json"
    before = column.read_bytes()
    known = read_result(orders(setup).results, run)
    assert known is not None
    taught = known["teacher_weights"]
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
    assert after is not None and after["teacher_weights"] == {"resnet18": file_digest(RunFolder(teacher.folder).best)}
    assert after["teacher_weights"] != taught


def test_a_failing_run_stops_none_of_the_others(setup: Setup) -> None:
    experiments = find_experiments(["table7"])
    planner = Planner(setup)
    bad = planner.run(arm("rednet26"), 0)
    bad.folder.mkdir(parents=True)
    write_json(setup.output / MARK, {})
    (bad.folder / "mine.txt").write_text("not a run")
    with pytest.raises(
        RunError,
        match=r"rednet26\.s0\S* failed: .*holds other files.*4 jobs are left, and the same command tries again",
    ):
        reproduce(setup, experiments, orders(setup), Display(quiet=True))
    _, runs = open_jobs(planner, experiments, orders(setup))
    done = {run.arm.id for run in runs if read_result(orders(setup).results, run)}
    assert done == {run.arm.id for run in runs if "rednet26" not in run.arm.id}
    assert (setup.output / "report.html").is_file()
    shutil.rmtree(bad.folder)
    reproduce(setup, experiments, orders(setup), Display(quiet=True))
    assert open_jobs(planner, experiments, orders(setup))[0] == []


def test_missing_shifted_images_are_found_before_anything_is_trained(setup: Setup, tmp_path: Path) -> None:
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


def test_measures_of_other_weights_or_images_are_made_anew(setup: Setup) -> None:
    experiment = Experiment("table6", "t", "d", ("m",), (), [], extra=(NONE,))
    reproduce(setup, [experiment], orders(setup), Display(quiet=True))
    run, results = Planner(setup).run(NONE, 0), orders(setup).results
    path = results / f"{run.name}.json"
    content = json.loads(path.read_text())
    known = {**content, "groups": ["corruptions", "run"]}
    known["measured"] = {**content["measured"], "corruptions/class": 0.25, "throughput": 1.0}
    write_json(path, known)
    measure(run, ["run"], results, "digits", Shifted())
    kept = read_result(results, run)
    assert kept is not None and kept["measured"]["corruptions/class"] == 0.25 and kept["measured"]["throughput"] == 1.0
    elsewhere = {**known["measured"], "loss/class": content["measured"]["loss/class"] + 0.01}
    write_json(path, {**known, "measured": elsewhere})
    measure(run, ["run"], results, "digits", Shifted())
    anew = read_result(results, run)
    assert anew is not None and "corruptions/class" not in anew["measured"] and anew["groups"] == ["run"]
    assert anew["measured"]["throughput"] != 1.0
    assert anew["measured"]["loss/class"] == pytest.approx(content["measured"]["loss/class"], abs=1e-12)
    given = Shifted({"c": "/data/imagenet-c/"})
    assert groups_there(known, given) == {"run"}
    assert groups_there({**known, "sources": {"corruptions": "imagenet-c"}}, given) == {"corruptions", "run"}
    assert groups_there({**known, "sources": {"corruptions": "imagenet-c"}}, Shifted()) == {"corruptions", "run"}


def test_shifted_images_elsewhere_train_nothing_anew(setup: Setup, tmp_path: Path) -> None:
    experiment = Experiment("table6", "t", "d", ("m",), (), [Row(("x",), {}, {"c": Value(NONE, "corruptions/class")})])
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


def test_some_classes_of_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("3 three\n5\n\n8\n")
    setup = set_up(find_scale("digits"), tmp_path / "out", classes=str(tmp_path / "some.txt"), settings=SHORT)
    train, validation = open_sources(Planner(setup).run(NONE, 0).recipe.data)
    assert train.class_names == validation.class_names == ("3", "5", "8")
    assert set(train.labels) == {0, 1, 2} and len(train) == 50
    whole = open_sources(load_recipe("digits", ["data.train_size=null", "data.val_size=null"]).data)[1]
    some = open_sources(load_recipe("digits", ["data.val_size=null", f"data.classes={tmp_path / 'some.txt'}"]).data)[1]
    assert len(some) == int(np.isin(whole.labels, [3, 5, 8]).sum())
    (tmp_path / "some.txt").write_text("3\neleven\n")
    with pytest.raises(DataError, match="'eleven' is none of the data's classes"):
        set_up(find_scale("digits"), tmp_path / "out", classes=str(tmp_path / "some.txt"), settings=SHORT)
