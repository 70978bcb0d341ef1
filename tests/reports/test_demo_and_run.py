"""Reports of a synthetic demo and of single runs: the numbers shown against NumPy and SciPy, the page against an HTML
parser."""

from __future__ import annotations

import base64
import io
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import coadvise
from coadvise.errors import RunError
from coadvise.paper.ablations import CROSS, LABELS_ONLY, ONE_CONV, ONE_INV, SAME_TWICE
from coadvise.paper.arms import Arm
from coadvise.paper.beyond import DEMO, DEMO_TITLES
from coadvise.reports.paper import write_paper_report
from coadvise.reports.results import IMAGES, About
from coadvise.reports.run import run_report
from coadvise.reports.tables import Table, duration, markdown_table, p_value, parameters, points
from coadvise.reports.titles import arm_title
from coadvise.run.measurement import Measurement

LEVELS = {LABELS_ONLY: 0.840, ONE_CONV: 0.934, ONE_INV: 0.928, SAME_TWICE: 0.948, CROSS: 0.947}
COMPARISONS = [(ONE_CONV, LABELS_ONLY), (ONE_INV, LABELS_ONLY), (CROSS, LABELS_ONLY), (CROSS, SAME_TWICE)]
TEACHERS = {"resnet18": ("resnet18", 0), "resnet18-s1": ("resnet18", 1), "rednet26": ("rednet26", 0)}
BOTH, SAME = DEMO_TITLES[CROSS], DEMO_TITLES[SAME_TWICE]
DIGITS = [str(digit) for digit in range(10)]
OUTPUTS = ("CNN", "INN", "student without distillation", "student co-advised")


def make_run(folder: Path, seed: int, level: float, teachers: list[str], epochs: int = 40, **changes: Any) -> float:
    """Write a plausible run and return the accuracy of its class token."""
    rng = np.random.default_rng([seed, *map(ord, folder.name)])
    val = 1597
    final: dict[str, float] = {}
    for token in ["class", *teachers, *(["average"] if teachers else [])]:
        final[f"accuracy/{token}"] = round((level + rng.normal(0, 0.009)) * val) / val
        final[f"loss/{token}"] = float(rng.uniform(0.2, 0.6))
    for name in teachers:
        final[f"teacher/{name}"] = 0.975
        for token in ["class", *teachers]:
            near = 0.12 if token == name else 0.3
            final[f"kl/{name}|{token}"] = float(near + rng.uniform(0, 0.05))
            final[f"kl_reverse/{name}|{token}"] = float(near * 1.3 + rng.uniform(0, 0.05))
    folder.mkdir(parents=True)
    result = {
        "name": folder.name, "fingerprint": folder.name.encode().hex()[:16], "seed": seed,
        "student": {"model": "cit_tiny", "parameters": 452_000 + 1200 * len(teachers),
                    "tokens": dict(zip(teachers, teachers, strict=True))},
        "teachers": {t: {"model": t, "bias": "inv" if "red" in t else "conv",
                         "parameters": 310_000, "accuracy": 0.976, "samples": 1000} for t in teachers},
        "data": {"source": "digits", "train": 200, "val": val, "classes": DIGITS},
        "epochs": epochs, "steps": 1600, "images_seen": 51_200, "seconds": 31.4 + seed, "final": final, "ema": None,
        "best": {"value": final["accuracy/class"] + 0.002, "epoch": epochs - 3, "weights": "model"},
        "skipped": {"train": 0, "val": 0},
        "provenance": {
            "command": "coadvise demo", "commit": "0123456789abcdef", "date": "2025-01-02T03:04:05+00:00",
            "system": "Linux-6.1", "hardware": {"cpu": "Some CPU", "cores": 2, "threads": 1},
            "versions": {"python": "3.11.9", "torch": "2.11.0"},
        },
        **changes,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "recipe.yaml").write_text("name: x\n")
    lines: list[dict[str, Any]] = []
    for epoch in range(1, epochs + 1):
        step, rest = epoch * 1600 // epochs, np.exp(-epoch / (epochs / 6))
        terms = {t: float(0.2 + 2.1 * rest + rng.normal(0, 0.02)) for t in ["class", *teachers]}
        lines.append({"kind": "train", "step": step, "epoch": epoch - 1, "lr": 1e-3 * (1 - epoch / epochs) + 1e-5,
                      "loss": sum(terms.values()), "terms": terms, "images_per_s": 812.0})  # fmt: skip
        if epoch % 2 == 0:
            tokens = {k: v for k, v in final.items() if k.startswith("accuracy/")}
            metrics = {k: v - (v - 0.1) * float(rest) if epoch < epochs else v for k, v in tokens.items()}
            lines.append({"kind": "eval", "step": step, "epoch": epoch, "metrics": metrics, "ema": None})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return final["accuracy/class"]


def digit_images(n: int = 5) -> list[dict[str, Any]]:
    """Real digits with made-up probabilities."""
    from sklearn.datasets import load_digits

    digits, rng, found = load_digits(), np.random.default_rng(7), []
    for index in range(n):
        label, other = int(digits.target[index + 20]), int(rng.integers(0, 10))
        png = io.BytesIO()
        Image.fromarray((digits.images[index + 20] * 15.9).astype(np.uint8)).save(png, "PNG")
        outputs = {}
        for name, right in zip(OUTPUTS, [index % 2 == 0, index % 2 == 1, index == 4, index != 3], strict=True):
            logits = rng.normal(0, 0.8, 10)
            logits[label if right else other] += 3.5
            outputs[name] = (np.exp(logits) / np.exp(logits).sum()).tolist()
        found.append({"png": base64.b64encode(png.getvalue()).decode(), "index": index + 20, "label": label,
                      "outputs": outputs})  # fmt: skip
    return found


def make_demo(folder: Path, seeds: int = 3, levels: Mapping[Arm, float] | None = None) -> dict[Arm, list[float]]:
    """Write the runs and results of a whole demo.

    Returns:
        The accuracies of the class token by arm, in the order of the seeds.
    """
    accuracies: dict[Arm, list[float]] = {}
    for one, level in {**LEVELS, **(levels or {})}.items():
        names = [teacher.name for teacher in one.teachers]
        accuracies[one] = [measured_run(folder, one.id, seed, level, names) for seed in range(seeds)]
    for model, seed in TEACHERS.values():
        measured_run(folder, model, seed, 0.976, [])
    ids = [json.loads(path.read_text())["id"] for path in sorted((folder / "results").glob("*.s0.json"))]
    (folder / IMAGES).write_text(json.dumps({"runs": ids, "classes": DIGITS, "images": digit_images()}))
    return accuracies


def measured_run(folder: Path, arm: str, seed: int, level: float, teachers: list[str]) -> float:
    """A run's folder below `runs` and its file below `results`."""
    name = f"{arm}.s{seed}"
    top1 = make_run(folder / "runs" / name, seed, level, teachers)
    result = json.loads((folder / "runs" / name / "result.json").read_text())
    kept = ("seed", "student", "teachers", "data", "epochs", "steps", "images_seen", "seconds", "provenance")
    content = {"arm": arm, "scale": "digits", "id": name, "measured": result["final"], **{k: result[k] for k in kept}}
    (folder / "results").mkdir(exist_ok=True)
    (folder / "results" / f"{name}.json").write_text(json.dumps(content))
    return top1


def write_report(folder: Path, seeds: int = 3, title: str = "some digits") -> Path:
    """The report of the results in a folder."""
    files = {path.stem: Measurement.read(path) for path in (folder / "results").glob("*.json")}
    return write_paper_report(folder, files, [DEMO], About("digits", title, seeds))


VOID = {"meta", "link", "img", "br", "hr", "input"}


class Page(HTMLParser):
    """Checks that tags balance and collects links, tables and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = unescape(text)
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th", "small"):  # small: what a page shows on the second line of a cell
            self.rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        assert tag != "svg" or dict(attrs).get("aria-label")
        assert tag != "th" or dict(attrs).get("scope") in ("col", "row")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data

    def row(self, first: str, columns: int) -> list[str]:
        """The row of that name in the first table with that many columns."""
        return next(row for row in self.rows if row[0] == first and len(row) == columns)


def check_page(text: str) -> Page:
    page = Page(text)
    for link in [*page.links, *re.findall(r"url\(([^)]*)\)", text)]:
        assert link.startswith(("#", "data:image/png;base64,", "data:image/jpeg;base64,")), link
    assert "@import" not in text and text.count("<script") == 1, "its own, which sorts tables"
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    return page


def pct(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "−")


@pytest.mark.usefixtures("blank_figures")
def test_the_numbers_shown_are_numpys_and_scipys(tmp_path: Path) -> None:
    accuracies = make_demo(tmp_path)
    page = check_page(write_report(tmp_path).read_text())
    base = np.array(accuracies[LABELS_ONLY])
    for one, title in DEMO_TITLES.items():
        values = np.array(accuracies[one])
        row = page.row(title, 6)
        assert row[1] == f"{pct(values.mean())} ± {pct(values.std(ddof=1))}"
        assert row[2] == "3"
        assert row[3] == ("–" if one == LABELS_ONLY else f"+{pct((values - base).mean())}")
        errors = (values - base).sum() / (1 - base).sum()
        assert row[4] == ("–" if one == LABELS_ONLY else pct(errors))
        assert page.row(title, 4)[1:] == [pct(value) for value in values], "behind “Every seed”"
    pvalues = [stats.ttest_rel(accuracies[a], accuracies[b]).pvalue for a, b in COMPARISONS]
    order, corrected, largest = np.argsort(pvalues), np.zeros(len(pvalues)), 0.0
    for rank, i in enumerate(order):
        corrected[i] = largest = max(largest, min(1, (len(pvalues) - rank) * pvalues[i]))
    for (a, b), p in zip(COMPARISONS, corrected, strict=True):
        row = page.row(f"{DEMO_TITLES[a]} is better than {DEMO_TITLES[b]}", 9)
        difference = np.mean(np.array(accuracies[a]) - accuracies[b])
        assert row[4].lstrip("+") == pct(difference)
        assert row[7] == ("< 0.001" if p < 0.001 else f"{p:.3f}")
        assert row[2] == ("holds" if p < 0.05 else "undecided at n = 3")
    before, after = pct(base.mean()), pct(np.mean(accuracies[CROSS]))
    assert corrected[2] < 0.05, "else the headline has another form"
    text = f"Two teachers of different kinds lift the vision transformer from {before} to {after} % (n = 3)"
    assert text in page.text
    assert (
        "Three teachers were trained on labels and then frozen: ResNet-18, RedNet-26, ResNet-18 (seed 1)." in page.text
    )
    assert "trained in five ways, each for 1,600 steps" in page.text


@pytest.mark.usefixtures("blank_figures")
def test_the_accuracy_of_each_token_is_shown(tmp_path: Path) -> None:
    make_demo(tmp_path)
    page = check_page(write_report(tmp_path).read_text())
    runs = [json.loads((tmp_path / f"results/{CROSS.id}.s{seed}.json").read_text())["measured"] for seed in range(3)]
    shown = next(row for row in page.rows if row[0] == BOTH and len(row) == 6 and "±" in row[2])
    for cell, token in zip(shown[1:5], ("class", "resnet18", "rednet26", "average"), strict=True):
        values = [run[f"accuracy/{token}"] for run in runs]
        assert cell == f"{pct(np.mean(values))} ± {pct(np.std(values, ddof=1))}"


@pytest.mark.usefixtures("blank_figures")
def test_markdown_and_figures_say_the_same(tmp_path: Path) -> None:
    accuracies = make_demo(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"{pct(np.mean(accuracies[CROSS]))} ± {pct(np.std(accuracies[CROSS], ddof=1))}" in text
    linked = re.findall(r"\]\((figures/[a-z-]+\.png)\)", text)
    assert len(linked) == 4 and {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("figures/*")} == set(linked)
    assert "http" not in text


@pytest.mark.usefixtures("blank_figures")
def test_divergences_keep_their_direction(tmp_path: Path) -> None:
    make_demo(tmp_path)
    page = check_page(write_report(tmp_path).read_text())
    runs = [json.loads((tmp_path / f"results/{CROSS.id}.s{seed}.json").read_text())["measured"] for seed in range(3)]
    rows = [row for row in page.rows if len(row) == 5 and row[:3] == [BOTH, "ResNet-18", "rednet26"]]
    for cell, key in zip(rows[0][3:], ("kl/resnet18|rednet26", "kl_reverse/resnet18|rednet26"), strict=True):
        values = [run[key] for run in runs]
        assert cell == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"
    own = "the resnet18 token is nearest to ResNet-18, its own teacher"
    assert f"{BOTH}: {own}" in page.text and "in both directions." in page.text


def test_divergences_that_cannot_be_told_apart_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 0, 0.9, ["conv", "inv"])
    path = tmp_path / "run/result.json"
    result = json.loads(path.read_text())
    for key in [key for key in result["final"] if key.startswith("kl_reverse/")]:
        teacher, token = key.removeprefix("kl_reverse/").split("|")
        result["final"][f"kl/{token}|{teacher}"] = result["final"].pop(key)
    path.write_text(json.dumps(result))
    page = check_page(run_report(tmp_path / "run").read_text())
    assert "1 finished run, " in page.text
    shown = {tuple(row[1:3]): row[3:] for row in page.rows if row[0] == "run" and len(row) == 5}
    assert shown["conv", "conv"] == shown["inv", "conv"] == ["–", "–"]
    assert shown["conv", "class"] == [f"{result['final'][k]:.3f}" for k in ("kl/conv|class", "kl/class|conv")]
    assert "cannot be told apart" in page.text and "is nearest to" not in page.text


@pytest.mark.usefixtures("blank_figures")
def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=1)
    page = check_page(write_report(tmp_path, seeds=1).read_text())
    assert "One seed decides nothing: the vision transformer reaches" in page.text
    row = page.row(f"{BOTH} is better than labels only", 9)
    assert row[2] == "undecided (one seed)" and row[5:9] == ["", "1", "–", "–"]
    assert "±" not in page.row("labels only", 6)[1]


@pytest.mark.usefixtures("blank_figures")
def test_an_effect_that_is_not_decided_is_no_headline(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=2, levels=dict.fromkeys(LEVELS, 0.9))
    text = write_report(tmp_path, seeds=2).read_text()
    assert re.search(
        r"Undecided at n = 2: the vision transformer reaches [\d.]+ % with two teachers of different kinds", text
    )


@pytest.mark.usefixtures("blank_figures")
def test_an_effect_against_the_method_is_said(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=5, levels={CROSS: 0.70, SAME_TWICE: 0.90})
    text = write_report(tmp_path, seeds=5).read_text()
    assert "With two teachers of different kinds the vision transformer falls from" in text
    assert "Teachers of the same kind taught better than teachers of different kinds here" in text
    assert check_page(text).row(f"{BOTH} is better than labels only", 9)[2] == "does not hold"


@pytest.mark.usefixtures("blank_figures")
def test_teachers_of_two_kinds_may_win(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=5, levels={CROSS: 0.95, SAME_TWICE: 0.80})
    text = check_page(write_report(tmp_path, seeds=5).read_text()).text
    assert re.search(
        r"Teachers of different kinds taught better than teachers of the same kind here, by 1\d\.\d points", text
    )


@pytest.mark.usefixtures("blank_figures")
def test_same_against_cross_is_said_to_be_undecided(tmp_path: Path) -> None:
    make_demo(tmp_path, levels={CROSS: 0.94, SAME_TWICE: 0.94})
    text = check_page(write_report(tmp_path).read_text()).text
    assert f"is not decided here: “{BOTH} is better than {SAME}” is undecided at n = 3" in text


@pytest.mark.usefixtures("blank_figures")
def test_what_is_missing_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    accuracies = make_demo(tmp_path)
    (tmp_path / "results" / f"{CROSS.id}.s2.json").unlink()
    (tmp_path / "results" / "rednet26.s0.json").unlink()
    (tmp_path / IMAGES).unlink()
    for seed in range(3):
        (tmp_path / "results" / f"{SAME_TWICE.id}.s{seed}.json").unlink()
    with (tmp_path / "runs" / f"{LABELS_ONLY.id}.s0" / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "ev')
    page = check_page(write_report(tmp_path).read_text())
    assert f"Arms with fewer than 3 finished runs: {arm_title(SAME_TWICE)} (0); {arm_title(CROSS)} (2)." in page.text
    assert "1 unreadable line" in page.text and "Where the teachers disagree" not in page.text
    gain = np.mean(np.array(accuracies[CROSS][:2]) - accuracies[LABELS_ONLY][:2])
    assert page.row(BOTH, 6)[2:4] == ["2", f"+{pct(gain)}"]
    assert page.row(SAME, 6)[1:4] == ["–", "0", "–"]
    assert page.row(f"{BOTH} is better than {SAME}", 9)[2] == "not measured"
    assert page.row("RedNet-26", 6)[2:] == ["–"] * 4
    missing = {path.name for path in (tmp_path / "figures").iterdir()}
    assert missing == {"demo-arms.png", "demo-curves.png", "demo-similarity.png"}


@pytest.mark.usefixtures("blank_figures")
def test_without_the_folders_of_the_runs_there_are_no_learning_curves(tmp_path: Path) -> None:
    make_demo(tmp_path)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    assert "Learning curves" not in write_report(tmp_path).read_text()


@pytest.mark.usefixtures("blank_figures")
def test_arms_of_other_budgets_are_not_compared_without_a_word(tmp_path: Path) -> None:
    make_demo(tmp_path)
    path = tmp_path / "results" / f"{CROSS.id}.s0.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "steps": 800}))
    assert "The arms differ in the number of steps (800, 1,600)." in check_page(write_report(tmp_path).read_text()).text


def test_a_demo_without_any_run_still_has_a_page(tmp_path: Path) -> None:
    page = check_page(write_report(tmp_path).read_text())
    assert "No finished run yet" in page.text


def test_names_are_escaped(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=2)
    evil = '<script>alert("1")</script> | $x^2$ _b `c` & [d](http://e.example)'
    value = json.loads((tmp_path / IMAGES).read_text())
    value["classes"][3] = evil
    value["images"][0]["outputs"][evil] = [0.1] * 10
    (tmp_path / IMAGES).write_text(json.dumps(value))
    page = check_page(write_report(tmp_path, title=evil).read_text())
    assert evil in page.text
    assert "<script" not in (tmp_path / "report.md").read_text()


@pytest.mark.usefixtures("blank_figures")
def test_broken_images_are_left_out(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=1)
    value = json.loads((tmp_path / IMAGES).read_text())
    value["images"][0]["png"] = "%%%"
    value["images"][1]["outputs"]["CNN"] = [1.0]
    value["images"][2]["label"] = 99
    (tmp_path / IMAGES).write_text(json.dumps(value))
    text = write_report(tmp_path).read_text()
    assert text.count(f"of {IMAGES} is left out") == 3
    assert "on 2 chosen images" in text
    (tmp_path / IMAGES).write_text(json.dumps({"runs": value["runs"]}))
    assert f"{IMAGES} cannot be read" in write_report(tmp_path).read_text()


def test_wrong_folders_are_errors_for_people(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"neither result\.json nor metrics.jsonl"):
        run_report(tmp_path)
    told = {"demo.json": "a demo of an earlier version", "reproduce.json": "experiments and no single run"}
    for name, what in told.items():
        (tmp_path / name).write_text("{}")
        with pytest.raises(RunError, match=f"holds {what}"):
            run_report(tmp_path)
        (tmp_path / name).unlink()
    for content in ("[]", "{", '{"name": 3}'):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(RunError, match=r"result\.json"):
            run_report(tmp_path)


@pytest.mark.parametrize("teachers", [[], ["conv", "inv"]])
def test_report_of_one_run(tmp_path: Path, teachers: list[str]) -> None:
    accuracy = make_run(tmp_path / "run", 0, 0.9, teachers)
    page = check_page(run_report(tmp_path / "run").read_text())
    right = round(accuracy * 1597)
    assert f"right on {right:,} of 1,597 validation images ({pct(accuracy)} %) after 40 epochs" in page.text
    assert ("behind teacher conv (97.5 %) and teacher inv (97.5 %)" in page.text) == bool(teachers)
    assert page.row("class token", 3)[1] == pct(accuracy)
    assert ("nearest to" in page.text) == bool(teachers)
    assert ("lines, teacher conv 97.5 %, teacher inv 97.5 %." in page.text) == bool(teachers)
    assert "name: x" in page.text, "the recipe"
    low, high = stats.binomtest(right, 1597).proportion_ci(method="wilson")
    assert f"95 % interval {pct(low)} to {pct(high)} % (Wilson's, of " in page.text
    assert page.text.index("What was done") < page.text.index("How sure") < page.text.index("What next")


def test_report_of_a_run_that_has_not_finished(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 0, 0.9, ["conv"])
    (tmp_path / "run/result.json").unlink()
    page = check_page(run_report(tmp_path / "run").read_text())
    assert "Not finished:" in page.text and "after 40 epochs" in page.text


def test_markdown_table_is_padded_and_escaped() -> None:
    table = Table("c", ["name", "x"], [["a|b", "1"], ["c", "22"]])
    assert markdown_table(table).splitlines()[2:] == [
        "| name |   x |",
        "| :--- | --: |",
        r"| a\|b |   1 |",
        "| c    |  22 |",
    ]


def test_numbers_as_people_write_them() -> None:
    assert [points(v) for v in (0.107, -0.003, 0.0, -0.0001, None)] == ["+10.7", "−0.3", "0.0", "0.0", "–"]
    assert [parameters(v) for v in (9_233_166, 454_400, 999_900)] == ["9.23 M", "454 k", "1 M"]
    assert [duration(v) for v in (8.44, 59.7, 125.0, 12_000)] == ["8.4 s", "1 min 00 s", "2 min 05 s", "3 h 20 min"]
    ps = [p_value(p) for p in (None, 0.00099, 0.0494, 0.0497, 0.05, 0.0503, 0.0506, 1.0)]
    assert ps == ["–", "< 0.001", "0.049", "0.0497", "0.0500", "0.0503", "0.051", "1.000"]


def test_reports_do_not_import_torch() -> None:
    """Nor do they through what they import: reports are made where nothing is trained."""
    root = Path(coadvise.__file__).parent
    paths = [path for package in ("paper", "reports") for path in (root / package).rglob("*.py")]
    names = [".".join(("coadvise", *path.relative_to(root).with_suffix("").parts)) for path in paths]
    program = f"""
import importlib, sys, types
package = types.ModuleType("coadvise")  # without what its own __init__ imports
package.__path__ = [{str(root)!r}]
sys.modules["coadvise"] = package
for name in {names}:
    importlib.import_module(name)
print(sorted({{"torch", "timm", "torchvision"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == "[]", done.stdout + done.stderr


WRONG = ["3", "[]", "true", '"x"', "1e400", "9" * 4000, '{"a": {"b": [1]}}', '{"class": "x"}', '{"class": 1e999}']


def test_lines_of_metrics_of_any_form_are_left_out_and_counted(tmp_path: Path) -> None:
    """Numbers in place of mappings, text in place of numbers, unknown kinds, and nothing but such lines."""
    make_run(tmp_path / "run", 0, 0.9, ["conv"])
    (tmp_path / "run" / "result.json").unlink()
    path = tmp_path / "run" / "metrics.jsonl"
    good = path.read_text()
    whole = check_page(run_report(tmp_path / "run").read_text())
    wrong = ["{}", '{"kind": 3}', '{"kind": "other", "step": 1}', '{"kind": ["eval"]}', "[" * 10**5, "\0", "no JSON"]
    for value in ("3", "[]", "true", '"x"'):
        wrong += [f'{{"kind": "train", "step": 9, "lr": 1, "terms": {value}}}']
        wrong += [f'{{"kind": "eval", "step": 9, "epoch": 1, "metrics": {value}, "ema": {{}}}}']
        wrong += [f'{{"kind": "eval", "step": 9, "epoch": 1, "metrics": {{}}, "ema": {value}}}']
    for value in WRONG:  # what is no number in its place is as if it were not there
        wrong += [f'{{"kind": "train", "step": {value}, "terms": {{}}}}'] * (value != "3")
        good += f'{{"kind": "train", "step": 9, "lr": {value}, "terms": {{"class": {value}}}}}\n' * (len(value) < 9)
    path.write_text(good + "\n".join(wrong) + "\n")
    page = check_page(run_report(tmp_path / "run").read_text())
    assert f"{len(wrong)} unreadable line(s) of metrics.jsonl are left out." in page.text
    assert re.search(r"Not finished: [\d.]+ % top-1", whole.text)[0] in page.text  # type: ignore[index]
    path.write_text("\n".join(wrong))
    page = check_page(run_report(tmp_path / "run").read_text())
    assert f"{len(wrong)} unreadable line(s)" in page.text and "No accuracy has been measured yet" in page.text
