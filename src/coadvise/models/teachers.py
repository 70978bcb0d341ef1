"""Teachers: frozen, named classifiers that advise the tokens of a student.

Each teacher sees the student's images as it was trained to see them: in its own normalisation and resolution. Its
logits are reduced to the student's classes when it knows more of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import ModelError, NoSharedClasses, few, one_line, out_of_memory, require, shortened
from ..names import CLASS
from ..recipe.data import IMAGENET_MEAN, IMAGENET_STD
from ..shapes import Float
from .answers import Answer, as_module, kind_of
from .class_names import places_of
from .compiled import Compiled, compilable
from .fuse import fused
from .stated import Size, refusal, sizes_named, stated

_log = logging.getLogger(__name__)


class FrozenTeacher(nn.Module):
    """A classifier with its own input normalisation, resolution and class map; it never trains.

    Args:
        model: any classifier, images (b, 3, h, w) → logits (b, classes), alone or as `.logits` of what it returns: a
            module, or any function, which is not asked for anything but its answers.
        mean: per-channel mean it was trained with; by default read from timm's `pretrained_cfg`, also inside of a
            wrapper, else None, which takes the student's images as they are.
        std: per-channel standard deviation, likewise.
        image_size: side in pixels it wants, or height and width. By default a model that is made for one size is
            asked which (see `stated`), and any other takes the student's images in their own size (None).
        classes: entry c is this model's index of the student's class c, None where it does not know that class: its
            logit is −inf there, and it advises on the others alone.

    Attributes:
        known: the student's classes that it knows; None where it knows them all.
    """

    classes: Tensor | None
    _unknown: Tensor | None

    def __init__(
        self,
        model: nn.Module | Answer,
        *,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        image_size: int | tuple[int, int] | None = None,
        classes: Sequence[int | None] | None = None,
    ) -> None:
        super().__init__()
        model = as_module(model, "FrozenTeacher's model")
        for what, values in (("mean", mean), ("std", std)):
            if values is not None:
                _per_channel(values, f"FrozenTeacher's {what}", positive=what == "std")
        self.model = model.requires_grad_(False)
        index = None if classes is None else torch.tensor([-1 if one is None else one for one in classes])
        self.known = None if index is None or bool((index >= 0).all()) else tuple((index >= 0).nonzero()[:, 0].tolist())
        self.register_buffer("classes", index, persistent=False)
        self.register_buffer("_unknown", None if index is None or self.known is None else index < 0, persistent=False)
        self.eval()
        says = stated(model, ask_size=image_size is None)
        self.mean = tuple(mean) if mean is not None else says.mean
        self.std = tuple(std) if std is not None else says.std
        size = image_size or says.size
        self.image_size = size[0] if isinstance(size, tuple) and size[0] == size[1] else size
        # Beside the model and no module of this one: its weights are the model's.
        self._compiled: Compiled | None = None

    def again(self, classes: Sequence[int | None] | None = None) -> FrozenTeacher:
        """Another frozen teacher of the same model, with another class map if one is given.

        Fusing one leaves the other as it is.
        """
        if classes is None and self.classes is not None:
            classes = [None if one < 0 else one for one in self.classes.tolist()]
        return FrozenTeacher(self.model, mean=self.mean, std=self.std, image_size=self.image_size, classes=classes)

    def __getstate__(self) -> dict[str, Any]:
        """A copy takes the model as it is: what a GPU has recorded cannot be copied or pickled."""
        return {**super().__getstate__(), "_compiled": None}  # type: ignore[misc]

    @property
    def is_compiled(self) -> bool:
        """Whether batches of some shape take a compiled form of the model."""
        return self._compiled is not None

    def train(self, mode: bool = True) -> FrozenTeacher:
        """Stay in evaluation mode, whatever the student does."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        """Logits over the student's classes, in float32, for images that are normalised for this teacher."""
        x = self._resized(x)
        z = self._compiled(x) if self._compiled is not None and self._compiled.takes(x) else self.model(x)
        z = getattr(z, "logits", z)  # of Transformers' classifiers
        if not isinstance(z, Tensor) or z.ndim != 2:
            got = tuple(z.shape) if isinstance(z, Tensor) else type(z).__name__
            raise ModelError(f"a teacher must return logits (batch, classes), {kind_of(self.model)} gives {got}")
        z = z.float()
        if self.classes is None or self._unknown is None:
            return z if self.classes is None else z[:, self.classes]
        return z[:, self.classes.clamp_min(0)].masked_fill(self._unknown, -torch.inf)

    def _resized(self, x: Tensor) -> Tensor:
        size = (self.image_size, self.image_size) if isinstance(self.image_size, int) else self.image_size
        if size is None or tuple(x.shape[-2:]) == size:
            return x
        # In float32: there is no such kernel for half precision on the CPU, and it rounds at every tap elsewhere.
        return F.interpolate(x.float(), size=size, mode="bicubic", antialias=True).to(x.dtype)

    @torch.no_grad()
    def fuse(self, example: Float[Tensor, "b c h w"], dtype: torch.dtype | None = None) -> bool:
        """Use a faster copy of the model from now on, if there is one that gives the same logits on `example`."""
        faster = fused(self.model, self._resized(example), dtype)
        if faster is not None:
            self.model, self._compiled = faster, None
        return faster is not None

    @torch.no_grad()
    def compile(self, example: Float[Tensor, "b c h w"], backend: str | Callable[..., Any] = "inductor") -> None:  # type: ignore[override]
        """Compile the model for batches like `example`, beside those that it is compiled for already.

        Raises:
            Exception: whatever keeps it from being compiled; batches like this one then take the model as it is.
        """
        compiled = Compiled(self.model, backend) if self._compiled is None else self._compiled
        compiled.prepare(self.model, self._resized(example))
        self._compiled = compiled


