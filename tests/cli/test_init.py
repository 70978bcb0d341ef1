"""`coadvise init` as a new user meets it."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import get_deprecated_models, get_pretrained_cfg

from coadvise.cli.init import init
from coadvise.cost import fitting, starting
from coadvise.errors import CoadviseError, NoWeights, RecipeError, WriteError
from coadvise.evaluation import probe
from coadvise.evaluation.probed import Probed
from coadvise.recipe.reading import load_recipe
from coadvise.recipe.schema import Recipe
from coadvise.training.trial import Pace

PACE = Pace(0.1, 0.2, 0.1, 0.05)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder of its own, where nobody gives published weights."""

    def unreachable(name: str, pretrained: bool) -> None:
        raise NoWeights(f"the published weights of {name} cannot be had (no answer)", "connect, set pretrained: false")

    monkeypatch.setattr(starting, "require_reachable", unreachable)
    monkeypatch.setattr(fitting, "measure_paces", lambda _, first, *rest: (PACE, dict.fromkeys(first, PACE)))
    monkeypatch.chdir(tmp_path)


def look(source: str, *settings: str, output: str | None = None, findings: str | None = None) -> None:
    paths = [None if name is None else Path(name) for name in (output, findings)]
    init(source, list(settings), paths[0], 0.5, None, None, 100, paths[1])


