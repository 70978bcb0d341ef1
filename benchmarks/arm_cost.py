"""Core-minutes that an arm of the scale `cifar-cpu` takes for a million images, beside another tree of the package.

The arm is `transformer_tiny`, or `transformer_small`, with two teachers whose advice is stored. Each training is a
process of its own with one thread, as `reproduce` has them side by side; counted are the seconds of the processor, user
and system, of the process and of those it starts. What passes cost is read between two log lines of a training of 25
epochs, which is then stopped; start-up, reading, evaluation and result are those of a training of one epoch, less its
passes. The trees take turns. The images are smooth noise. The floor is what the matrix products of the student's passes
alone would take in float32, at the speed of a large one on the same core, before and after all else; no step in float32
is cheaper. Where the processor trains faster in bfloat16, which `run.precision: auto` then takes, this tree is also
measured in it.

git worktree add /tmp/old 934e134 && pip install jaxtyping  # which that commit needs
python benchmarks/arm_cost.py /tmp/old --output results/arm-cost/THIS-PROCESSOR.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch.utils.flop_counter import FlopCounterMode

from coadvise.models.factory import build_model
from coadvise.run.provenance import manifest
from coadvise.system.files import write_json
from coadvise.system.precision import bf16_is_faster

HERE = Path(__file__).resolve().parents[1]
# As many views as the scale has, of so many images that finished batches of all views would not stay in memory.
VIEWS, IMAGES, VALIDATION, BATCH = 10, 4000, 1000, 100
FROM, TO = 100, 300
"""Steps between which passes are counted."""
EPOCHS = 25
ARM_IMAGES = 10_000
BF16 = "here in bf16"
# Width and heads of the scale's students.
STUDENTS = {"transformer_tiny": (96, 3), "transformer_small": (192, 6)}
RECIPE = """
name: arm
data: {{source: {data}, image_size: 32, eval_crop: 1.0, mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616],
  workers: 1, views: {views}, augment: {{policy: light, erasing: 0.0, mixup: 0.8, cutmix: 1.0, mix_probability: 0.5}}}}
student: {{model: cit_tiny, options: {{patch_size: 8, embed_dim: {width}, depth: 6, num_heads: {heads}}}}}
teachers:
  conv: {{model: resnet10, options: {{channels: [16, 32, 64, 128]}}, small_stem: true,
    train: {{epochs: 1, lr: 2.0e-3, batch_size: 100}}}}
  inv: {{model: rednet26, options: {{layers: [1, 1, 1], width: 32}}, train: {{epochs: 1, lr: 2.0e-3, batch_size: 100}}}}
