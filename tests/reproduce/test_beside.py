"""The table of settings beside the paper's: its column is what the paper and its authors' code say."""

from pathlib import Path

import timm

from coadvise.reproduce.beside import STUDENTS, beside_paper
from coadvise.reproduce.command import find_experiments
from coadvise.reproduce.scales import find_scale
from coadvise.reproduce.setup import set_up


def table(scale: str, folder: Path, *settings: str, of: str = "table6") -> dict[str, tuple[str, str]]:
    sizes = ["data.train_size=200", "data.val_size=40", *settings]
    setup = set_up(find_scale(scale), folder, source="digits", settings=sizes)
    return {name: (paper, here) for name, paper, here in beside_paper(setup, find_experiments([of]))}


def test_the_papers_settings_are_those_it_states(tmp_path: Path) -> None:
    paper = {name: before for name, (before, _) in table("cifar-long", tmp_path).items()}
    assert paper["image size"] == "224 px" and paper["epochs"] == "300" and paper["mixed images"] == "100 %"
    assert paper["optimizer"] == "adamw, 0.001 at batch 1024" and paper["weight decay"] == "0.05"
    assert paper["schedule"] == "cosine, 20 epochs of warm-up" and paper["largest gradient norm"] == "15"
    assert paper["augmentation"] == "random resized crop, flip, RandAugment, erasing 0.25"
    assert (paper["λ of an advised token"], paper["τ"], paper["label smoothing"]) == ("1", "1", "0.1")
    assert paper["resnet18: optimizer"] == "sgd, 0.1 at batch 256"
    assert paper["resnet18: schedule"] == "× 0.1 every 30 epochs, no warm-up"
    assert paper["rednet26: optimizer"] == "sgd, 0.8 at batch 2048" and paper["rednet26: epochs"] == "130"
    for model, (_, own) in STUDENTS.items():
        student = timm.create_model(model)
        assert (student.embed_dim, len(student.blocks)) == (own["embed_dim"], own["depth"])
        assert student.blocks[0].attn.num_heads == own["num_heads"]
        assert student.patch_embed.patch_size == (own["patch_size"],) * 2


def test_models_are_those_of_the_experiments(tmp_path: Path) -> None:
    found = table("digits", tmp_path, of="table9")
    assert "width 96" in found["Transformer-S"][1] and "Transformer-Ti" not in found
    assert found["regnety_040: epochs"][0] == "100" and found["rednet101: epochs"][0] == "130"
    assert not any(name.startswith(("resnet", "rednet26")) for name in found)
    alone = table("digits", tmp_path, of="table8")
    assert "epochs" in alone and "τ" not in alone and not any(":" in name for name in alone)
    everything = table("digits", tmp_path, of="all")
    assert {"Transformer-Ti", "Transformer-S", "resnet18: epochs", "rednet26: epochs"} <= everything.keys()


def test_changed_settings_are_shown(tmp_path: Path) -> None:
    found = table("digits", tmp_path, "schedule.epochs=20", "teachers.epochs=4", "weight=3", "optim.clip=2")
    assert found["epochs"] == ("300", "20") and found["resnet18: epochs"] == ("90", "4")
    assert found["λ of an advised token"] == ("1", "3") and found["largest gradient norm"][1] == "2"
    assert found["views of an image"] == ("new in every epoch", "25 in turn")
