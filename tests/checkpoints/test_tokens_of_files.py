"""Weights of a CiT for one whose advised tokens are others, or in another order."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from helpers.recipes import tiny
from helpers.weights import CIT, images, make
from safetensors.torch import load_file, save_file

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.loading import load_checkpoint
from coadvise.checkpoints.model_file import save_model
from coadvise.errors import CheckpointError
from coadvise.models.cit import CiT
from coadvise.recipe.schema import Student

BOTH = {"conv": "conv", "inv": "inv"}


def cit(**teachers: str | None) -> CiT:
    """A student with these advised tokens whose every parameter is drawn."""
    model = make("cit_tiny", 5, **CIT, teachers=teachers).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def saved(path: Path, model: CiT) -> Path:
    """As a run writes it: its recipe says the tokens."""
    options = {**CIT, "teachers": dict(model.teachers)}
    recipe = tiny(path.parent, student={"model": "cit_tiny", "options": options})
    save_model(path, model, recipe, list("abcde"), weights="student", epoch=1, metrics={})
    return path


def test_every_token_keeps_its_place_in_another_order(tmp_path: Path) -> None:
    model, other = cit(conv="conv", inv="inv"), cit(inv="inv", conv="conv")
    load_checkpoint(other, saved(tmp_path / "a.safetensors", model))
    x = images()
    with torch.no_grad():
        expected, found = model.forward_tokens(x), other.forward_tokens(x)
    for name in ("class", "conv", "inv"):
        torch.testing.assert_close(found[name], expected[name])


@pytest.mark.parametrize("classes", [5, 3])
def test_tokens_of_one_alone_are_left_out_or_start_anew(tmp_path: Path, caplog, classes: int) -> None:
    """`inv` of the file is left out, `third` of the student is new, `conv` is kept at its other place."""
    file, model = (
        cit(conv="conv", inv="inv"),
        make("cit_tiny", 2, **CIT | {"num_classes": classes}, teachers={"third": None, "conv": "conv"}),
    )
    before = {key: value.clone() for key, value in model.state_dict().items()}
    path = saved(tmp_path / "a.safetensors", file)
    with pytest.raises(CheckpointError, match=r"missing: .*third"):
        load_checkpoint(model, path)
    with caplog.at_level(logging.WARNING):
        load_checkpoint(model, path, new_classifier=True)
    assert caplog.messages == [f"{path}: advised tokens that are left out: inv; that start anew: third"]
    own, given = model.state_dict(), file.state_dict()
    rows = {
        0: (given, 0),
        1: (before, 1),
        2: (given, 1),
        **{i: (given, i) for i in range(3, own["pos_embed"].shape[1])},
    }
    for place, (source, row) in rows.items():
        assert torch.equal(own["pos_embed"][:, place], source["pos_embed"][:, row]), place
    heads = {key for key in own if "head" in key}
    for key in own.keys() - {"pos_embed"} - heads:
        assert torch.equal(own[key], (before if "third" in key else given)[key]), key
    for key in heads:
        assert torch.equal(own[key], (before if "third" in key or classes == 3 else given)[key]), key


def test_a_vit_of_timms_begins_a_student(tmp_path: Path, caplog) -> None:
    sizes = {"img_size": 8, "patch_size": 2, "embed_dim": 48, "depth": 2, "num_heads": 3}
    vit = timm.create_model("vit_tiny_patch16_224", num_classes=7, **sizes).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    settings = Student(model="cit_tiny", checkpoint=str(tmp_path / "vit.safetensors"), options=sizes)
    student = build_student(settings, BOTH, 5, 8)
    assert "that are left out: none; that start anew: conv, inv" in caplog.text
    weights = load_file(tmp_path / "vit.safetensors")
    own = student.state_dict()
    assert torch.equal(own["pos_embed"][:, [0, *range(3, 19)]], weights.pop("pos_embed"))
    assert all(torch.equal(own[key], value) for key, value in weights.items() if not key.startswith("head."))
    alone = build_student(settings, {}, 7, 8)
    with torch.no_grad():
        torch.testing.assert_close(alone.eval()(images(8)), vit(images(8)))


def test_a_file_that_does_not_say_their_order_is_refused(tmp_path: Path) -> None:
    save_file(cit(conv="conv", inv="inv").state_dict(), tmp_path / "a.safetensors")
    one, both = make("cit_tiny", 5, **CIT, teachers={"conv": "conv"}), make("cit_tiny", 5, **CIT, teachers=BOTH)
    with pytest.raises(CheckpointError, match=r"unexpected: .*inv"):
        load_checkpoint(one, tmp_path / "a.safetensors", new_classifier=True)
    load_checkpoint(both, tmp_path / "a.safetensors")
