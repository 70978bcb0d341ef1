"""The command line: parse, dispatch, exit codes (0 done, 2 bad input, 130 stopped by the user)."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from ..errors import CoadviseError, Interrupted
from ..names import VERSION
from .bench import bench
from .doctor import doctor
from .evaluate import evaluate, predict, report
from .recipes import models, recipe, recipes, schema
from .reproduce import demo, reproduce
from .train import cache, plan, train

app = typer.Typer(
    name="coadvise",
    help="Train vision transformers by cross inductive bias distillation: one token per teacher.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# The help lists the commands in this order.
for command in (
    demo, train, cache, plan, evaluate, predict, report, reproduce, recipes, recipe, schema, models, bench, doctor,
):  # fmt: skip
    app.command()(command)


def main() -> None:
    """Entry point: our errors become one message and exit code 2, without a traceback."""
    rank = os.environ.get("RANK")
    prefix = "" if rank is None else f"[process {rank}] "
    try:
        app()
        return
    except CoadviseError as error:
        message, code = f"error: {error}", 2
    except Interrupted as stop:
        message, code = str(stop) if rank in (None, "0") else "", 130
    except KeyboardInterrupt:
        message, code = "stopped", 130
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # by its name: importing PyTorch takes seconds
            raise
        hint = "Give a smaller batch, or with accumulation the same in parts: optim.accumulate=2"
        message, code = f"error: out of memory: {str(error).splitlines()[0]} {hint}", 2
    if message:
        print(f"{prefix}{message}", file=sys.stderr)
    raise SystemExit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"coadvise {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass
