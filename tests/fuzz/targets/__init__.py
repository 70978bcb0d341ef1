"""The formats whose readers are fuzzed, by name. A module is imported where its inputs are read."""

from __future__ import annotations

from fuzz.engine import Factory

from . import archives, caches, checkpoints, images, pickles, recipes, tables

TARGETS: dict[str, Factory] = {
    "recipe": recipes.recipe,
    "setting": recipes.setting,
    "model file": checkpoints.model_file,
    "training state": checkpoints.training_state,
    "pickle": pickles.pickle_file,
    "cache": caches.cache,
    "image": images.image,
    "tar": archives.tar,
    "parquet": tables.parquet,
}
