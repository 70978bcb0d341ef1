"""The page's server: routes, limits and threads, by the standard library alone."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydantic import TypeAdapter, ValidationError

from ..errors import CoadviseError, DataError, RunError, one_line
from ..evaluation.corruptions import CORRUPTIONS, SEVERITIES
from ..system.interrupts import StopRequest
from .guard import HEADERS, Guard, bracketed
from .nearest import Which
from .pictures import MOST_BYTES
from .viewer import Question, Viewer, limits

THREADS = 12
"""Requests that are answered at the same time; a browser sends six."""
SECONDS = 20
"""Without a byte, after which a request is dropped."""
LINGERS = 5
"""Seconds for which the rest of a refused request is read: closed over it, the system would drop the answer."""
MOST_QUESTION = 4096
"""Bytes of a question."""
SIDES = (112, 480)
"""Sides of small validation images, in pixels."""
PAGE = {
    "": ("index.html", "text/html"),
    "view.css": ("view.css", "text/css"),
    "view.js": ("view.js", "text/javascript"),
}
"""Path → file and type."""


class Refused(Exception):
    """A request that gets no answer but a status and a sentence."""

    def __init__(self, status: HTTPStatus, why: str) -> None:
        super().__init__(why)
        self.status = status


class Server(ThreadingHTTPServer):
    """Serves one viewer.

    Args:
        host, port: where; port 0 is a free one.

    Attributes:
        stop: in its block Ctrl-C and SIGTERM end `serve_forever` with KeyboardInterrupt, between two requests.

    Raises:
        RunError: the address cannot be had.
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int) -> None:
        self.viewer: Viewer | None = None
        if not host.strip():  # the system would take it for all addresses
            raise RunError("the address (--host) is empty; leave it out, or give 0.0.0.0 for all of this machine's")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or one_line(error)
            raise RunError(
                f"{bracketed(host)}:{port} cannot be used: {why}; give an address of this machine (--host), and a port "
                "that is free, or none (--port)"
            ) from error
        self.guard = Guard(host, self.server_address[1])
        self.page = {name: _file(name) for name, _ in PAGE.values()}
        self._free = threading.BoundedSemaphore(THREADS)
        self.stop = StopRequest()

    def service_actions(self) -> None:
        """Between two requests: end where a signal has asked for it.

        In the middle of one the exception would be lost where another takes its place, as in starting a thread.
        """
        if self.stop.wanted:
            raise KeyboardInterrupt

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if one is free."""
        if not self._free.acquire(timeout=1.0):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except RuntimeError:  # no thread can be started, and none will free its place
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and free the thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that has gone is no fault; another one ends the request and nothing else."""


def _file(name: str) -> bytes:
    return files("coadvise.viewing").joinpath("page", name).read_bytes()


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    server: Server
    server_version, sys_version = "coadvise", ""
    timeout = SECONDS

    def do_GET(self) -> None:
        """The page, its parts, and what is known."""
        self._answer(self._get, changes=False)

    def do_HEAD(self) -> None:
        """The same without content."""
        self._answer(self._get, changes=False)

    def do_POST(self) -> None:
        """An image, or a question."""
        self._answer(self._post, changes=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal is for the address."""

    def _answer(self, way: Callable[[str, dict[str, str]], tuple[bytes, str]], changes: bool) -> None:
        status = HTTPStatus.OK
        self._unread = self._length() or 0
        try:
            content, kind = way(*self._asked(changes))
        except Refused as error:
            status = error.status
            content, kind = _json({"error": str(error)}), "application/json"
        except CoadviseError as error:
            status = HTTPStatus.GONE if isinstance(error, RunError) else HTTPStatus.UNPROCESSABLE_ENTITY
            content, kind = _json({"error": str(error)}), "application/json"
        except Exception as error:  # of models and files of others; whoever asked is told, and the page goes on
            status = HTTPStatus.INTERNAL_SERVER_ERROR
            content, kind = _json({"error": f"it could not be computed: {one_line(error)[:300]}"}), "application/json"
        self._send(status, content, kind)
        if self._unread:
            self._linger()

    def _asked(self, changes: bool) -> tuple[str, dict[str, str]]:
        """The path behind the key, and its query."""
        guard = self.server.guard
        if why := guard.refusal(self.headers, changes):  # type: ignore[arg-type]
            raise Refused(HTTPStatus.FORBIDDEN, why)
        try:
            parts = urlsplit(self.path)
        except ValueError as error:  # brackets that are no address
            raise Refused(HTTPStatus.BAD_REQUEST, "that is no address") from error
        start = f"/{guard.key}/"
        if not parts.path.startswith(start):
            raise Refused(HTTPStatus.NOT_FOUND, "open the address that `coadvise view` has printed")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        return parts.path.removeprefix(start), query

    def _get(self, path: str, query: dict[str, str]) -> tuple[bytes, str]:
        viewer = self._viewer()
        if path in PAGE:
            name, kind = PAGE[path]
            return self.server.page[name], f"{kind}; charset=utf-8"
        if path == "about":
            kinds = [{"kind": kind, "category": category} for kind, category in CORRUPTIONS.items()]
            runs = [asdict(one) for one in viewer.about()]
            told = {"runs": runs, "corruptions": kinds, "severities": len(SEVERITIES), "limits": limits()}
            return _json(told), "application/json"
        if path == "progress":
            return _json([asdict(one) for one in viewer.progress()]), "application/json"
        if path == "validation":
            which: Which = "apart" if query.get("which") == "apart" else "all"
            found = viewer.listed(which, _number(query, "first"), min(_number(query, "count"), 100))
            return _json([asdict(one) for one in found]), "application/json"
        if match := re.fullmatch(r"validation/([01])/(\d{1,9})-(\d{1,4})\.jpg", path):
            place, index, side = map(int, match.groups())
            if place < len(viewer.runs) and side in SIDES:
                return viewer.small(place, index, side), "image/jpeg"
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _post(self, path: str, query: dict[str, str]) -> tuple[bytes, str]:
        viewer = self._viewer()
        if path == "image":
            content = self._content(MOST_BYTES, "the image")
            return _json({"image": viewer.pictures.add(content)}), "application/json"
        if path == "question":
            content = self._content(MOST_QUESTION, "the question")
            try:
                question = TypeAdapter(Question).validate_json(content)
            except ValidationError as error:
                raise Refused(HTTPStatus.BAD_REQUEST, f"no question: {one_line(error)[:200]}") from error
            return _json(asdict(viewer.reply(question))), "application/json"
        raise Refused(HTTPStatus.NOT_FOUND, "there is no such page")

    def _viewer(self) -> Viewer:
        assert self.server.viewer is not None
        return self.server.viewer

    def _content(self, most: int, what: str) -> bytes:
        """The request's content, if it says how long it is and is not too long."""
        length = self._length()
        if length is None:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, f"{what} must say how long it is")
        if length > most:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"{what} has {length / 2**20:.1f} MiB, at most {most / 2**20:.3g} are taken; shrink it",
            )
        content = self.rfile.read(length)
        self._unread = 0
        if len(content) < length:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{what} was cut off")
        return content

    def _length(self) -> int | None:
        """How long the content says that it is."""
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            return None
        return int(length) if len(length) < 16 else 10**15  # Python refuses to read thousands of digits

    def _send(self, status: HTTPStatus, content: bytes, kind: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "Content-Length": str(len(content)), **HEADERS}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _linger(self) -> None:
        """Read what was sent and not wanted, for a while."""
        self.connection.shutdown(socket.SHUT_WR)
        self.connection.settimeout(1)
        end = time.monotonic() + LINGERS
        while time.monotonic() < end and self.connection.recv(1 << 16):
            pass


def _json(told: Any) -> bytes:
    return json.dumps(told, allow_nan=False).encode()


def _number(query: dict[str, str], name: str) -> int:
    value = query.get(name, "0")
    if not re.fullmatch(r"\d{1,9}", value):
        raise DataError(f"{name} is no number")
    return int(value)
