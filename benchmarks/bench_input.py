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
from timm.data import Mixup, create_loader
from timm.data.auto_augment import posterize as timm_posterize
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from coadvise.data.decode import decode_pixels
from coadvise.data.loader import RESIDENT_BYTES, TrainLoader
from coadvise.data.samples import Keys, needs_of
from coadvise.data.sources.base import ImageSource
from coadvise.data.sources.opening import open_source
from coadvise.data.views.augment import keyed, posterize, train_pixels
from coadvise.data.views.finish import Unfinished, mixing_table, view_table
from coadvise.data.views.fused import choices
from coadvise.data.views.order import Order
from coadvise.recipe.data import IMAGENET_MEAN, IMAGENET_STD, Augmentation, Data

COUNT, SIZE, CLASSES = 20_000, 64, 10
BATCH = 24
PHOTOGRAPHS = Path(__file__).resolve().parents[2] / "shared" / "data" / "imagenet1k_samples"
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
    statistics: dict[str, list[list[float]]] = {"coadvise": [], "one by one": []}
    epochs = itertools.count()

    def ours() -> None:
        for made in itertools.islice(loader.epoch(next(epochs)), 40):
            last = made.images, made.target
        statistics["coadvise"].append(_statistics(*last))

    def theirs() -> None:
        for images, labels in itertools.islice(iter(plain), 40):
            last = mixup(images.to(options.device), labels.to(options.device))
        statistics["one by one"].append(_statistics(*last))

    seconds = interleaved({"coadvise": ours, "one by one": theirs}, options.rounds, options.device)
    means = {name: np.mean(values, axis=0).tolist() for name, values in statistics.items()}
    # timm mixes a whole batch in one way, so the deviation of one batch says little.
    for a, b, within in zip(*means.values(), (0.1, 0.2, 1e-5), strict=True):
        assert abs(a - b) < within, f"the sides differ: {means}"
    loader.close()
    return {name: 40 * batch / value for name, value in seconds.items()}, {"statistics": means}


def _statistics(images: torch.Tensor, target: torch.Tensor) -> list[float]:
    """Mean and deviation of the images, and the sum of a target."""
    return [images.mean().item(), images.std().item(), target.sum(1).mean().item()]


def choices_of_a_batch(rounds: int) -> float:
    """Milliseconds that the host needs for the random choices of 256 images of 32 px: all that a GPU waits for."""
    augment = Augmentation(policy="light", erasing=0.25, mixup=0.8, cutmix=1.0)
    data = Data(source="-", image_size=32, workers=0, augment=augment)
    labels = np.arange(COUNT, dtype=np.int64) % CLASSES
    order = Order(data, labels)
    rows = order.rows(0)

    def draw() -> None:
        for at in range(0, 20 * 256, 256):
            some = rows[at : at + 256]
            needs = needs_of(Keys(0, np.arange(at, at + 256), some[:, 0], some[:, 1]), order, data)
            views = view_table(data, 0, needs.index, needs.repeat, labels[needs.index])
            mixing = mixing_table(needs.partner, needs.mixes)
            choices(Unfinished(torch.empty(0), views, mixing, torch.empty(0), ()))

    return 1000 * interleaved({"draw": draw}, rounds)["draw"] / 20


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
        from coadvise.data.sources.opening import open_sources

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


class Photographs(Dataset):
    """Files in memory, opened as timm's data sets do."""

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.transform: Any = None

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self.transform(Image.open(io.BytesIO(self.source.read(index))).convert("RGB")), 0


