"""The example of docs/add-a-kind.md, as it stands there, with fewer epochs."""

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import coadvise
from coadvise.checkpoints.trained import load_trained
from coadvise.errors import CheckpointError
from coadvise.models import stems

PAGE = Path(__file__).resolve().parents[1] / "docs" / "add-a-kind.md"


def test_the_example_trains_and_loads_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code, run = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (recipe,) = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "pooling.py").write_text(code, encoding="utf-8")
    short = recipe.replace("epochs: 40", "epochs: 1").replace("warmup_epochs: 2", "warmup_epochs: 0")
    short = short.replace("train_size: 200", "train_size: 50, val_size: 40")
    assert short.count("epochs: 1") == 3
    (tmp_path / "pooling.yaml").write_text(short + "run: {allow_weak: true, baselines: []}\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    known = dict(stems.STEMS)
    monkeypatch.setattr(stems, "STEMS", dict(known))
    found: dict[str, Any] = {}
    try:
        exec(compile(run, "run", "exec"), found)
    finally:
        sys.modules.pop("pooling", None)
    assert found["result"].student.tokens == {"cnn": "conv", "pooling": "pool"}
    student: Any = load_trained("runs/pooling", torch.device("cpu")).model
    assert set(student.aligned) == {"cnn", "pooling"} and not student.tokens
    assert coadvise.load("runs/pooling") is not None
    monkeypatch.setattr(stems, "STEMS", known)
    with pytest.raises(CheckpointError, match=r"stem of your own has to be registered before"):
        load_trained("runs/pooling", torch.device("cpu"))
