"""The README's commands and snippet, as they stand there."""

import importlib.util
import json
import re
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import timm
import torch
import yaml
from PIL import Image

from coadvise.cli.reproduce import reproduce
from coadvise.paper.beyond import BEYOND
from coadvise.reproduce.scales import SCALES

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
RESULTS = (ROOT / "results" / "README.md").read_text()


def test_the_two_commands_are_targets_of_the_makefile() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in ("demo", "test"):
        assert f"```bash\nmake {target}\n```" in README and re.search(rf"^{target}: ", makefile, re.M)


def test_the_api_snippet_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With small models in place of the large ones; nothing else is changed."""
    from safetensors.torch import save_file

    code = re.search(r"```python\n(.*?)```", README, re.S)[1]
    small = {
        '"cit_small", num_classes=37': '"cit_small", num_classes=37, img_size=32, patch_size=8, depth=1',
        '"regnety_040"': '"resnet10"',
        '"rednet101", num_classes=37': '"rednet26", num_classes=37, layers=(1,), width=32',
    }
    for old, new in small.items():
        assert old in code
        code = code.replace(old, new)
    import coadvise  # noqa: F401  (registers the models)

    save_file(timm.create_model("resnet10", num_classes=37).state_dict(), tmp_path / "cnn.safetensors")
    inn = timm.create_model("rednet26", num_classes=37, layers=(1,), width=32)
    save_file(inn.state_dict(), tmp_path / "inn.safetensors")
    monkeypatch.chdir(tmp_path)
    scope = {
        "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "x": torch.randn(2, 3, 32, 32), "y": torch.tensor([0, 36]),
    }  # fmt: skip
    exec(code, scope)
    assert set(scope["terms"]) == {"class", "conv", "inv"}
    assert all(p.grad is not None for p in scope["student"].parameters())


def test_every_command_exists(tmp_path: Path) -> None:
    from typer.main import get_command

    from coadvise.cli.main import app

    commands = get_command(app).commands
    named = set(re.findall(r"^(?:torchrun [^`\n]*-m )?coadvise (\w+)", README, re.M))
    assert {"init", "train", "predict", "report", "export"} <= named <= set(commands)


def test_the_citation_names_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["preferred-citation"]["title"] == "Co-advise: Cross Inductive Bias Distillation"


def test_it_is_read_in_a_few_minutes() -> None:
    assert len(README.splitlines()) <= 120


def test_its_pictures_exist() -> None:
    for path in re.findall(r"!\[[^]]*\]\(([^)]+)\)", README):
        with Image.open(ROOT / path) as picture:
            assert min(picture.size) > 200


def test_the_numbers_of_the_results_are_those_of_their_files() -> None:
    rows = re.findall(r"^\| \[.*?\]\((.+?\.json)\) \| (.*?) \| (.*?) % \| (\d+) \|$", RESULTS, re.M)
    assert len(rows) == len(re.findall(r"^\| \[", RESULTS, re.M)) > 0
    for path, teachers, accuracy, seconds in rows:
        result = json.loads((ROOT / "results" / path).read_text())
        assert accuracy == f"{100 * result['final']['accuracy/class']:.1f}"
        assert seconds == f"{result['seconds']:.0f}"
        own = [f"{100 * result['final'][f'teacher/{name}']:.1f}" for name in result["teachers"]]
        assert re.findall(r"([\d.]+) %", teachers) == own
        assert {"command", "commit", "hardware", "versions"} <= set(result["provenance"]) and "seed" in result


def test_the_measurements_are_those_of_the_benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    spec = importlib.util.spec_from_file_location("run_all", ROOT / "benchmarks" / "run_all.py")
    run_all = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run_all)
    page = (ROOT / "docs" / "guides" / "speed.md").read_text()
    assert "| co-advised step, bf16" in page and run_all.with_claims(page) == page
    assert (ROOT / "results" / "benchmarks" / "README.md").read_text() == run_all.table()
    for path in (ROOT / "results" / "benchmarks").glob("*.json"):
        commit = json.loads(path.read_text())["provenance"]["commit"]
        assert re.fullmatch("[0-9a-f]{40}", commit), f"{path.name} was measured on changed code"


def test_the_tables_of_stored_advice_are_those_of_their_files() -> None:
    files = [ROOT / "results" / "cache" / name for name in ("digits.json", "cifar10-cpu.json")]
    for name, row in (pair for path in files for pair in json.loads(path.read_text())["ways"].items()):
        line = f"| {name} | {100 * row['mean']:.2f} ± {100 * row['deviation']:.2f} % |"
        if name != "live":
            apart, error = row["difference to live"], row["standard error of the difference"]
            line += f" {100 * apart:+.2f} ± {100 * error:.2f} |".replace("-", "−")
        assert line in RESULTS
    found = json.loads((ROOT / "results" / "cache" / "gradients.json").read_text())["cosines"]
    for moment, kinds in found.items():
        for kind, values in kinds.items():
            cells = " | ".join(f"{value:.3f}" for value in values.values())
            assert f"| {moment.removeprefix('step ')} | {kind} | {cells} |" in RESULTS


def test_help_and_guide_name_all_that_can_be_reproduced() -> None:
    arguments = get_type_hints(reproduce, include_extras=True)
    said = " ".join(get_args(arguments[name])[1].help for name in ("names", "scale"))
    guide = (ROOT / "docs" / "guides" / "experiments.md").read_text()
    for name in (*(one.name for one in BEYOND), *SCALES):
        assert re.search(rf"\b(?<!-){name}(?!-)\b", said), name
        assert f"`{name}`" in guide, name
