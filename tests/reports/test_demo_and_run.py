"""Reports of synthetic demos: the numbers shown against NumPy and SciPy, the page against an HTML parser."""

from __future__ import annotations

import ast
import base64
import io
import json
import re
import shutil
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
from coadvise.reports.demo import write_report
from coadvise.reports.run import run_report
from coadvise.reports.tables import Table, duration, markdown_table, p_value, parameters, points

ARMS: list[dict[str, Any]] = [
    {"id": "none", "label": "labels only", "biases": []},
    {"id": "conv", "label": "conv teacher", "biases": ["conv"]},
    {"id": "inv", "label": "inv teacher", "biases": ["inv"]},
    {"id": "conv2", "label": "two conv teachers", "biases": ["conv", "conv"]},
    {"id": "both", "label": "conv + inv (co-advised)", "biases": ["conv", "inv"]},
]
ADVISERS = {"none": {}, "conv": ["conv"], "inv": ["inv"], "conv2": ["conv", "conv_b"], "both": ["conv", "inv"]}
LEVELS = {"none": 0.840, "conv": 0.934, "inv": 0.928, "conv2": 0.948, "both": 0.947}
TEACHERS = [
    {"name": "conv", "label": "CNN", "model": "resnet10t", "run": "teachers/conv"},
    {"name": "conv_b", "label": "CNN, second seed", "model": "resnet10t", "run": "teachers/conv_b"},
    {"name": "inv", "label": "INN", "model": "rednet26", "run": "teachers/inv"},
]
COMPARISONS = [
    ["both", "none"],
    ["conv", "none"],
    ["inv", "none"],
    ["both", "conv"],
    ["both", "inv"],
    ["both", "conv2"],
]
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
        "teachers": {t: {"model": "resnet10t" if "conv" in t else "rednet26", "bias": t[:4].strip("_"),
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


def make_demo(folder: Path, seeds: int = 3, levels: dict[str, float] | None = None) -> dict[str, list[float]]:
    """Write a whole demo; returns the accuracies of the class token by arm, in the order of the seeds."""
    accuracies: dict[str, list[float]] = {}
    plan_arms = []
    for arm in ARMS:
        runs = [f"runs/{arm['id']}-s{seed}" for seed in range(seeds)]
        level = {**LEVELS, **(levels or {})}[arm["id"]]
        accuracies[arm["id"]] = [
            make_run(folder / run, seed, level, list(ADVISERS[arm["id"]])) for seed, run in enumerate(runs)
        ]
        plan_arms.append({**arm, "runs": runs})
    for teacher in TEACHERS:
        make_run(folder / teacher["run"], 0, 0.976, [])
    plan = {"title": "Digits, 200 training images", "arms": plan_arms, "teachers": TEACHERS, "comparisons": COMPARISONS}
    (folder / "demo.json").write_text(json.dumps(plan))
    (folder / "disagreements.json").write_text(json.dumps({"classes": DIGITS, "images": digit_images()}))
    return accuracies


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
        if tag in ("td", "th"):
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
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def row(self, first: str, columns: int) -> list[str]:
        """The row of that name in the first table with that many columns."""
        return next(row for row in self.rows if row[0] == first and len(row) == columns)


def check_page(text: str) -> Page:
    page = Page(text)
    for link in [*page.links, *re.findall(r"url\(([^)]*)\)", text)]:
        assert link.startswith(("#", "data:image/png;base64,")), link
    assert "@import" not in text and "script" not in page.tags
    assert len(page.ids) == len(set(page.ids))
    assert all(link[1:] in page.ids for link in page.links if link.startswith("#"))
    return page


def pct(value: float) -> str:
    return f"{100 * value:.1f}".replace("-", "−")


def test_the_numbers_shown_are_numpys_and_scipys(tmp_path: Path) -> None:
    accuracies = make_demo(tmp_path)
    page = check_page(write_report(tmp_path).read_text())
    base = np.array(accuracies["none"])
    pvalues = []
    for arm in ARMS:
        values = np.array(accuracies[arm["id"]])
        row = page.row(arm["label"], 6)
        assert row[1] == f"{pct(values.mean())} ± {pct(values.std(ddof=1))}"
        assert row[2] == "3"
        assert row[3] == ("–" if arm["id"] == "none" else f"+{pct((values - base).mean())}")
        assert row[4].split() == [pct(value) for value in values]
    for a, b in COMPARISONS:
        pvalues.append(stats.ttest_rel(accuracies[a], accuracies[b]).pvalue)
    order, corrected, largest = np.argsort(pvalues), np.zeros(len(pvalues)), 0.0
    for rank, i in enumerate(order):
        corrected[i] = largest = max(largest, min(1, (len(pvalues) - rank) * pvalues[i]))
    labels = {arm["id"]: arm["label"] for arm in ARMS}
    for (a, b), p in zip(COMPARISONS, corrected, strict=True):
        row = page.row(f"{labels[a]} is better than {labels[b]}", 5)
        difference = np.mean(np.array(accuracies[a]) - accuracies[b])
        assert row[1].lstrip("+") == pct(difference)
        assert row[3] == ("< 0.001" if p < 0.001 else f"{p:.3f}")
        assert row[4] == ("holds" if p < 0.05 else "undecided at n\xa0=\xa03")
    before, after = pct(base.mean()), pct(np.mean(accuracies["both"]))
    assert (f"lift the vision transformer from {before} to {after} % (n = 3)" in page.text) or corrected[0] >= 0.05


def test_markdown_and_figures_say_the_same(tmp_path: Path) -> None:
    accuracies = make_demo(tmp_path)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert f"{pct(np.mean(accuracies['both']))} ± {pct(np.std(accuracies['both'], ddof=1))}" in text
    linked = re.findall(r"\]\((figures/[a-z-]+\.png)\)", text)
    assert len(linked) == 4 and {p.relative_to(tmp_path).as_posix() for p in tmp_path.glob("figures/*")} == set(linked)
    assert "http" not in text


def test_divergences_keep_their_direction(tmp_path: Path) -> None:
    make_demo(tmp_path)
    page = check_page(write_report(tmp_path).read_text())
    finals = [json.loads((tmp_path / f"runs/both-s{s}/result.json").read_text())["final"] for s in range(3)]
    rows = [row for row in page.rows if len(row) == 5 and row[:3] == ["conv + inv (co-advised)", "CNN", "inv"]]
    for cell, key in zip(rows[0][3:], ("kl/conv|inv", "kl_reverse/conv|inv"), strict=True):
        values = [final[key] for final in finals]
        assert cell == f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}"


def test_divergences_that_cannot_be_told_apart_are_left_out(tmp_path: Path) -> None:
    make_run(tmp_path / "run", 0, 0.9, ["conv", "inv"])
    path = tmp_path / "run/result.json"
    result = json.loads(path.read_text())
    for key in [key for key in result["final"] if key.startswith("kl_reverse/")]:
        teacher, token = key.removeprefix("kl_reverse/").split("|")
        result["final"][f"kl/{token}|{teacher}"] = result["final"].pop(key)
    path.write_text(json.dumps(result))
    page = check_page(run_report(tmp_path / "run").read_text())
    shown = {tuple(row[1:3]): row[3:] for row in page.rows if row[0] == "run" and len(row) == 5}
    assert shown["conv", "conv"] == shown["inv", "conv"] == ["–", "–"]
    assert shown["conv", "class"] == [f"{result['final'][k]:.3f}" for k in ("kl/conv|class", "kl/class|conv")]
    assert "cannot be told apart" in page.text and "is nearest to" not in page.text


def test_one_seed_decides_nothing(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=1)
    page = check_page(write_report(tmp_path).read_text())
    assert "One seed decides nothing: the vision transformer reaches" in page.text
    assert page.row("conv + inv (co-advised) is better than labels only", 5)[2:] == ["–", "–", "undecided (one seed)"]
    assert "±" not in page.row("labels only", 6)[1]


def test_an_effect_against_the_method_is_said(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=5, levels={"both": 0.70, "conv2": 0.90})
    text = write_report(tmp_path).read_text()
    assert "With two teachers of different kinds the vision transformer falls from" in text
    assert "Teachers of the same kind advised better than teachers of different kinds here" in text
    assert check_page(text).row("conv + inv (co-advised) is better than labels only", 5)[4] == "does not hold"


def test_same_against_cross_is_said_to_be_undecided(tmp_path: Path) -> None:
    make_demo(tmp_path, levels={"both": 0.94, "conv2": 0.94})
    text = write_report(tmp_path).read_text()
    assert "not decided here: conv + inv (co-advised) against two conv teachers is undecided at n = 3" in text


def test_what_is_missing_is_named_and_the_rest_reported(tmp_path: Path) -> None:
    accuracies = make_demo(tmp_path)
    shutil.rmtree(tmp_path / "runs/both-s2")
    shutil.rmtree(tmp_path / "teachers/inv")
    (tmp_path / "runs/conv-s0/result.json").unlink()
    (tmp_path / "runs/inv-s1/result.json").write_text("{half")
    (tmp_path / "disagreements.json").unlink()
    for seed in range(3):
        shutil.rmtree(tmp_path / f"runs/conv2-s{seed}")
    with (tmp_path / "runs/none-s0/metrics.jsonl").open("a") as file:
        file.write('{"kind": "ev')
    page = check_page(write_report(tmp_path).read_text())
    for note in ("runs/both-s2 is missing", "teachers/inv is missing", "runs/conv-s0 has not finished", "runs/inv-s1",
                 "no disagreements.json", "two conv teachers: no finished run", "1 unreadable line"):  # fmt: skip
        assert note in page.text, note
    gain = np.mean(np.array(accuracies["both"][:2]) - accuracies["none"][:2])
    assert page.row("conv + inv (co-advised)", 6)[2:4] == ["2", f"+{pct(gain)}"]
    assert page.row("two conv teachers", 6)[1:4] == ["–", "0", "–"]
    assert page.row("conv + inv (co-advised) is better than two conv teachers", 5)[4] == "undecided (no seed in common)"


def test_a_demo_without_any_run_still_has_a_page(tmp_path: Path) -> None:
    plan = {"title": "t", "arms": [{**ARMS[0], "runs": ["runs/a"]}], "teachers": [], "comparisons": [["x", "none"]]}
    (tmp_path / "demo.json").write_text(json.dumps(plan))
    page = check_page(write_report(tmp_path).read_text())
    assert "No finished run yet" in page.text and "comparison of x with none" in page.text


def test_names_are_escaped(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=2)
    evil = '<script>alert("1")</script> | $x^2$ _b `c` & [d](http://e.example)'
    for name in ("demo.json", "disagreements.json"):
        value = json.loads((tmp_path / name).read_text())
        if "arms" in value:
            value["title"] = value["arms"][0]["label"] = value["teachers"][0]["label"] = evil
        else:
            value["classes"][3] = evil
            value["images"][0]["outputs"][evil] = [0.1] * 10
        (tmp_path / name).write_text(json.dumps(value))
    page = check_page(write_report(tmp_path).read_text())
    assert page.row(evil, 6)
    assert "<script" not in (tmp_path / "report.md").read_text()


def test_broken_images_are_left_out(tmp_path: Path) -> None:
    make_demo(tmp_path, seeds=1)
    path = tmp_path / "disagreements.json"
    value = json.loads(path.read_text())
    value["images"][0]["png"] = "%%%"
    value["images"][1]["outputs"]["CNN"] = [1.0]
    value["images"][2]["label"] = 99
    path.write_text(json.dumps(value))
    text = write_report(tmp_path).read_text()
    assert text.count("of disagreements.json is left out") == 3
    assert "on 2 chosen images" in text


def test_wrong_folders_are_errors_for_people(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no demo.json; run `coadvise demo` first"):
        write_report(tmp_path)
    with pytest.raises(RunError, match=r"neither result\.json nor metrics.jsonl"):
        run_report(tmp_path)
    for content in ("[]", "{", '{"arms": [{"runs": 3}]}'):
        (tmp_path / "demo.json").write_text(content)
        with pytest.raises(RunError):
            write_report(tmp_path)


@pytest.mark.parametrize("teachers", [[], ["conv", "inv"]])
def test_report_of_one_run(tmp_path: Path, teachers: list[str]) -> None:
    accuracy = make_run(tmp_path / "run", 0, 0.9, teachers)
    page = check_page(run_report(tmp_path / "run").read_text())
    assert f"{pct(accuracy)} % top-1 of the class token after 40 epochs" in page.text
    assert page.row("class", 3)[1] == pct(accuracy)
    assert ("nearest to" in page.text) == bool(teachers)
    assert "name: x" in page.text, "the recipe"


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


def test_the_report_does_not_import_torch() -> None:
    folder = Path(coadvise.__file__).parent
    files = [*folder.glob("report*.py"), *(folder / f"{n}.py" for n in ("plots", "tables", "statistics", "files"))]
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] in ("torch", "timm") for name in names), file
