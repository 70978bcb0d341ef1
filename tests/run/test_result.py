"""`result.json` as a typed value: what earlier versions wrote is read, and written back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers import TESTS

from coadvise.errors import RunError
from coadvise.run.folder import RunFolder
from coadvise.run.result import RunResult, TeacherFacts

TEACHER = TESTS / "fixtures" / "934e134" / "run" / "teachers" / "conv" / "result.json"
STUDENT = TESTS / "fixtures" / "934e134" / "run-result.json"


@pytest.mark.parametrize("path", [TEACHER, STUDENT], ids=["teacher", "student"])
def test_what_an_earlier_version_wrote_is_written_back(path: Path, tmp_path: Path) -> None:
    before = json.loads(path.read_text())
    result = RunResult.read(path)
    result.write(tmp_path / "result.json")
    assert json.loads((tmp_path / "result.json").read_text()) == {"provenance": {}, **before}
    assert list(json.loads((tmp_path / "result.json").read_text())) == [
        *(k for k in before if k != "provenance"),
        "provenance",
    ]


def test_its_values_are_those_of_the_file() -> None:
    before = json.loads(STUDENT.read_text())
    result = RunResult.read(STUDENT)
    assert result.accuracy == before["final"]["accuracy/class"] and result.tokens == ["class", "conv", "inv", "average"]
    assert result.teachers["inv"] == TeacherFacts(**before["teachers"]["inv"])
    assert result.kl("conv", "inv", "teacher‖token") == before["final"]["kl/conv|inv"]
    assert result.kl("conv", "inv", "token‖teacher") == before["final"]["kl_reverse/conv|inv"]
    assert result.kl("conv", "nothing", "teacher‖token") is None
    assert result.data.classes == tuple("0123456789") and result.best.epoch == before["best"]["epoch"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": "many"}, r"steps: input should be a valid integer"),
        ({"student": {"model": "x"}}, r"student\.parameters: field required"),
        ({"final": [1.0]}, r"final: input should be a valid"),
    ],
)
def test_another_form_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    content = json.loads(STUDENT.read_text()) | change
    (tmp_path / "result.json").write_text(json.dumps(content))
    with pytest.raises(RunError, match=message) as error:
        RunFolder(tmp_path).result()
    assert "run the command that writes it again" in str(error.value) and "\n" not in str(error.value)


def test_keys_of_a_later_version_do_no_harm(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(json.dumps(json.loads(STUDENT.read_text()) | {"later": 1}))
    assert RunResult.read(tmp_path / "result.json").name == "tiny"


def test_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    content = json.loads(STUDENT.read_text())
    content["final"] |= {"accuracy/class": None, "loss/class": float("nan")}
    (tmp_path / "result.json").write_text(json.dumps(content))
    result = RunResult.read(tmp_path / "result.json")
    assert result.accuracy is None and "accuracy/class" not in result.final


def test_the_first_versions_did_not_name_the_direction(tmp_path: Path) -> None:
    """`kl/conv|inv` was KL(conv ‖ inv token) and KL(inv token ‖ conv) at once: then there is no number."""
    content = json.loads(STUDENT.read_text())
    content["final"] = {
        "accuracy/class": 0.5,
        "accuracy/conv": 0.5,
        "kl/conv|inv": 0.1,
        "kl/inv|class": 0.2,
        "kl/class|inv": 0.3,
    }
    (tmp_path / "result.json").write_text(json.dumps(content))
    result = RunResult.read(tmp_path / "result.json")
    assert result.kl("conv", "inv", "teacher‖token") is None  # or is it the conv token's from the inv teacher?
    assert result.kl("inv", "class", "teacher‖token") == 0.2 and result.kl("inv", "class", "token‖teacher") == 0.3
    content["final"] |= {"accuracy/inv": 0.5, "kl/inv|conv": 0.4}
    (tmp_path / "result.json").write_text(json.dumps(content))
    result = RunResult.read(tmp_path / "result.json")
    assert result.kl("conv", "inv", "teacher‖token") is None and result.kl("inv", "conv", "token‖teacher") is None


@pytest.mark.parametrize("content", ["3", "[]", "null", '{"student": 3}'])
def test_what_is_no_object_is_said_in_words(tmp_path: Path, content: str) -> None:
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(RunError) as error:
        RunResult.read(tmp_path / "result.json")
    assert "instance of" not in str(error.value) and "runresult" not in str(error.value).lower()


def test_a_resume_drops_lines_of_metrics_of_another_form(tmp_path: Path) -> None:
    good = ['{"kind": "train", "step": 1, "terms": {}}', '{"kind": "eval", "step": 1, "epoch": 1, "metrics": {}}']
    late = ['{"kind": "train", "step": 9, "terms": {}}', '{"kind": "train", "terms": 3}', "{}", '{"step": "x"}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(good + late))
    RunFolder(tmp_path).rewind(5)
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == good
