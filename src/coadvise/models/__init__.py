"""Models; importing this package registers them with timm."""

from .cit import CiT
from .factory import build_model
from .rednet import Involution2d, RedNet
from .stems import Embedded, TokenEmbed
from .students import SingleHead, as_student, small_stem

__all__ = [
    "CiT",
    "Embedded",
    "Involution2d",
    "RedNet",
    "SingleHead",
    "TokenEmbed",
    "as_student",
    "build_model",
    "small_stem",
]