optim: {{batch_size: {batch}, lr: 1.0e-3, lr_batch: null, weight_decay: 0.05, clip: 5}}
schedule: {{warmup_epochs: 0.5}}
run: {{eval_every: 25, eval_batch_size: 500, tensorboard: false, allow_weak: true, device: cpu, precision: fp32{more}}}
"""


@dataclass(frozen=True)
class Side:
    """A tree whose trainings are counted, with a folder of its own for runs, advice and what it compiles.

    Attributes:
        settings: further words of its trainings' command line.
    """

    name: str
    tree: Path
    folder: Path
    student: str = "transformer_tiny"
    settings: tuple[str, ...] = ()

    def start(self, command: str, *words: str) -> subprocess.Popen[bytes]:
        """A command of the package."""
        environment = {
            **os.environ, "PYTHONPATH": str(self.tree / "src"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg",
            "XDG_CACHE_HOME": str(self.folder / "cache"),
        }  # fmt: skip
        call = [sys.executable, "-m", "coadvise", command, str(self.folder / "arm.yaml"), *words]
        with (self.folder / "log").open("wb") as log:
            return subprocess.Popen(call, env=environment, stdout=log, stderr=log, cwd=self.folder)

    def run(self, command: str, *words: str) -> float:
        """Seconds of the processor that a command takes, with all processes that it starts.

        Raises:
            SystemExit: it failed.
        """
        process = self.start(command, *words)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{self.name}: {command} failed\n{(self.folder / 'log').read_text()}")
        return usage.ru_utime + usage.ru_stime

    def prepare(self, data: Path) -> None:
        """Write the recipe, train the teachers and store their advice."""
        self.folder.mkdir()
        schema = self.tree / "src" / "coadvise" / "recipe" / "schema.py"
        # Earlier builds do not know the key, and measure none.
        more = ", baselines: []" if schema.is_file() and "baselines:" in schema.read_text() else ""
        width, heads = STUDENTS[self.student]
        recipe = RECIPE.format(data=data, views=VIEWS, batch=BATCH, more=more, width=width, heads=heads)
        (self.folder / "arm.yaml").write_text(recipe)
        self.run("cache")

    def short(self) -> float:
        """Seconds of the processor of a training of one epoch."""
        return self.run("train", "schedule.epochs=1", *self._output())

    def passes(self) -> float:
        """Seconds of the processor between two steps of a training."""
        process, at = self.start("train", f"schedule.epochs={EPOCHS}", *self._output()), {}
        while process.poll() is None and TO not in at:
            for line in self.lines():
                if line.get("step") in (FROM, TO) and line["step"] not in at:
                    at[line["step"]] = seconds_of_tree(process.pid)
            time.sleep(0.02)
        if TO not in at:
            raise SystemExit(f"{self.name}: it ended early\n{(self.folder / 'log').read_text()}")
        process.terminate()
        process.wait()
        compiled = json.loads((self.folder / "run" / "manifest.json").read_text()).get("compiled", "plain")
        print(f"{self.name}: {compiled}", flush=True)
        return at[TO] - at[FROM]

    def losses(self) -> dict[int, float]:
        """The total loss of the last training by step, of each line up to `TO`."""
        return {line["step"]: line["loss"] for line in self.lines() if "loss" in line and line["step"] <= TO}

    def lines(self) -> list[dict[str, Any]]:
        """What the last training has logged so far."""
        path = self.folder / "run" / "metrics.jsonl"
        text = path.read_text() if path.is_file() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def _output(self) -> tuple[str, ...]:
        shutil.rmtree(self.folder / "run", ignore_errors=True)
        return "advice=cache", f"run.output={self.folder / 'run'}", *self.settings


def seconds_of_tree(pid: int) -> float:
    """Seconds of the processor of a process and its descendants so far (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    own = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")  # with those of children that have ended
    tasks = Path(f"/proc/{pid}/task").iterdir()
    children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    return own + sum(map(seconds_of_tree, children))


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
        first: what the first training takes longer than later ones: compiling.
        fixed: of a run, all but the passes.
        million: for a million passes.
    """

    first: float
    fixed: float
    million: float

    def of(self, epochs: int) -> float:
        """An arm of the scale."""
        return self.fixed + epochs * ARM_IMAGES / 1e6 * self.million


def measured(sides: list[Side], rounds: int) -> dict[str, Cost]:
    """Costs by side: they take turns, and the median counts."""
    first = {side.name: side.short() for side in sides}
    short: dict[str, list[float]] = {side.name: [] for side in sides}
    million: dict[str, list[float]] = {side.name: [] for side in sides}
    for number in range(rounds):
        for side in sides[:: 1 if number % 2 else -1]:
            short[side.name].append(side.short())
            million[side.name].append(side.passes() / ((TO - FROM) * BATCH) * 1e6)
            print(f"{side.name}: {short[side.name][-1]:.1f} s, {million[side.name][-1]:.0f} s a million", flush=True)
    costs = {}
    for side in sides:
        each, whole = statistics.median(million[side.name]), statistics.median(short[side.name])
        costs[side.name] = Cost(first[side.name] - whole, whole - IMAGES / 1e6 * each, each)
    return costs


def floor(student: str) -> tuple[float, float]:
    """FLOPs of the matrix products of a step, and seconds of a core that a million passes need for these at least.

    The speed is that of a large product, the median of several.
    """
    width, heads = STUDENTS[student]
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": width, "depth": 6, "num_heads": heads}
    model: Any = build_model("cit_tiny", 10, options=sizes)
    for block in model.blocks:
        block.attn.fused_attn = False  # its products are counted by their names
    with FlopCounterMode(display=False) as counter:
        outputs = model.forward_tokens(torch.randn(BATCH, 3, 32, 32))
        torch.stack(list(outputs.values())).sum().backward()
    size, times = 2048, []
    a, b = torch.randn(2, size, size)
    for _ in range(8):
        begun = time.process_time()
        torch.mm(a, b)
        times.append(time.process_time() - begun)
    return counter.get_total_flops(), counter.get_total_flops() * statistics.median(times) / (2 * size**3) / BATCH * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, nargs="?", help="the tree to compare with")
    parser.add_argument("--student", choices=STUDENTS, default="transformer_tiny")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--output", type=Path, help="a JSON file for what was measured")
    options = parser.parse_args()
    commit = commit_of(options.other) if options.other else None
    torch.set_num_threads(1)  # as in each training
    flops, before = floor(options.student)
    with tempfile.TemporaryDirectory(prefix="coadvise-arm-") as place:
        folder = Path(place)
        write_images(folder / "data")
        student = options.student
        sides = [Side("here", HERE, folder / "here", student)]
        if bf16_is_faster():
            sides.append(Side(BF16, HERE, folder / "bf16", student, ("run.precision=bf16",)))
        if options.other:
            sides.append(Side("other", options.other.resolve(), folder / "other", student))
        for side in sides:
            side.prepare(folder / "data")
        costs = measured(sides, options.rounds)
        losses = {side.name: side.losses() for side in sides}
    least = (before + floor(student)[1]) / 2
    others = [name for name in costs if options.other and name != "other"]
    table = Table(f"core-minutes, {student}", *costs, *(f"{name} / other" for name in others))
    rows: dict[str, Callable[[Cost], float]] = {
        "a million passes": lambda cost: cost.million, "their matrix products at full speed": lambda _: least,
        "a run without its passes": lambda cost: cost.fixed,
        "compiling for the first time": lambda cost: cost.first, "an arm of 25 epochs": lambda cost: cost.of(25),
        "an arm of 300 epochs": lambda cost: cost.of(300),
    }  # fmt: skip
    minutes = {what: {name: of(cost) / 60 for name, cost in costs.items()} for what, of in rows.items()}
    minutes["their matrix products at full speed"].pop(BF16, None)  # the floor is that of float32
    for what, by_side in minutes.items():
        ratios = [share(by_side, name) if by_side.get("other", 0) > 0.02 else None for name in others]
        table.add_row(what, *map(two_digits, map(by_side.get, costs)), *map(two_digits, ratios))
    Console(width=120).print(table)
    content: dict[str, Any] = {
        "benchmark": "arm_cost",
        "student": student,
        "core-minutes": minutes,
        "FLOPs of a step": flops,
    }
    if options.other:
        gaps = {name: relative_gaps(losses[name], losses["other"]) for name in others}
        for name, found in gaps.items():
            print(f"{name}: logged losses differ by at most {max(found, default=None)} ({len(found)} steps)")
        print(f"least share of the other's passes in float32: {least / costs['other'].million:.2f}")
        kept = {what: by_side for what, by_side in minutes.items() if "first" not in what}
        content |= {
            "ratios": {name: {what: share(by_side, name) for what, by_side in kept.items()} for name in others},
            "least ratio": least / costs["other"].million,
            "largest relative difference of losses": {name: max(found, default=None) for name, found in gaps.items()},
            "steps compared": {name: len(found) for name, found in gaps.items()},
            "other": commit,
        }  # fmt: skip
    if options.output:
        content["provenance"] = manifest(command=shlex.join(["python", *sys.argv]))
        write_json(options.output, content)


def share(by_side: dict[str, float], name: str) -> float | None:
    """What a side takes of the other tree's minutes; None where it has none."""
    return by_side[name] / by_side["other"] if name in by_side else None


def two_digits(value: float | None) -> str:
    """As the table shows it."""
    return "" if value is None else f"{value:.2f}"


def relative_gaps(ours: dict[int, float], theirs: dict[int, float]) -> list[float]:
    """Relative differences of the losses, of steps that both log."""
    return [abs(ours[step] - theirs[step]) / abs(theirs[step]) for step in sorted(ours.keys() & theirs.keys())]


def commit_of(tree: Path) -> str | None:
    """The commit that a tree has checked out; None where it is no checkout."""
    words = ["git", "-C", str(tree), "rev-parse", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True).stdout.strip() or None


if __name__ == "__main__":
    main()
