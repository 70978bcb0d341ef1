"""The command line: parse, dispatch, exit codes (0 done, 2 bad input, 130 stopped by the user, 141 nobody reads)."""

from __future__ import annotations

import errno
import inspect
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer

from ..errors import CoadviseError, Interrupted, RecipeError, one_line, out_of_memory
from ..names import VERSION
from ..system.screen import ReaderGone, guarded_streams, printable
from .bench import bench
from .compare import compare
from .doctor import doctor
from .evaluate import evaluate, report
from .export import export
from .find_lr import find_lr
from .headroom import headroom
from .init import init
from .predict import predict
from .push import push
from .recipes import models, recipe, recipes, schema
from .reproduce import demo, reproduce
from .select_teachers import select_teachers
from .train import cache, plan, train
from .view import view

STOPPED = "stopped; the same command starts again"
FULL_OR_GONE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ENOENT, errno.EACCES, errno.ESTALE)


def help_of(command: Callable[..., None]) -> str:
    """A command's docstring, its examples in a block of code: typer takes indented ones now for code, now for prose."""
    said, heading, examples = re.split(r"^(Examples?:)$|\Z", inspect.getdoc(command) or "", maxsplit=1, flags=re.M)
    return f"{said}{heading}\n\n```\n{inspect.cleandoc(examples)}\n```\n" if heading else said


app = typer.Typer(
    name="coadvise",
    help="Train vision transformers by cross inductive bias distillation: one token per teacher.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
# The help lists the commands in this order, in groups.
COMMANDS: dict[str, tuple[Callable[..., None], ...]] = {
    "Begin": (demo, init, doctor),
    "Before training": (select_teachers, headroom, plan, find_lr, bench),
    "Training": (train, cache),
    "Looking at a run": (evaluate, predict, report, view, compare),
    "Taking a model away": (export, push),
    "Recipes and models": (recipes, recipe, schema, models),
    "The paper": (reproduce,),
}
for group, commands in COMMANDS.items():
    for command in commands:
        app.command(help=help_of(command), rich_help_panel=group)(command)


# Seconds after which the process that speaks for others has spoken, on a busy machine too.
SPEAKS_WITHIN = 10.0
# What typer raises for a command line that it cannot read; it has moved between typer's versions.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


def main() -> None:
    """Entry point: our errors become one message and exit code 2, without a traceback."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a training answers it itself
    threading.excepthook = _told_elsewhere
    rank = os.environ.get("RANK")
    prefix = "" if rank is None else f"[process {rank}] "
    message = ""
    try:
        with guarded_streams():
            code = app(standalone_mode=False) or 0
        message = STOPPED if code == 130 else ""
    except CoadviseError as error:
        # A recipe is read alike by all processes of a machine.
        alike = isinstance(error, RecipeError) and os.environ.get("LOCAL_RANK", "0") != "0"
        message, code = f"error: {error}", 2
        if error.told or alike:
            message = ""
            with suppress(KeyboardInterrupt):  # a launcher ends all processes with the first: the one that speaks is it
                time.sleep(SPEAKS_WITHIN)
    except Interrupted as stop:
        message, code = str(stop) if rank in (None, "0") else "", 130
    except KeyboardInterrupt:
        message, code = STOPPED, 130
    except ReaderGone:
        code = 128 + signal.SIGPIPE  # what the shell says of other commands before a closed pipe
    except _UsageError as error:
        message, code = _misused(error), 2
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        hint = "Give a smaller batch, or with accumulation the same in parts: optim.accumulate=2"
        message, code = f"error: out of memory: {one_line(error)[:300]} {hint}", 2
    except OSError as error:
        if error.errno not in FULL_OR_GONE:
            raise
        message, code = f"error: cannot read or write {error.filename or 'a file'}: {error.strerror}", 2
    if message:
        with guarded_streams():
            print(f"{prefix}{printable(message, lines=True)}", file=sys.stderr)
    raise SystemExit(code)


def _told_elsewhere(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread hands its error on to the main one, and would print it with a traceback, too."""
    if not isinstance(failure.exc_value, OSError):
        threading.__excepthook__(failure)


def _misused(error: Any) -> str:
    """What is wrong with a command line; for options that are settings of a recipe, how those are written."""
    command = error.ctx.info_name if error.ctx is not None and error.ctx.parent is not None else ""
    option = getattr(error, "option_name", "")
    if option and command in ("train", "cache", "plan", "find-lr", "headroom", "recipe", "reproduce", "bench"):
        from ..recipe.problems import meant

        setting = meant(option.lstrip("-"))
        if setting is not None:
            words = [part for word in sys.argv for part in (word.split("=", 1) if word.startswith(option) else [word])]
            rest = words[words.index(option) + 1 :] if option in words else []
            value = rest[0] if rest and not rest[0].startswith("-") else "…"
            wanted = " or ".join(f"{one}={value}" for one in setting.split(" or "))
            return f"error: {command} has no option {option}; settings are written key=value: {wanted}"
    said = error.format_message().rstrip(".")
    return f"error: {said}; see coadvise {command} --help".replace("  ", " ") if said else ""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"coadvise {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass
