"""The student before its first step, checked against the recipe."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from timm.models import is_model
from torch import nn

from ..checkpoints.build import build_student
from ..checkpoints.model_file import read_header, weights_file
from ..checkpoints.naming import named_file
from ..errors import ModelError
from ..evaluation.features import classifiers
from ..losses import Gate, Objective
from ..models.answers import Answer
from ..models.stated import Stated, stated
from ..models.students import as_student, classifier_of, student_tokens
from ..models.timm_names import published_cfg
from ..names import CLASS
from ..recipe.schema import Loss, Recipe, Student
from .optimizer import token_parameters
from .parts import freeze, layers_of, new_parts, waiting_parts
from .trained import NOT_APART, Apart


def make_objective(
    settings: Loss,
    tokens: Sequence[str],
    teachers: Iterable[str],
    known: Mapping[str, Sequence[int]] | None = None,
    labelled: float = 1.0,
    labels: Literal["one", "several"] = "one",
) -> Objective:
    """Eq. 1 for a student with these outputs and these teachers.

    Args:
        known, labelled, labels: see `co_advise_loss`.

    `loss.tokens: auto` is `own` where every teacher has a token, `single` where none has.

    Raises:
        ModelError: some teachers have a token and some have none; tokens of teachers that would learn nothing; or a
            teacher whose advice would say nothing.
    """
    teachers = tuple(teachers)
    missing = [name for name in teachers if name not in tokens]
    single = settings.tokens == "single" or (settings.tokens == "auto" and len(tokens) == 1)
    if single and (unused := [name for name in teachers if name in tokens]):
        raise ModelError(
            f"loss.tokens=single: the student's token '{unused[0]}' has the name of a teacher and would learn nothing; "
            "make the student without it, or leave loss.tokens=single out"
        )
    if settings.tokens == "own" and len(tokens) == 1 and missing:
        raise ModelError("loss.tokens=own: the student has no advised tokens; use single, or a CiT model")
    if missing and not single:
        raise ModelError(
            f"the student has no token for teacher '{missing[0]}' (its tokens: {', '.join(tokens)}); "
            "declare it in student.tokens, or set loss.tokens=single"
        )
    for name, classes in (known or {}).items():
        if len(classes) == 1 and labels == "one":
            raise ModelError(
                f"teacher '{name}' knows one of the classes, and compares it with no other, so that its advice says "
                "nothing; leave it out, or give one that knows more of them"
            )
        _says_something(settings, len(classes), f"teacher '{name}' knows two of the classes")
    weights = {CLASS: settings.label_weight, **settings.weights}
    place: Literal["own", "single"] = "single" if single else "own"
    # Chance alone is no matter of the loss: it comes with each batch (`gating.py`).
    gate: Gate = "none" if settings.gate == "random" else settings.gate
    return Objective(
        weights, settings.temperatures, settings.advice, place, known or {}, labelled, labels, settings.parts, gate
    )


def _says_something(settings: Loss, classes: int, what: str) -> None:
    """Refuse advice without gradients: two z-scores are ±1 and two probabilities correlate, whatever the logits."""
    alone = settings.advice == "standardised" or (settings.advice == "dist" and not settings.dist.intra)
    if alone and classes == 2:
        raise ModelError(
            f"loss.advice={settings.advice}: {what}, whose order alone it compares; take soft or decoupled"
        )


def new_student(
    recipe: Recipe,
    classes: int,
    processes: int,
    own: nn.Module | None,
    teachers: Iterable[str],
    section: str = "student",
    *,
    resumes: bool = False,
) -> nn.Module:
    """The student before its first step, checked against the recipe before hours go into its teachers.

    Args:
        classes: number of classes.
        processes: that share a batch.
        own: module in place of the recipe's.
        teachers: names of all of them.
        section: where the user's recipe has its settings; a teacher is trained as the student of its own recipe.
        resumes: whether the run's own state has its weights, so that those it began with need not be had any more.

    Raises:
        ModelError, CheckpointError: settings that do not fit each other.
    """
    if teachers := tuple(teachers):
        _says_something(recipe.loss, classes, "there are two classes")
    torch.manual_seed(recipe.run.seed)
    if own is None:
        settings = recipe.student
        if resumes:
            settings = settings.model_copy(update={"pretrained": False, "checkpoint": None})
        student = build_student(
            settings, recipe.tokens(), classes, recipe.data.image_size, add=recipe.adds_tokens, section=section
        )
    else:
        student = as_student(own)
    _has_tokens(recipe, student)
    make_apart(recipe.loss, student)
    _fine_tuned(recipe, student, loaded=own is not None or bool(recipe.student.pretrained or recipe.student.checkpoint))
    if recipe.run.grad_checkpointing:
        _save_memory(student, must=section == "student")
    if recipe.optim.token_lr != 1.0 and not token_parameters(student):
        raise ModelError("optim.token_lr: the student has no class token or advised tokens to learn; leave it out")
    batch_norm = any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in student.modules())
    if batch_norm and recipe.optim.batch_size // processes // recipe.optim.accumulate == 1:
        raise ModelError(
            "the student has BatchNorm, which cannot learn from one image at a time; choose a larger "
            "optim.batch_size, or fewer processes or micro-batches"
        )
    device = next((p.device for p in student.parameters()), torch.device("cpu"))
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise ModelError(
            "the student has nothing to learn: no parameter has requires_grad; was it made a teacher before?"
        )
    make_objective(
        recipe.loss, student_tokens(student, recipe.data.image_size, device, classes), recipe.advice.names(teachers)
    )
    return student


def require_own_weights(student: nn.Module | None, teachers: Mapping[str, nn.Module | Answer]) -> None:
    """Refuse a teacher that has weights of the student's, frozen or not: it does not learn, and neither would they.

    Raises:
        ModelError: names the teacher.
    """
    own = set() if student is None else {id(one) for one in student.parameters()}
    for name, model in teachers.items():
        if isinstance(model, nn.Module) and any(id(one) in own for one in model.parameters()):
            raise ModelError(
                f"teacher '{name}' and the student share weights, and a teacher does not learn; give "
                "copy.deepcopy(model) as the teacher (what was a teacher before is frozen: model.requires_grad_(True))"
            )


def normalised_otherwise(recipe: Recipe, student: nn.Module, section: str = "student") -> str:
    """A warning where the student's weights were trained with another normalisation than its images will have.

    Weights that state none, as files of others whose names have no tag of timm's, are not guessed about.

    Args:
        student: from `new_student`, with the weights it starts from.
        section: see `new_student`.
    """
    wanted, data = _norm_of_weights(recipe.student, student), recipe.data
    if wanted is None or all(map(_alike, wanted, (data.mean, data.std))):
        return ""
    place = "data" if section == "student" else section
    mean, std, given_mean, given_std = map(_in_brackets, (*wanted, data.mean, data.std))
    return (
        f"the weights of {recipe.student.model} were trained with mean {mean} and std {std}, here images have mean "
        f"{given_mean} and std {given_std}, which costs accuracy; give {place}.mean={mean} {place}.std={std}"
    )


def _norm_of_weights(settings: Student, student: nn.Module) -> tuple[Sequence[float], Sequence[float]] | None:
    """Mean and standard deviation that the weights state with which a student starts; None where they state none."""
    if not (settings.pretrained or settings.checkpoint):
        return None
    header = read_header(weights_file(settings.checkpoint)) if settings.checkpoint else None
    if header is not None:
        return header.recipe.data.mean, header.recipe.data.std
    if settings.checkpoint and is_model(settings.model):
        # The model's own tag says whose settings were taken, not which weights the file has.
        name = named_file(f"{settings.model.split('.')[0]}={weights_file(settings.checkpoint)}").model
        cfg = published_cfg(name) if "." in name else None
        return None if cfg is None else (cfg.mean, cfg.std)
    says = Stated() if settings.checkpoint else stated(classifier_of(student), ask_size=False)
    return None if says.mean is None or says.std is None else (says.mean, says.std)


def _alike(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether they differ by rounding at most: CLIP's mean is 0.48145466."""
    return len(a) == len(b) and all(abs(x - y) < 0.005 for x, y in zip(a, b, strict=True))


