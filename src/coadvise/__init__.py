"""coadvise: training vision transformers by cross inductive bias distillation.

Importing it registers `cit_*`, `rednet*` and the paper's other students with timm.
"""

from . import models
from .checkpoint import load_checkpoint
from .errors import CoadviseError
from .losses import LossTerms, co_advise_loss
from .models import small_stem
from .ops.involution import involution
from .teachers import FrozenTeacher, Teachers

__version__ = "0.1.0"
__all__ = [
    "CoadviseError",
    "FrozenTeacher",
    "LossTerms",
    "Teachers",
    "co_advise_loss",
    "involution",
    "load_checkpoint",
    "models",
    "small_stem",
]
