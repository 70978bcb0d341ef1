"""Untrained runs with teachers, and a server that shows them."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.recipes import CNN, INN, TINY
from helpers.untrained import untrained_run

from coadvise.viewing.guard import HEADER
from coadvise.viewing.server import Server
from coadvise.viewing.viewer import Viewer

TEACHERS = {"conv": CNN, "inv": INN}


def run_with_teachers(folder: Path, **changes: Any) -> Path:
    """A token student with two teachers, all with random weights."""
    untrained_run(folder, TINY["student"], teachers=TEACHERS, **changes)
    for name, settings in TEACHERS.items():
        student = {key: value for key, value in settings.items() if key != "train"}
        # A teacher of another size and normalisation than the student's.
        own = {"data__image_size": 16, "data__mean": [0.3, 0.4, 0.5]} if name == "conv" else {}
        untrained_run(folder / "teachers" / name, student, **{**changes, **own})
    return folder


@pytest.fixture(scope="session")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on digits, with both teachers."""
    return run_with_teachers(tmp_path_factory.mktemp("viewed") / "run")


@dataclass(frozen=True)
class Reply:
    """What a server answers."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def told(self) -> Any:
        return json.loads(self.content)


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    server: Server
    viewer: Viewer

    def ask(self, method: str, path: str, content: bytes | None = None, headers: dict[str, str] | None = None) -> Reply:
        """One request, with the headers of the page's own ones unless others are given."""
        guard = self.server.guard
        connection = http.client.HTTPConnection("127.0.0.1", guard.port, timeout=20)
        own = {HEADER: "1"} if method == "POST" else {}
        whole = path if path.startswith("//") else f"/{guard.key}/{path}"
        connection.request(method, whole.removeprefix("/") if path.startswith("//") else whole, content, headers or own)
        response = connection.getresponse()
        found = Reply(response.status, dict(response.headers), response.read())
        connection.close()
        return found

    def question(self, **question: Any) -> Reply:
        return self.ask("POST", "question", json.dumps(question).encode())


@pytest.fixture(scope="session")
def running(viewed: Path) -> Iterator[Running]:
    """The run, served, with 40 of its validation images asked about."""
    viewer = Viewer.open([viewed], 40, torch.device("cpu"))
    with Server("127.0.0.1", 0) as server:
        server.viewer = viewer
        for one in viewer.validations:
            one.fill()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield Running(server, viewer)
        server.shutdown()
        thread.join()
