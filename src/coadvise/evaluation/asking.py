"""Asking candidates for teachers: each sees the same images as it was made to see them.

A run of ours that knows the data's classes answers itself, and so does a classifier of another place that knows some
of them by name. Any other network answers through a linear probe, fitted to training images: on its features, or on the
outputs of one of another place.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..checkpoints.naming import NamedFile, named_file
from ..checkpoints.networks import network_for
from ..checkpoints.teachers import build_teacher
from ..checkpoints.trained import load_trained
from ..data.sources.base import ImageSource
from ..data.sources.subsets import Subset
from ..errors import CheckpointError, DataError, ModelError, NoSharedClasses
from ..models.bias import bias_of
from ..models.factory import build_model, require_name
from ..models.stated import stated
from ..models.teachers import FrozenTeacher
from ..names import CLASS, told_apart
from ..recipe.address import address
from ..recipe.data import IMAGENET_MEAN, IMAGENET_STD, Data
from ..recipe.schema import Teacher
from ..shapes import Int
from ..system.extras import need
from ..system.progress import Display
from .candidates import Candidate
from .features import Features, features_of
from .inference import readable, with_classes
from .probe import affordable, fit, images_per_s, looked_at
from .similarity import answers


@dataclass(frozen=True)
class Asked:
    """Answers of all candidates, and the labels of the images."""

    candidates: list[Candidate]
    label: Int[Tensor, " n"]
    probes: int


def ask(
    candidates: Sequence[str],
    sources: tuple[ImageSource, ImageSource],
    data: Data,
    image_size: int | None,
    *,
    device: torch.device,
    display: Display,
) -> Asked:
    """Ask every candidate about validation images, up to 5,000 of them, classes in balance.

    Args:
        candidates: folders of runs, `FILE`, `MODEL=FILE`, names of timm's models with published weights, or addresses
            as a recipe's teachers have them.
        data: how images are read; size and normalisation are each candidate's own.
        image_size: side at which networks without the data's classes see the images; by default their own.

    Raises:
        CoadviseError: a candidate that is not there or cannot be asked.
    """
    files = {text: _file(text) for text in candidates}  # what is not there is told before images are read
    # All candidates have to answer on the same images.
    train, val = (Subset(one, readable(one, display)) for one in map(looked_at, sources))
    found, labels, probes = [], None, 0
    named = zip(short_names(list(files)), files.items(), strict=True)
    for number, (name, (text, file)) in enumerate(named, start=1):
        display.say(f"candidate {number} of {len(files)}: {text}")
        if file is not None and file.header is not None and set(file.header.classes) == set(val.class_names):
            one, label = _as_trained(name, file, val, device)
        elif file is None and address(text):
            one, label = _elsewhere(name, text, (train, val), data, image_size, device, display)
            probes += one.probed
        else:
            one, label = _probed(name, text, file, (train, val), data, image_size, device, display)
            probes += 1
        labels = label if labels is None else labels
        found.append(one)
    assert labels is not None
    return Asked(found, labels, probes)


def _file(text: str) -> NamedFile | None:
    """The file that a candidate names; None for the name of a model.

    Raises:
        CheckpointError, ModelError: neither is there.
    """
    kind, place = address(text) or ("", text)
    if kind == "run":
        return named_file(place)
    if kind:
        return None
    try:
        return named_file(text)
    except CheckpointError:
        if "=" in text or os.sep in text or text.endswith((".safetensors", ".pth", ".pt", ".bin")):
            raise
    require_name(text)
    return None


def _as_trained(name: str, file: NamedFile, val: ImageSource, device: torch.device) -> tuple[Candidate, Tensor]:
    trained = load_trained(file.path, device)
    # Labels count in the data's classes: the model's outputs are put in their order.
    said = answers(trained, with_classes(val, trained.classes))
    place = torch.tensor([trained.classes.index(name) for name in val.class_names])
    label = torch.empty(len(place), dtype=torch.long)
    label[place] = torch.arange(len(place))
    speed = images_per_s(trained.model, trained.data.image_size, device)
    one = Candidate(
        name=name, bias=bias_of(file.model), probed=False, parameters=_size(trained.model),
        log_p=said.answer[:, place].log_softmax(dim=1), features=said.features[CLASS], images_per_s=speed,
    )  # fmt: skip
    return one, label[said.label]


def _probed(
    name: str,
    text: str,
    file: NamedFile | None,
    sources: tuple[ImageSource, ImageSource],
    data: Data,
    image_size: int | None,
    device: torch.device,
    display: Display,
) -> tuple[Candidate, Tensor]:
    need("sklearn", f"{text} does not know these classes; a linear probe on it")
    network, classes = text if file is None else file.model, len(sources[0].class_names)
    if file is None:
        model = build_model(network, classes, image_size=image_size, pretrained=True)
    else:
        model, _ = network_for(file, classes, image_size)
    model = model.eval().to(device)
    if file is not None and file.header is not None:
        own = file.header.recipe.data
        size, mean, std = image_size or own.image_size, tuple(own.mean), tuple(own.std)
    else:
        size, says = image_size or _published_size(model), stated(model, ask_size=False)
        mean, std = says.mean or IMAGENET_MEAN, says.std or IMAGENET_STD
    seeing = data.model_copy(update={"image_size": size, "mean": mean, "std": std})
    with display.bar(f"features of {network}", sum(map(len, sources))) as bar:
        seen, asked = (features_of(model, one, seeing, device=device, advance=bar.advance) for one in sources)
    one = Candidate(
        name=name, bias=bias_of(network), probed=True, parameters=_size(model),
        log_p=_through_probe(network, seen, asked, classes), features=asked.values,
        images_per_s=images_per_s(model, size, device),
    )  # fmt: skip
    return one, asked.label


def _through_probe(name: str, seen: Features, asked: Features, classes: int) -> Tensor:
    """What a linear probe that is fitted to some features says of others: (n, classes) log-probabilities."""
    try:
        label, chosen = affordable(seen, classes)
    except DataError as error:
        raise DataError(
            f"no linear probe can be fitted for {name}: {error}; give folders of runs that know these classes"
        ) from error
    fitted, _, _ = fit(seen.values.numpy()[chosen], label)
    log_p = torch.full((len(asked.label), classes), -torch.inf, dtype=torch.float64)
    log_p[:, fitted.classes_] = torch.from_numpy(fitted.predict_log_proba(asked.values.numpy())).double()
    return log_p.float()


def _elsewhere(
    name: str,
    text: str,
    sources: tuple[ImageSource, ImageSource],
    data: Data,
    image_size: int | None,
    device: torch.device,
    display: Display,
) -> tuple[Candidate, Tensor]:
    """A classifier of another place, as a recipe would have it advise."""
    names, index = sources[1].class_names, None
    try:
        teacher = build_teacher("NAME", Teacher(model=text), names)
        shares = True
    except NoSharedClasses:
        shares = False
        teacher = build_teacher("NAME", Teacher(model=text, classes=list(range(len(names)))), names)
    if shares and teacher.classes is not None:
        index = teacher.classes
    whole = FrozenTeacher(teacher.model, mean=teacher.mean, std=teacher.std, image_size=teacher.image_size).to(device)
    own = whole.image_size
    size = max(own) if isinstance(own, tuple) else own or image_size or 224
    outputs = _Outputs(whole).eval()
    seeing = data.model_copy(update={"image_size": size, "mean": whole.mean, "std": whole.std})
    with display.bar(f"answers of {text}", len(sources[1])) as bar:
        asked = features_of(outputs, sources[1], seeing, device=device, advance=bar.advance)
    shares = shares and (index is not None or asked.values.shape[1] == len(names))
    if shares:
        z = asked.values
        if index is not None:
            z = z[:, index.clamp_min(0)].masked_fill(index < 0, -torch.inf)
        log_p = z.log_softmax(dim=1)
        if teacher.known is not None:
            display.say(
                f"{text} knows {len(teacher.known)} of the {len(names)} classes by name and would advise on those: "
                "it is right on no image of the others"
            )
    else:
        with display.bar(f"outputs of {text}", len(sources[0])) as bar:
            seen = features_of(outputs, sources[0], seeing, device=device, advance=bar.advance)
        log_p = _through_probe(text, seen, asked, len(names))
        display.say(f"{text} knows none of these classes: a linear probe on its outputs answers")
    one = Candidate(
        name=name, bias=bias_of(text), probed=not shares, parameters=_size(whole), log_p=log_p,
        features=asked.values, images_per_s=images_per_s(whole, size, device),
    )  # fmt: skip
    return one, asked.label


class _Outputs(nn.Module):
    """A classifier whose outputs count as its features."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.last = model, nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.model(images))  # type: ignore[no-any-return]

    def get_classifier(self) -> nn.Module:
        return self.last


