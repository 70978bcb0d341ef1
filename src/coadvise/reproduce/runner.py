"""Running what a table needs: each run once, several side by side, the most important first, resumed after a stop.

Three kinds of jobs: a model is trained and measured; a teacher's advice is stored for the students of a seed; a run
whose result lacks a measurement is measured again. A job starts when those it depends on have ended.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from traceback import format_exception
from typing import Any

from ..errors import CoadviseError, Interrupted, RunError
from ..paper.declared import Experiment
from ..recipe.schema import Recipe
from ..run.folder import RunFolder, read_metrics
from ..system.digests import file_digest
from ..system.files import read_json, write_json
from ..system.locks import one_at_a_time
from ..system.progress import Display
from ..system.workers import stop_workers, submit, worker_pool
from .measure import (
    Shifted,
    groups_of,
    groups_there,
    known_teachers,
    measure,
    note_teachers,
    read_result,
    teacher_weights,
)
from .planner import Planned, Planner, column_recipe, in_order
from .work import MODULES


@dataclass
class Job:
    """A piece of work for one process.

    Attributes:
        key: `train ID`, or `advice FOLDER TEACHER`.
        needs: keys of the jobs that must have ended before.
        holds: something that only one job at a time may use.
        images: training images to be seen in `epochs`, for the progress bar.
    """

    key: str
    title: str
    work: tuple[Any, ...]
    needs: set[str] = field(default_factory=set)
    holds: str = ""
    images: int = 0
    epochs: int = 1
    folder: Path | None = None


@dataclass(frozen=True)
class Orders:
    """Options of a call.

    Attributes:
        budget: seconds after which no job is started and the running ones are saved and stopped.
        jobs: processes side by side.
    """

    results: Path
    seeds: int
    budget: float | None = None
    jobs: int | None = None
    shifted: Shifted = field(default_factory=Shifted)


def wanted_groups(run: Planned, experiments: Sequence[Experiment], orders: Orders) -> list[str]:
    """Groups of measurements that a run's result must have; shifted data that is not given is not asked for."""
    metrics = {v.metric for e in experiments for v in e.values() if v.arm == run.arm}
    absent = {"a", "r"} - set(orders.shifted.sources)
    return sorted(({"run"} | groups_of(metrics) | ({"likeness"} if run.teachers else set())) - absent)


def open_jobs(planner: Planner, experiments: Sequence[Experiment], orders: Orders) -> tuple[list[Job], list[Planned]]:
    """The jobs that are still to be done, the most telling first, and all runs that count."""
    runs = in_order(planner, experiments, orders.seeds)
    groups = {run.name: wanted_groups(run, experiments, orders) for run in runs}
    # Nothing is trained anew merely because shifted images have another name here.
    shifted = {run.name: orders.shifted if RunFolder(run.folder).whole else Shifted() for run in runs}
    have = {run.name: groups_there(read_result(orders.results, run), shifted[run.name]) for run in runs}
    missing = [run for run in runs if not set(groups[run.name]) <= have[run.name]]
    # A teacher whose result came from elsewhere has no weights here.
    weightless = {one.name for run in missing for one in run.teachers.values() if not RunFolder(one.folder).whole}
    open_names = {run.name for run in missing} | weightless
    jobs: dict[str, Job] = {}
    for run in runs:
        if run.name not in open_names:
            continue
        needs = {f"train {one.name}" for one in run.teachers.values() if one.name in open_names}
        if run in missing and not RunFolder(run.folder).whole and run.recipe.advice.source == "cache":
            for name, one in run.teachers.items():
                recipe = column_recipe(planner, run, name)
                folder = str(recipe.advice.folder)
                key = f"advice {folder} {name}"
                store = Job(
                    key, f"advice of {name}", (_store, recipe, name), needs & {f"train {one.name}"}, holds=folder
                )
                jobs.setdefault(key, store)
                needs.add(key)
        epochs = 0 if RunFolder(run.folder).whole or run.given else run.recipe.schedule.epochs
        work = (_train_and_measure, run, groups[run.name], orders.results, planner.setup.scale.name, orders.shifted)
        images = epochs * planner.setup.train_images
        key = f"train {run.name}"
        jobs[key] = Job(key, run.name, work, needs, images=images, epochs=epochs, folder=run.folder)
    return list(jobs.values()), runs


# --- in a worker -------------------------------------------------------------------------------------------