def _in_brackets(values: Sequence[float]) -> str:
    """As the command line takes them."""
    return f"[{','.join(f'{value:g}' for value in values)}]"


def make_apart(settings: Loss, student: nn.Module) -> Apart:
    """The heads that `loss.apart` keeps apart: those of the advised tokens.

    Raises:
        ModelError: there are no two of them.
    """
    if not settings.apart:
        return NOT_APART
    heads = [head for name, head in classifiers(student).items() if name != CLASS and isinstance(head, nn.Linear)]
    if len(heads) < 2:
        raise ModelError(
            f"loss.apart keeps the heads of advised tokens apart, and this student has {len(heads)} of them; "
            "take a student with two or more, or leave it out"
        )
    return Apart(settings.apart, tuple(heads))


def _has_tokens(recipe: Recipe, student: nn.Module) -> None:
    """Refuse settings of advised tokens for a student that was not made with them."""
    settings = recipe.student
    lacks = {
        "separate": settings.separate != "none" and getattr(student, "separate", None) != settings.separate,
        "read_at": bool(settings.read_at) and not hasattr(student, "read_at"),
    }
    for name, lacking in lacks.items():
        if lacking:
            raise ModelError(
                f"student.{name}: this student ({type(classifier_of(student)).__name__}) has no advised tokens; "
                "choose a CiT, or add tokens to a ViT of timm with loss.tokens=own; or leave it out"
            )


def _fine_tuned(recipe: Recipe, student: nn.Module, loaded: bool) -> None:
    """Freeze what the recipe says, and refuse settings of fine-tuning that do not fit the student.

    Args:
        loaded: whether it has weights to start from.
    """
    if recipe.student.freeze_blocks and not loaded:
        raise ModelError(
            "student.freeze_blocks would keep random weights; give student.pretrained=true or student.checkpoint=FILE, "
            "or leave it out"
        )
    freeze(student, recipe.student.freeze_blocks)
    waiting_parts(student, recipe.schedule.head_epochs)
    if recipe.optim.layer_decay is not None:
        layers_of(student, "optim.layer_decay")
    if recipe.optim.backbone_lr != 1.0:
        new_parts(student, "optim.backbone_lr")


def _save_memory(student: nn.Module, must: bool) -> None:
    """Switch gradient checkpointing on; a teacher that is trained first learns without it where it cannot do that.

    Raises:
        ModelError: a model that must do that and cannot.
    """
    model = classifier_of(student)
    switch: Any = getattr(model, "set_grad_checkpointing", None)
    try:
        if switch is None:
            raise AssertionError(f"{type(model).__name__} has no set_grad_checkpointing")
        switch(True)
    except AssertionError as error:  # how timm says so
        if must:
            raise ModelError(f"run.grad_checkpointing: the student cannot do that ({error}); leave it off") from error
