"""The page in a real browser: an image dropped, pasted or chosen, the slider, two runs, the keyboard, a telephone."""

from __future__ import annotations

import base64
import io
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.recipes import TINY
from helpers.untrained import untrained_run
from PIL import Image

import coadvise
from coadvise.viewing.server import Server
from coadvise.viewing.viewer import Viewer

pytestmark = pytest.mark.slow
BROWSER = os.environ.get("COADVISE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")
    if BROWSER is None:
        pytest.skip("no chromium is installed here; set COADVISE_CHROMIUM to one")
    with sync_api.sync_playwright() as started:
        one = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield one
        one.close()


@pytest.fixture(scope="module")
def address(viewed: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Two runs beside each other, both on digits."""
    other = untrained_run(tmp_path_factory.mktemp("other") / "labels", TINY["student"], noise=0.4)
    viewer = Viewer.open([viewed, other], 40, torch.device("cpu"))
    with Server("127.0.0.1", 0) as server:
        server.viewer = viewer
        viewer.start()
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield server.guard.url
        server.shutdown()
        thread.join()
        viewer.stop()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page with the first validation image; nothing on it fails, and nothing is asked of another place."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    one = context.new_page()
    wrong: list[str] = []
    # What the server refuses is on the page in words; the console says so as well.
    one.on("console", lambda m: wrong.append(m.text) if m.type == "error" and "status of 4" not in m.text else None)
    one.on("pageerror", lambda error: wrong.append(str(error)))
    one.on("request", lambda r: None if r.url.startswith((address, "data:")) else wrong.append(r.url))
    one.goto(address)
    one.wait_for_selector(".run:not(.waiting) .results:not([hidden])")
    yield one
    context.close()
    assert not wrong


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def give(page: Any, content: bytes, way: str, name: str = "mine.png", kind: str = "image/png") -> None:
    """Drop or paste a file, as the browser tells a page of it."""
    page.evaluate(
        """([way, data, name, type]) => {
            const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
            const list = new DataTransfer();
            list.items.add(new File([bytes], name, { type }));
            const how = { bubbles: true, cancelable: true };
            const event = way === "drop" ? new DragEvent("drop", { dataTransfer: list, ...how })
                : new ClipboardEvent("paste", { clipboardData: list, ...how });
            document.body.dispatchEvent(event);
        }""",
        [way, base64.b64encode(content).decode(), name, kind],
    )


def shown(page: Any, name: str) -> None:
    page.wait_for_function("name => document.getElementById('chosen').textContent === `Shown: ${name}`", arg=name)


def first_odds(page: Any, run: int) -> tuple[str, str]:
    """The first class of a run's table and the class token's probability."""
    row = page.locator(".run").nth(run).locator("tbody tr").first
    return row.locator("th").inner_text(), row.locator("td .number").first.inner_text()


@pytest.mark.parametrize("way", ["drop", "paste", "choose"])
def test_an_image_is_answered_as_predict_does(page: Any, viewed: Path, tmp_path: Path, way: str) -> None:
    content = picture(5)
    (tmp_path / "mine.png").write_bytes(content)
    if way == "choose":
        page.set_input_files("#file", tmp_path / "mine.png")
    else:
        give(page, content, way)
    shown(page, "mine.png")
    best = coadvise.load(viewed).predict(tmp_path / "mine.png")[0]
    name, odds = first_odds(page, 0)
    assert name == best.name and float(odds.rstrip(" %")) == pytest.approx(100 * best.probability, abs=0.051)
    page.wait_for_function(
        "name => document.getElementById('status').textContent.includes(name)", arg=f"says {best.name}"
    )
    assert page.locator(".run").first.locator(".looks canvas").count() == 4
    for canvas in page.locator(".looks canvas").all():
        assert canvas.get_attribute("role") == "img" and canvas.get_attribute("aria-label")


def test_a_slow_upload_replaces_nothing_that_was_chosen_since(page: Any) -> None:
    """Its reply is held back until a validation image, and then until a second file, is shown."""
    held: list[Any] = []
    page.route("**/image", lambda route: route.continue_() if held else held.append(route))
    for second in ("validation", "file"):
        held.clear()
        give(page, picture(7), "drop", "slow.png")
        while not held:
            page.wait_for_timeout(10)
        if second == "file":
            give(page, picture(8), "drop", "fast.png")
            shown(page, "fast.png")
        else:
            button = page.locator(".near button").first
            name = f"image {button.get_attribute('data-index')},"
            button.click()
            page.wait_for_function("name => document.getElementById('chosen').textContent.includes(name)", arg=name)
        said = page.locator("#chosen").inner_text()
        with page.expect_response("**/image"):
            held[0].continue_()
        page.wait_for_timeout(300)
        page.wait_for_selector(".run:not(.waiting)")
        assert page.locator("#chosen").inner_text() == said


def test_the_slider_changes_both_runs_once_it_rests(page: Any) -> None:
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.post_data) if r.url.endswith("/question") else None)
    before = [page.locator(".run").nth(i).locator("tbody").inner_text() for i in (0, 1)]
    page.locator("#kind").select_option("impulse_noise")
    page.locator("#severity").focus()
    page.keyboard.press("Home")
    for _ in range(5):
        page.keyboard.press("ArrowRight")
    assert page.locator("#severity").get_attribute("aria-valuetext") == "5 of 5"
    page.wait_for_function("() => document.getElementById('status').textContent.startsWith('With impulse noise 5')")
    after = [page.locator(".run").nth(i).locator("tbody").inner_text() for i in (0, 1)]
    assert before[0] != after[0] and before[1] != after[1]
    assert '"severity":5' in asked[-1] and len(asked) <= 4  # one for the kind, and not one for each step
    page.keyboard.press("Home")
    page.wait_for_function("() => !document.getElementById('status').textContent.startsWith('With')")
    assert [page.locator(".run").nth(i).locator("tbody").inner_text() for i in (0, 1)] == before


def test_all_can_be_reached_and_done_with_the_keyboard(page: Any) -> None:
    page.evaluate("document.activeElement.blur()")
    seen = []
    for _ in range(40):
        page.keyboard.press("Tab")
        told = page.evaluate(
            """() => { const at = document.activeElement, style = getComputedStyle(at.id === "file" ?
                document.querySelector(".button") : at);
                return [at.id || at.tagName + (at.closest(".near") ? " near" : ""), style.outlineStyle]; }"""
        )
        if told[0] == "BODY":
            break
        assert told[1] != "none", f"{told[0]} shows no focus"
        seen.append(told[0])
    wanted = ["file", "kind", "severity", "all", "overlay", "by", "SUMMARY"]
    assert seen[: len(wanted)] == wanted and "BUTTON near" in seen
    page.locator(".near button").first.focus()
    name = page.locator(".near button").first.get_attribute("data-index")
    page.keyboard.press("Enter")
    page.wait_for_function("name => document.getElementById('chosen').textContent.includes(name)", arg=f"image {name},")
    page.locator("#gallery summary").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#images button")
    page.locator("#images button").nth(2).focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#images button[aria-current=true]")


def test_all_classes_and_no_overlay(page: Any) -> None:
    assert page.locator(".run").first.locator("tbody tr").count() < 10
    page.locator("#all").check()
    assert page.locator(".run").first.locator("tbody tr").count() == 10
    image = "() => document.querySelectorAll('.looks canvas')[1].toDataURL()"
    before = page.evaluate(image)
    page.locator("#overlay").uncheck()
    page.wait_for_function(f"before => ({image})() !== before", arg=before)


def test_what_is_no_image_is_said_and_the_page_goes_on(page: Any) -> None:
    give(page, b"no image", "drop", "notes.txt", "text/plain")
    page.wait_for_selector("#error:not([hidden])")
    assert "no known image format" in page.locator("#error").inner_text()
    assert page.locator("#error").get_attribute("role") == "alert"
    give(page, picture(6), "drop")
    shown(page, "mine.png")
    assert page.locator("#error").is_hidden()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_is_wider_than_a_telephone(browser: Any, address: str, scheme: str) -> None:
    size = {"width": 390, "height": 844}
    context = browser.new_context(viewport=size, color_scheme=scheme, device_scale_factor=2, has_touch=True)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".run:not(.waiting) .results:not([hidden])")
    page.locator("#gallery summary").click()
    page.wait_for_selector("#images img")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    boxes = [page.locator(".run").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"]  # below, and not beside
    cell = page.locator(".run").first.locator("tbody td").first
    assert page.evaluate("cell => getComputedStyle(cell, '::before').content", cell.element_handle()) == '"class token"'
    paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, paper[4:-1].split(","))) < 120) == (scheme == "dark")
    context.close()
