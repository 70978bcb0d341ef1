"""The command line: parse, dispatch, exit codes (0 done, 2 bad input, 130 stopped by the user)."""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..errors import CoadviseError, Interrupted
from ..system.progress import Display
from .bench import bench
from .evaluate import evaluate
from .reproduce import reproduce

app = typer.Typer(
    name="coadvise",
    help="Train vision transformers by cross inductive bias distillation: one token per teacher.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
out = Console(highlight=False, soft_wrap=True)
app.command()(bench)
app.command()(evaluate)
app.command()(reproduce)

Settings = Annotated[list[str] | None, typer.Argument(help="settings that replace the recipe's, key=value")]


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
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone; Python would complain once more when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _version(wanted: bool) -> None:
    if wanted:
        print(f"coadvise {installed_version('coadvise')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="print it")] = False,
) -> None:
    pass


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    settings: Settings = None,
    resume: Annotated[bool, typer.Option("--resume", help="continue an unfinished run")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only errors and the result")] = False,
) -> None:
    """Train a student (and, where the recipe says so, its teachers first).

    Examples:

        coadvise train cit-s data.source=/data/imagenet

        coadvise train my.yaml schedule.epochs=50 optim.lr=1e-3

        torchrun --nproc-per-node 4 -m coadvise train my.yaml --resume
    """
    from ..recipe.reading import load_recipe
    from ..training.train import train as run

    main_process = os.environ.get("RANK", "0") == "0"
    result = run(load_recipe(recipe, settings or []), resume=resume, display=Display(quiet=quiet or not main_process))
    if main_process:
        table = Table(title=f"{result.name}: validation after {result.epochs} epochs", title_justify="left")
        table.add_column("token")
        table.add_column("accuracy", justify="right")
        for name, value in result.final.items():
            if name.startswith("accuracy/"):
                table.add_row(name.removeprefix("accuracy/"), f"{value:.2%}")
        out.print(table)
        best = result.best
        out.print(f"best {best.value:.2%} after epoch {best.epoch} ({best.weights} weights)", markup=False)


@app.command()
def cache(
    recipe: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    settings: Settings = None,
    verify: Annotated[bool, typer.Option("--verify", help="check a cache that is there")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="no progress, only errors and the result")] = False,
) -> None:
    """Store the teachers' advice, so that any number of students can be trained at the price of no teacher.

    The same command goes on with a cache that was cut off, and may run several times at once.

    Examples:

        coadvise cache cit-s data.source=/data/imagenet data.views=50

        coadvise train cit-s data.source=/data/imagenet data.views=50 advice=cache

        coadvise cache cit-s data.source=/data/imagenet data.views=50 --verify
    """
    from ..recipe.reading import load_recipe
    from ..training.caching import cache_advice

    main_process = os.environ.get("RANK", "0") == "0"
    folder, size = cache_advice(
        load_recipe(recipe, settings or []), verify=verify, display=Display(quiet=quiet or not main_process)
    )
    if main_process:
        done = "is sound" if verify else "is complete"
        out.print(f"{folder} {done} ({size / 1e6:,.1f} MB); train from it with advice=cache", markup=False)


@app.command()
def plan(
    recipe: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    settings: Settings = None,
    rounds: Annotated[int, typer.Option(min=1, help="steps that are measured, of which the median counts")] = 3,
) -> None:
    """Say what a run will cost, with live teachers and with stored advice, from a few measured steps.

    Example:

        coadvise plan cit-s data.source=/data/imagenet
    """
    from ..cost.plan import plan_run
    from ..recipe.reading import load_recipe
    from ..system.clock import short_bytes

    loaded = load_recipe(recipe, settings or [])
    found = plan_run(loaded, rounds=rounds, display=Display())
    out.print(
        f"{found.steps:,} steps of {loaded.optim.batch_size} images: {_hours(found.live_s)} with live teachers, "
        f"{_hours(found.cached_s)} with stored advice",
        markup=False,
    )
    if not loaded.teachers:
        return
    table = Table(
        "views", "cache", "to write", "first student", "pays from", title="advice cache", title_justify="left"
    )
    for way in found.ways:
        students = "never" if way.students == float("inf") else f"{way.students:.2g} students"
        first = _hours(way.write_s + found.cached_s)
        table.add_row(str(way.views), short_bytes(way.bytes), _hours(way.write_s), first, students)
    out.print(table)
    if found.cosines:
        kept = ", ".join(f"{cosine:.4f} at k = {top}" for top, cosine in found.cosines.items())
        out.print(f"cosine of the advice's gradients to those from all logits: {kept}", markup=False)
    if found.recommended is not None:
        out.print(f"recommended: advice.top_k={found.recommended}", markup=False)
    else:
        out.print("k is recommended once the teachers are trained (`coadvise cache` trains them)", markup=False)


