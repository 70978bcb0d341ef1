"""A pretrained network with a linear probe as its last layer: what its file answers is what scikit-learn answers."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from helpers.untrained import untrained_run
from safetensors.torch import save_file

from coadvise.checkpoints.model_file import read_header
from coadvise.checkpoints.naming import named_file
from coadvise.checkpoints.networks import network_for
from coadvise.checkpoints.teachers import build_teacher
from coadvise.checkpoints.trained import load_trained
from coadvise.data.loader import EvalLoader
from coadvise.data.sources.digits import Digits
from coadvise.data.sources.subsets import Subset, balanced_subset
from coadvise.errors import CheckpointError
from coadvise.evaluation import probe, probed
from coadvise.models.students import classifier_of
from coadvise.models.teachers import Teachers
from coadvise.recipe.data import Data
from coadvise.recipe.schema import Teacher
from coadvise.system.progress import QUIET

DATA = Data(source="digits", image_size=16, eval_crop=1.0, workers=0)


def part(split: str, size: int) -> Subset:
    source = Digits(split)
    return Subset(source, balanced_subset(source.labels, size))


def test_the_file_answers_as_the_probe_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10", num_classes=1000).state_dict(), tmp_path / "resnet10.a_b-1c.safetensors")
    file = named_file(str(tmp_path / "resnet10.a_b-1c.safetensors"))
    assert file.model == "resnet10" and file.header is None
    fits: list[Any] = []
    own = probed.fit
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    monkeypatch.setattr(probed, "fit", lambda *args: fits.append(own(*args)) or fits[-1])
    sources = part("train", 200), part("validation", 100)
    path, before = tmp_path / "conv.safetensors", torch.get_rng_state()
    found = probed.probed_teacher(file.model, file, sources, DATA, 24, path, device=torch.device("cpu"), display=QUIET)
    assert torch.equal(before, torch.get_rng_state())
    assert found.samples == 100 and found.accuracy > 0.3  # random features tell digits apart, too
    teacher = build_teacher("conv", Teacher(model="resnet10", checkpoint=str(path)), sources[1].class_names)
    assert teacher.image_size == 24
    header = read_header(path)
    assert header is not None and header.recipe.data.eval_crop == DATA.eval_crop == 1.0
    said = Teachers({"conv": teacher})
    right = sum(
        int((said(batch.images)["conv"].argmax(dim=1) == batch.label).sum())
        for batch in EvalLoader(sources[1], DATA, 50)
    )
    assert right == round(100 * found.accuracy)
    assert named_file(str(path)).model == "resnet10" and len(fits) == 1


def test_a_run_of_other_classes_is_made_as_it_was_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A small stem changes strides and no shapes, so that weights fit without it, too, and say something else."""
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    own = {"model": "regnety_002", "small_stem": True}
    means = {"data__mean": [0.1, 0.2, 0.3], "data__std": [0.3, 0.2, 0.1], "data__image_size": 24}
    run = untrained_run(tmp_path / "run", own, ("a", "b", "c"), noise=0.0, **means)
    sources = part("train", 40), part("validation", 20)
    path = tmp_path / "conv.safetensors"
    file = named_file(str(run))
    probed.probed_teacher(file.model, file, sources, DATA, 24, path, device=torch.device("cpu"), display=QUIET)
    settings = Teacher(model="regnety_002", checkpoint=str(path))
    trained, teacher = load_trained(run).model, build_teacher("conv", settings, sources[0].class_names)
    assert (teacher.mean, teacher.std, teacher.image_size) == ((0.1, 0.2, 0.3), (0.3, 0.2, 0.1), 24)
    images = torch.randn(2, 3, 24, 24)
    with torch.inference_mode():
        seen, taught = (classifier_of(one).forward_features(images) for one in (trained, teacher.model))
    assert seen.shape == taught.shape and seen.shape[-1] > 1
    torch.testing.assert_close(taught, seen)


@pytest.mark.parametrize(
    "student",
    [
        {"model": "resnet10", "options": {"channels": [8, 8, 16, 16]}, "small_stem": True},
        {"model": "vit_tiny_patch16_224", "options": {"patch_size": 4, "depth": 1}},
        {"model": "cit_tiny", "options": {"patch_size": 4, "depth": 1}, "tokens": {"first": "conv"}},
        {
            "model": "cit_tiny",
            "options": {"patch_size": 4, "depth": 3},
            "tokens": {"a": "conv", "b": "inv"},
            "separate": "full",
            "read_at": {"a": 1},
        },
    ],
)
def test_networks_of_runs_at_small_sizes(tmp_path: Path, student: dict[str, Any]) -> None:
    run = untrained_run(tmp_path / "run", student, data__image_size=16)
    network, settings = network_for(named_file(str(run)), 3, None)
    features = [
        {name: value for name, value in model.state_dict().items() if "head" not in name and "fc." not in name}
        for model in (network, classifier_of(load_trained(run).model))
    ]
    assert features[0].keys() == features[1].keys()
    assert all(torch.equal(value, features[1][name]) for name, value in features[0].items())
    network.eval()
    assert settings.model == student["model"] and network(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    images = torch.randn(2, 3, 16, 16)
    own = classifier_of(load_trained(run).model)
    with torch.inference_mode():  # tokens that are kept apart have the same weights as others
        torch.testing.assert_close(network.forward_features(images), own.forward_features(images))


def test_files_whose_model_is_not_known_are_refused(tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "best-of-all.safetensors")
    with pytest.raises(CheckpointError, match="write MODEL="):
        named_file(str(tmp_path / "best-of-all.safetensors"))
    assert named_file(f"resnet18={tmp_path / 'best-of-all.safetensors'}").model == "resnet18"
    with pytest.raises(CheckpointError, match="no model is called 'resnet81'"):
        named_file(f"resnet81={tmp_path / 'best-of-all.safetensors'}")
    with pytest.raises(CheckpointError, match="does not exist"):
        named_file(str(tmp_path / "resnet18.pth"))
