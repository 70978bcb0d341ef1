"""A Hugging Face Hub that is there and does not answer."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub
import pytest
from huggingface_hub import constants

from coadvise.system import hub


@contextmanager
def silent_hub(monkeypatch: pytest.MonkeyPatch, cache: Path) -> Iterator[list[int]]:
    """A Hub that takes questions about files (HEAD) and never answers; notes them. Its files here are in `cache`."""
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
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub, "PATIENCE", 0.3)
    ask = huggingface_hub.get_hf_file_metadata

    def patiently(*words: str, timeout: float) -> object:
        assert timeout == 0.3  # and not the client's own 10 s
        return ask(*words, timeout=timeout)

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", patiently)
    yield taken
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    for one in held:
        one.close()
