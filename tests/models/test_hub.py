"""Published weights without a network: asked once, and one message after it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import timm
import torch
from helpers.hub import silent_hub
from helpers.work import ends
from safetensors.torch import save_file

from coadvise.errors import ModelError
from coadvise.models import hub
from coadvise.models.factory import build_model


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[list[int]]:
    """Questions that a silent Hub was asked; none of its files is here."""
    with silent_hub(monkeypatch, tmp_path) as taken:
        yield taken


@pytest.mark.parametrize("name", ["regnety_002", "hf-hub:timm/regnety_002.pycls_in1k"])
def test_a_hub_that_does_not_answer_is_asked_once(silent: list[int], name: str) -> None:
    with (
        ends(),
        pytest.raises(ModelError, match=r"no answer from the Hugging Face Hub.*connect to the internet") as caught,
    ):
        build_model(name, 10, pretrained=True)
    assert len(silent) == 1
    assert "\n" not in str(caught.value) and "a checkpoint file" in str(caught.value)


def test_what_needs_no_hub_does_not_ask_it(silent: list[int]) -> None:
    hub.require_reachable("regnety_002", pretrained=False)
    hub.require_reachable("cit_tiny", pretrained=True)
    hub.require_reachable("local-dir:/nowhere", pretrained=True)
    assert not silent


def test_weights_on_this_machine_need_no_hub(silent: list[int], tmp_path) -> None:
    """In the cache's own layout: a pointer from the branch to a commit, and the file of that commit."""
    folder = tmp_path / "models--timm--regnety_002.pycls_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "model.safetensors").touch()
    hub.require_reachable("regnety_002", pretrained=True)
    assert not silent


def test_weights_of_another_place_ask_for_that_alone(silent: list[int], tmp_path) -> None:
    """A file on this machine, another folder of downloads, and another repository."""
    model = timm.create_model("regnety_002", num_classes=10)
    save_file(model.state_dict(), tmp_path / "here.safetensors")
    file = {"file": str(tmp_path / "here.safetensors"), "num_classes": 10}
    made = build_model("regnety_002", 10, pretrained=True, options={"pretrained_cfg_overlay": file})
    assert torch.equal(made.get_parameter("head.fc.weight"), model.get_parameter("head.fc.weight"))
    hub.require_reachable("regnety_002", True, {"pretrained_cfg": file})
    hub.require_reachable("regnety_002.pycls_in1k", True, {"pretrained_cfg_overlay": {"state_dict": {"a": 1}}})
    place = tmp_path / "mine" / "models--me--other"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("abc")
    (place / "snapshots" / "abc").mkdir(parents=True)
    (place / "snapshots" / "abc" / "model.safetensors").touch()
    other = {"pretrained_cfg_overlay": {"hf_hub_id": "me/other"}, "cache_dir": str(tmp_path / "mine")}
    hub.require_reachable("regnety_002", True, other)
    assert not silent
    with pytest.raises(ModelError, match="no answer"):
        hub.require_reachable("regnety_002", True, {"cache_dir": str(tmp_path / "mine")})


def test_a_revision_on_this_machine_is_another_one(silent: list[int], tmp_path) -> None:
    folder = tmp_path / "models--me--mine"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "v2").write_text("abc")
    (folder / "snapshots" / "abc").mkdir(parents=True)
    (folder / "snapshots" / "abc" / "config.json").touch()
    hub.require_reachable("hf-hub:me/mine@v2", pretrained=True)
    assert not silent
    with pytest.raises(ModelError, match="no answer"):
        hub.require_reachable("hf-hub:me/mine", pretrained=True)


def test_a_name_that_no_repository_can_have_is_no_silence(silent: list[int]) -> None:
    with pytest.raises(ModelError, match="Repo id must") as caught:
        build_model("hf-hub:a b/c", 10)
    assert not silent and "no answer" not in str(caught.value)