def _count(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


class Teachers(nn.Module):
    """Named teachers for images that were normalised for the student.

    Args:
        teachers: name → classifier, a module or a function, or `FrozenTeacher` where its normalisation, resolution or
            classes differ.
        input_mean: per-channel mean with which the student's images are normalised.
        input_std: per-channel standard deviation, likewise.
        may_be_none: whether there may be no teacher at all.

    Raises:
        ModelError: no teacher, one that is neither a module nor a function, or one named `class`, which is the class
            token's name.
    """

    def __init__(
        self,
        teachers: Mapping[str, nn.Module | Answer],
        *,
        input_mean: Sequence[float] = IMAGENET_MEAN,
        input_std: Sequence[float] = IMAGENET_STD,
        may_be_none: bool = False,
    ) -> None:
        super().__init__()
        check_teachers_given(teachers)
        if not teachers and not may_be_none:
            raise ModelError("no teachers are given: give a mapping of names to classifiers, as {'conv': cnn}")
        self.names = tuple(teachers)
        self.members = nn.ModuleList(
            model.again() if isinstance(model, FrozenTeacher) else FrozenTeacher(model) for model in teachers.values()
        )
        mean = _per_channel(input_mean, "Teachers' input_mean")
        std = _per_channel(input_std, "Teachers' input_std", positive=True)
        for i, (name, teacher) in enumerate(self.items()):
            require_size(name, teacher)
            if teacher.mean is None or teacher.std is None:
                _log.warning(
                    "teacher '%s' (%s) does not say how its images were normalised: it sees them as the student does; "
                    "FrozenTeacher(model, mean=…, std=…) says otherwise", name, kind_of(teacher.model),
                )  # fmt: skip
            # x is (pixel − mean) / std of the student; scale·x + shift is the same pixel in the teacher's terms.
            own_mean = torch.tensor(teacher.mean) if teacher.mean is not None else mean
            own_std = torch.tensor(teacher.std) if teacher.std is not None else std
            counts = [one.numel() for one in (own_mean, own_std, mean, std)]
            if len(set(counts) - {1}) > 1:
                raise ModelError(
                    f"teacher '{name}' has {counts[0]} means and {counts[1]} standard deviations, the student's images "
                    f"{counts[2]} and {counts[3]}; give one number for each channel"
                )
            same = torch.equal(own_mean, mean) and torch.equal(own_std, std)
            affine = None if same else torch.stack([std / own_std, (mean - own_mean) / own_std]).view(2, 1, -1, 1, 1)
            self.register_buffer(f"affine_{i}", affine, persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> Teachers:
        """Stay in evaluation mode, whatever the student does."""
        return super().train(False)

    @torch.no_grad()
    def forward(
        self, x: Float[Tensor, "b c h w"], names: Container[str] | None = None
    ) -> dict[str, Float[Tensor, "b k"]]:
        """Advice for a batch: teacher name → logits (b, k) in float32, without gradient; of all, or of some."""
        require(x, Tensor, "what the teachers see", "give normalised images, a tensor (b, 3, h, w)", ModelError)
        if x.ndim != 4 or not x.is_floating_point():
            raise ModelError(
                f"the teachers see images of shape {tuple(x.shape)} and {x.dtype}; give normalised ones, "
                "floating-point numbers (b, 3, h, w)"
            )
        advice = {}
        for i, (name, teacher) in enumerate(self.items()):
            if names is not None and name not in names:
                continue
            try:
                advice[name] = teacher(self._seen(i, x))
            except Exception:
                require_size(name, teacher, (x.shape[-2], x.shape[-1]))  # whether that is why
                raise
        return advice

    def items(self) -> Iterable[tuple[str, FrozenTeacher]]:
        """Names and teachers."""
        return zip(self.names, cast(Iterable[FrozenTeacher], self.members), strict=True)

    def known(self) -> dict[str, tuple[int, ...]]:
        """The student's classes that a teacher knows, by its name, of those that do not know them all."""
        return {name: teacher.known for name, teacher in self.items() if teacher.known is not None}

    def _seen(self, i: int, x: Tensor) -> Tensor:
        """Images in the normalisation of the i-th teacher."""
        affine = getattr(self, f"affine_{i}")
        # The buffers are float32: images in half precision stay it, for teachers that compute in it.
        return x if affine is None else (x * affine[0] + affine[1]).to(x.dtype)

    @torch.no_grad()
    def fuse(self, example: Float[Tensor, "b c h w"], dtype: torch.dtype | None = None) -> tuple[str, ...]:
        """Fold the teachers' BatchNorm into their convolutions, in copies; the modules that were given stay whole.

        Args:
            example: a few of the student's images; each copy must give its original's logits on them.
            dtype: type of the autocast under which the teachers will run, for their weights to be kept in.

        Returns:
            Names of the teachers that are faster now.
        """
        teachers = list(enumerate(self.items()))
        return tuple(name for i, (name, teacher) in teachers if teacher.fuse(self._seen(i, example), dtype))

    @torch.no_grad()
    def compile(  # type: ignore[override]
        self, *shapes: tuple[int, int, int, int], backend: str | Callable[..., Any] = "inductor"
    ) -> dict[str, str]:
        """Compile the teachers for batches of these shapes, after fusing; other batches take them as they are.

        The compiled forms stand beside the modules, which stay whole, as do state dicts and digests. All compiling
        happens here, and each form's logits are compared with its module's: a run goes on without one that fails.

        Args:
            shapes: of the student's batches that come often, (b, c, h, w). Call this under the autocast under which
                the teachers will advise, and where they are: elsewhere they advise as they are.

        Returns:
            Why a teacher is not compiled, by name. Functions, ONNX files and Transformers' models are passed over.
        """
        failed = {}
        for i, (name, teacher) in enumerate(self.items()):
            if not compilable(teacher.model):
                continue
            device = next(teacher.model.parameters()).device
            for shape in dict.fromkeys(shapes):
                images = torch.randn(shape, device=device, generator=torch.Generator(device).manual_seed(0))
                try:
                    teacher.compile(self._seen(i, images), backend)
                except Exception as error:  # compilers fail in many ways, and none of them ends a run
                    failed[name] = shortened(one_line(error), 200)
        return failed

    def compiled(self) -> tuple[str, ...]:
        """Names of the teachers that are compiled."""
        return tuple(name for name, teacher in self.items() if teacher.is_compiled)

    def unfused(self) -> tuple[str, ...]:
        """Names of the teachers that still have a BatchNorm for every convolution, or nearly."""
        return tuple(
            name
            for name, teacher in self.items()
            if (norms := _count(teacher, nn.BatchNorm2d)) and norms >= _count(teacher, nn.Conv2d) / 2
        )

    def __len__(self) -> int:
        return len(self.names)


def _per_channel(values: object, what: str, positive: bool = False) -> Tensor:
    """A sequence of numbers, one for each channel or one for all."""
    try:
        found = torch.as_tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError):
        found = torch.empty(0, 0)
    if found.ndim != 1 or not bool(found.isfinite().all()):
        raise ModelError(f"{what} is {values!r}; give a number for each channel, such as {IMAGENET_MEAN}")
    if positive and not bool((found > 0).all()):
        raise ModelError(f"{what} is {values!r}; give a number above 0 for each channel, such as {IMAGENET_STD}")
    return found


def check_teachers_given(teachers: Mapping[str, nn.Module | Answer]) -> None:
    """Raise ModelError for what cannot be teachers, by name."""
    if not isinstance(teachers, Mapping):
        found = type(teachers).__name__
        raise ModelError(f"teachers are a mapping of names to classifiers, as {{'conv': cnn}}, not a {found}")
    for name, model in teachers.items():
        if name == CLASS:
            raise ModelError("a teacher may not be named 'class', the name of the class token; choose another")
        if not isinstance(name, str):
            raise ModelError(f"a teacher is named {name!r}: give it a name in words, as 'conv'")
        if not callable(model) or isinstance(model, type):
            found = type(model).__name__
            raise ModelError(
                f"teacher '{name}' is no torch.nn.Module but {found}: give a classifier, a function that answers for "
                "one, or a FrozenTeacher"
            )


def require_size(name: str, teacher: FrozenTeacher, images: Size | None = None) -> None:
    """Try a teacher's model at the size that it is given.

    Args:
        images: height and width of the student's images, which a teacher without a size of its own takes as they are;
            None leaves such a teacher out.

    Raises:
        ModelError: it cannot run.
    """
    own = (teacher.image_size, teacher.image_size) if isinstance(teacher.image_size, int) else teacher.image_size
    size = own or images
    error = None if size is None else refusal(teacher.model, size)
    if size is None or error is None or out_of_memory(error):
        return
    others = [one for one in dict.fromkeys(sizes_named(teacher.model)) if one != size]
    fit = next((one for one in others if refusal(teacher.model, one) is None), None)
    if fit:
        hint = f"it takes {fit[0]}×{fit[1]}"
    elif others:
        hint = f"its weights are published for {others[-1][0]}×{others[-1][1]}, make it for that size, or another"
    else:
        hint = "choose the size that it was made for"
    raise ModelError(
        f"teacher '{name}' ({kind_of(teacher.model)}) cannot take images of {size[0]}×{size[1]}: "
        f"{one_line(error)}; {hint}: teachers.{name}.image_size in a recipe, in Python image_size=… of FrozenTeacher "
        "or img_size=… of timm.create_model"
    ) from error


def class_count_message(name: str, found: int, classes: int) -> str:
    """What to do about a teacher that knows `found` classes where the data has `classes`."""
    if found < classes:
        return f"teacher '{name}' knows {found} classes, the data has {classes}; train or choose one that knows all"
    return (
        f"teacher '{name}' knows {found} classes, the data has {classes}; "
        f"give its index map, one teacher index for each class of the data: teachers.{name}.classes in a recipe, "
        "FrozenTeacher(classes=…) in Python"
    )


def index_by_name(name: str, own: Sequence[str], class_names: Sequence[str]) -> list[int | None] | None:
    """Index map of a teacher whose classes have names: for each of the data's classes the teacher's, None where it
    knows none of that name. None as a whole where both have the same classes in the same order.

    Raises:
        NoSharedClasses: fewer than two classes are the same, so that there is nothing to advise on.
    """
    if tuple(own) == tuple(class_names):
        return None
    places = places_of(own, class_names)
    shared = sum(place is not None for place in places)
    if shared < 2:
        found = f"one of the data's {len(class_names)} classes" if shared else "none of the data's classes"
        raise NoSharedClasses(
            f"teacher '{name}' knows {found} by name: it knows {few(own)}, the data has {few(class_names)}; train or "
            f"choose one that knows the data's, or say which of its {len(own)} is which: teachers.{name}.classes in a "
            "recipe, FrozenTeacher(classes=…) in Python, one teacher index for each class of the data"
        )
    return None if places == list(range(len(own))) else places
