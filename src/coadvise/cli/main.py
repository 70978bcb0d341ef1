"""The command line: parse, dispatch, exit codes (0 done, 2 bad input, 130 stopped by the user)."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from ..errors import CoadviseError, Interrupted
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
    except CoadviseError as error:
        print(f"{prefix}error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except Interrupted as stop:
        if rank in (None, "0"):
            print(f"{prefix}{stop}", file=sys.stderr)
        raise SystemExit(130) from None
    except KeyboardInterrupt:
        print(f"{prefix}stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # by its name: importing PyTorch takes seconds
            raise
        reason = str(error).splitlines()[0]
        print(
            f"{prefix}error: out of memory: {reason} Give a smaller batch, or with accumulation the same in parts: "
            "optim.accumulate=2",
            file=sys.stderr,
        )
        raise SystemExit(2) from None


def _version(wanted: bool) -> None:
    if wanted:
        print(f"coadvise {installed_version('coadvise')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass
