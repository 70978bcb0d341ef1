"""The paper's tables as declared, the runs they become, and the runner."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from helpers import SHARED
from helpers.experiments import SHORT, orders, short_setup
from PIL import Image
from safetensors.torch import save_file

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.trained import load_trained
from coadvise.data.sources.opening import open_sources
from coadvise.errors import DataError, RecipeError, RunError
from coadvise.models.bias import bias_of
from coadvise.models.students import small_stem
from coadvise.paper.ablations import CROSS, LABELS_ONLY, ONE_CONV, SEVEN_ARMS
from coadvise.paper.arms import Arm, Teacher, arm
from coadvise.paper.beyond import (
    BEYOND,
    CONTROLS,
    FRESH,
    HEADS,
    IN_CLASS,
    LONGER,
    LOSSES_EXPERIMENT,
    MEAN_OF_BOTH,
    SELF_TAUGHT,
    SMOOTHED,
    SWEEP,
    UNTRAINED,
)
from coadvise.paper.declared import Dots, Experiment, Row, Value
from coadvise.paper.imagenet import CIT_S, DEIT_TI_KD, EXPERIMENTS
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.schema import Recipe, Student, flat
from coadvise.reproduce.command import _told_apart, find_experiments, reproduce, seconds
from coadvise.reproduce.measure import groups_of, read_result
from coadvise.reproduce.planner import Planner, column_recipe, in_order
from coadvise.reproduce.runner import open_jobs, run_jobs
from coadvise.reproduce.scales import SCALES, find_scale
from coadvise.reproduce.setup import ExperimentSetup, set_up
from coadvise.system.progress import Display

ALL = list(EXPERIMENTS.values())
PAPER = SHARED / "paper" / "paper.txt"


@pytest.fixture
def setup(tmp_path: Path) -> ExperimentSetup:
    return short_setup(tmp_path)


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
        ("table2", "Table 2. Comparison", "of models trained by our cross"),
        ("table3", "Table 3. Comparisons", "do not reveal"),
        ("table4", "Table 4. Performances", "Alternatively, the vertical"),
        ("table6", "Table 6. Performances", "involution-based RedNet-26, its"),
        ("table7", "Table 7. Performances", "Table 8."),
        ("table8", "Table 8. Performances", "between the teachers and"),
        ("table9", "Table 9. Performance", "and C but worse"),
    ],
)
def test_the_papers_numbers_are_those_of_its_text(name: str, title: str, until: str) -> None:
    ours = [float(number) for row in EXPERIMENTS[name].rows for number in row.paper.values()]
    text = [float(number) for number in printed_numbers(title, until)]
    # The text prints whole numbers, too (22 million parameters), which no pattern can tell from others.
    assert [number for number in ours if number % 1] == [number for number in text if number % 1]


@pytest.mark.skipif(not PAPER.is_file(), reason=f"the paper's text is not at {PAPER}")
def test_the_papers_divergences_are_those_of_its_text() -> None:
    """Its text has the last two rows of Table 5 column by column."""
    ours = [float(number) for row in EXPERIMENTS["table5"].rows for number in row.paper.values()]
    text = [float(number) for number in printed_numbers("Student\tResNet-18\tRedNet-26\tTop-1", "Table 5.")]
    conv, inv = text[6::2], text[7::2]
    assert ours == text[:6] + conv + inv


def test_a_setup_says_what_it_is_and_what_differs_from_the_paper(tmp_path: Path) -> None:
    digits = set_up(find_scale("digits"), tmp_path)
    assert digits.title == "200 handwritten digits of 8 × 8 pixels"
    weight, views, size, augmentation = digits.particulars()
    assert weight.startswith("λ is 10 ") and views.startswith("Students see 25 views")
    assert size == "Models that teach see images of 16 × 16 pixels, students of 8 × 8."
    assert augmentation == "Models that teach have an augmentation of their own."
    fewer = set_up(find_scale("digits"), tmp_path, settings=["data.train_size=50", "data.image_size=12"])
    assert fewer.title == "50 handwritten digits of 12 × 12 pixels"
    cifar = replace(fewer, scale=find_scale("cifar"))
    assert cifar.title == "50 images of CIFAR-10" and find_scale("cifar").title == "CIFAR-10"
    assert find_scale("cifar-cpu").title == "10,000 images of CIFAR-10, small models"
    settings = ["weight=1", "data.views=null", "teachers.image_size=8"]
    assert set_up(find_scale("digits"), tmp_path, settings=settings).particulars() == [augmentation]
    for name in ("0", "1"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for number in range(10):
            Image.new("RGB", (8, 8), 20 * number).save(tmp_path / "mine" / name / f"{number}.png")
    sizes = ["data.train_size=10", "data.val_size=4", "data.val_fraction=0.25"]
    mine = set_up(find_scale("tiny"), tmp_path / "out", source=f"{tmp_path / 'mine'}/", settings=sizes)
    assert mine.title == "mine, 2 classes, with the settings for 100 classes of Tiny ImageNet at 64 × 64 pixels"
    embedded = set_up(find_scale("tiny"), tmp_path / "out", source="digits", settings=sizes)
    assert embedded.title.startswith("digits, 10 classes, with the settings for ")


def test_ids_are_unique_and_fit_a_file_name() -> None:
    arms = {one for experiment in [*ALL, *BEYOND] for one in experiment.arms()}
    ids = [one.id for one in arms]
    assert len(ids) == len(set(ids))
    assert all(Recipe.model_fields["name"] is not None and len(name) < 100 and "/" not in name for name in ids)
    assert CROSS.id == "transformer_tiny.resnet18.rednet26"
    assert Teacher("resnet18", 1, 0.25).name == "resnet18-s1-e25"


@pytest.mark.parametrize(
    "scale", [pytest.param(name, marks=pytest.mark.slow) if name in ("cifar", "tiny") else name for name in SCALES]
)
def test_every_arm_can_be_built_at_every_scale(tmp_path: Path, scale: str) -> None:
    sizes = ["data.train_size=50", "data.val_size=40"]
    setup = set_up(find_scale(scale), tmp_path, source="digits", settings=sizes)
    runs = in_order(Planner(setup), [*ALL, *BEYOND], 1)
    built: dict[str, set[str]] = {}  # many arms differ in how their student learns, not in what it is
    for run in runs:
        if scale in ("digits", "cifar-cpu") or run.arm.model in ("resnet10", "transformer_tiny", "mixer_tiny"):
            recipe = run.recipe
            form = f"{recipe.student} {recipe.tokens()} {recipe.data.image_size}"
            if form not in built:
                student = build_student(recipe.student, recipe.tokens(), 10, recipe.data.image_size)
                built[form] = set(getattr(student, "token_names", ()))
            wanted = {
                *(() if run.arm.tokens == "single" or not run.arm.is_transformer else run.arm.advisers),
                *run.arm.injected,
            }
            assert built[form] - {"class"} == wanted, run.arm.id


@pytest.mark.parametrize("scale", ["digits", "cifar-cpu", "cifar", "tiny"])
def test_other_kinds_can_teach_at_the_small_scales(scale: str) -> None:
    """A Swin and a Mixer in the sizes of the scale, at the sizes of its images."""
    found = find_scale(scale)
    for teacher in (Teacher("swin_tiny_patch4_window7_224"), Teacher("mixer_s16_224")):
        side = found.teachers.get("image_size") or found.size
        model = build_student(Student(**found.model(teacher.model)), {}, 10, side).eval()
        assert model(torch.randn(2, 3, side, side)).shape == (2, 10)
        resnet = build_student(Student(**found.model("resnet18")), {}, 10, side)
        size, ours = (sum(p.numel() for p in one.parameters()) for one in (resnet, model))
        assert 0.3 < ours / size < 3, (teacher.model, ours, size)
        assert teacher.bias == bias_of(teacher.model)


def test_a_sweep_changes_one_thing_of_the_students(setup: ExperimentSetup) -> None:
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
            assert {one.id for one in run.teachers.values()} == {
                one.id for one in planner.run(CROSS, 0).teachers.values()
            }
    lr = 10 * plain["optim.token_lr"]
    both = ("resnet18", "rednet26")
    weight = plain["loss.weights.resnet18"]
    assert rows["nothing"]["both"] == CROSS and changed["nothing"] == {}
    assert changed["twice the epochs"] == {"schedule.epochs": 2}
    live = {k: v for k, v in changed["views that never recur"].items() if k != "advice.top_k"}  # of stored advice
    assert live == {"data.views": None, "advice.source": "live"}
    assert changed["λ × 0.1"] == {f"loss.weights.{name}": 0.1 * weight for name in both}
    assert changed["λ × 3"] == {f"loss.weights.{name}": 3 * weight for name in both}
    assert changed["λ × 10"] == {f"loss.weights.{name}": 10 * weight for name in both}
    temperatures = {f"loss.temperatures.{name}": 2.0 for name in both}
    assert {k: v for k, v in changed["τ = 2"].items() if k != "loss.temperatures"} == temperatures
    assert changed["images not mixed"].keys() <= {"data.augment.mixup", "data.augment.cutmix"}
    assert set(changed["images not mixed"].values()) == {0.0}
    assert changed["tokens' learning rate × 10"] == {"optim.token_lr": lr}
    assert changed["spread of advised tokens × 15"] == {"student.options.token_std": 0.3}
    assert rows["spread of advised tokens × 15"]["single"] == rows["nothing"]["single"]
    early = planner.run(rows["teachers of half the epochs"]["both"], 0)
    assert [one.arm.part for one in early.teachers.values()] == [0.5, 0.5] and early.arm.part == 1.0
    nones = {arms["none"] for arms in rows.values()}
    assert {one.id for one in nones} == {
        f"transformer_tiny{word}" for word in ("", "-e200", ".live", ".unmixed", ".token-lr-1000")
    }


def test_stored_advice_is_read_where_it_was_written(tmp_path: Path) -> None:
    """Also where the views, which do not recur in a shorter run, are as many as its epochs."""
    setup = set_up(find_scale("digits"), tmp_path, settings=["schedule.epochs=8", "schedule.warmup_epochs=1"])
    planner = Planner(setup)
    folders = {}
    for one in [*SWEEP.arms(), *EXPERIMENTS["table4"].arms()]:
        run = planner.run(one, 0)
        assert run.recipe.advice.source == ("cache" if one.teachers and not one.live else "live"), one.id
        if one.live:
            continue
        for name in run.teachers:
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
        row.labels[0] for row in SWEEP.rows if not row.labels[0].startswith("λ") and row.labels[0] != "images not mixed"
    ]
    assert not any(word in claim.text for claim in left.claims for word in ("λ", "mixed"))
    assert "λ × 0.1, λ × 3, λ × 10, images not mixed" in left.notes[-1]
    assert _told_apart(EXPERIMENTS["table6"], Planner(setup)) is EXPERIMENTS["table6"]
    told = _told_apart(CONTROLS, Planner(setup))
    runs = in_order(Planner(setup), [told], 1)
    assert len(told.rows) < len(CONTROLS.rows) and len({run.id for run in runs}) == len(runs), "none is trained twice"


def test_the_seven_arms_with_views_that_never_recur(setup: ExperimentSetup, tmp_path: Path) -> None:
    planner = Planner(setup)
    for row, one in zip(FRESH.rows, SEVEN_ARMS, strict=True):
        run, before = planner.run(row.ours["top1"].arm, 0), planner.run(one, 0)
        assert (run.recipe.data.views, run.recipe.advice.source) == (None, "live")
        assert {n: a.id for n, a in run.teachers.items()} == {n: a.id for n, a in before.teachers.items()}
    shared = {value.arm for row in SWEEP.rows for value in row.ours.values() if value.arm.live}
    assert shared < set(FRESH.arms())
    assert [claim.text for claim in FRESH.claims] == [claim.text for claim in LONGER.claims]
    live = set_up(find_scale("digits"), tmp_path / "live", settings=[*SHORT, "data.views=null"])
    with pytest.raises(RecipeError, match="never recur with these settings anyway"):
        reproduce(live, [FRESH], orders(live))
    assert not live.output.exists()


def test_the_seven_arms_with_more_time(setup: ExperimentSetup) -> None:
    """Twice the epochs on the advice of the same teachers; what a sweep of the epochs needs is shared with it."""
    planner = Planner(setup)
    for row, one in zip(LONGER.rows, SEVEN_ARMS, strict=True):
        short, long = planner.run(one, 0), planner.run(row.ours["top1"].arm, 0)
        assert long.recipe.schedule.epochs == 2 * short.recipe.schedule.epochs
        assert {n: a.id for n, a in long.teachers.items()} == {n: a.id for n, a in short.teachers.items()}
    twice = {value.arm for row in SWEEP.rows for value in row.ours.values() if value.arm.part == 2.0}
    assert twice < set(LONGER.arms()) and len(LONGER.arms()) == 7
    claims = [*EXPERIMENTS["table6"].claims, *EXPERIMENTS["table7"].claims]
    assert [claim.text for claim in LONGER.claims] == [claim.text for claim in claims if "alone adds" not in claim.text]
    assert {value.metric for claim in LONGER.claims for value in claim.values} == {"accuracy/class"}
    for long, short in zip(LONGER.rows, HEADS.rows, strict=True):
        assert {k: (v.arm.teachers, v.metric) for k, v in long.ours.items()} == {
            k: (v.arm.teachers, v.metric) for k, v in short.ours.items()
        }


def test_the_heads_answer_what_tables_6_and_7_claim(setup: ExperimentSetup) -> None:
    """No run of its own; a student with a single head answers by that one; each claim is once about a mean of heads."""
    tables = [EXPERIMENTS["table6"], EXPERIMENTS["table7"]]
    assert set(HEADS.arms()) == set(SEVEN_ARMS) <= {one for table in tables for one in table.arms()}
    heads = {row.ours["top1"].arm: sorted(value.metric for value in row.ours.values()) for row in HEADS.rows}
    for one, found in heads.items():
        recipe = Planner(setup).run(one, 0).recipe
        student = build_student(recipe.student, recipe.tokens(), 10, recipe.data.image_size)
        tokens = set(getattr(student, "token_names", ())) | {"class"}
        assert found == sorted(f"accuracy/{name}" for name in (tokens | {"average"} if len(tokens) > 1 else tokens))
    own, *claims = HEADS.claims
    assert (own.plus, own.minus) == ((Value(CROSS, "accuracy/average"),), (Value(CROSS),))
    printed = {claim.text: claim for table in tables for claim in table.claims}
    left = {text for text in printed if text.startswith("With one token,")}
    assert {claim.text for claim in claims} == printed.keys() - left, "one token has no mean of heads"
    assert len(claims) == len(printed) - 3
    for claim in claims:
        for value, before in zip(claim.values, printed[claim.text].values, strict=True):
            single = len(heads[value.arm]) == 1
            assert value == (before if single else replace(before, metric="accuracy/average"))


def test_controls_keep_a_part_of_the_advice_back(setup: ExperimentSetup) -> None:
    """Of the same teachers, whose advice is stored once; the weight of all advice together stays what it is."""
    planner = Planner(setup)
    cross = planner.run(CROSS, 0)
    for one, change in ((IN_CLASS, "shuffled-in-class"), (SMOOTHED, "smoothed"), (MEAN_OF_BOTH, "mean")):
        run = planner.run(one, 0)
        assert (run.teachers, run.recipe.advice) == (
            cross.teachers, cross.recipe.advice.model_copy(update={"change": change})
        )  # fmt: skip
        assert run.id != cross.id and sum(run.recipe.loss.weights.values()) == 20.0
        stored = {column_recipe(planner, run, name).fingerprint() for name in run.teachers}
        assert stored == {column_recipe(planner, cross, name).fingerprint() for name in run.teachers}
    assert planner.run(MEAN_OF_BOTH, 0).recipe.tokens() == {"mean": None}
    (teacher,) = planner.run(SELF_TAUGHT, 3).teachers.values()
    assert teacher is planner.run(LABELS_ONLY, 0) and SELF_TAUGHT.teachers[0].bias == "attn"
    random, known = planner.run(UNTRAINED, 0).teachers, cross.teachers
    assert list(random) == ["resnet18-random", "rednet26-random"] and all(one.given for one in random.values())
    assert not {one.id for one in random.values()} & {one.id for one in known.values()}
    assert all(claim.plus[0].arm.mixing == claim.minus[0].arm.mixing for claim in CONTROLS.claims)


def test_other_losses_are_of_the_same_teachers_and_stored_advice(setup: ExperimentSetup) -> None:
    planner = Planner(setup)
    cross = planner.run(CROSS, 0)
    found = {}
    for row in LOSSES_EXPERIMENT.rows:
        run = planner.run(row.ours["both"].arm, 0)
        assert run.teachers == cross.teachers and run.recipe.advice == cross.recipe.advice
        loss = run.recipe.loss
        found[run.name.split(".")[3] if run.id != cross.id else "KL"] = (
            loss.advice,
            loss.gate,
            set(loss.temperatures.values()),
        )
        assert run.id == cross.id or loss != cross.recipe.loss
    assert found == {
        "KL": ("soft", "none", set()),
        "standardised": ("standardised", "none", {2.0}),
        "dist": ("dist", "none", set()),
        "decoupled": ("decoupled", "none", set()),
        "gate-right": ("soft", "right", set()),
        "gate-harder": ("soft", "harder", set()),
        "gate-random": ("soft", "random", set()),
    }
    assert "one" not in LOSSES_EXPERIMENT.rows[5].ours


def test_a_teacher_that_was_never_trained_has_the_weights_of_its_seed(setup: ExperimentSetup) -> None:
    planner, one = Planner(setup), arm("transformer_tiny", Teacher("resnet18", seed=1, trained=False))
    alone = [Experiment("random", "t", "", ("m",), (), [Row(("m",), {}, {"top1": Value(one)})])]
    jobs, runs = open_jobs(planner, alone, orders(setup))
    assert run_jobs(jobs, orders(setup), Display(quiet=True))
    assert [run.arm.id for run in runs] == ["resnet18-random", "transformer_tiny.resnet18-s1-random"]
    measured = [read_result(orders(setup).results, run) for run in runs]
    assert [found and found.steps for found in measured] == [0, 1]
    torch.manual_seed(1)
    fresh = small_stem(timm.create_model("resnet18", num_classes=10, channels=[8, 16, 32, 64]))
    kept = load_trained(runs[0].folder).model.model.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in fresh.state_dict().items())
    assert measured[1] is not None and list(measured[1].teacher_weights) == ["resnet18-s1-random"]


def test_numbers_may_be_written_as_words(tmp_path: Path) -> None:
    words = ["optim.token_lr='2'", "schedule.epochs='10'", "schedule.warmup_epochs='1'"]
    setup = set_up(find_scale("digits"), tmp_path, settings=words)
    run = Planner(setup).run(replace(CROSS, part=2.0, token_lr=3.0), 0)
    assert (run.recipe.optim.token_lr, run.recipe.schedule.epochs) == (6.0, 20)


def test_the_names_of_runs_stay_when_settings_are_added(setup: ExperimentSetup) -> None:
    """A setting of its own default changes no hash, so that results of earlier versions are found."""
    planner = Planner(setup)
    recipe = planner.run(CROSS, 0).recipe
    assert "token_lr" not in recipe.content()["optim"]
    faster = recipe.model_copy(update={"optim": recipe.optim.model_copy(update={"token_lr": 2.0})})
    assert faster.content()["optim"]["token_lr"] == 2.0
    assert faster.fingerprint() != recipe.fingerprint()
    # As they were before there was any such setting.
    before = {"digits": "b853c66a5ec78903", "cit-s": "89f3ecaf9c4de371"}
    assert {name: load_recipe(name).fingerprint() for name in before} == before


def test_scales_shrink_depth_and_width_alone(setup: ExperimentSetup) -> None:
    planner = Planner(setup)
    cross, none = planner.run(CROSS, 0).recipe, planner.run(LABELS_ONLY, 0).recipe
    assert cross.student.options == none.student.options
    assert cross.tokens() == {"resnet18": "conv", "rednet26": "inv"}
    assert cross.data == none.data, "arms are compared on the same views"
    assert cross.schedule == none.schedule
    assert planner.run(CROSS, 1).recipe.data.seed == 1


def test_a_run_is_named_by_what_decides_its_numbers(tmp_path: Path, setup: ExperimentSetup) -> None:
    first = Planner(setup).run(CROSS, 0)
    elsewhere = set_up(find_scale("digits"), tmp_path / "elsewhere", settings=SHORT)
    assert Planner(elsewhere).run(CROSS, 0).id == first.id
    assert Planner(setup).run(CROSS, 1).id != first.id
    other = set_up(find_scale("digits"), tmp_path / "out", settings=[*SHORT, "teachers.epochs=2"])
    changed = Planner(other).run(CROSS, 0)
    assert changed.id != first.id, "other teachers make another run"
    assert Planner(other).run(LABELS_ONLY, 0).id == Planner(setup).run(LABELS_ONLY, 0).id
    fewer = set_up(find_scale("digits"), tmp_path / "out", settings=[*SHORT, "data.train_size=40"])
    assert Planner(fewer).run(LABELS_ONLY, 0).id != Planner(setup).run(LABELS_ONLY, 0).id


def test_the_telling_runs_come_first_and_teachers_before_students(setup: ExperimentSetup) -> None:
    runs = in_order(Planner(setup), ALL, 2)
    place = {run.name: i for i, run in enumerate(runs)}
    for run in runs:
        assert all(place[one.name] < place[run.name] for one in run.teachers.values())
    last_of_seven = max(place[run.name] for run in runs if run.arm in SEVEN_ARMS)
    assert last_of_seven < 2 * len(SEVEN_ARMS) + 5, "seven arms twice and the five teachers they have"
    partial = [run for run in runs if run.arm.part != 1.0 and not run.teachers]
    assert {run.seed for run in partial} == {0}


def test_runs_are_shared_between_tables(setup: ExperimentSetup) -> None:
    both = in_order(Planner(setup), find_experiments(["table4", "table6"]), 1)
    apart = [in_order(Planner(setup), find_experiments([name]), 1) for name in ("table4", "table6")]
    assert len(both) < sum(map(len, apart))
    assert len({run.name for run in both}) == len(both)


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
    with pytest.raises(RecipeError, match="did you mean digits"):
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
    small = [Experiment("table6", "t", "d", ("m",), (), [Row(("m",), {}, {"top1": Value(ONE_CONV)})])]
    jobs, _ = open_jobs(planner, small, orders(setup))
    assert run_jobs(jobs, orders(setup), Display(quiet=True))
    result = read_result(orders(setup).results, run)
    assert result is not None and result.steps == 0 and result.provenance["weights"] == weights["resnet18"]
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
    assert Planner(tiny).run(LABELS_ONLY, 0).recipe.student.options == {"patch_size": 8, "drop_path_rate": 0.05}


def test_hard_advice_weighs_as_much_as_the_labels(setup: ExperimentSetup) -> None:
    hard = Planner(setup).run(DEIT_TI_KD, 0).recipe
    assert set(hard.loss.weights.values()) == {1.0} and hard.student.options["inference"] == "average"
    assert set(Planner(setup).run(CROSS, 0).recipe.loss.weights.values()) == {10.0}
    other = Planner(set_up(find_scale("digits"), setup.output, settings=[*SHORT, "weight=3"]))
    assert set(other.run(CROSS, 0).recipe.loss.weights.values()) == {3.0}
    assert other.run(CROSS, 0).id != Planner(setup).run(CROSS, 0).id
    assert other.run(LABELS_ONLY, 0).id == Planner(setup).run(LABELS_ONLY, 0).id


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("schedule.time=2h", r"arms are compared after the same number of epochs; give schedule\.epochs=N"),
        ("student.options.depth=4", "the arms of the tables decide student"),
        ("loss.label_weight=2", "the arms of the tables decide loss"),
        ("run.seed=3", "the arms of the tables decide run.seed"),
        ("teachers.seed=3", r"the arms of the tables decide teachers\.seed"),
        ("teachers.conv.model=resnet18", r"teachers\.\*: conv is unknown"),
        ("teachers.epocs=3", r"teachers\.\*: epocs is unknown \(did you mean epochs"),
        ("teachers.epochs=abc", r"epochs is 'abc', must be a valid integer"),
        ("teachers.augment=light", "augment is 'light'"),
        ("teachers.augment.policy=heavy", "augment.policy is 'heavy', must be one of"),
        ("weight=much", "must be a number ≥ 0"),
        ("weight=-1", "must be a number ≥ 0"),
    ],
)
def test_settings_that_would_do_nothing_are_refused(tmp_path: Path, setting: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        set_up(find_scale("digits"), tmp_path, settings=[setting])


def test_settings_of_teachers_by_their_earlier_name(tmp_path: Path) -> None:
    now, before = (
        set_up(find_scale("digits"), tmp_path, settings=[*SHORT, f"{word}.lr=0.5"]) for word in ("teachers", "school")
    )
    assert Planner(now).run(CROSS, 0).id == Planner(before).run(CROSS, 0).id
    assert before.changed[-1] == "school.lr=0.5", "as it was given"


def test_a_setting_of_the_teachers_can_be_taken_away(tmp_path: Path) -> None:
    settings = ["teachers.epochs=null", "teachers.augment=null"]
    setup = set_up(find_scale("digits"), tmp_path, settings=settings)
    teacher, student = (Planner(setup).run(one, 0).recipe for one in (arm("resnet18"), LABELS_ONLY))
    assert teacher.schedule == student.schedule and teacher.data.augment == student.data.augment


def test_a_change_of_the_teachers_augmentation_starts_from_the_students(tmp_path: Path) -> None:
    setup = set_up(find_scale("cifar"), tmp_path, source="digits", settings=["teachers.augment.mixup=0"])
    teacher, student = (Planner(setup).run(one, 0).recipe.data.augment for one in (arm("resnet18"), LABELS_ONLY))
    assert teacher == student.model_copy(update={"mixup": 0.0})


def test_what_the_students_do_not_see_their_teachers_do_not_see_either(tmp_path: Path) -> None:
    """A change of the teachers' augmentation alone undoes nothing that was said of all."""
    settings = ["data.augment.mixup=0.3", "teachers.augment.erasing=0.125", "data.augment.cutmix=0"]
    setup = set_up(find_scale("cifar"), tmp_path, source="digits", settings=settings)
    teacher, student = (Planner(setup).run(one, 0).recipe.data.augment for one in (arm("resnet18"), LABELS_ONLY))
    assert (student.mixup, student.cutmix) == (0.3, 0.0)
    assert teacher == student.model_copy(update={"erasing": 0.125})


def test_an_experiment_runs_what_its_verdicts_and_figures_need() -> None:
    """Also where it is run alone: Figure 4 compares with labels alone, which is in no row of it."""
    for one in [*ALL, *BEYOND]:
        arms = set(one.arms()) | {teacher.arm for taught in one.arms() for teacher in taught.teachers}
        needed = {value.arm for claim in one.claims for value in claim.values}
        needed |= {value.arm for claim in one.claims for on in claim.conditions for value in (on.first, on.second)}
        if isinstance(one.figure, Dots):
            needed |= {value.arm for value in one.figure.values.values()}
        assert needed <= arms, one.name
    assert LABELS_ONLY in EXPERIMENTS["figure4"].arms()


def test_advice_of_other_teachers_or_views_is_stored_elsewhere(tmp_path: Path) -> None:
    def folder(*settings: str) -> str | None:
        setup = set_up(find_scale("digits"), tmp_path, settings=[*SHORT, *settings])
        return Planner(setup).run(CROSS, 0).recipe.advice.folder

    places = [folder(), folder("teachers.epochs=2"), folder("schedule.epochs=2"), folder("data.train_size=40")]
    assert len(set(places)) == 4
    many = ["schedule.epochs=40", "schedule.warmup_epochs=0"]
    assert folder(*many) == folder(*many, "schedule.epochs=50"), "both have all 25 views"


