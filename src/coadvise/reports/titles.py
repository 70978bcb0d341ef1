"""Arms and teachers in words, as people read them: their ids are names of files."""

from __future__ import annotations

from ..paper.ablations import TITLES
from ..paper.arms import Arm, Teacher

_MODELS = TITLES | {
    "resnet10": "ResNet-10", "resnet101": "ResNet-101", "resnet152": "ResNet-152", "rednet101": "RedNet-101",
    "rednet152": "RedNet-152", "regnety_040": "RegNetY-4GF", "regnety_080": "RegNetY-8GF",
    "regnety_160": "RegNetY-16GF", "mixer_tiny": "Mixer-Ti", "transformer_tiny": "Transformer-Ti",
    "transformer_small": "Transformer-S",
}  # fmt: skip
_ADVICE = {"hard": "top class alone", "dist": "advice as DIST"}
_CHANGES = {
    "shuffled": "advice shuffled", "shuffled-in-class": "advice shuffled within classes", "smoothed": "advice smoothed",
    "mean": "mean of the advice",
}  # fmt: skip
_FACTORS = {"weight": "λ", "temperature": "τ", "token_lr": "learning rate of tokens", "token_std": "spread of tokens"}


def model_title(model: str) -> str:
    """`ResNet-18` of `resnet18`; what has no title keeps its name."""
    return _MODELS.get(model, model)


def teacher_title(teacher: Teacher) -> str:
    """`ResNet-18`, `ResNet-18, seed 1` or `ResNet-18, random weights`."""
    parts = [f"seed {teacher.seed}"] if teacher.seed else []
    parts += [_part(teacher.part)] if teacher.part != 1 else []
    parts += [] if teacher.trained else ["random weights"]
    return ", ".join([model_title(teacher.model), *parts])


def arm_title(arm: Arm) -> str:
    """`Transformer-Ti ← ResNet-18 + RedNet-26`, each departure from the default appended."""
    parts = ["single token" if arm.is_transformer else "single output"] if arm.tokens == "single" else []
    parts += [] if arm.advice == "soft" else [_ADVICE.get(arm.advice, f"{arm.advice} advice")]
    parts += [f"{' and '.join(arm.injected)} token on labels"] if arm.injected else []
    parts += [] if arm.stem == "patchify" else [f"{arm.stem} stem"]
    parts += [f"{word} × {factor:g}" for name, word in _FACTORS.items() if (factor := getattr(arm, name)) != 1]
    parts += [] if arm.mixing else ["images not mixed"]
    parts += ["views that never recur"] if arm.live else []
    parts += [] if arm.change == "none" else [_CHANGES[arm.change]]
    parts += [] if arm.gate == "none" else [f"gate: {arm.gate}"]
    parts += [_part(arm.part)] if arm.part != 1 else []
    parts += [] if arm.trained else ["random weights"]
    teachers = [teacher_title(one).replace(", ", " ") for one in arm.teachers]
    taught = f" ← {' + '.join(teachers)}" if teachers else ""
    return ", ".join([model_title(arm.model) + taught, *parts])


def member_title(name: str, arm: Arm) -> str:
    """Title of one of an arm's teachers, or of the token named after it; other names stay as they are."""
    return next((teacher_title(one) for one in arm.teachers if one.name == name), name)


def _part(part: float) -> str:
    return f"{100 * part:.0f} % of the epochs"