def deit_pipeline(folder: Path, rounds: int) -> tuple[dict[str, float], dict[str, float]]:
    """DeiT's augmentation at 224 px on one core: photographs a second of both sides, and where our time goes."""
    source = open_source(str(folder), "test")
    data = Data(source=str(folder), workers=0, augment=Augmentation(mixup=0.0, cutmix=0.0))
    loader = TrainLoader(source, data, BATCH)
    theirs = create_loader(
        Photographs(source), (3, 224, 224), BATCH, is_training=True, use_prefetcher=True, no_aug=False,
        re_prob=0.25, re_mode="pixel", scale=(0.08, 1.0), hflip=0.5, color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic", num_workers=0, device=torch.device("cpu"),
    )  # fmt: skip
    for step in theirs.dataset.transform.transforms:
        for op in getattr(step, "ops", ()):
            if op.aug_fn is timm_posterize:  # which asks for 0 bits now and then; Pillow 13 refuses that
                op.aug_fn = posterize
    views = itertools.count()
    statistics: dict[str, list[float]] = {"coadvise": [], "timm": []}

    def ours() -> None:
        for batch in loader.epoch(next(views)):
            statistics["coadvise"].append(batch.images.mean().item())

    def timms() -> None:
        for images, _ in theirs:
            statistics["timm"].append(images.mean().item())

    seconds = interleaved({"coadvise": ours, "timm": timms}, rounds)
    means = [sum(values) / len(values) for values in statistics.values()]
    assert abs(means[0] - means[1]) < 0.1, f"the sides differ: {means}"
    return {name: len(source) / value for name, value in seconds.items()}, _floor(source, data, rounds)


def _floor(source: ImageSource, data: Data, rounds: int) -> dict[str, float]:
    """Milliseconds a photograph for the parts: decoding (whole, and the crop alone), crop and resizing, all else."""
    raws = [source.read(i) for i in range(len(source))]
    pictures = [decode_pixels(raw, "photograph") for raw in raws]
    whole, bare = train_pixels(data), train_pixels(data)
    bare.rest = lambda image: image  # type: ignore[attr-defined]

    def views(transform: Any) -> None:
        for i, picture in enumerate(pictures):
            with keyed(i):
                transform(picture)

    def crops() -> None:
        for i, raw in enumerate(raws):
            with keyed(i):
                decode_pixels(raw, "photograph", bare.needed, bare.box)  # type: ignore[attr-defined]
                bare.forget()

    parts = {
        "decoding": lambda: [decode_pixels(raw, "photograph") for raw in raws],
        "decoding the crop": crops,
        "crop and resize": lambda: views(bare),
        "all after decoding": lambda: views(whole),
    }
    seconds = interleaved(parts, rounds)
    return {name: 1000 * value / len(raws) for name, value in seconds.items()}


def main() -> None:
    options = arguments(__doc__ or "")
    torch.set_num_threads(1)
    photographs: dict[str, float] = {}
    floor: dict[str, float] = {}
    if PHOTOGRAPHS.is_dir():
        photographs, floor = deit_pipeline(PHOTOGRAPHS, options.rounds)
    else:
        print(f"no photographs at {PHOTOGRAPHS}, so DeiT's pipeline is left out")
    torch.set_num_threads(options.threads)
    small, details = small_images(options)
    large = large_photographs(options.rounds)
    claims = [
        claim(f"{SIZE} px images from memory, against one by one ({WORKERS} workers)",
              small["coadvise"] / small["one by one"]),
        claim(f"{SIZE} px images from memory", small["coadvise"], "", " images/s"),
        claim("the host's choices for 256 images of 32 px", choices_of_a_batch(options.rounds), "≤ 1.5 ms", " ms"),
        claim("photographs of 12 megapixels, decoded smaller or whole", large["True"] / large["False"]),
    ]  # fmt: skip
    if photographs:
        ratio = photographs["coadvise"] / photographs["timm"]
        claims.append(
            claim("photographs of about 500 × 375 px, DeiT's augmentation, one core, against timm", ratio, "≥ 1.8×")
        )
    measured = {"images_per_s": small, "photographs_per_s": large}
    report("input", options, claims, {**measured, "deit_per_s": photographs, "deit_ms": floor, **details})


if __name__ == "__main__":
    main()
