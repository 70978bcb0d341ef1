"""coadvise: training vision transformers by cross inductive bias distillation.

Importing it registers `cit_*`, `rednet*` and the paper's other students with timm. PyTorch and timm take seconds to
import, so the public names are loaded when they are used, and the models are registered when timm is imported.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .names import VERSION
from .system.after_import import import_after

if TYPE_CHECKING:
    from . import models
    from .checkpoints.loading import load_checkpoint
    from .errors import CoadviseError
    from .export.opening import load
    from .losses import LossTerms, co_advise_loss
    from .models.advised import add_tokens
    from .models.stems import register_stem
    from .models.students import small_stem
    from .models.teachers import FrozenTeacher, Teachers
    from .ops.involution import involution
    from .recipe.reading import load_recipe
    from .training.train import train

__version__ = VERSION
__all__ = [
    "CoadviseError", "FrozenTeacher", "LossTerms", "Teachers", "add_tokens", "co_advise_loss", "involution", "load",
    "load_checkpoint", "load_recipe", "models", "register_stem", "small_stem", "train",
]  # fmt: skip

_HOMES = {
    "CoadviseError": "errors",
    "FrozenTeacher": "models.teachers",
    "LossTerms": "losses",
    "Teachers": "models.teachers",
    "add_tokens": "models.advised",
    "co_advise_loss": "losses",
    "involution": "ops.involution",
    "load": "export.opening",
    "load_checkpoint": "checkpoints.loading",
    "load_recipe": "recipe.reading",
    "register_stem": "models.stems",
    "small_stem": "models.students",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    try:  # `coadvise.errors` and other modules, as if they had been imported
        return import_module(f".{name}", __name__)
    except ModuleNotFoundError as error:
        if error.name != f"{__name__}.{name}":
            raise
        raise AttributeError(f"module 'coadvise' has no attribute '{name}'") from None


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])


import_after("timm", "coadvise.models")
