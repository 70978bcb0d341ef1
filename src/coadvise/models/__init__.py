"""Models; importing this package registers them with timm."""

from coadvise.models.build import build_model
from coadvise.models.cit import CiT
from coadvise.models.rednet import Involution2d, RedNet
from coadvise.models.stems import Embedded, TokenEmbed
from coadvise.models.students import SingleHead, as_student, small_stem

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
