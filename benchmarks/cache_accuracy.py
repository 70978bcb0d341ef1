"""Students trained from the advice cache against students of live teachers, over seeds and numbers of views.

The teachers are trained once; the data seed is the same for all, so that one cache serves every seed. Each finished run
is kept: the same command goes on where it was cut off.

python benchmarks/cache_accuracy.py digits --seeds 5
python benchmarks/cache_accuracy.py cifar10-cpu data.source=FOLDER --seeds 3 --views 10 20
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

import torch

from coadvise.recipe.reading import load_recipe
from coadvise.run.provenance import manifest
from coadvise.system.files import read_json, write_json
from coadvise.system.progress import Display
from coadvise.training.caching import cache_advice
from coadvise.training.train import train

RESULTS = Path(__file__).resolve().parents[1] / "results" / "cache"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("settings", nargs="*")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--views", type=int, nargs="+", default=[10, 25, 50])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="of the runs; runs/cache-RECIPE when not given")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = options.folder or Path("runs") / f"cache-{options.recipe}"
    display = Display(every=60.0)
    base = load_recipe(options.recipe, options.settings)
    ready = [*options.settings, "run.tensorboard=false", f"run.eval_every={base.schedule.epochs}"]
    schooled = [*ready, "data.views=1", f"run.output={folder / 'teachers-run'}", f"advice.folder={folder / 'first'}"]
    cache_advice(load_recipe(options.recipe, schooled), display=display)
    for name in base.teachers:
        weights = folder / "teachers-run" / "teachers" / name / "best.safetensors"
        ready += [f"teachers.{name}.train=null", f"teachers.{name}.checkpoint={weights}"]
    ways: dict[str, list[str]] = {"live": ["advice=live"]}
    for views in options.views:
        ways[f"{views} views"] = ["advice=cache", f"data.views={views}", f"advice.folder={folder / f'views-{views}'}"]
        cache_advice(load_recipe(options.recipe, [*ready, *ways[f"{views} views"]]), display=display)
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    for seed in range(options.seeds):
        for name, extra in ways.items():
            output = folder / f"{name.replace(' ', '-')}-s{seed}"
            if not (output / "result.json").is_file():
                recipe = load_recipe(options.recipe, [*ready, *extra, f"run.seed={seed}", f"run.output={output}"])
                train(recipe, resume=(output / "last.safetensors").is_file(), display=display)
            result = read_json(output / "result.json")
            found[name].append(
                {"seed": seed, "accuracy": result["final"]["accuracy/class"], "seconds": result["seconds"]}
            )
        _write(options.recipe, base.schedule.epochs, found)


def _write(recipe: str, epochs: int, found: dict[str, list[dict[str, Any]]]) -> None:
    """The table so far, with the difference to live teachers in standard errors of the difference."""
    rows = {}
    live = [run["accuracy"] for run in found["live"]]
    for name, runs in found.items():
        values = [run["accuracy"] for run in runs]
        rows[name] = {"runs": runs, "mean": statistics.mean(values)}
        if len(values) > 1 and len(values) == len(live):
            apart = [a - b for a, b in zip(values, live, strict=True)]
            rows[name] |= {
                "deviation": statistics.stdev(values),
                "standard error": statistics.stdev(values) / len(values) ** 0.5,
                "difference to live": statistics.mean(apart),
                "standard error of the difference": statistics.stdev(apart) / len(apart) ** 0.5,
            }
    command = shlex.join(["python", *sys.argv])
    content = {"recipe": recipe, "epochs": epochs, "ways": rows, "provenance": manifest(command=command)}
    write_json(RESULTS / f"{recipe}.json", content)
    for name, row in rows.items():
        print(f"{name:10s} {100 * row['mean']:.2f} ± {100 * row.get('deviation', 0):.2f} %", flush=True)


if __name__ == "__main__":
    main()
