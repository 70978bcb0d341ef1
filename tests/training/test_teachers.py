"""Teachers of a run: trained, checked, fused, refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.recipes import CNN, INN, tiny
from helpers.runs import interrupted, photographs, run
from torch import nn

from coadvise.data.sources.opening import open_sources
from coadvise.errors import ModelError
from coadvise.models.teachers import FrozenTeacher
from coadvise.system.progress import Display
from coadvise.training.setup import origin_of
from coadvise.training.train import train


def test_chance_level_teacher_stops_the_run_before_the_student(tmp_path: Path) -> None:
    changes = {"run.allow_weak": False}
    with pytest.raises(ModelError, match="near chance level"):
        run(tiny(tmp_path / "run", changes, teachers={"conv": {**CNN, "train": {"epochs": 1, "lr": 1e-7}}}))
    assert not (tmp_path / "run" / "last.safetensors").exists()


def test_teachers_are_checked_on_all_classes(tmp_path: Path) -> None:
    """A folder comes sorted by class: of its first images all would be dark, and no teacher better than chance."""
    data = {"source": photographs(tmp_path / "photos", 30), "train_size": None, "val_size": None}
    changes = {f"data.{key}": value for key, value in data.items()}
    changes |= {
        "run.allow_weak": False,
        "run.teacher_check_size": 30,
        "data.augment.mixup": 0,
        "data.augment.cutmix": 0,
    }
    teacher = {**CNN, "train": {"epochs": 15}}
    result = run(tiny(tmp_path / "run", {**changes, "run.tensorboard": True}, teachers={"conv": teacher}))
    assert result.teachers["conv"].samples == 30 and result.teachers["conv"].accuracy > 0.6
    assert list((tmp_path / "run" / "tensorboard").iterdir())


def test_a_refused_teacher_leaves_the_folder_usable(tmp_path: Path) -> None:
    """The teacher that was trained is kept, and `allow_weak` goes on with it."""
    teachers = {"conv": {**CNN, "train": {"epochs": 1, "lr": 1e-7}}}
    changes = {"run.allow_weak": False, "run.tensorboard": True}
    with pytest.raises(ModelError, match="near chance level"):
        run(tiny(tmp_path / "run", changes, teachers=teachers))
    before = (tmp_path / "run" / "teachers" / "conv" / "best.safetensors").read_bytes()
    run(tiny(tmp_path / "run", {**changes, "run.allow_weak": True}, teachers=teachers))
    assert (tmp_path / "run" / "teachers" / "conv" / "best.safetensors").read_bytes() == before


def test_any_timm_transformer_and_a_cit_can_teach(tmp_path: Path) -> None:
    """A ViT of fixed size is built for the data's, and a CiT keeps the tokens that its checkpoint records."""
    vit = {"model": "vit_tiny_patch16_224", "options": {"patch_size": 4, "depth": 1}, "train": {"epochs": 1}}
    cit = {"model": "cit_tiny", "options": {"patch_size": 4, "depth": 1}, "image_size": 16, "train": {"epochs": 1}}
    result = run(tiny(tmp_path / "run", teachers={"vit": vit, "cit": cit}))
    assert result.teachers["vit"].samples == 101
    co_advised = str(tmp_path / "run" / "best.safetensors")
    bare = {"model": "cit_tiny", "checkpoint": co_advised}
    again = run(tiny(tmp_path / "again", teachers={"old": bare}))
    assert again.teachers["old"].accuracy == pytest.approx(result.best.value)
    assert again.teachers["old"].source == again.teachers["old"].opens == co_advised
    assert result.teachers["vit"].source is result.teachers["vit"].opens is None  # trained by the run itself


@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"model": "rednett26", "train": {"epochs": 1}}, "no model is called"),
        ({"model": "resnet10", "checkpoint": "gone.pth"}, "does not exist"),
        ({**INN, "train": {"epochs": 1, "batch_size": 1000}}, "fewer samples than a batch"),
        ({**CNN, "options": {"channels": [8]}}, "cannot take images"),
    ],
)
def test_a_bad_second_teacher_stops_before_the_first_is_trained(tmp_path: Path, second: Any, words: str) -> None:
    from coadvise.errors import CoadviseError

    with pytest.raises(CoadviseError, match=words):
        run(tiny(tmp_path / "run", teachers={"first": CNN, "second": second}))
    assert not (tmp_path / "run").exists()


def test_an_index_map_fits_any_checkpoint(tmp_path: Path) -> None:
    """The number of a teacher's classes is read off its file, whoever wrote it."""
    import timm

    options = {"channels": [8, 8, 16, 16]}
    torch.save(timm.create_model("resnet10", num_classes=14, **options).state_dict(), tmp_path / "wide.pth")
    teacher = {"model": "resnet10", "options": options, "checkpoint": str(tmp_path / "wide.pth")}
    with pytest.raises(ModelError, match=r"knows 14 classes, the data has 10; give its index map"):
        run(tiny(tmp_path / "run", teachers={"wide": teacher}))
    result = run(tiny(tmp_path / "run", teachers={"wide": {**teacher, "classes": list(range(4, 14))}}))
    assert result.teachers["wide"].samples == 101
    assert (result.teachers["wide"].source, result.teachers["wide"].opens) == (str(tmp_path / "wide.pth"), None)


def test_teachers_that_cannot_be_fused_or_run(tmp_path: Path) -> None:
    """Weight normalisation keeps a teacher from being fused, not from advising; a given wrapper stays as it was."""
    from coadvise.models.teachers import FrozenTeacher

    def cnn() -> nn.Sequential:
        conv = torch.nn.utils.weight_norm(nn.Conv2d(3, 8, 3))
        return nn.Sequential(conv, nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))

    class Two(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.mean(dim=(2, 3)), x

    model = cnn()
    wrapped = FrozenTeacher(model)
    run(tiny(tmp_path / "run"), teachers={"mine": model, "wrapped": wrapped})
    assert wrapped.model is model
    with pytest.raises(ModelError, match="must return logits"):
        run(tiny(tmp_path / "two"), teachers={"two": Two()})
    deep = {"model": "inception_v3", "options": {"aux_logits": False}, "train": {"epochs": 1}}
    with pytest.raises(ModelError, match="cannot take images of 8×8"):
        run(tiny(tmp_path / "deep", teachers={"deep": deep}))


@pytest.mark.parametrize(("own", "words"), [({"conv": 3}, "no torch.nn.Module but int"), ([3], "not a list")])
def test_what_cannot_teach_is_refused_before_anything_is_read(tmp_path: Path, own: Any, words: str) -> None:
    for source in ("digits", "/nowhere"):
        with pytest.raises(ModelError, match=words):
            run(tiny(tmp_path / "run", {"data.source": source}), teachers=own)
    assert not (tmp_path / "run").exists()


def test_a_run_whose_teacher_said_nothing_of_itself_goes_on(tmp_path: Path) -> None:
    """As runs of an earlier version with a program of torch.export for a teacher: its weights are known only now."""

    class Told:
        digest = "a"

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10]

    recipe = tiny(tmp_path / "run", {"schedule.epochs": 2, "schedule.warmup_epochs": 0, "loss.tokens": "single"})
    interrupted(recipe, 6, teachers={"f": lambda x: x.flatten(1)[:, :10]})
    assert run(recipe, resume=True, teachers={"f": Told()}).epochs == 2


def test_a_function_that_states_a_digest_is_told_from_another(tmp_path: Path) -> None:
    """What a resume compares changes with the stated text, and with a program's weights; without one, a run says so."""

    class Told(Display):
        def say(self, message: str) -> None:
            said.append(message)

    class Answers:
        def __init__(self, digest: str | None) -> None:
            self.digest = digest

        def __call__(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :10]

    def program(weight: float) -> torch.export.ExportedProgram:
        layer = nn.Linear(2, 10, bias=False)
        nn.init.constant_(layer.weight, weight)
        return torch.export.export(layer, (torch.zeros(1, 2),))

    said: list[str] = []
    recipe = tiny(tmp_path / "run", {"schedule.epochs": 1, "schedule.warmup_epochs": 0, "loss.tokens": "single"})
    sources = open_sources(recipe.data)
    origin = lambda model: origin_of(recipe, sources, {"f": FrozenTeacher(model)})
    names = ("a", "b", None)
    first, second, silent = (origin(Answers(name)) for name in names)
    assert first != second and silent not in (first, second)
    assert first == origin(Answers("a")) and silent == origin(Answers(None)) == origin(lambda x: x)
    assert origin(program(1.0)) == origin(program(1.0)) != origin(program(2.0))
    train(recipe, teachers={"told": Answers("a"), "silent": Answers(None)}, display=Told(quiet=True))
    (line,) = (line for line in said if "is a function" in line)
    assert line.startswith("teacher silent is a function: neither a resume nor a cache notices")
