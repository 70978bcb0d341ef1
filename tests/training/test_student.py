"""Students from recipes and from Python, and which of their tokens answers."""

from pathlib import Path

import pytest
import timm
import torch
import torchvision
from helpers.recipes import CNN, tiny
from helpers.runs import run
from torch import nn
from torch.utils.checkpoint import checkpoint

from coadvise.errors import CheckpointError, ModelError
from coadvise.models.students import as_student
from coadvise.recipe.teacher import teacher_recipe
from coadvise.run.folder import read_metrics
from coadvise.training.student import new_student


def test_own_modules_from_python(tmp_path: Path) -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    recipe = tiny(tmp_path / "run")
    result = run(recipe, student=Linear(), teachers={"mine": Linear(), "yours": Linear()})
    terms = next(read_metrics(tmp_path / "run" / "metrics.jsonl"))["terms"]
    assert set(terms) == {"class", "mine", "yours"} and result.student.tokens == {}


def test_an_own_module_in_place_of_a_teacher_is_named_by_its_class(tmp_path: Path) -> None:
    own = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 10))
    result = run(tiny(tmp_path / "run", teachers={"conv": {**CNN, "bias": "conv"}}), teachers={"conv": own})
    facts = result.teachers["conv"]
    assert (facts.model, facts.bias, facts.parameters) == ("Sequential", "conv", 3 * 64 * 10 + 10)


def test_average_inference_decides_what_is_best(tmp_path: Path) -> None:
    from coadvise.checkpoints.trained import load_trained
    from coadvise.data.sources.opening import open_sources
    from coadvise.evaluation.inference import class_probabilities

    recipe = tiny(tmp_path / "run", {"student.options.inference": "average"}, teachers={"conv": CNN})
    result = run(recipe)
    evaluations = [line["metrics"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl") if "metrics" in line]
    assert result.best.value == max(metrics["accuracy/average"] for metrics in evaluations)
    source = open_sources(recipe.data)[1]
    probabilities = class_probabilities(load_trained(tmp_path / "run"), source)
    correct = (probabilities.argmax(dim=1).numpy() == source.labels).mean()
    assert correct == pytest.approx(result.best.value)


def test_a_student_that_does_not_fit_is_refused_before_teachers_are_trained(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no option 'dpth'"):
        run(tiny(tmp_path / "run", {"student.options.dpth": 1}, teachers={"conv": CNN}))
    assert not (tmp_path / "run").exists()


def test_average_without_advised_tokens_is_the_class_token(tmp_path: Path) -> None:
    assert run(tiny(tmp_path / "run", {"student.options.inference": "average"})).best.value > 0


def test_a_student_from_python_says_so_in_its_file(tmp_path: Path) -> None:
    from coadvise.checkpoints.trained import load_trained

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3 * 64, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.flatten(1))

    assert run(tiny(tmp_path / "run"), student=Linear()).student.model == "Linear"
    with pytest.raises(CheckpointError, match=r"given from Python \(Linear\)"):
        load_trained(tmp_path / "run")


class Layers(nn.Module):
    """What checkpointing does can be seen here: the layer is computed again in the backward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.again, self.calls = nn.Linear(3 * 64, 10), False, 0

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.again = enable

    def _layer(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.fc(x.flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return checkpoint(self._layer, x, use_reentrant=False) if self.again else self._layer(x)


CANNOT = {"model": "dla46_c", "train": {"epochs": 1}, "image_size": 32}


def test_gradient_checkpointing_of_own_modules(tmp_path: Path) -> None:
    """It is done, or refused before teachers are trained; never left out in silence."""
    recipe = tiny(tmp_path / "run", {"run.grad_checkpointing": True}, teachers={"conv": CNN})
    for model, said in (
        (torchvision.models.resnet18(num_classes=10), r"ResNet has no set_grad_checkpointing\); leave it off"),
        (timm.create_model("pit_ti_224", num_classes=10), "gradient checkpointing not supported"),
    ):
        with pytest.raises(ModelError, match=r"^run\.grad_checkpointing: the student cannot do that .*" + said):
            run(recipe, student=model)
        assert not (tmp_path / "run").exists()
    # A teacher that is trained first learns without it.
    whole = tiny(tmp_path / "run", {"run.grad_checkpointing": True}, teachers={"conv": CANNOT})
    assert new_student(teacher_recipe(whole, "conv", tmp_path), 10, 1, None, (), "teachers.conv")
    own = new_student(recipe, 10, 1, Layers(), ("conv",))
    before = own.model.calls
    own(torch.randn(2, 3, 8, 8)).sum().backward()
    assert own.model.calls == before + 2
    with pytest.raises(ModelError, match="Sequential has no set_grad_checkpointing"):
        as_student(nn.Sequential(nn.Flatten())).set_grad_checkpointing()
