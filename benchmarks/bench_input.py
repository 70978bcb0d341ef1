"""Input: small images from memory against one-by-one transforms in worker processes; large photographs decoded smaller.

The plain side is what most training scripts do: torchvision's transforms in PyTorch's DataLoader, timm's Mixup on the
batch. It draws other random numbers, so the sides are compared by the statistics of what they give.

python benchmarks/bench_input.py
"""

from __future__ import annotations

import io
import itertools
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from side_by_side import arguments, claim, interleaved, report
from timm.data import Mixup
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from coadvise.data import TrainLoader
from coadvise.data.loader import RESIDENT_BYTES
from coadvise.recipe import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Data

COUNT, SIZE, CLASSES = 20_000, 64, 10
WORKERS = 2


class Pictures:
    """Smooth random pictures in memory."""

    class_names = tuple("abcdefghij")

    def __init__(self, count: int, size: int) -> None:
        generator = np.random.default_rng(0)
        coarse = generator.integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)
        self.images = coarse.repeat(size // 8, axis=1).repeat(size // 8, axis=2)
        self.labels = np.arange(count, dtype=np.int64) % CLASSES

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> Image.Image:
        return Image.fromarray(self.images[index])

    def describe(self, index: int) -> str:
        return f"picture {index}"


class Plain(Dataset):
    """The same pictures, each augmented by itself."""

    def __init__(self, source: Pictures, size: int) -> None:
        self.source = source
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=size // 8),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            ]
        )

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(self.source.read(index)), int(self.source.labels[index])


def small_images(options: Any) -> tuple[dict[str, float], dict[str, Any]]:
    """Images per second of both sides, in turns, and what they give."""
    source, batch = Pictures(COUNT, SIZE), 256
    augment = Augmentation(policy="light", erasing=0.0, mixup=0.8, cutmix=1.0, label_smoothing=0.1)
    loader = TrainLoader(source, Data(source="-", image_size=SIZE, workers=WORKERS, augment=augment), batch,
                         device=options.device)  # fmt: skip
    assert loader.stays and source.images.nbytes <= RESIDENT_BYTES
    mixup = Mixup(mixup_alpha=0.8, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=CLASSES)
    plain = DataLoader(Plain(source, SIZE), batch, shuffle=True, num_workers=WORKERS, drop_last=True,
                       persistent_workers=True, pin_memory=options.device != "cpu")  # fmt: skip
    statistics: dict[str, list[float]] = {}
    epochs = itertools.count()

    def ours() -> None:
        for made in itertools.islice(loader.epoch(next(epochs)), 40):
            last = made.images, made.target
        statistics["coadvise"] = _statistics(*last)

    def theirs() -> None:
        for images, labels in itertools.islice(iter(plain), 40):
            last = mixup(images.to(options.device), labels.to(options.device))
        statistics["one by one"] = _statistics(*last)

    seconds = interleaved({"coadvise": ours, "one by one": theirs}, options.rounds, options.device)
    for a, b, within in zip(*statistics.values(), (0.1, 0.15, 1e-5), strict=True):
        assert abs(a - b) < within, f"the sides differ: {statistics}"
    loader.close()
    return {name: 40 * batch / value for name, value in seconds.items()}, {"statistics": statistics}


def _statistics(images: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Mean and deviation of the images, and the sum of a target."""
    return [images.mean().item(), images.std().item(), target.sum(1).mean().item()]


def large_photographs(rounds: int) -> dict[str, float]:
    """Photographs of 12 megapixels per second, on one core, with and without decoding them smaller."""
    with tempfile.TemporaryDirectory() as folder:
        for label, seed in itertools.product("ab", range(4)):
            path = Path(folder, label, f"{seed}.jpg")
            path.parent.mkdir(exist_ok=True)
            coarse = np.random.default_rng(seed).integers(0, 256, (60, 80, 3), dtype=np.uint8)
            stream = io.BytesIO()
            Image.fromarray(coarse).resize((4000, 3000), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
            path.write_bytes(stream.getvalue())
        from coadvise.data import open_sources

        loaders = {}
        for shrink in (True, False):
            data = Data(source=folder, workers=0, shrink_on_load=shrink, val_fraction=0.3)
            loaders[shrink] = TrainLoader(open_sources(data)[0], data, 6)
        started = time.perf_counter()
        means = {shrink: next(iter(loader.epoch(0))).images.mean().item() for shrink, loader in loaders.items()}
        assert abs(means[True] - means[False]) < 0.05 and time.perf_counter() > started
        seconds = interleaved(
            {str(shrink): lambda one=loader: list(one.epoch(0)) for shrink, loader in loaders.items()}, rounds
        )
    return {name: 6 / value for name, value in seconds.items()}


def main() -> None:
    options = arguments(__doc__ or "")
    small, details = small_images(options)
    large = large_photographs(options.rounds)
    claims = [
        claim(f"{SIZE} px images from memory, against one by one ({WORKERS} workers)",
              small["coadvise"] / small["one by one"]),
        claim(f"{SIZE} px images from memory", small["coadvise"], "", " images/s"),
        claim("photographs of 12 megapixels, decoded smaller or whole", large["True"] / large["False"]),
    ]  # fmt: skip
    report("input", options, claims, {"images_per_s": small, "photographs_per_s": large, **details})


if __name__ == "__main__":
    main()
