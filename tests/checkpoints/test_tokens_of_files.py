"""Weights of a CiT for one whose advised tokens are others, or in another order."""

import logging
from pathlib import Path

import pytest
import timm
import torch
from helpers.recipes import CNN, INN, tiny
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


def saved(path: Path, model: CiT, given: str | None = None) -> Path:
    """As a run writes it: its recipe says the tokens, unless the model was given from Python."""
    options = {**CIT, "teachers": dict(model.teachers)} if given is None else CIT
    recipe = tiny(path.parent, student={"model": "cit_tiny", "options": options}, teachers={"conv": CNN, "inv": INN})
    save_model(path, model, recipe, tuple("abcde"), weights="student", epoch=1, metrics={}, given=given)
    return path


def pickled(path: Path, model: CiT) -> Path:
    """A state dict as PyTorch writes it, whose keys are in the model's order."""
    torch.save(model.state_dict(), path)
    return path


@pytest.mark.parametrize(("write", "name"), [(saved, "a.safetensors"), (pickled, "a.pth")])
def test_every_token_keeps_its_place_in_another_order(tmp_path: Path, write, name: str) -> None:
    model, other = cit(conv="conv", inv="inv"), cit(inv="inv", conv="conv")
    load_checkpoint(other, write(tmp_path / name, model))
    x = images()
    with torch.no_grad():
        expected, found = model.forward_tokens(x), other.forward_tokens(x)
    for token in ("class", "conv", "inv"):
        torch.testing.assert_close(found[token], expected[token])


def test_a_module_from_python_is_taken_as_it_is(tmp_path: Path) -> None:
    """Its recipe, which has other teachers' order, says nothing of it."""
    model, again = cit(inv="inv", conv="conv"), cit(inv="inv", conv="conv")
    load_checkpoint(again, saved(tmp_path / "a.safetensors", model, given="CiT"))
    assert all(torch.equal(again.state_dict()[key], value) for key, value in model.state_dict().items())


def test_names_are_matched_also_where_keys_need_not_fit(tmp_path: Path) -> None:
    file, model = cit(conv="conv", inv="inv"), cit(third=None, conv="conv")
    third = model.pos_embed[:, 1].clone()
    load_checkpoint(model, saved(tmp_path / "a.safetensors", file), strict=False)
    assert torch.equal(model.pos_embed[:, 1], third) and torch.equal(model.pos_embed[:, 2], file.pos_embed[:, 1])


def test_what_both_have_has_to_fit(tmp_path: Path, caplog) -> None:
    """A head that read its token after block 1 is not silently read after the last one."""
    early = make("cit_tiny", 2, **CIT, teachers=BOTH, read_at={"conv": 1})
    options = {**CIT, "teachers": BOTH}
    recipe = tiny(tmp_path, student={"model": "cit_tiny", "options": options, "read_at": {"conv": 1}})
    save_model(tmp_path / "a.safetensors", early, recipe, tuple("abcde"), weights="student", epoch=1, metrics={})
    with pytest.raises(CheckpointError, match=r"unexpected: advised_norms\.conv"):
        load_checkpoint(cit(conv="conv"), tmp_path / "a.safetensors", new_classifier=True)
    assert "left out" not in caplog.text


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
    bare = {key: value for key, value in vit.state_dict().items() if not key.startswith("head.")}
    save_file(bare, tmp_path / "bare.safetensors")
    student = build_student(settings.model_copy(update={"checkpoint": str(tmp_path / "bare.safetensors")}), BOTH, 5, 8)
    assert torch.equal(student.state_dict()["pos_embed"][:, [0, *range(3, 19)]], vit.pos_embed)
    alone = build_student(settings, {}, 7, 8)
    with torch.no_grad():
        torch.testing.assert_close(alone.eval()(images(8)), vit(images(8)))


def test_a_file_that_does_not_say_their_order_is_refused(tmp_path: Path) -> None:
    save_file(cit(conv="conv", inv="inv").state_dict(), tmp_path / "a.safetensors")
    one, both = make("cit_tiny", 5, **CIT, teachers={"conv": "conv"}), make("cit_tiny", 5, **CIT, teachers=BOTH)
    with pytest.raises(CheckpointError, match="does not say in which order it has them; give best"):
        load_checkpoint(one, tmp_path / "a.safetensors", new_classifier=True)
    load_checkpoint(both, tmp_path / "a.safetensors")