def test_a_recipe_is_written_and_never_overwritten(
    write_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(Path("photos"), classes=("cat", "dog"), count=20)
    Path("photos/cat/broken.png").write_bytes(b"nothing")
    look("photos", "data.workers=0", findings="f.csv")
    shown = " ".join(capsys.readouterr().out.split())
    said = ("of each class", "unreadable", "no pretrained teacher", "--checkpoint MODEL=FILE", "points only")
    for words in (*said, "wrote photos.yaml", "coadvise train photos.yaml", "coadvise report runs/photos"):
        assert words in shown, shown
    assert "broken.png" in Path("f.csv").read_text()
    text = Path("photos.yaml").read_text()
    recipe = load_recipe("photos.yaml")
    assert recipe.data.on_error == "skip" and set(recipe.teachers) == {"conv", "inv"} and "# cost: about" in text
    assert recipe.run.allow_weak  # teachers from few images may stay near chance, and its own recipe has to run
    with pytest.raises(WriteError, match=r"photos\.yaml exists, and nothing is overwritten"):
        look("photos")
    assert Path("photos.yaml").read_text() == text


def test_what_cannot_be_looked_at_is_refused(write_folder: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_folder(tmp_path / "one", classes=("cat",))
    write_folder(tmp_path / "two", count=3)
    for path in (tmp_path / "two").rglob("*.png"):
        path.write_bytes(b"nothing")
    (tmp_path / "text.txt").write_text("words")
    for source, words in {
        "empty": "no class folders", "one": "a single class", "gone": "does not exist", "text.txt": "unknown kind",
        "two": "none of the training images can be read",
    }.items():  # fmt: skip
        with pytest.raises(CoadviseError, match=words):
            look(source, output="new.yaml")
    with pytest.raises(CoadviseError, match="there is no folder nowhere"):
        look("two", output="nowhere/new.yaml")
    with pytest.raises(CoadviseError, match=r"on the command line: optim\.lrr is unknown"):
        look("gone", "optim.lrr=1", output="new.yaml")
    assert not list(tmp_path.glob("*.yaml"))
    assert [path.name for path in tmp_path.iterdir() if path.suffix] == ["text.txt"]


def test_weights_that_were_made_go_where_no_recipe_comes_of_them(
    write_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(Path("photos"), count=12)
    save_file(timm.create_model("resnet10").state_dict(), "resnet10.safetensors")
    monkeypatch.setattr(probe, "STRENGTHS", (1e-2,))
    wrong = ["data.workers=0", "data.image_size=33"]  # which no patch divides
    with pytest.raises(RecipeError, match="not divisible"):
        init("photos", wrong, Path("new.yaml"), 1.0, "resnet10.safetensors", None, 100, None)
    assert not list(Path().glob("new*"))
    init("photos", wrong[:1], Path("new.yaml"), 1.0, "resnet10.safetensors", None, 100, None)
    teacher = load_recipe("new.yaml").teachers["conv"]
    assert (teacher.model, teacher.checkpoint, teacher.bias) == ("resnet10", "new-conv.safetensors", "conv")
    assert not load_recipe("new.yaml").run.allow_weak  # where weights were given, an error of theirs has to show


def test_a_student_that_takes_no_tokens_is_refused_before_images_are_looked_at() -> None:
    for model in ("resnet18", "swin_tiny_patch4_window7_224"):
        save_file({"x": torch.zeros(1)}, f"{model}.safetensors")
        words = rf"^--student-checkpoint {model}\.safetensors: .* is no ViT with a sequence of tokens .*--checkpoint$"
        with pytest.raises(RecipeError, match=words):
            init("gone", None, Path("new.yaml"), 0.5, None, f"{model}.safetensors", 100, None)
    for settings in (None, ["loss.tokens=single"]):  # either goes on to look for the images
        model = "resnet18" if settings else "vit_tiny_patch16_224"
        save_file({"x": torch.zeros(1)}, f"{model}.safetensors")
        with pytest.raises(CoadviseError, match="gone does not exist"):
            init("gone", settings, Path("new.yaml"), 0.5, None, f"{model}.safetensors", 100, None)


def test_a_student_with_weights_is_fine_tuned(
    write_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the settings of recipe `finetune`; offline it says what is done instead, and how to give a file."""
    write_folder(Path("photos"), count=20, size=(80, 64))
    save_file({"x": torch.zeros(1)}, "vit_tiny_patch16_224.safetensors")

    def made(output: str, student: str | None = None) -> Recipe:
        init("photos", ["data.workers=0"], Path(output), 0.5, None, student, 100, None)
        return load_recipe(output)

    without = made("without.yaml")
    shown = " ".join(capsys.readouterr().out.split())
    assert "--student-checkpoint MODEL=FILE" in shown
    assert (
        f"no pretrained student: the published weights of {starting.STUDENTS['cpu'][0]} cannot be had (no answer)"
        in shown
    )
    assert "set pretrained" not in shown
    assert without.student.model == "cit_tiny" and not without.student.pretrained
    given = made("given.yaml", "vit_tiny_patch16_224.safetensors")
    assert given.student.checkpoint == "vit_tiny_patch16_224.safetensors"
    assert "no pretrained student" not in capsys.readouterr().out
    reach = lambda name, pretrained: starting.PRETRAINED in name and unreachable(name, pretrained)
    unreachable = starting.require_reachable
    monkeypatch.setattr(starting, "require_reachable", reach)
    published = made("published.yaml")
    assert published.student.pretrained is True and published.student.model.startswith("vit_")
    finetune = load_recipe("finetune")
    for recipe in (given, published):
        assert recipe.loss.tokens == "own" and recipe.data.mean == finetune.data.mean == (0.5, 0.5, 0.5)
        kept = {"layer_decay", "lr", "lr_batch", "weight_decay", "clip", "ema"}
        assert recipe.optim.model_dump(include=kept) == finetune.optim.model_dump(include=kept)
        assert recipe.data.augment == finetune.data.augment and recipe.schedule.warmup_epochs > 0
    with pytest.raises(CoadviseError, match="does not exist"):
        made("gone.yaml", "vit_tiny_patch16_224=gone.safetensors")
    assert not Path("gone.yaml").exists()


def test_a_run_is_called_as_its_photographs_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sources = {
        "/home/me/My Photos": "My-Photos", "/home/me/Köln 2024/train/": "Koln-2024", "写真": "mine", "pets": "pets",
        "hf:uoft-cs/cifar10:image=img": "cifar10", "parquet:/data/pacs/train-*.parquet": "pacs",
        "birds/labels.csv": "labels", "torchvision:CIFAR10": "CIFAR10", "(": "mine", "C:\\Photos\\Cats": "Cats",
    }  # fmt: skip
    assert {source: starting.name_of(source) for source in sources} == sources
    (tmp_path / "Nina & Tom").mkdir()
    monkeypatch.chdir(tmp_path / "Nina & Tom")
    assert starting.name_of(".") == "Nina-Tom"


@pytest.mark.parametrize("pace", [Pace(1.0, 10.0, 1.0, 0.5), Pace(3.0, 60.0, 1.0, 2.0)])
def test_the_minutes_that_are_asked_for_are_enough(
    write_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    pace: Pace,
) -> None:
    write_folder(Path("photos"), classes=("cat", "dog"), count=20)
    monkeypatch.setattr(fitting, "measure_paces", lambda _, first, *rest: (pace, dict.fromkeys(first, pace)))
    init("photos", ["data.workers=0"], Path("short.yaml"), 1.0, None, None, 100, None)
    shown = " ".join(capsys.readouterr().out.split())
    found = re.search(r"too little to learn much: give --minutes (\d+) for 10, or", shown)
    assert found is not None, shown
    Path("my recipes").mkdir()
    longer = Path("my recipes/longer.yaml")
    init("photos", ["data.workers=0"], longer, float(found[1]), None, None, 100, None)
    assert "# command: coadvise train 'my recipes/longer.yaml'\n" in longer.read_text()
    assert load_recipe(longer).schedule.epochs >= 10 and "too little" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "file", ["vit_base_patch16_224.mae", "vit_base_patch16_224.augreg_in21k-0a1b", "vit_tiny_patch16_224_in21k-0a1b"]
)
def test_images_are_normalised_as_the_weights_of_a_file_want_it(
    write_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """timm says for each tag what that is; names that it has replaced are those of the weights they stood for."""
    write_folder(Path("photos"), count=20, size=(80, 64))
    save_file({"x": torch.zeros(1)}, f"{file}.safetensors")
    init("photos", ["data.workers=0"], Path("new.yaml"), 0.5, None, f"{file}.safetensors", 100, None)
    name = file.split("-")[0]
    cfg = get_pretrained_cfg(get_deprecated_models().get(name) or name)
    assert cfg is not None
    data = load_recipe("new.yaml").data
    assert (data.mean, data.std) == (cfg.mean, cfg.std)


def test_patches_fill_the_images_that_are_proposed(
    write_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As timm cuts them: DINOv2 has patches of 14 px, which do not fill the 96 px of other ViTs."""
    write_folder(Path("photos"), count=20, size=(80, 64))
    monkeypatch.setattr(starting, "probed_teacher", lambda *_, **__: Probed(0.5, 4, False, "resnet18"))
    for model in ("vit_small_patch14_dinov2", "vit_small_patch32_224"):
        save_file({"x": torch.zeros(1)}, f"{model}.safetensors")
        file = f"{model}.safetensors"
        init("photos", ["data.workers=0"], Path(f"{model}.yaml"), 0.5, file, file, 100, None)
        recipe = load_recipe(f"{model}.yaml")
        with torch.device("meta"):
            patch = timm.create_model(model).patch_embed.patch_size[0]
        for side, least in ((recipe.data.image_size, 96), (recipe.teachers["conv"].image_size, 144)):
            assert isinstance(side, int) and side % patch == 0 and side - 2 * patch < least <= side
