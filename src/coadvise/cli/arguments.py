"""Arguments that several commands have, and where all commands print."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

out = Console(highlight=False, soft_wrap=True)

RecipeName = Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")]
Settings = Annotated[list[str] | None, typer.Argument(help="settings that replace the recipe's, key=value")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only errors and the result")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON")]