def _hours(seconds: float) -> str:
    """`3.2 h`, `12 min` or `40 s`."""
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


@app.command()
def predict(
    images: Annotated[list[Path], typer.Argument(help="image files")],
    model: Annotated[Path, typer.Option("--model", "-m", help="a run's folder, or its best.safetensors")],
    top: Annotated[int, typer.Option(min=1, help="classes to print")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Name what is in images: the likeliest classes with their probabilities.

    Example:

        coadvise predict cat.jpg dog.png --model runs/pets
    """
    import torch

    from ..checkpoints.trained import load_trained
    from ..evaluation.inference import predict as run

    results = run(load_trained(model, "cuda" if torch.cuda.is_available() else "cpu"), images, top)
    if as_json:
        print(json.dumps([{"image": str(path), "classes": dict(named)} for path, named in results], indent=1))
        return
    for path, named in results:
        out.print(str(path), markup=False, style="bold")
        for name, probability in named:
            out.print(f"  {probability:6.1%}  {name}", markup=False)


@app.command()
def models(
    pattern: Annotated[str, typer.Argument(help="part of a name; `*` lists timm's models too")] = "",
) -> None:
    """List coadvise's models, with their parameters at 1000 classes. Any timm model works too.

    Example:

        coadvise models rednet
    """
    import timm
    import torch

    from ..checkpoints.build import model_names

    names = sorted(model_names()) if pattern != "*" else timm.list_models()
    table = Table("model", "parameters", "bias")
    from ..recipe.schema import guess_bias

    for name in names:
        if pattern not in ("", "*") and pattern not in name:
            continue
        parameters = ""
        if pattern != "*":
            with torch.device("meta"):
                count = sum(p.numel() for p in timm.create_model(name).parameters())
            parameters = f"{count / 1e6:.2f} M"
        table.add_row(name, parameters, guess_bias(name) or "")
    if not table.row_count:
        from ..errors import ModelError

        raise ModelError(f"no model of coadvise has '{pattern}' in its name; `coadvise models` lists all")
    out.print(table)


@app.command()
def recipes() -> None:
    """List the built-in recipes: what each does, and what it costs.

    Example:

        coadvise recipes
    """
    from ..recipe.reading import builtin_recipes

    table = Table("recipe", "what it does")
    for name, path in builtin_recipes().items():
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        table.add_row(name, comments[0].lstrip("# ") if comments else "")
    out.print(table)


@app.command()
def recipe(
    source: Annotated[str, typer.Argument(help="a YAML file, or the name of a built-in recipe")],
    settings: Settings = None,
    full: Annotated[bool, typer.Option("--full", help="write out every default")] = False,
) -> None:
    """Check a recipe and print it; a good start for one of your own.

    Examples:

        coadvise recipe folder > my.yaml

        coadvise recipe my.yaml optim.lr=1e-3 --full
    """
    from ..recipe.reading import builtin_recipes, dump_recipe, load_recipe

    checked = load_recipe(source, settings or [])
    if full or settings:
        print(dump_recipe(checked), end="")
    else:
        path = Path(source) if Path(source).is_file() else builtin_recipes()[source]
        print(path.read_text(encoding="utf-8"), end="")


@app.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors.

    Example:

        coadvise schema > recipe.schema.json
    """
    from ..recipe.reading import json_schema

    print(json.dumps(json_schema(), indent=1))


@app.command()
def report(folder: Annotated[Path, typer.Argument(help="a run's folder, or a demo's")]) -> None:
    """Write report.html for a run or a demo: tables, curves, similarity to the teachers.

    Example:

        coadvise report runs/pets
    """
    from ..reports.demo import write_report
    from ..reports.run import run_report

    page = write_report(folder) if (folder / "demo.json").is_file() else run_report(folder)
    out.print(f"wrote {page}", markup=False)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="folder of the demo")] = Path("runs/demo"),
    seeds: Annotated[int, typer.Option(min=1, help="students of each kind")] = 5,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs side by side; by default one for each core, four at most")
    ] = None,
) -> None:
    """See the method work in minutes: teachers and students on real handwritten digits, then a report.

    Example:

        coadvise demo --output runs/demo
    """
    from ..reproduce.demo import run_demo

    page = run_demo(output, seeds=seeds, jobs=jobs)
    out.print(f"\nreport: {page}", markup=False)


@app.command()
def doctor() -> None:
    """Show versions, devices and what is missing here.

    Example:

        coadvise doctor
    """
    from .doctor import findings

    table = Table("what", "found", "note")
    rows: list[tuple[str, str, str]] = findings()
    for row in rows:
        table.add_row(*row)
    out.print(table)


def run(arguments: list[str]) -> Any:
    """Run a command from Python, for tests."""
    return app(arguments, standalone_mode=False)
