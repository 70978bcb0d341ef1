"""The page of the paper's tables against the result files themselves, read and averaged here by other means."""

from __future__ import annotations

import importlib
import json
import math
import re
import statistics
from pathlib import Path

import pytest
from scipy import stats

from coadvise.paper.imagenet import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[2]
HEADS = {"digits": "digits", "CIFAR-10": "cifar-cpu"}


@pytest.fixture(scope="module")
def page() -> str:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "tools" / "site"))
        text: str = importlib.import_module("paper_page").text()
    assert '| <span class="name">ResNet-18</span> ' in text  # its row is no higher than one line on a telephone
    return re.sub("</?span[^>]*>", "", text.replace("\N{NO-BREAK SPACE}", " "))


def section(page: str, name: str) -> str:
    return re.split(rf"^## .*{{ #{name} }}$", page, flags=re.M)[1].split("\n## ")[0]


def table(text: str, caption: str) -> list[dict[str, str]]:
    """Rows of the first table under a caption, by head of column; a head that comes twice is counted."""
    lines = text.partition(f"*{caption}*\n\n")[2].partition("\n\n")[0].splitlines()
    rows = [[cell.strip().replace("\\", "") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [dict(zip(rows[0], row, strict=True)) for row in rows[2:]]


def measured(folder: str, arm: str, metric: str) -> list[float]:
    files = (json.loads(path.read_text()) for path in (ROOT / "results" / folder / "runs").glob("*.json"))
    return [one["measured"][metric] for one in files if one["arm"] == arm]


def as_shown(values: list[float], unit: float, decimals: int) -> str:
    """Mean and t-interval, by other libraries than the page's."""
    if not values:
        return "–"
    mean = statistics.mean(values)
    text = f"{unit * mean:.{decimals}f}"
    if len(values) == 1:
        return text
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return f"{text} [{unit * (mean - half):.{decimals}f}, {unit * (mean + half):.{decimals}f}]"


@pytest.mark.parametrize(
    ("name", "caption", "metric", "arms"),
    [
        (
            "table6", "Top-1 (%)", "accuracy/class",
            [
                "resnet18", "resnet50", "rednet26", "transformer_tiny", "transformer_tiny.resnet18",
                "transformer_tiny.resnet50", "transformer_tiny.rednet26", "transformer_tiny.resnet18.resnet18-s1",
                "transformer_tiny.resnet18.resnet50", "transformer_tiny.resnet18.rednet26",
            ],
        ),
        (
            "table5", "KL(RedNet-26 ‖ student)", "kl/rednet26|{}",
            ["resnet10.resnet18.rednet26", "mixer_tiny.resnet18.rednet26", *["transformer_tiny.resnet18.rednet26"] * 2],
        ),
    ],
)  # fmt: skip
def test_a_table_shows_the_means_of_the_result_files(
    page: str, name: str, caption: str, metric: str, arms: list[str]
) -> None:
    rows = table(section(page, name), caption)
    tokens = ["class", "class", "resnet18", "rednet26"]
    unit, decimals = (100.0, 1) if metric.startswith("accuracy") else (1.0, 3)
    for i, (arm, row) in enumerate(zip(arms, rows, strict=True)):
        for head, cell in row.items():
            word, _, everywhere = head.partition(", n = ")
            if word in HEADS:
                values = measured(HEADS[word], arm, metric.format(tokens[i % 4]))
                shown, _, alone = cell.partition(", n = ")
                assert shown == as_shown(values, unit, decimals), (arm, head)
                assert not values or int(alone or everywhere) == len(values), (arm, head)


def test_a_table_shows_the_numbers_that_the_paper_prints(page: str) -> None:
    numbers = [row["paper"] for row in table(section(page, "table4"), "Top-1 (%)")]
    printed = "81.5 83.0 82.6 83.4 80.5 81.6 80.9 82.3 81.8 86.5 85.0 88.0"
    assert numbers == printed.split()
    tokens = [row["paper"] for row in table(section(page, "table9"), "Mean corruption error (%) ↓")]
    assert tokens == ["41.36", "41.35", "39.58", "40.95", "38.54", "38.56", "38.11", "38.04"]
    assert "1564.10" in section(page, "table3")


def test_every_table_stands_there_with_every_claim_and_the_verdict_of_the_report(page: str) -> None:
    said = {
        word: {(one["experiment"], one["claim"]): one for one in json.loads(path.read_text())}
        for word, folder in HEADS.items()
        for path in [ROOT / "results" / folder / "verdicts.json"]
    }
    shown = 0
    for name, one in EXPERIMENTS.items():
        rows = {row["Claim"]: row for row in table(section(page, name), "Claims")}
        for claim in one.claims:
            assert claim.text in section(page, name)
            for word in rows.get(claim.text, {}).keys() & HEADS.keys():
                cell, found = rows[claim.text][word], said[word].get((name, claim.text))
                if cell == "–":
                    assert found is None or found["verdict"] == "not measured"
                    continue
                assert found is not None and cell.startswith(found["verdict"].partition(" at ")[0]), (name, cell)
                if found["verdict"] != "means nothing here" and found["mean"] is not None:
                    unit, decimals = (1, 3) if claim.unit == "nat" else (100, 1)
                    number = float(re.findall(r"[+−]?\d+\.\d+", cell)[0].replace("−", "-"))
                    assert number == pytest.approx(unit * found["mean"], abs=0.51 * 10**-decimals)
                shown += 1
    assert shown > 50


def test_the_claims_are_counted_as_in_the_report(page: str) -> None:
    headline = (ROOT / "results" / "digits" / "report.md").read_text().splitlines()[2]
    numbers = re.findall(r"\d+", headline)  # all, hold, do not, undecided, mean nothing, not measured
    runs = len(list((ROOT / "results" / "digits" / "runs").glob("*.json")))
    lines = section(page.replace("## What was measured", "## What was measured { #measured }"), "measured").splitlines()
    column = [line.split("|")[2].strip() for line in lines if line.startswith("|")]
    assert column == ["digits", column[1], f"{runs}", *numbers]


def test_links_lead_to_reports(page: str) -> None:
    links = re.findall(r"\]\((\.\./[^)]+)\)", page)
    assert links and all((ROOT / "docs" / link).resolve().is_file() for link in links)
