"""Core-minutes that an arm of the scale `cifar-cpu` costs for a million images seen, beside another tree of this package.

The arm is `transformer_tiny` with two teachers whose advice is stored. Each training is a process of its own with one
thread, as `reproduce` has them side by side; counted are the seconds of the processor, user and system, of the process
and of those it started. Trainings of two lengths take turns: their difference is what the passes cost, the rest is
start-up, reading, evaluation and result. Compiling for the first time is counted apart. The images are smooth noise.

git worktree add /tmp/old 934e134
python benchmarks/bench_arm.py /tmp/old
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image
from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve().parents[1]
# As many views as the scale has, of so many images that finished batches of all views would not stay in memory.
VIEWS, IMAGES, VALIDATION, BATCH = 10, 4000, 1000, 100
SHORT, LONG = 1, 5
ARM = {"epochs": 25, "images": 10_000}
"""Of the scale."""
RECIPE = """
name: arm
data: {{source: {data}, image_size: 32, eval_crop: 1.0, mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616],
  workers: 1, views: {views}, augment: {{policy: light, erasing: 0.0, mixup: 0.8, cutmix: 1.0, mix_probability: 0.5}}}}
student: {{model: cit_tiny, options: {{patch_size: 8, embed_dim: 96, depth: 6, num_heads: 3}}}}
teachers:
  conv: {{model: resnet10, options: {{channels: [16, 32, 64, 128]}}, small_stem: true,
    train: {{epochs: 1, lr: 2.0e-3, batch_size: 100}}}}
  inv: {{model: rednet26, options: {{layers: [1, 1, 1], width: 32}}, train: {{epochs: 1, lr: 2.0e-3, batch_size: 100}}}}
