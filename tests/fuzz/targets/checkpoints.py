"""Our safetensors files: trained models, and the state from which training goes on."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from accelerate import Accelerator
from helpers.recipes import CNN, tiny
from torch import Tensor

from coadvise.checkpoints.build import build_student
from coadvise.checkpoints.loading import load_checkpoint
from coadvise.checkpoints.model_file import save_model
from coadvise.checkpoints.trained import load_trained
from coadvise.errors import CoadviseError
from coadvise.losses import co_advise_loss
from coadvise.training.checkpoint import Checkpoint
from coadvise.training.optimizer import make_optimizer
from coadvise.training.state import State
from fuzz.engine import BrokenPromise, Input, Target
from fuzz.mutate import json_bytes, mutate_bytes, mutate_tree

_TYPES = ["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "U16", "BOOL", "F8_E4M3", "F4", "C64", "X"]
_CLASSES = tuple("0123456789")


def damaged(rng: Random, raw: bytes, others: list[bytes]) -> bytes:
    """Bytes, the JSON header (types, shapes, places, metadata), or JSON inside the metadata."""
    way = rng.random()
    size = int.from_bytes(raw[:8], "little")
    if way < 0.3:
        return mutate_bytes(rng, raw, others)
    if way < 0.4:  # the weights alone: numbers that are not finite among them
        return raw[: 8 + size] + mutate_bytes(rng, raw[8 + size :])
    header = json.loads(raw[8 : 8 + size])
    own = [key for key, value in header["__metadata__"].items() if value[:1] == "{"]
    if way < 0.7 and own:
        key = rng.choice(own)
        inner = json.loads(header["__metadata__"][key])
        text = json_bytes(rng, mutate_tree(rng, inner, sorted(inner))).decode()
        header["__metadata__"][key] = text if rng.random() < 0.9 else mutate_bytes(rng, text.encode()).decode("latin1")
        words = json.dumps(header).encode()
    else:
        names = rng.sample(sorted(header), 3)
        words = json_bytes(rng, mutate_tree(rng, {n: header[n] for n in names}, [*_TYPES, *names, "__metadata__"]))
        if words[:1] == b"{" and rng.random() < 0.9:
            rest = {key: value for key, value in header.items() if key not in names}
            words = json.dumps(rest).encode()[:-1] + b", " + words[1:]
    length = len(words) if rng.random() < 0.97 else rng.choice((0, 1, len(words) - 1, len(words) + 1, 2**40, 2**63))
    return length.to_bytes(8, "little") + words + raw[8 + size :]


def _makes(name: str, raw: list[bytes]) -> Callable[[Random], Input]:
    return lambda rng: {name: damaged(rng, rng.choice(raw), raw)}


def model_file(folder: Path) -> Target:
    """`best.safetensors` of students, as `evaluate` and `predict` read it, and as weights for a model that is there."""
    raw, models = [], []
    for name, parts in (("token", {}), ("cnn", {"student": {k: CNN[k] for k in ("model", "options", "small_stem")}})):
        recipe = tiny(Path("run"), **parts)  # type: ignore[arg-type]
        torch.manual_seed(0)
        model = build_student(recipe.student, recipe.tokens(), len(_CLASSES), recipe.data.image_size)
        path = folder / f"{name}.safetensors"
        save_model(path, model, recipe, _CLASSES, weights="student", epoch=2, metrics={"accuracy/class": 0.5})
        raw.append(path.read_bytes())
        models.append(model)

    def read(place: Path) -> None:
        refused: CoadviseError | None = None
        try:
            load_trained(place / "best.safetensors")
        except CoadviseError as error:
            refused = error
        fits = all_or_nothing(models[0], lambda: load_checkpoint(models[0], place / "best.safetensors", strict=False))
        if refused is not None:
            raise refused
        if fits is not None:
            raise fits

    return Target([{"best.safetensors": raw[0]}], _makes("best.safetensors", raw), read)


def all_or_nothing(model: torch.nn.Module, load: Callable[[], Any]) -> CoadviseError | None:
    """Load weights; after a refusal they must be what they were. The refusal is returned."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        load()
    except CoadviseError as error:
        if not same(before, model.state_dict()):
            raise BrokenPromise("a model was changed by a file that was refused") from error
        return error
    finally:
        model.load_state_dict(before)
    return None


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Equal in every tensor, bit for bit but for the sign of zero."""
    return one.keys() == other.keys() and all(
        torch.equal(value, other[name]) or (value.isnan() & other[name].isnan()).any() for name, value in one.items()
    )


def training_state(folder: Path) -> Target:
    """`last.safetensors`, read into a student and its optimizer; then an update is made with them."""
    recipe = tiny(Path("run"))
    accelerator = Accelerator(cpu=True)
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    torch.manual_seed(0)
    student = build_student(recipe.student, recipe.tokens(), len(_CLASSES), recipe.data.image_size)
    fresh = State(student, make_optimizer(student, recipe.optim), None)

    def step(state: State) -> None:
        loss = co_advise_loss(state.student.forward_tokens(images), {}, torch.arange(4))  # type: ignore[operator]
        loss.total.backward()
        state.optimizer.step()
        state.optimizer.zero_grad()

    first = copy.deepcopy(fresh)
    step(first)
    saved = folder / "last.safetensors"
    checkpoint_of(saved, accelerator).save(first)
    raw = [saved.read_bytes()]

    def read(place: Path) -> None:
        state = copy.deepcopy(fresh)
        try:
            checkpoint_of(place / "last.safetensors", accelerator).restore(state, 20)
        except CoadviseError as error:
            if (
                not same(fresh.student.state_dict(), state.student.state_dict())
                or state.optimizer.state
                or state.count != fresh.count
            ):
                raise BrokenPromise("a run was changed by a file that was refused") from error
            raise
        step(state)

    return Target([{"last.safetensors": raw[0]}], _makes("last.safetensors", raw), read)


def checkpoint_of(path: Path, accelerator: Accelerator) -> Checkpoint:
    return Checkpoint(path, accelerator, {"classes": "10", "labels": "0"})
