"""A stand-in for the Hugging Face Hub: the few calls of its HTTP interface that an upload makes, kept in memory."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_right"


@dataclass
class Hub:
    """What the Hub holds, and what it was asked.

    Attributes:
        repositories: name → its files.
        private: names of those that only their owner sees.
        calls: method and path, in order.
        limit: bytes from which on a file goes another way than inside of the commit.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    calls: list[str] = field(default_factory=list)
    stored: dict[str, bytes] = field(default_factory=dict)
    limit: int = 10_000


@contextmanager
def hub() -> Iterator[Hub]:
    """A Hub that answers while the block lasts."""
    state = Hub()

    class Handler(_Handler):
        hub = state

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def _answer(self, status: int, content: object = None, error: str = "") -> None:
        body = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if error:
            self.send_header("X-Error-Message", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def do_HEAD(self) -> None:
        self.hub.calls.append(f"HEAD {self.path}")
        owner, name, _, _, file = self.path.lstrip("/").split("/", 4)
        content = self.hub.repositories.get(f"{owner}/{name}", {}).get(file)
        if content is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_response(200)
            self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def do_GET(self) -> None:
        self.hub.calls.append(f"GET {self.path}")
        name = self.path.removeprefix("/api/models/")
        if name not in self.hub.repositories:
            return self._answer(404, {"error": "Repository not found"})
        return self._answer(200, {"id": name, "private": name in self.hub.private, "siblings": []})

    def do_PUT(self) -> None:
        self.hub.calls.append(f"PUT {self.path}")
        self.hub.stored[self.path.rpartition("/")[2]] = self._body()
        self._answer(200, {})

    def do_POST(self) -> None:
        self.hub.calls.append(f"POST {self.path}")
        body = self._body()
        if "/storage/" not in self.path and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._answer(
                401, {"error": "Invalid credentials"}, error="Invalid credentials in Authorization header"
            )
        if self.path == "/api/repos/create":
            return self._create(json.loads(body))
        if self.path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if self.path.endswith("/info/lfs/objects/batch"):
            return self._batch(json.loads(body))
        repository = "/".join(self.path.split("/")[3:5])
        if "/preupload/" in self.path:
            modes = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["size"] > self.hub.limit else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": modes})
        if "/commit/" in self.path:
            return self._commit(repository, [json.loads(line) for line in body.splitlines()])
        return self._answer(404, {"error": "unknown"})

    def _create(self, wanted: dict) -> None:
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] != "me":
            return self._answer(403, {"error": "no rights"}, error=f"You don't have the rights to create {name}")
        url = f"{self.hub.address}/{name}"
        if name in self.hub.repositories:
            return self._answer(409, {"url": url, "error": "You already created this model repo"})
        self.hub.repositories[name] = {}
        if wanted.get("private") or wanted.get("visibility") == "private":
            self.hub.private.add(name)
        return self._answer(200, {"url": url, "name": name, "id": name})

    def _batch(self, wanted: dict) -> None:
        objects = [
            {
                "oid": one["oid"],
                "size": one["size"],
                "actions": {"upload": {"href": f"{self.hub.address}/storage/{one['oid']}", "header": {}}},
            }
            for one in wanted["objects"]
        ]
        self._answer(200, {"transfer": "basic", "objects": objects})

    def _commit(self, repository: str, lines: list[dict]) -> None:
        files = self.hub.repositories[repository]
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content = self.hub.stored[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"] and len(content) == value["size"]
                files[value["path"]] = content
        url = f"{self.hub.address}/{repository}/commit/{'1' * 40}"
        self._answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url})