optim: {{batch_size: {batch}, lr: 1.0e-3, lr_batch: null, weight_decay: 0.05, clip: 5}}
schedule: {{epochs: 25, warmup_epochs: 0.5}}
run: {{eval_every: 25, eval_batch_size: 500, tensorboard: false, allow_weak: true, device: cpu, precision: fp32{more}}}
"""


@dataclass(frozen=True)
class Side:
    """A tree whose trainings are counted, with a folder of its own for runs, advice and what it compiles.

    Attributes:
        settings: further words of its command line.
    """

    name: str
    tree: Path
    folder: Path
    settings: tuple[str, ...] = ()

    def run(self, command: str, *words: str) -> float:
        """Seconds of the processor that a command of the package takes, with all processes that it starts.

        Raises:
            SystemExit: it failed.
        """
        environment = {
            **os.environ, "PYTHONPATH": str(self.tree / "src"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }  # fmt: skip
        call = [sys.executable, "-m", "coadvise", command, str(self.folder / "arm.yaml"), *words, *self.settings]
        with (self.folder / "log").open("wb") as log:
            process = subprocess.Popen(call, env=environment, stdout=log, stderr=log, cwd=self.folder)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{self.name}: {' '.join(call)}\n{(self.folder / 'log').read_text()}")
        return usage.ru_utime + usage.ru_stime

    def prepare(self, data: Path) -> None:
        """Write the recipe, train the teachers and store their advice."""
        self.folder.mkdir()
        # Rather than ask each build what keys it has: this one came after the builds one would compare with.
        knows = (
            "baselines" in (self.tree / "src" / "coadvise" / "recipe" / "schema.py").read_text()
            if (self.tree / "src" / "coadvise" / "recipe").is_dir()
            else False
        )
        more = ", baselines: []" if knows else ""
        recipe = RECIPE.format(data=data, views=VIEWS, batch=BATCH, more=more)
        (self.folder / "arm.yaml").write_text(recipe)
        self.run("cache")

    def train(self, epochs: int) -> float:
        """Seconds of the processor of a training; its last losses are kept in `losses`."""
        run = self.folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        return self.run("train", "advice=cache", f"schedule.epochs={epochs}", f"run.output={run}")

    def losses(self) -> list[float]:
        """The total loss of each line that the last training logged."""
        lines = map(json.loads, (self.folder / "run" / "metrics.jsonl").read_text().splitlines())
        found = [line.get("loss", line.get("total")) for line in lines]
        return [value for value in found if isinstance(value, float)]


def write_images(folder: Path) -> None:
    """Two Parquet files in the Hugging Face form, PNG images of smooth noise in ten classes."""
    draws = np.random.default_rng(0)
    folder.mkdir()
    for split, count in (("train", IMAGES), ("test", VALIDATION)):
        rows = []
        for _ in range(count):
            small = Image.fromarray(draws.integers(0, 256, (8, 8, 3), dtype=np.uint8))
            file = io.BytesIO()
            small.resize((32, 32), Image.Resampling.BICUBIC).save(file, "PNG")
            rows.append({"bytes": file.getvalue(), "path": None})
        image = pa.array(rows, pa.struct({"bytes": pa.binary(), "path": pa.string()}))
        table = pa.table({"image": image, "label": pa.array(np.arange(count) % 10)})
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


@dataclass(frozen=True)
class Cost:
    """Seconds of a core.

    Attributes:
        start: of the first training's all but the passes, less that of the later ones: compiling.
        fixed: of a run, all but the passes.
        million: for a million passes.
    """

    start: float
    fixed: float
    million: float

    @property
    def arm(self) -> float:
        """Of an arm of the scale."""
        return self.fixed + ARM["epochs"] * ARM["images"] / 1e6 * self.million


def measured(sides: list[Side], rounds: int) -> dict[str, Cost]:
    """Costs by side; they take turns, and of both lengths the median counts."""
    first = {side.name: side.train(SHORT) for side in sides}
    short: dict[str, list[float]] = {side.name: [] for side in sides}
    million: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides[:: 1 if number % 2 else -1]:
            short[side.name].append(side.train(SHORT))
            passes = (LONG - SHORT) * IMAGES
            million[side.name].append((side.train(LONG) - short[side.name][-1]) / passes * 1e6)
            print(f"{side.name}: {short[side.name][-1]:.1f} s, {million[side.name][-1]:.0f} s a million", flush=True)
    costs = {}
    for side in sides:
        each, least = statistics.median(million[side.name]), statistics.median(short[side.name])
        fixed = least - SHORT * IMAGES / 1e6 * each
        costs[side.name] = Cost(first[side.name] - least, fixed, each)
    return costs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path, nargs="?", help="the tree to compare with")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="coadvise-arm-") as place:
        folder = Path(place)
        write_images(folder / "data")
        sides = [Side("here", HERE, folder / "here")]
        if options.other:
            sides.append(Side("other", options.other.resolve(), folder / "other"))
        for side in sides:
            side.prepare(folder / "data")
        costs = measured(sides, options.rounds)
        losses = {side.name: side.losses() for side in sides}
    table = Table("core-minutes", *costs, *(["here / other"] if options.other else []))
    rows = {
        "a million passes": lambda cost: cost.million, "a run without its passes": lambda cost: cost.fixed,
        "compiling for the first time": lambda cost: cost.start, "an arm of 25 epochs": lambda cost: cost.arm,
    }  # fmt: skip
    for what, of in rows.items():
        values = [of(cost) / 60 for cost in costs.values()]
        ratio = [f"{values[0] / values[1]:.2f}" if values[1] > 0.02 else ""] if options.other else []
        table.add_row(what, *(f"{value:.2f}" for value in values), *ratio)
    Console(width=100).print(table)
    if options.other:
        gaps = [abs(a - b) / abs(b) for a, b in zip(losses["here"], losses["other"], strict=True)]
        print(f"largest relative difference of the logged losses: {max(gaps, default=0.0):.1e} ({len(gaps)} lines)")


if __name__ == "__main__":
    main()
