"""The demo: the method at work on real handwritten digits, in minutes, on any machine.

A small CNN teacher, a second one from another seed and a small involution teacher learn 200 labelled digits. Then
transformers of one architecture learn from the same 200 digits: with labels only, with one teacher, with two of one
kind, and co-advised by both kinds; every arm with several seeds. Arms of one seed share initial weights, order and
augmentation of the data, and the number of steps, so that their differences are paired.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Any

from ..errors import Interrupted, RunError
from ..names import TOP1
from ..recipe.reading import builtin_recipes, dump_recipe, recipe_from
from ..recipe.schema import Recipe
from ..recipe.yaml import parse_yaml
from ..run.folder import RunFolder, read_metrics
from ..system.files import write_json
from ..system.progress import Display
from ..system.workers import submit, worker_pool
from ..training.train import teacher_recipe

TEACHERS: dict[str, dict[str, Any]] = {
    "conv": {"label": "CNN", "like": "conv", "seed": 0},
    "conv2": {"label": "CNN, other seed", "like": "conv", "seed": 1},
    "inv": {"label": "INN", "like": "inv", "seed": 0},
}
ARMS: dict[str, dict[str, Any]] = {
    "none": {"label": "labels only", "teachers": []},
    "conv": {"label": "one CNN teacher", "teachers": ["conv"]},
    "inv": {"label": "one involution teacher", "teachers": ["inv"]},
    "conv-conv": {"label": "two CNN teachers", "teachers": ["conv", "conv2"]},
    "conv-inv": {"label": "co-advised: CNN + involution", "teachers": ["conv", "inv"]},
}
# Few, and named before anything is measured: each further comparison weakens all of them (Holm).
COMPARISONS = [("conv", "none"), ("inv", "none"), ("conv-inv", "none"), ("conv-inv", "conv-conv")]


def demo_recipes(output: Path, seeds: int) -> tuple[dict[str, Recipe], dict[str, Recipe]]:
    """Recipes of the teachers and of the students, by the name of their folder below `output`."""
    path = builtin_recipes()["digits"]
    base = parse_yaml(path.read_text(encoding="utf-8"), str(path))
    teachers, students = {}, {}
    for name, facts in TEACHERS.items():
        settings = dict(base["teachers"][facts["like"]])
        settings["train"] = {**settings["train"], "seed": facts["seed"]}
        content = _plain({**base, "name": "teacher", "teachers": {name: settings}, "loss": {}})
        recipe = recipe_from(content, where=f"demo teacher {name}")
        teachers[f"teachers/{name}"] = teacher_recipe(recipe, name, output / "teachers" / name)
    for seed in range(seeds):
        for arm, facts in ARMS.items():
            advisers, weights = {}, {}
            for name in facts["teachers"]:
                like = TEACHERS[name]["like"]
                weights[name] = base["loss"]["weights"][like]
                settings = {key: value for key, value in base["teachers"][like].items() if key != "train"}
                checkpoint = str(output / "teachers" / name / "best.safetensors")
                advisers[name] = {**settings, "checkpoint": checkpoint, "bias": like}
            content = {
                **base,
                "name": f"{arm}-s{seed}",
                "teachers": advisers,
                "loss": {"weights": weights},
                "run": {**base["run"], "output": str(output / "runs" / f"{arm}-s{seed}"), "seed": seed},
            }
            content["data"] = {**base["data"], "seed": seed}
            students[f"runs/{arm}-s{seed}"] = recipe_from(_plain(content), where=f"demo arm {arm}")
    return teachers, students


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Bars and event files of many small runs side by side help nobody."""
    return {**content, "run": {**content["run"], "tensorboard": False, "device": "cpu", "log_every": 20}}


