"""Advice caches: the header, the facts of a teacher, checksums, records and profiles."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from random import Random

import numpy as np
import torch
from accelerate import Accelerator
from helpers.caches import QUIET
from helpers.recipes import CNN, tiny

from coadvise.advice import layout
from coadvise.advice.cache import AdviceCache, require_undamaged
from coadvise.advice.request import CacheRequest
from coadvise.advice.writer import write_cache
from coadvise.data.sources.opening import open_sources
from coadvise.errors import CoadviseError
from coadvise.models.factory import build_model
from coadvise.models.teachers import FrozenTeacher
from coadvise.training.teachers import on_device
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import json_bytes, mutate_bytes, mutate_tree

_VIEWS = 2


def cache(folder: Path) -> Target:
    """A cache of one teacher, opened and read by a run, and checked as `--verify` does."""
    layout.SHARD_BYTES = 1000  # two shards
    changes = {"advice.folder": str(folder / "cache"), "advice.top_k": 2, "data.views": _VIEWS, "data.train_size": 60}
    recipe = tiny(folder / "run", changes, teachers={"conv": {**CNN, "train": None, "pretrained": True}})
    source, request = open_sources(recipe.data)[0], CacheRequest.of(recipe)
    torch.manual_seed(0)
    options = recipe.teachers["conv"].options
    model = build_model(recipe.teachers["conv"].model, 10, image_size=8, small=True, pretrained=False, options=options)
    teachers, accelerator = {"conv": FrozenTeacher(model)}, Accelerator(cpu=True)
    write_cache(
        request, source, teachers, on_device(teachers, recipe.data, True, accelerator, QUIET), accelerator, QUIET
    )
    paths = [path for path in sorted(request.folder.rglob("*")) if path.is_file()]
    valid = {str(path.relative_to(request.folder)): path.read_bytes() for path in paths}

    def make(rng: Random) -> Input:
        files = dict(valid)
        for name in rng.sample([name for name in files if files[name]], rng.choice((1, 1, 1, 2))):
            files[name] = _damaged(rng, name, files[name])
        if rng.random() < 0.05:
            del files[rng.choice(list(files))]
        return files

    def read(place: Path) -> None:
        opened = AdviceCache(dataclasses.replace(request, folder=place), source, teachers)
        refused: CoadviseError | None = None
        try:
            require_undamaged(opened)
        except CoadviseError as error:
            refused = error
        for view in range(_VIEWS):
            for name, logits in opened.read(view, np.arange(len(source), dtype=np.int64)).items():
                if logits.shape != (len(source), 10) or not torch.isfinite(logits).all():
                    raise BrokenPromise(
                        f"advice of {name} that is {tuple(logits.shape)}, or not finite, was handed out"
                    )
        if refused is not None:
            raise refused

    return Target([valid], make, read)


def _damaged(rng: Random, name: str, raw: bytes) -> bytes:
    if name.endswith(".json") and rng.random() < 0.7:
        tree = json.loads(raw)
        return json_bytes(rng, mutate_tree(rng, tree, sorted(tree)))
    if name.endswith(".bin") and rng.random() < 0.5:  # as long as it was: seen by its contents alone
        return (mutate_bytes(rng, raw) + raw)[: len(raw)]
    return mutate_bytes(rng, raw)
