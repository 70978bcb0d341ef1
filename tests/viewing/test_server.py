"""Who is answered and who is not, what is taken, and how the page ends."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import socketserver
import threading
import time
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from unittest import mock

import pytest
from helpers import processes
from PIL import Image

from coadvise.errors import RunError
from coadvise.viewing.guard import HEADER, Guard
from coadvise.viewing.server import THREADS, Server

from .conftest import Running


def test_the_page_asks_for_nothing_from_elsewhere(running: Running) -> None:
    for path, kind in (("", "text/html"), ("view.css", "text/css"), ("view.js", "text/javascript")):
        found = running.ask("GET", path)
        assert found.status == 200 and found.headers["Content-Type"].startswith(kind)
        policy = found.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy and "http" not in policy and "unsafe" not in policy and "*" not in policy
        assert (
            found.headers["X-Content-Type-Options"] == "nosniff" and found.headers["Referrer-Policy"] == "no-referrer"
        )
        text = found.content.decode()
        assert not re.search(r"(?:src|href|url|import|fetch)\s*[=(]\s*[\"'`]?(?:https?:)?//", text)
        assert "innerHTML" not in text and not re.search(r"\bon\w+=|style=", text)
    head = running.ask("HEAD", "")
    assert head.status == 200 and head.content == b"" and int(head.headers["Content-Length"]) > 1000


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:{port}"},
        {"Host": "127.0.0.1"},
        {"Host": "127.0.0.1.evil.example:{port}"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "https://127.0.0.1:{port}"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_other_origins_are_refused(running: Running, headers: dict[str, str]) -> None:
    port = str(running.server.guard.port)
    given = {name: value.replace("{port}", port) for name, value in headers.items()}
    for method, path in (("GET", ""), ("GET", "about"), ("POST", "question")):
        found = running.ask(method, path, b"{}" if method == "POST" else None, {HEADER: "1", **given})
        assert found.status == 403 and set(found.told) == {"error"}, found.content


def test_own_origins_are_answered(running: Running) -> None:
    port = running.server.guard.port
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        assert running.ask("GET", "about", headers=headers).status == 200


def test_a_question_needs_the_pages_header(running: Running) -> None:
    for path in ("image", "question"):
        found = running.ask("POST", path, b"{}", {"Content-Type": "text/plain"})
        assert found.status == 403 and HEADER in found.told["error"]


@pytest.mark.parametrize(
    "path",
    [
        "//", "//about", "//{key}", "//{key}/../about", "//wrong/about", "//{key}/../../../../etc/passwd",
        "//{key}/%2e%2e/%2e%2e/etc/passwd", "//{key}//etc/passwd", "//{key}/server.py", "//{key}/page/view.js",
        "//{key}/../viewing/server.py", "//{key}/validation/0/..%2f1-112.jpg", "//{key}/validation/0/1-113.jpg",
        "//{key}/validation/1/1-112.jpg", "//{key}/view.js%00.html", "//{key}/\\..\\server.py",
    ],
)  # fmt: skip
def test_paths_lead_nowhere_else(running: Running, path: str) -> None:
    found = running.ask("GET", path.replace("{key}", running.server.guard.key))
    assert found.status == 404 and b"root:" not in found.content
    assert running.server.guard.key.encode() not in found.content


def test_validation_images_come_small(running: Running) -> None:
    found = running.ask("GET", "validation/0/3-112.jpg")
    assert found.status == 200 and found.headers["Content-Type"] == "image/jpeg"
    with Image.open(io.BytesIO(found.content)) as image:
        assert image.format == "JPEG" and max(image.size) <= 112
    assert running.ask("GET", "validation/0/99999-112.jpg").status == 422


def sent_raw(running: Running, request: bytes, wait: float = 10) -> bytes:
    with socket.create_connection(("127.0.0.1", running.server.guard.port), timeout=wait) as line:
        line.sendall(request)
        parts = []
        while part := line.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_too_much_is_refused_before_it_is_read(running: Running) -> None:
    guard = running.server.guard
    start = f"POST /{guard.key}/image HTTP/1.1\r\nHost: 127.0.0.1:{guard.port}\r\n{HEADER}: 1\r\n"
    answer = sent_raw(running, f"{start}Content-Length: 999999999999\r\n\r\n".encode())
    assert b" 413 " in answer and b"at most 32 are taken" in answer
    for length in ("", "Content-Length: -1\r\n", "Content-Length: x\r\n", "Transfer-Encoding: chunked\r\n"):
        assert b" 411 " in sent_raw(running, f"{start}{length}\r\n".encode())
    answer = sent_raw(running, f"{start}Content-Length: {'9' * 5000}\r\n\r\n".encode())  # more than int() reads
    assert b" 413 " in answer
    assert running.ask("POST", "question", b"{" + b" " * 5000 + b"}").status == 413


def test_a_refusal_reaches_whoever_is_still_sending(running: Running) -> None:
    content = bytes(4 << 20)
    found = running.ask("POST", "image", content, {"Host": "evil.example"})
    assert found.status == 403 and "evil.example" in found.told["error"]
    found = running.ask("POST", "//of-an-earlier-start/image", content)
    assert found.status == 404 and "coadvise view" in found.told["error"]


def test_what_fails_is_told_and_the_page_goes_on(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    line = f"GET http://[ HTTP/1.1\r\nHost: 127.0.0.1:{running.server.guard.port}\r\n\r\n"
    assert b" 400 " in sent_raw(running, line.encode())
    monkeypatch.setattr(running.viewer, "progress", lambda: 1 // 0)
    found = running.ask("GET", "progress")
    assert found.status == 500 and "division" in found.told["error"]
    monkeypatch.undo()
    assert running.ask("GET", "progress").status == 200


def bomb(width: int, height: int) -> bytes:
    """A PNG of so many pixels in a few bytes."""
    chunk = lambda kind, data: len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")
    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"no image at all", "no known image format"),
        (bomb(8001, 8001), "at most 64 million are taken"),
        (bomb(60000, 60000), "too large"),
        (bomb(8, 8), "cannot be read"),
    ],
)
def test_what_is_no_image_is_refused_in_words(running: Running, content: bytes, why: str) -> None:
    found = running.ask("POST", "image", content)
    assert found.status == 422 and why in found.told["error"]


@pytest.mark.parametrize(
    "content",
    [
        b"", b"[]", b"null", b'{"validation": "x"}', b'{"severity": 1.5}', b'{"by": "colour"}', b"\xff",
        b'{"image": ["a"]}', b"[" * 4000,
    ],
)  # fmt: skip
def test_no_question_is_no_question(running: Running, content: bytes) -> None:
    assert running.ask("POST", "question", content).status == 400


def test_questions_about_nothing_are_refused(running: Running) -> None:
    assert running.question().status == 410
    assert running.question(validation=-1).status == running.question(validation=10**8).status == 422
    for kind, severity in (("smoke", 1), ("fog", 6), ("fog", -1)):
        found = running.question(validation=0, kind=kind, severity=severity)
        assert found.status == 422 and kind in found.told["error"]


def test_idle_connections_do_not_take_every_thread_for_good(running: Running) -> None:
    lines = [socket.create_connection(("127.0.0.1", running.server.guard.port)) for _ in range(THREADS)]
    time.sleep(0.2)
    with pytest.raises(OSError):  # none is free
        running.ask("GET", "progress")
    for line in lines:
        line.close()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            assert running.ask("GET", "progress").status == 200
            break
        except OSError:
            time.sleep(0.05)
    else:
        pytest.fail("the threads were not freed")


def test_threads_that_cannot_be_started_take_no_places(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading.Thread, "start", mock.Mock(side_effect=RuntimeError("can't start new thread")))
    for _ in range(THREADS + 1):
        with pytest.raises(OSError):
            running.ask("GET", "progress")
    monkeypatch.undo()
    assert running.ask("GET", "progress").status == 200


def test_bound_to_all_addresses_a_name_that_is_no_address_is_still_refused() -> None:
    guard = Guard("0.0.0.0", 80)
    for host in ("192.168.1.7:80", "10.0.0.1:80", "localhost:80", f"{socket.gethostname()}:80", "[fe80::1]:80"):
        assert guard.refusal({"Host": host}, changes=False) == ""
    for host in ("evil.example:80", "192.168.1.7.evil.example:80", "192.168.1.7:81", ""):
        assert guard.refusal({"Host": host}, changes=False) != ""
    assert guard.url.startswith("http://127.0.0.1:80/") and len(guard.key) > 20
    assert guard.url_elsewhere == f"http://{socket.gethostname()}:80/{guard.key}/"
    assert Guard("10.0.0.5", 80, "k").url == Guard("10.0.0.5", 80, "k").url_elsewhere == "http://10.0.0.5:80/k/"
    assert Guard("::1", 80, "k").url == "http://[::1]:80/k/"


def test_browsers_leave_out_the_port_80_and_shorten_addresses() -> None:
    for own, host, right in (
        ("127.0.0.1", "127.0.0.1", True), ("127.0.0.1", "localhost", True), ("localhost", "127.0.0.1:80", True),
        ("::1", "[::1]", True), ("0:0:0:0:0:0:0:1", "[::1]:80", True), ("0.0.0.0", "10.0.0.1", True),
        ("127.0.0.1", "evil.example", False), ("127.0.0.1", "[::1", False), ("127.0.0.1", "127.0.0.1:80:80", False),
        ("127.0.0.1", "", False), ("0.0.0.0", "", False), ("0.0.0.0", ":80", False), ("127.0.0.1", "10.0.0.1", False),
    ):  # fmt: skip
        assert (Guard(own, 80).refusal({"Host": host}, changes=False) == "") is right, (own, host)
        assert Guard(own, 8000).refusal({"Host": host}, changes=False) != ""
    own = {"Host": "127.0.0.1", "Origin": "http://127.0.0.1"}
    assert Guard("127.0.0.1", 80).refusal(own, changes=False) == ""


def test_a_port_in_use_is_refused_in_words(running: Running) -> None:
    port = running.server.guard.port
    with pytest.raises(RunError, match=rf"127.0.0.1:{port} cannot be used: .*--port"):
        Server("127.0.0.1", port)
    with pytest.raises(RunError, match="--host"):
        Server("no.such.host.invalid", 0)
    with pytest.raises(RunError, match=r"--host.* empty"):  # all addresses, for the system
        Server("", 0)


def started(*arguments: str) -> tuple[processes.Started, str]:
    """`coadvise view` as a process, and the address that it prints."""
    process = processes.start("coadvise", "view", *arguments, environment={"COLUMNS": "120"})
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.process.is_alive():
        if match := re.search(r"^open (http://\S+)$", (process.folder / "stdout").read_text(), re.M):
            return process, match[1]
        time.sleep(0.05)
    raise AssertionError(process.wait(1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_command_answers_until_it_is_stopped(viewed: Path, number: signal.Signals) -> None:
    process, address = started(str(viewed))
    assert address.startswith("http://127.0.0.1:")
    with urllib.request.urlopen(address, timeout=20) as page:
        assert b"coadvise view" in page.read()
    os.kill(process.pid, number)
    done = process.wait()
    assert done.returncode == 130 and "Traceback" not in done.stderr
    assert done.stderr.splitlines()[-1] == "stopped; the same command starts again"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=5)


def test_a_signal_is_not_lost_while_a_request_is_taken(running: Running) -> None:
    """It arrives when the request has been answered, and the call that started its thread has not come back."""
    taken = socketserver.ThreadingMixIn.process_request

    def interrupted(self: Server, request: socket.socket, address: tuple[str, int]) -> None:
        others = threading.enumerate()  # servers of other tests may have threads, too
        taken(self, request, address)
        for thread in set(threading.enumerate()).difference(others):
            thread.join(20)
        signal.raise_signal(signal.SIGINT)

    lost = threading.Event()
    with Server("127.0.0.1", 0) as server:
        server.viewer = running.viewer
        threading.Thread(target=urllib.request.urlopen, args=[server.guard.url], daemon=True).start()
        watch = threading.Timer(20, lambda: (lost.set(), server.shutdown()))
        watch.start()
        with (
            mock.patch.object(socketserver.ThreadingMixIn, "process_request", interrupted),
            contextlib.suppress(KeyboardInterrupt),
            server.stop,
        ):
            server.serve_forever(poll_interval=0.02)
        watch.cancel()
    assert not lost.is_set()


def test_bad_input_ends_with_one_message(tmp_path: Path) -> None:
    done = processes.run("coadvise", "view", str(tmp_path / "none"))
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("error: ") and "none" in done.stderr