def run_demo(output: Path, *, seeds: int = 5, jobs: int | None = None) -> Path:
    """Train everything, write the report, and return its path. What an earlier start finished is kept.

    Raises:
        RunError: `output` holds something else.
        Interrupted: Ctrl-C or SIGTERM; a second call goes on where this one stopped.
    """
    from ..checkpoints.trained import load_trained
    from ..evaluation.disagreement import disagreements
    from ..reports.demo import write_report

    if output.exists() and not (output / "demo.json").is_file() and (not output.is_dir() or any(output.iterdir())):
        raise RunError(f"{output} holds other files; choose another folder with --output")
    jobs = jobs or max(1, min(os.cpu_count() or 1, 4))
    display = Display(every=5.0)
    teachers, students = demo_recipes(output, seeds)
    write_json(output / "demo.json", description(seeds))
    display.say(
        f"Demo on {next(iter(students.values())).data.train_size} labelled digits: {len(teachers)} teachers, then "
        f"{len(ARMS)} kinds of student × {seeds} seeds, {jobs} side by side. Ctrl-C stops; the same command goes on."
    )
    started = time.monotonic()
    with worker_pool(jobs) as pool:
        _run_all(pool, teachers, output, display, "teachers")
        _show_teachers(teachers, output, display)
        _run_all(pool, students, output, display, "students")
    runs = {
        "CNN": "teachers/conv",
        "INN": "teachers/inv",
        "student, labels only": "runs/none-s0",
        "student, co-advised": "runs/conv-inv-s0",
    }
    models = {label: load_trained(output / run) for label, run in runs.items()}
    write_json(output / "disagreements.json", disagreements(models))
    page = write_report(output)
    display.say(f"done in {(time.monotonic() - started) / 60:.1f} minutes")
    return page


def description(seeds: int) -> dict[str, Any]:
    """What `report.write_report` needs to know about the demo."""
    return {
        "title": "Co-advising a vision transformer on 200 handwritten digits",
        "arms": [
            {
                "id": arm,
                "label": facts["label"],
                "biases": [TEACHERS[name]["like"] for name in facts["teachers"]],
                "runs": [f"runs/{arm}-s{seed}" for seed in range(seeds)],
            }
            for arm, facts in ARMS.items()
        ],
        "teachers": [
            {"name": name, "label": facts["label"], "run": f"teachers/{name}"} for name, facts in TEACHERS.items()
        ],
        "comparisons": [list(pair) for pair in COMPARISONS],
    }


def _train_one(recipe_yaml: str, resume: bool) -> None:
    from ..training.train import train

    train(recipe_from(parse_yaml(recipe_yaml, "demo")), resume=resume, display=Display(quiet=True))


def _run_all(
    pool: ProcessPoolExecutor, recipes: Mapping[str, Recipe], output: Path, display: Display, title: str
) -> None:
    """Run all recipes, `jobs` at a time, and show their common progress."""
    folders = {name: RunFolder(output / name) for name in recipes}
    total = sum(recipe.schedule.epochs * _steps(recipe) for recipe in recipes.values())
    futures: list[Future[bool]] = []
    for name, recipe in recipes.items():
        if folders[name].finished:
            folders[name].require_same(recipe)
        else:
            futures.append(submit(pool, _train_one, dump_recipe(recipe), folders[name].last.is_file()))
    try:
        with display.bar(title, total) as bar:
            shown, pending = 0, set(futures)
            while pending:
                done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                for future in done:
                    if not future.result():
                        raise KeyboardInterrupt
                steps = sum(_progress(folders[name], recipe) for name, recipe in recipes.items())
                finished = sum(folder.finished for folder in folders.values())
                bar.note(f"{finished}/{len(recipes)} runs finished")
                bar.advance(steps - shown)
                shown = steps
    except KeyboardInterrupt:
        raise Interrupted("stopped, everything is saved; the same command goes on") from None


def _steps(recipe: Recipe) -> int:
    return (recipe.data.train_size or 0) // recipe.optim.batch_size


def _progress(folder: RunFolder, recipe: Recipe) -> int:
    if folder.finished:
        return recipe.schedule.epochs * _steps(recipe)
    steps = [line["step"] for line in read_metrics(folder.metrics)]
    return max(steps, default=0)


def _show_teachers(teachers: Iterable[str], output: Path, display: Display) -> None:
    for name in teachers:
        result = RunFolder(output / name).result()
        display.say(f"{result.name} ({result.student.model}): {result.final[TOP1]:.1%}")