def _train_and_measure(run: Planned, groups: Sequence[str], results: Path, scale: str, shifted: Shifted) -> None:
    from ..training.train import train
    from .adopt import adopt

    folder = RunFolder(run.folder)
    with one_at_a_time(run.folder / ".lock"):  # another call on the same folder may have the same run to do
        if folder.whole and set(groups) <= groups_there(read_result(results, run), shifted):
            return
        if folder.finished and not folder.whole:
            folder.forget_result()
        if not folder.finished and run.given:
            adopt(run.recipe, folder)
        elif not folder.finished:
            teachers = teacher_weights(run)
            if known_teachers(run) != teachers:  # trained anew since this run was begun
                folder.last.unlink(missing_ok=True)
            note_teachers(run, teachers)
            train(run.recipe, resume=folder.last.is_file(), display=Display(quiet=True))
        folder.last.unlink(missing_ok=True)  # a finished run needs no way back; hundreds of them would fill a disk
        measure(run, groups, results, scale, shifted)


def _store(recipe: Recipe, name: str) -> None:
    """A teacher's advice, written anew where the teacher has been trained anew since."""
    from ..training.caching import cache_advice

    folder, weights = Path(str(recipe.advice.folder)), file_digest(Path(str(recipe.teachers[name].checkpoint)))
    marker = folder.parent / f".{folder.name}.{name}.json"
    with one_at_a_time(folder.parent / f".{folder.name}.lock"):  # another call may want the same
        stored = read_json(marker, "delete it and use the same command again") if marker.is_file() else {}
        if stored == {"weights": weights, "complete": True} and (folder / name / "column.json").is_file():
            return
        if stored.get("weights", weights) != weights:
            shutil.rmtree(folder / name, ignore_errors=True)
        write_json(marker, {"weights": weights, "complete": False})
        cache_advice(recipe, display=Display(quiet=True))
        write_json(marker, {"weights": weights, "complete": True})


# --- in the parent -----------------------------------------------------------------------------------------


def run_jobs(jobs: Sequence[Job], orders: Orders, display: Display) -> bool:
    """Do the jobs, as many at a time as asked for.

    Returns:
        Whether all were done; False when the budget ran out.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; everything is saved, the same call goes on.
        RunError: some jobs failed; all that do not need them were done, in the budget's time. Or a process was killed.
    """
    import torch

    devices = torch.cuda.device_count()
    count = orders.jobs or devices or max(1, min(os.cpu_count() or 1, 4))
    threads = _threads(max(1, (os.cpu_count() or 1) // count))
    deadline = None if orders.budget is None else time.monotonic() + orders.budget
    waiting, done, running = list(jobs), set[str](), dict[Future[bool], Job]()
    failed, spent, shown = list[tuple[str, Exception]](), False, 0
    images = sum(job.images for job in jobs)
    with worker_pool(count, threads, devices, MODULES) as pool, display.bar("runs", images) as bar:
        try:
            while waiting or running:
                if deadline is not None and time.monotonic() > deadline:
                    stop_workers(pool)
                    spent = True
                    break
                while len(running) < count and (job := _next(jobs, waiting, done, running.values())):
                    waiting.remove(job)
                    running[submit(pool, *job.work)] = job
                if not running:  # the rest needs what failed
                    break
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    error = future.exception()
                    if isinstance(error, Exception) and not isinstance(error, BrokenProcessPool):
                        failed.append((job.title, error))
                        said = str(error) if isinstance(error, CoadviseError) else "".join(format_exception(error))
                        for line in f"{job.title} failed: {said}".splitlines():
                            display.say(line)
                    elif future.result():
                        done.add(job.key)
                    else:
                        raise KeyboardInterrupt
                seen = sum(job.images if job.key in done else _seen(job) for job in jobs)
                bar.note(f"{len(done)}/{len(jobs)} jobs done")
                bar.advance(seen - shown)
                shown = seen
        except KeyboardInterrupt:
            raise Interrupted("stopped, everything is saved; the same command goes on") from None
        except BrokenProcessPool:
            raise RunError(
                "a process was killed from outside, perhaps for want of memory; fewer side by side (--jobs) need "
                "less, and the same command goes on"
            ) from None
    if failed:
        title, first = failed[0]
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        left = len(waiting) + len(running)  # the budget may have stopped some
        rest = f"{left} jobs are left" if left else "everything else is done"
        raise RunError(f"{title} failed{more}: {first}; {rest}, and the same command tries again")
    return not spent


def _threads(share: int) -> int:
    """Threads of each process: OMP_NUM_THREADS (which may be a list, one for each level) or an equal share."""
    first = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(first) if first.isdecimal() and int(first) else share


def _next(jobs: Sequence[Job], waiting: Sequence[Job], done: set[str], running: Iterable[Job]) -> Job | None:
    missing, held = {job.key for job in jobs} - done, {job.holds for job in running if job.holds}
    return next((j for j in waiting if not j.needs & missing and j.holds not in held), None)


def _seen(job: Job) -> int:
    """Training images that a job's run has logged so far."""
    if job.folder is None or not job.images:
        return 0
    lines = list(read_metrics(job.folder / "metrics.jsonl"))
    return round(job.images * max((float(line.get("epoch", 0)) for line in lines), default=0.0) / job.epochs)
