"""`coadvise train` from the command line, by the clock: live on images like CIFAR-10's; from stored advice at 64 px.

Images and teachers' weights are random and made here; recipes are those of the package, and nothing in them is changed
that would change the speed. A run is stopped by SIGINT when it has been watched for long enough: epochs that it does
not reach decide what it compiles, as they do in a run that goes on. Its speed is that of its steps by the clock of this
process, from the first log line after the start (or the first evaluation) on: evaluations and checkpoints are counted.

python benchmarks/gpu_train.py --output OUT --work WORK
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from bench_small_images import small_recipe
from gpu_common import Noise, Part, options_of
from gpu_training import SMALL_TEACHERS, weights_of

from coadvise.recipe.reading import dump_recipe
from coadvise.training.choosing import SECONDS, TEACHER_SECONDS

CACHED = "coadvise train from stored advice, Ti student, 64 px"
LIVE = "coadvise train cifar10, live teachers"
FIRST = "from the command to the first step of cifar10, caches warm"
# Seconds: a run is watched; from its command to where it compiles; from SIGINT to its end; writing advice; a second
# start, with what the first has compiled; making images and weights.
WATCHED, START, END, WRITING, AGAIN, MAKING = 12.0, 30.0, 10.0, 60.0, 60.0, 20.0


@dataclass(frozen=True)
class Watched:
    """A run that was watched.

    Attributes:
        first_s: from the command to the first log line.
        images_per_s: by this process's clock, evaluations counted; None for fewer than two log lines.
        by_log: median of what its log lines say.
        steps: that it made.
        said: the last lines that it printed.
    """

    first_s: float
    images_per_s: float | None
    by_log: float | None
    steps: int
    said: tuple[str, ...]


def write_images(path: Path, side: int, counts: tuple[int, int], classes: int) -> Path:
    """A Parquet source of random images, training and validation."""
    path.mkdir(parents=True, exist_ok=True)
    for split, count in zip(("train", "test"), counts, strict=True):
        source = Noise(side, count, classes, different=2048)
        rows = [{"bytes": source.read(i), "path": f"{i}.jpg"} for i in range(count)]
        features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(source.class_names)}}
        table = pa.table({"image": rows, "label": source.labels})
        told = {"huggingface": json.dumps({"info": {"features": features}})}
        pq.write_table(table.replace_schema_metadata(told), path / f"{split}-00000-of-00001.parquet")
    return path


def limit(teachers: int, watched: float = WATCHED) -> float:
    """Seconds that a run may take which compiles, with caches that are cold, its student and these live teachers."""
    return START + SECONDS + teachers * TEACHER_SECONDS + watched


def longest() -> float:
    """Seconds that this part may take."""
    return MAKING + WRITING + limit(0) + limit(2) + AGAIN + 3 * END


def watch(
    words: list[str], run: Path, batch_size: int, seconds: float, most: float, first_only: bool = False
) -> Watched:
    """Start a run, watch it for so many seconds from its first log line on, and stop it.

    Args:
        most: seconds after which it is stopped, whatever it has done.

    Raises:
        RuntimeError: it ended, or made no step by then.
    """
    shutil.rmtree(run, ignore_errors=True)
    log = run.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "coadvise", "train", *words, f"run.output={run}"]
    begun, seen = time.monotonic(), list[tuple[float, int, float]]()
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            while process.poll() is None:
                now = time.monotonic()
                seen += [(now, *line) for line in _lines(run / "metrics.jsonl")[len(seen) :]]
                if (seen and (first_only or now - seen[0][0] > seconds)) or now - begun > most:
                    break
                time.sleep(0.02)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(END)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    said = tuple(log.read_text(errors="replace").splitlines()[-12:])
    if not seen:
        raise RuntimeError(f"no step within {most:.0f} s: {said[-1] if said else 'it said nothing'}")
    later = [one for one in seen if one[0] > seen[0][0]]
    speed = None
    if later:
        speed = (later[-1][1] - seen[0][1]) * batch_size / (later[-1][0] - seen[0][0])
    by_log = sorted(one[2] for one in later)
    return Watched(seen[0][0] - begun, speed, by_log[len(by_log) // 2] if by_log else None, seen[-1][1], said)


def _lines(path: Path) -> list[tuple[int, float]]:
    """Step and speed of the log lines so far."""
    if not path.is_file():
        return []
    whole = path.read_text().rpartition("\n")[0]
    lines = [json.loads(line) for line in whole.splitlines()]
    return [(line["step"], line["images_per_s"]) for line in lines if line["kind"] == "train"]


def live(part: Part, watched: float) -> None:
    """CIFAR-10's recipe with teachers of random weights; then once more, to its first step."""
    options, tiny = part.options, part.options.tiny
    counts, batch = ((64, 20), 16) if tiny else ((50_000, 10_000), 256)
    source = write_images(options.work / "cifar", 32, counts, 10)
    shape = [*SMALL_TEACHERS, "student.options={patch_size: 8, depth: 2, embed_dim: 32, num_heads: 2}",
             "optim.batch_size=16", "run.log_every=2"] if tiny else []  # fmt: skip
    settings = [*shape, f"data.source={source}", f"run.device={options.device}"]
    settings += weights_of("cifar10", settings, options.work, 10)
    words = ["cifar10", *settings, "run.allow_weak=true", "run.baselines=[]", "run.tensorboard=false"]
    with part.attempt(LIVE, FIRST):
        found = watch(words, options.work / "live", batch, watched, limit(2, watched))
        part.details["live"] = asdict(found)
        part.measured(LIVE, found.images_per_s, _told(found))
    with part.attempt(FIRST):
        again = watch([*words, "run.log_every=1"], options.work / "again", batch, 0, AGAIN, first_only=True)
        part.details["second start"] = asdict(again)
        part.measured(FIRST, again.first_s)


