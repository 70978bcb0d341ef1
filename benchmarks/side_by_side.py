"""Two ways of computing the same, timed in turns in one process: machines are noisy, ratios within a run are not."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from coadvise.run.provenance import manifest
from coadvise.system.clock import peak_bytes, seconds_of
from coadvise.system.files import read_json, write_json
from coadvise.system.precision import has_bf16

RESULTS = Path(__file__).resolve().parents[1] / "results" / "benchmarks"
console = Console()
__all__ = [
    "agree",
    "arguments",
    "claim",
    "copy_bandwidth",
    "geometric_mean",
    "interleaved",
    "kept",
    "peak_bytes",
    "precisions",
    "provenance",
    "ratios",
    "report",
    "turns",
]


def precisions(device: str) -> tuple[str, ...]:
    """`fp32`, and `bf16` where the device computes in it: a CPU without its instructions takes three times as long."""
    return ("fp32", "bf16") if device != "cpu" or has_bf16() else ("fp32",)


def arguments(
    description: str, batch_sizes: tuple[int, int] = (8, 256), only: Sequence[str] = ()
) -> argparse.Namespace:
    """Options that all benchmarks share.

    Args:
        batch_sizes: on the CPU and on a GPU.
        only: names of parts that can be run alone.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--batch-size", type=int, help=f"{batch_sizes[0]} on the CPU, {batch_sizes[1]} on a GPU")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    if only:
        parser.add_argument("--only", choices=only, help="this part alone")
    options = parser.parse_args()
    options.batch_size = options.batch_size or batch_sizes[options.device != "cpu"]
    torch.set_num_threads(options.threads)
    return options


def interleaved(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str = "cpu",
    before: Callable[[str], Any] | None = None,
) -> dict[str, float]:
    """Median seconds of each side; they take turns, and each has one run before the clock starts."""
    return {name: statistics.median(values) for name, values in turns(sides, rounds, device, before).items()}


def ratios(times: Mapping[str, list[float]], base: str) -> dict[str, float]:
    """How many times faster than `base` each side is: the median over the rounds of `turns`."""
    return {
        name: statistics.median(slow / fast for slow, fast in zip(times[base], values, strict=True))
        for name, values in times.items()
    }


def turns(
    sides: Mapping[str, Callable[[], Any]],
    rounds: int,
    device: str = "cpu",
    before: Callable[[str], Any] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each side in each round.

    Args:
        before: called with the name of a side before its clock starts, at every turn.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        # The side that begins changes, so that none always finds the caches of the other.
        for name in list(sides) if number % 2 else list(sides)[::-1]:
            if before is not None:
                before(name)
            _wait(device)
            start = time.perf_counter()
            sides[name]()
            _wait(device)
            if number:
                times[name].append(time.perf_counter() - start)
    return times


def _wait(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def copy_bandwidth(device: str, size: int) -> float:
    """Bytes per second of a copy that reads and writes `size` bytes together: those of caches, where they fit."""
    source = torch.ones(max(size // 8, 1), device=device)
    target = torch.empty_like(source)
    seconds = seconds_of(lambda: target.copy_(source), torch.device(device), 15)
    return 2 * source.numel() * source.element_size() / seconds


def geometric_mean(values: list[float]) -> float:
    return statistics.geometric_mean(values)


def agree(a: torch.Tensor, b: torch.Tensor, tolerance: float, what: str) -> float:
    """Largest difference relative to the largest value; the benchmark stops where the sides do not compute the same."""
    a, b = a.detach(), b.detach()
    difference = float((a.double() - b.double()).abs().max() / b.double().abs().max())
    if not difference <= tolerance:
        raise SystemExit(
            f"{what}: the two sides differ by {difference:.1e} of the largest value, more than {tolerance:.0e}"
        )
    return difference


def claim(what: str, value: float | None, goal: str = "", unit: str = "×", why: str = "") -> dict[str, Any]:
    """One line of the table.

    Args:
        value: a ratio unless `unit` says otherwise; None for what could not be measured.
        why: what stands in the way of the goal, or of measuring.
    """
    return {"what": what, "value": value, "unit": unit, "goal": goal, **({"why": why} if why else {})}


def kept(name: str, options: argparse.Namespace) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Claims and details of a file of which one part is measured anew; nothing where all of it is."""
    path = _file(name, options)
    if options.only is None or not path.is_file():
        return [], {}
    content = read_json(path)
    return content["claims"], content["details"]


def _file(name: str, options: argparse.Namespace) -> Path:
    return options.output / f"{name}-{options.device.split(':')[0]}.json"


def provenance(command: str) -> dict[str, Any]:
    """What is needed to measure again. `COADVISE_COMMIT` names the commit where there is no git history."""
    facts = manifest(command=command)
    named = os.environ.get("COADVISE_COMMIT")
    return facts | {"commit": named} if named and facts["commit"] is None else facts


def report(name: str, options: argparse.Namespace, claims: list[dict[str, Any]], details: Any) -> None:
    """Print the claims as a table, and keep everything as JSON.

    Args:
        claims: lines of the table, from `claim`.
        details: everything else that was measured, ready for JSON.
    """
    table = Table("what", "measured", "goal", title=name, title_justify="left")
    for line in claims:
        value = line["value"]
        table.add_row(line["what"], "" if value is None else f"{value:.3g}{line['unit']}", line["goal"])
    console.print(table)
    settings = {"rounds": options.rounds, "batch_size": options.batch_size, "threads": options.threads}
    content = {
        "benchmark": name, "claims": claims, "details": details, "settings": settings, "device": options.device,
        "provenance": provenance(shlex.join(["python", *sys.argv])),
    }  # fmt: skip
    write_json(_file(name, options), json.loads(json.dumps(content)))
