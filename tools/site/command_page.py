"""The page of all commands, from the command line itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from coadvise.cli.main import app

_HEAD = """\
---
description: Every command with its arguments, options and examples.
---
# Commands

`coadvise --help` lists the commands, `coadvise COMMAND --help` shows what stands here. `python -m coadvise` is
the same. Settings are [recipe keys](recipe.md) with their values, such as `optim.lr=1e-3`.

Exit codes: 0 done; 2 bad input, or output that cannot be written (one message says what, where, and how to go
on); 130 stopped by Ctrl-C or SIGTERM; 141 nobody reads the output any more.

"""


def text() -> str:
    """The page in Markdown."""
    root: Any = get_command(app)
    context = root.make_context("coadvise", ["recipes"], resilient_parsing=True)
    return _HEAD + "\n".join(line for name in root.list_commands(context) for line in _command(root, name, context))


def _command(root: Any, name: str, parent: Any) -> Iterator[str]:
    command = root.get_command(parent, name)
    context = command.context_class(command, info_name=name, parent=parent)
    said, heading, examples = re.split(r"^(Examples?:)$|\Z", command.help, maxsplit=1, flags=re.M)
    usage = " ".join(["coadvise", name, *command.collect_usage_pieces(context)])
    yield f"## {name}\n\n{said.strip()}\n\n```text\n{usage}\n```\n"
    rows = [_row(param, context) for param in command.get_params(context) if param.name != "help"]
    if rows:
        yield "\n".join(["| argument or option | meaning |", "|---|---|", *rows, ""])
    if heading:
        lines = "\n".join(line for line in examples.splitlines() if line and not line.startswith("```"))
        yield "```bash\n" + re.sub(r"\n(?= )", r" \\\n", lines) + "\n```\n"


def _row(param: Any, context: Any) -> str:
    record = param.get_help_record(context)
    names, said = record or (param.make_metavar(context), param.help or "")
    # A range stands behind the meaning already, and a list is an option that may be given again.
    names = re.sub(r"\s+<bool>|(?<=\.\.\.)\s+<list\[\w+\]>", "", names)
    names = re.sub(r"<list\[(\w+)\]>", lambda found: f"<{found[1].lower()}>...", names).replace(" range>", ">")
    return f"| `{_cell(names)}` | {_cell(said)} |"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
