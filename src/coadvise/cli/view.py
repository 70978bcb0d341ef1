"""`coadvise view`: a page on this machine on which a trained model is shown images."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from ..system.imports import importing
from ..system.progress import Display
from .arguments import out


def view(
    run: Annotated[Path, typer.Argument(help="a run's folder, or its best.safetensors")],
    run2: Annotated[Path | None, typer.Argument(help="another run, shown beside it")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="port; 0 is a free one")] = 0,
    host: Annotated[str, typer.Option(help="address to answer at; another than 127.0.0.1 is open to others")] = (
        "127.0.0.1"
    ),
    open_browser: Annotated[bool, typer.Option("--open", help="open the page in a browser")] = False,
    images: Annotated[int, typer.Option(min=0, help="validation images among which disagreements are looked for")] = (
        500
    ),
) -> None:
    """Look at what a model sees: a page in the browser on which one drops images.

    It shows the probabilities of the class token, each advised token and each teacher side by side, where each token
    looks, and the nearest validation images on which the teachers disagree; a slider corrupts the image. Nothing leaves
    this machine, and nothing is written.

    Examples:

        coadvise view runs/pets --open

        coadvise view runs/pets runs/pets-labels
    """
    # It works without a network: weights and data that the run has used are in the cache.
    os.environ["HF_HUB_OFFLINE"] = "1"
    with importing():
        from ..system.devices import choose_device
        from ..viewing.guard import is_loopback
        from ..viewing.server import Server
        from ..viewing.viewer import Viewer

    display = Display()
    with Server(host, port) as server:
        if not is_loopback(host):
            display.say(
                f"warning: {host} is open to other machines: whoever knows the address below sees validation images "
                "and uses the models, and nothing is encrypted"
            )
        viewer = Viewer.open([run] if run2 is None else [run, run2], images, choose_device())
        for one in viewer.runs:
            for teacher, why in one.missing.items():
                display.say(f"note: teacher {teacher} of {one.name} cannot be asked: {why}")
            if one.why:
                display.say(f"note: the validation images of {one.name} are not at hand: {one.why}")
        server.viewer = viewer
        viewer.start()
        try:
            out.print(f"open {server.guard.url}")
            sys.stdout.flush()
            if not is_loopback(host):
                display.say(f"from other machines: {server.guard.url_elsewhere}")
            display.say("Ctrl-C ends it")
            if open_browser and not webbrowser.open(server.guard.url):
                display.say("no browser can be opened here; open the address yourself")
            with server.stop:
                server.serve_forever(poll_interval=0.2)
        finally:
            viewer.stop()