def test_some_classes_of_a_data_set(tmp_path: Path) -> None:
    (tmp_path / "some.txt").write_text("3 three\n5\n\n8\n")
    setup = set_up(find_scale("digits"), tmp_path / "out", classes=str(tmp_path / "some.txt"), settings=SHORT)
    train, validation = open_sources(Planner(setup).run(LABELS_ONLY, 0).recipe.data)
    assert train.class_names == validation.class_names == ("3", "5", "8")
    assert set(train.labels) == {0, 1, 2} and len(train) == 50
    whole = open_sources(load_recipe("digits", ["data.train_size=null", "data.val_size=null"]).data)[1]
    some = open_sources(load_recipe("digits", ["data.val_size=null", f"data.classes={tmp_path / 'some.txt'}"]).data)[1]
    assert len(some) == int(np.isin(whole.labels, [3, 5, 8]).sum())
    (tmp_path / "some.txt").write_text("3\neleven\n")
    with pytest.raises(DataError, match="'eleven' is none of the data's classes"):
        set_up(find_scale("digits"), tmp_path / "out", classes=str(tmp_path / "some.txt"), settings=SHORT)


def test_arms_that_come_to_the_same_training_are_runs_of_their_own(setup: ExperimentSetup, tmp_path: Path) -> None:
    """A quarter and a half of one epoch are one epoch; each has a student that waits for its weights."""
    planner = Planner(setup)
    jobs, runs = open_jobs(planner, find_experiments(["figure4"]), orders(setup))
    quarter, half = (planner.run(Arm("resnet18", part=part), 0) for part in (0.25, 0.5))
    assert quarter.id == half.id and quarter.folder != half.folder
    trained = {job.folder for job in jobs if job.key.startswith("train")}
    assert {quarter.folder, half.folder} <= trained
    assert trained >= {one.folder for run in runs for one in run.teachers.values()}
