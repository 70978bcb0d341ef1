"""Image classifiers of Transformers, from a folder or from the Hub.

How a model sees images is asked of its image processor by trial: it is shown images of one colour. So it does not
matter by which of its many settings (rescaling, offsets, the order of the channels) it normalises.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import ModelError, one_line
from ..system.extras import command_for
from ..system.hub import silence
from .elsewhere import Found, names_of
from .stated import Size

# Side of the trial images: no processor enlarges these, and what it cuts out is of the same colour.
_SIDE = 1024


class TransformersModel(nn.Module):
    """A classifier of Transformers: images (b, 3, h, w), red first → logits (b, k)."""

    def __init__(self, model: nn.Module, channels: tuple[int, ...], size: Size | None) -> None:
        super().__init__()
        self.model = model
        self.num_classes = int(model.config.num_labels)  # type: ignore[union-attr,arg-type]
        self.image_size = size
        self._channels = None if channels == tuple(range(len(channels))) else list(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x if self._channels is None else x[:, self._channels]).logits


def open_transformers(place: str, *, given: bool = False) -> Found:
    """A classifier from a folder that `save_pretrained` wrote, or of that name on the Hub, in float32.

    Args:
        given: whether the user says how it sees images; then it may come without an image processor.

    Raises:
        ModelError: it cannot be had, is no image classifier, or does not say how it sees images.
    """
    transformers = _library()
    if not Path(place).is_dir():
        _require_name(place)
    with _quiet(transformers):
        model = _model(transformers, place)
        try:
            processor = transformers.AutoImageProcessor.from_pretrained(
                place, local_files_only=Path(place).is_dir(), trust_remote_code=False
            )
            seen = _seen(processor)
        except Exception as error:  # files that are missing or damaged raise in many ways
            if not given:
                raise ModelError(
                    f"transformers:{place} does not say how it sees images ({one_line(error)[:300]}); give the "
                    "teacher's mean and std, and its image_size"
                ) from error
            side = getattr(model.config, "image_size", None)
            seen = _Seen((0, 1, 2), None, None, (side, side) if isinstance(side, int) else None)
    classes = names_of({int(index): name for index, name in (model.config.id2label or {}).items()})
    return Found(TransformersModel(model, seen.channels, seen.size).eval(), seen.mean, seen.std, seen.size, classes)


def _library() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ModelError(f"transformers:… needs the transformers library: {command_for('transformers')}") from error
    return transformers


def _require_name(place: str) -> None:
    from huggingface_hub import try_to_load_from_cache

    if place.startswith((".", "/", "~")) or place.count("/") > 1 or "\\" in place:
        raise ModelError(f"transformers:{place}: there is no such folder; check the path, or give a name on the Hub")
    try:
        if isinstance(try_to_load_from_cache(place, "config.json"), str):
            return
    except ValueError as error:  # a name that no repository can have
        raise ModelError(
            f"transformers:{place} is neither a folder nor a name on the Hub: {one_line(error)}"
        ) from error
    silent = silence(place, "config.json")
    if silent is not None:
        raise ModelError(
            f"transformers:{place} cannot be had: there is no folder of that name, and no answer from the Hugging Face "
            f"Hub ({one_line(silent)}); connect to the internet, or give a folder that save_pretrained wrote"
        ) from silent


def _model(transformers: Any, place: str) -> Any:
    # In float32, whatever the file has: published weights are often kept in half precision.
    load = transformers.AutoModelForImageClassification.from_pretrained
    try:
        model, loaded = load(
            place, dtype=torch.float32, output_loading_info=True, local_files_only=Path(place).is_dir(),
            trust_remote_code=False, weights_only=True,
        )  # fmt: skip
    except Exception as error:  # missing files, other kinds of models, damaged weights
        raise ModelError(
            f"transformers:{place} cannot be loaded as an image classifier: {one_line(error)[:300]}; give the folder "
            "or the name of one, and of its own config.json and weights"
        ) from error
    if missing := sorted(loaded["missing_keys"]):
        raise ModelError(
            f"transformers:{place} has no weights for {missing[0]} and {len(missing) - 1} more: it is a backbone "
            "without a classifier; choose a model that was trained to classify"
        )
    return model.float().eval().requires_grad_(False)


@dataclass(frozen=True)
class _Seen:
    """How an image processor shows images: channel o of its output is channel `channels[o]` of an RGB image."""

    channels: tuple[int, ...]
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: Size | None


def _seen(processor: Any) -> _Seen:
    shown = {
        colour: _shown(processor, colour)
        for colour in ((0, 0, 0), (255, 255, 255), (51, 51, 51), (255, 0, 0), (0, 255, 0), (0, 0, 255))
    }
    size = next(iter(shown.values())).shape[-2:]
    black, white, fifth, *single = (pixels[:, size[0] // 2, size[1] // 2] for pixels in shown.values())
    if not torch.allclose(fifth, black + (white - black) / 5, atol=1e-4):
        raise ValueError("its image processor does more than to normalise")
    on = (torch.stack(single) - white).abs() <= 1e-4 * (white - black).abs()  # (input channel, output channel)
    if on.sum(dim=0).tolist() != [1, 1, 1] or on.sum(dim=1).tolist() != [1, 1, 1]:
        raise ValueError("its image processor mixes the channels")
    channels = tuple(on.int().argmax(dim=0).tolist())
    scale = (white - black)[on.int().argmax(dim=1)]  # by the channel of the RGB image
    offset = black[on.int().argmax(dim=1)]
    mean, std = (tuple(round(v, 6) for v in values.tolist()) for values in (-offset / scale, 1 / scale))
    return _Seen(channels, mean, std, (size[0], size[1]))


def _shown(processor: Any, colour: tuple[int, int, int]) -> Tensor:
    image = Image.new("RGB", (_SIDE, _SIDE), colour)
    pixels = processor(images=image, return_tensors="pt")["pixel_values"]
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[1] != 3:
        raise ValueError("its image processor makes no images (1, 3, h, w)")
    return pixels[0].double()


@contextlib.contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without progress bars and without notes on what is not loaded, of which errors here say more."""
    log = transformers.utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    log.set_verbosity_error()
    log.disable_progress_bar()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
