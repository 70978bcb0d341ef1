"""What the parts of `gpu.sh` share: options, a file that is written anew after each measurement, checks, reasons."""

from __future__ import annotations

import argparse
import atexit
import dataclasses
import io
import json
import shlex
import shutil
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from goals import goal_of
from PIL import Image
from side_by_side import RESULTS, provenance

from coadvise.cost.profile import Profile
from coadvise.system.files import write_json


def options_of(description: str) -> argparse.Namespace:
    """Options of a part."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--sizes", choices=("full", "tiny"), default="full", help="tiny tries every line on a CPU")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each side")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the JSON file")
    parser.add_argument("--work", type=Path, help="folder for data and weights that are made here")
    options = parser.parse_args()
    options.tiny = options.sizes == "tiny"
    if options.work is None:
        options.work = Path(tempfile.mkdtemp(prefix="coadvise-bench-"))
        atexit.register(shutil.rmtree, options.work, ignore_errors=True)
    options.output.mkdir(parents=True, exist_ok=True)
    options.work.mkdir(parents=True, exist_ok=True)
    return options


class Part:
    """One file of results: `NAME-DEVICE.json`, whole at every moment.

    Args:
        name: of the file.
    """

    def __init__(self, name: str, options: argparse.Namespace) -> None:
        self.name, self.options, self.failed = name, options, list[str]()
        self._claims, self.details = dict[str, dict[str, Any]](), dict[str, Any]()
        self.file = options.output / f"{name}-{options.device.split(':')[0]}.json"

    def measured(self, what: str, value: float | None, why: str = "") -> None:
        """One line of the table; None is a value that could not be had, and `why` says why."""
        line = goal_of(self.name, what)
        self._claims[what] = {"what": what, "value": value, "unit": line.unit, "goal": line.goal, "why": why}
        print(f"{self.name}: {what}: {value} {why}", flush=True)
        self.write()

    @contextmanager
    def attempt(self, *whats: str) -> Iterator[None]:
        """A failure inside is told in the lines that it leaves out, and what follows is tried all the same."""
        try:
            yield
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            said = " ".join(str(error).split())[:200] or type(error).__name__
            self.failed.append(said)
            for what in whats:
                if what not in self._claims:
                    self.measured(what, None, f"failed: {said}")

    def write(self) -> None:
        """The file as it stands."""
        options = self.options
        content = {
            "benchmark": self.name, "claims": list(self._claims.values()), "details": self.details,
            "settings": {"rounds": options.rounds, "sizes": options.sizes}, "device": options.device,
            "provenance": provenance(shlex.join(["python", *sys.argv])),
        }  # fmt: skip
        write_json(self.file, json.loads(json.dumps(content, default=_plain)))

    def end(self) -> None:
        """Leave with 1 where something failed."""
        self.write()
        sys.exit(1 if self.failed else 0)


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else str(value)


class Noise:
    """Images whose pixels nobody looks at: smooth noise, JPEG, as many as are asked for.

    Args:
        side: in pixels.
        different: so many files are made, and repeated.
    """

    def __init__(self, side: int, count: int, classes: int, different: int = 512) -> None:
        self.class_names = tuple(f"class {i}" for i in range(classes))
        self.labels = np.arange(count, dtype=np.int64) % classes
        rng = np.random.default_rng(0)
        self.files = [_jpeg(rng, side) for _ in range(min(different, count))]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes:
        return self.files[index % len(self.files)]

    def describe(self, index: int) -> str:
        return f"image {index}"


def _jpeg(rng: np.random.Generator, side: int) -> bytes:
    small = Image.fromarray(rng.integers(0, 256, (max(side // 4, 2), max(side // 4, 2), 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def poison(device: torch.device) -> None:
    """Fill free memory with NaN, so that what a kernel leaves unwritten is seen."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        held = [torch.full((2**27,), float("nan"), device=device) for _ in range(int(0.6 * free) // 2**29)]
    else:
        held = [torch.full((n,), float("nan")) for n in (10**3, 10**5, 10**6)]
    del held  # allocators give the same memory out again, as it is


def count_waits(run: Callable[[], Any]) -> dict[str, int]:
    """Where the host waits for a GPU, by what PyTorch warns of, and how often; empty on the CPU."""
    if not torch.cuda.is_available():
        run()
        return {}
    torch.cuda.synchronize()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            run()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    found: dict[str, int] = {}
    for one in seen:
        if "called a synchronizing" in str(one.message):
            place = f"{Path(one.filename).name}:{one.lineno}"
            found[place] = found.get(place, 0) + 1
    return found


def in_the_way(profile: Profile | None, floor: float | None = None) -> str:
    """What stands between a step and a faster one: launches, operations, the longest kernels.

    Args:
        floor: seconds of the step's operations at the speed of a matrix product.
    """
    words = []
    if floor is not None:
        words.append(f"its operations take {1e3 * floor:.1f} ms at a matrix product's speed")
    if profile is not None:
        if profile.busy is not None:
            words.append(f"{profile.kernels:,.0f} kernels in {profile.launches:,.0f} launches")
            words.append(f"device busy {profile.busy:.0%}")
        words += [f"{one.name[:40]} {one.seconds / profile.seconds:.0%}" for one in profile.top[:3]]
    return "; ".join(words)
