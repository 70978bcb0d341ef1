"""coadvise: training vision transformers by cross inductive bias distillation.

Importing it registers `cit_*`, `rednet*` and the paper's other students with timm.
"""

from typing import TYPE_CHECKING, Any

from . import models
from .checkpoints.loading import load_checkpoint
from .errors import CoadviseError
from .losses import LossTerms, co_advise_loss
from .models.students import small_stem
from .models.teachers import FrozenTeacher, Teachers
from .ops.involution import involution

if TYPE_CHECKING:
    from .recipe.reading import load_recipe
    from .training.train import train

__version__ = "0.1.0"
__all__ = [
    "CoadviseError",
    "FrozenTeacher",
    "LossTerms",
    "Teachers",
    "co_advise_loss",
    "involution",
    "load_checkpoint",
    "load_recipe",
    "models",
    "small_stem",
    "train",
]


def __getattr__(name: str) -> Any:
    """`train` and `load_recipe` come when they are asked for: what they need takes seconds to import."""
    if name == "train":
        from .training.train import train

        return train
    if name == "load_recipe":
        from .recipe.reading import load_recipe

        return load_recipe
    raise AttributeError(f"module 'coadvise' has no attribute '{name}'")
