"""Published weights without a network: asked once, and one message within seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from coadvise.errors import ModelError
from coadvise.models import hub
from coadvise.models.factory import build_model


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[list[int]]:
    """A Hub that takes questions about files (HEAD) and never answers; notes them. None of its files is here."""
    taken: list[int] = []
    held: list[socket.socket] = []
    server = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        while True:
            try:
                held.append(server.accept()[0])
            except OSError:
                return
            if held[-1].recv(4) == b"HEAD":  # its client has other questions, about itself
                taken.append(1)

    threading.Thread(target=take, daemon=True).start()
    address = f"http://127.0.0.1:{server.getsockname()[1]}"
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    yield taken
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for one in held:
        one.close()


@pytest.mark.parametrize("name", ["regnety_002", "hf-hub:timm/regnety_002.pycls_in1k"])
def test_a_hub_that_does_not_answer_is_asked_once(silent: list[int], name: str) -> None:
    start = time.monotonic()
    with pytest.raises(ModelError, match=r"no answer from the Hugging Face Hub.*connect to the internet") as caught:
        build_model(name, 10, pretrained=True)
    assert time.monotonic() - start < 8 and len(silent) == 1
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