def _published_size(model: nn.Module) -> int:
    """Side of the images that a network was published for."""
    size = getattr(model, "pretrained_cfg", {}).get("input_size")
    if not size:
        raise ModelError("a candidate does not say which images it was made for; give --image-size")
    if size[-1] != size[-2]:
        raise ModelError(f"a candidate was made for images of {size[-2]}×{size[-1]}; give --image-size SIDE")
    return int(size[-1])


def short_names(texts: Sequence[str]) -> list[str]:
    """Names of candidates in tables: what stands before `=`, or the last two words of a path, and more where two would
    have the same."""
    longest = max(len(_words(text)) for text in texts)
    return told_apart([*([_short(text, more) for text in texts] for more in range(longest + 1)), texts])


def _short(text: str, more: int) -> str:
    before, equals, path = text.partition("=")
    words = _words(path if equals else text)
    if equals:
        return f"{before}={'/'.join(words[-more:])}" if more else before
    file = "." in words[-1] or len(words) == 1
    return "/".join(words[-(more + (1 if file else 2)) :]).removesuffix(".safetensors")


def _words(text: str) -> list[str]:
    """Of a path; that of a run's weights is its folder's."""
    words = [word for word in text.split("/") if word]
    return words[:-1] if len(words) > 1 and words[-1] == "best.safetensors" else words


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