def stored(part: Part, watched: float) -> None:
    """A Ti student from stored advice."""
    options, tiny = part.options, part.options.tiny
    counts, batch, classes = ((64, 20), 16, 10) if tiny else ((61_440, 2_000), 1024, 100)
    side = 16 if tiny else 64
    recipe = small_recipe(tiny, batch)
    file = options.work / "small.yaml"
    file.write_text(dump_recipe(recipe))
    source = write_images(options.work / "small", side, counts, classes)
    settings = [f"data.source={source}", f"run.device={options.device}", f"advice.folder={options.work / 'advice'}",
                "run.allow_weak=true", "run.baselines=[]", "run.tensorboard=false", "run.eval_every=5"]  # fmt: skip
    settings += ["run.log_every=2"] if tiny else ["run.log_every=20"]
    settings += weights_of(str(file), settings, options.work, classes)
    with part.attempt(CACHED):
        command = [sys.executable, "-m", "coadvise", "cache", str(file), *settings]
        done = subprocess.run(command, capture_output=True, text=True, timeout=WRITING)
        if done.returncode:
            raise RuntimeError(f"coadvise cache: {done.stderr.strip().splitlines()[-1]}")
        found = watch([str(file), *settings], options.work / "stored", batch, watched, limit(0, watched))
        part.details["stored"] = asdict(found)
        part.measured(CACHED, found.images_per_s, _told(found))


def _told(found: Watched) -> str:
    """What its log lines say, which leave evaluations out, its start, and what it said of compilation."""
    words = [f"{found.by_log:,.0f} images/s between evaluations"] if found.by_log is not None else []
    words += [f"first log line after {found.first_s:.1f} s", *(line for line in found.said if "compil" in line)]
    return "; ".join(words)[:300]


def main() -> None:
    options = options_of(__doc__ or "")
    os.environ.setdefault("COLUMNS", "160")
    part = Part("training", options)
    watched = 3.0 if options.tiny else WATCHED
    stored(part, watched)  # the shorter first
    live(part, watched)
    part.end()


if __name__ == "__main__":
    main()
