"""The GPU's column of the goals: parts one after the other, each in a process and a time of its own; see `gpu.sh`.

The most telling part comes first. After each, the table is written anew; when time runs out, or SIGTERM comes, the part
that runs is ended and the table says what was not measured. Needs nothing but Python's library itself.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from goals import BEGUN, goal_of, table

HERE = Path(__file__).resolve().parent
NEEDED = (
    "torch", "torchvision", "timm", "accelerate", "numpy", "PIL", "pydantic", "pydantic_core", "annotated_types",
    "typing_inspection", "yaml", "typer", "rich", "safetensors", "huggingface_hub", "pyarrow",
)  # fmt: skip
# Seconds between SIGTERM and SIGKILL of a part; all of them have written what they have measured.
GRACE = 3.0


@dataclass(frozen=True)
class Part:
    """A process: its script, the file that it writes, and the seconds that it may take."""

    name: str
    script: str
    seconds: float
    writes: tuple[str, ...]
    own: tuple[str, ...] = field(default=())


PARTS = (
    Part("step", "gpu_step.py", 290, ("step",)),
    Part("involution", "bench_involution.py", 90, ("involution",)),
    Part("inference", "bench_inference.py", 90, ("inference",), ("--only", "teachers")),
    Part("small_images", "bench_small_images.py", 150, ("small_images",)),
    Part("training", "gpu_train.py", 430, ("training",)),  # where nothing has been compiled yet
    Part("old", "gpu_old.py", 60, ()),
    Part("students", "gpu_students.py", 100, ("students",)),
    Part("cache", "bench_cache.py", 60, ("cache",)),
    Part("rest of inference", "bench_inference.py", 60, ("inference",), ("--only", "students")),
)


class Stopped(Exception):
    """SIGTERM or Ctrl-C."""


def options_of() -> argparse.Namespace:
    """Options; `gpu.sh` hands its own on."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="folder for the JSON files and the table")
    parser.add_argument("--old", type=Path, help=f"a tree of {BEGUN} to compare with")
    parser.add_argument("--work", type=Path, help="folder for compilers' caches that is kept, for a second run")
    parser.add_argument("--seconds", type=float, default=470, help="for everything")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--sizes", choices=("full", "tiny"), default="full", help="tiny tries every part on a CPU")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", choices=[part.name for part in PARTS], help="these parts alone")
    return parser.parse_args()


def require_modules() -> None:
    """Leave with one line that names what is missing."""
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise SystemExit(
            f"error: missing here: {', '.join(missing)}; put wheels of them into a folder and give it as WHEELS=FOLDER"
        )


def command(part: Part, options: argparse.Namespace, work: Path) -> list[str]:
    """What to run."""
    script, shared = str(HERE / part.script), ["--device", options.device, "--rounds", str(options.rounds)]
    if part.name == "old":
        return [sys.executable, "-P", script, *shared, "--sizes", options.sizes, "--output", str(work / "old.json")]
    if part.script.startswith("gpu_") or part.name == "small_images":
        shared += ["--sizes", options.sizes, "--work", str(work)]
    elif options.sizes == "tiny":
        shared += ["--batch-size", "2"]
    return [sys.executable, script, *shared, *part.own, "--output", str(options.output)]


def environment(part: Part, options: argparse.Namespace, work: Path) -> dict[str, str]:
    """Caches of compilers lie in one folder for all parts; only the first start of each is cold."""
    paths = [str(HERE.parent / "src")]
    if part.name == "old":
        paths = [str(options.old / "src"), str(options.old / "benchmarks")]
    given = os.environ.get("PYTHONPATH")
    return {
        "MPLBACKEND": "Agg", "KINETO_LOG_LEVEL": "5", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(work / "inductor"), "TRITON_CACHE_DIR": str(work / "triton"),
        "XDG_CACHE_HOME": str(work / "cache"), **os.environ,
        "PYTHONPATH": os.pathsep.join([*paths, *([given] if given else [])]),
    }  # fmt: skip


def run(words: list[str], env: dict[str, str], limit: float) -> str:
    """Run a process to its end, or to the limit; gives why it did not end well, empty where it did."""
    process = subprocess.Popen(words, env=env, start_new_session=True)
    try:
        code = process.wait(limit)
    except subprocess.TimeoutExpired:
        return f"its {limit:.0f} s were over"
    finally:
        end(process)
    return "" if code == 0 else f"it ended with {code}"


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it has started."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def join_old(output: Path, work: Path, device: str) -> None:
    """Put what the earlier tree's part found beside the step of this one: both were timed beside the same baseline."""
    files = output / f"step-{device}.json", work / "old.json"
    if not all(file.is_file() for file in files):
        return
    ours, old = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    values = {claim["what"]: claim["value"] for claim in ours["claims"]}
    best = min(seconds for name, seconds in old["seconds"].items() if name != "plain")
    ratio = values.get("co-advised step, bf16, against the plain baseline")
    gib, before = values.get("peak memory of the co-advised step"), old["memory_gib"].get("eager")
    found = {
        f"co-advised step against that of {BEGUN}": ratio and ratio / (old["seconds"]["plain"] / best),
        f"peak memory of the co-advised step over that of {BEGUN}": gib / before if gib and before else None,
    }
    why = f"there {old['seconds']['plain'] / best:.2f}× of the plain baseline"
    for what, value in found.items():
        line = goal_of("step", what)
        claim = {"what": what, "value": value, "unit": line.unit, "goal": line.goal, "why": why}
        ours["claims"] = [one for one in ours["claims"] if one["what"] != what] + [claim]
    ours["details"]["old"] = old
    write(files[0], json.dumps(ours, indent=1))


def write(path: Path, text: str) -> None:
    """Write a file in one go."""
    part = path.with_name(f".{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def main() -> int:
    options = options_of()
    require_modules()
    options.output.mkdir(parents=True, exist_ok=True)
    begun, missing, broken = time.time(), dict[str, str](), dict[str, str]()
    kind, page = options.device.split(":")[0], options.output / "gpu.md"
    work = options.work or Path(tempfile.mkdtemp(prefix="coadvise-gpu-"))
    work.mkdir(parents=True, exist_ok=True)

    def stop(number: int, frame: object) -> None:
        raise Stopped(signal.Signals(number).name)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)
    try:
        for part in PARTS:
            if (options.only and part.name not in options.only) or (part.name == "old" and options.old is None):
                continue
            left = options.seconds - (time.time() - begun)
            why = "no time was left"
            if left > 2 * GRACE:
                print(f"--- {part.name}: {left:.0f} s are left", flush=True)
                words, env = command(part, options, work), environment(part, options, work)
                allowed = part.seconds if options.sizes == "full" else 3 * part.seconds  # compilers are slow on a CPU
                why = run(words, env, min(allowed, left - GRACE))
            if why:
                broken[part.name] = why
                missing |= dict.fromkeys(part.writes, why)
            join_old(options.output, work, kind)
            write(page, table(options.output, kind, missing, begun - 2))
    except Stopped as stopped:
        broken["the rest"] = f"stopped by {stopped}"
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        write(page, table(options.output, kind, missing, begun - 2))
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(page.read_text(encoding="utf-8"), flush=True)
    print(f"{time.time() - begun:.0f} s; {options.output}", flush=True)
    if broken:
        print("not all of it: " + "; ".join(f"{name}: {why}" for name, why in broken.items()), flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
