"""The recipe's part on images: where they come from, and what happens to them before a model sees them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .fields import Count, Deviations, Means, NonNegative, Part, Positive, Probability, Seed, Triple

IMAGENET_MEAN: Triple = (0.485, 0.456, 0.406)
IMAGENET_STD: Triple = (0.229, 0.224, 0.225)


class Augmentation(Part):
    """Everything that happens to a training image between decoding and the model (one *view*)."""

    policy: Literal["deit", "light", "none"] = "deit"
    """`deit`: random resized crop, RandAugment, erasing. `light`: padded crop for small images. `none`: as in
    evaluation."""
    hflip: Probability = 0.5
    """Probability of a horizontal flip; 0 for digits or text."""
    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Area of the random resized crop as a fraction of the image (`deit`)."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Aspect ratio of the random resized crop (`deit`)."""
    pad: Annotated[int, Field(ge=0, le=4096)] | None = None
    """Pixels of padding before the random crop (`light`); an eighth of the image when not given."""
    randaugment: str | None = "rand-m9-mstd0.5-inc1"
    """timm's RandAugment string (`deit`), or null."""
    color_jitter: NonNegative = 0.4
    """Strength of the colour jitter. As in timm, it is used only where RandAugment is off."""
    erasing: Probability = 0.25
    """Probability of random erasing with per-pixel noise, after normalisation."""
    mixup: NonNegative = 0.8
    """Alpha of mixup's Beta distribution; 0 is off."""
    cutmix: NonNegative = 1.0
    """Alpha of cutmix's Beta distribution; 0 is off."""
    mix_probability: Probability = 1.0
    """Probability that a sample is mixed at all."""
    mix_switch: Probability = 0.5
    """Probability of cutmix instead of mixup where both are on."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Mass of the label that is spread evenly over all classes."""
    repeats: Annotated[int, Field(ge=1, le=64)] = 1
    """Repeated augmentation: differently augmented copies of each image drawn in an epoch."""


class Data(Part):
    """Where the images come from and how they reach the model."""

    source: str
    """`digits`, an image folder, a CSV file of paths and labels (or TSV, JSON lines), a Parquet file or folder,
    WebDataset tars, `hf:NAME`, `torchvision:NAME`; unusual names of columns follow: `PATH:image=NAME:label=NAME`."""
    val_source: str | None = None
    """Another source for validation; by default the source's own validation or test split."""
    unlabelled: str | None = None
    """Another source of training images, on which teachers advise: their labels are not looked at, and a folder of them
    needs no class folders. Where few images have labels, these are few in a batch and their term is noisy: a smaller
    `loss.label_weight` may learn better."""
    train_split: str | None = None
    """Name of the training split; found by itself when not given."""
    val_split: str | None = None
    """Name of the validation split; found by itself when not given."""
    val_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Part of each class that is held out where the source has no validation split."""
    train_size: Count | None = None
    """Use only so many training images (the same for every seed, classes kept in balance)."""
    val_size: Count | None = None
    """Use only so many validation images."""
    balance: Literal["none", "weights", "sampling"] = "none"
    """What is done about classes of unequal size. `weights`: in the cross entropy, a label weighs n / (k · n_c) for n_c
    of n images and k classes. `sampling`: each epoch draws as many images of every class."""
    labels: Literal["one", "several"] = "one"
    """How many classes an image has: `one`, or `several`, which may also be none (multi-label): labels such as
    `dog|outdoor`, a list, or a column of 0 and 1 for each class (CSV, TSV, JSON lines, Parquet)."""
    classes: str | None = None
    """Use only these classes: a text file with one of the data's class names a line."""
    image_size: Annotated[int, Field(ge=4, le=4096)] = 224
    """Side of the square image that the student sees, in pixels."""
    eval_crop: Annotated[float, Field(gt=0, le=1)] = 0.875
    """Evaluation resizes the shorter side to image_size / eval_crop and crops the centre (224 / 256)."""
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    """How images are resized."""
    shrink_on_load: bool = True
    """Decode JPEG files at 1/2, 1/4 or 1/8 of their size where at least twice the needed pixels are left: several times
    faster for large photographs, with pixels that differ slightly."""
    resizer: Literal["torch", "pillow"] = "torch"
    """What resizes the random crops of the `deit` policy: PyTorch is three times faster than Pillow; a pixel in seventy
    differs a little. Evaluation always resizes by Pillow, as timm does."""
    mean: Means = IMAGENET_MEAN
    """Per-channel mean for normalisation, of pixels in [0, 1]."""
    std: Deviations = IMAGENET_STD
    """Per-channel standard deviation, likewise."""
    augment: Augmentation = Augmentation()
    seed: Seed = 0
    """Seed of order and augmentation, apart from the model's (`run.seed`)."""
    views: Count | None = None
    """Epochs after which the views recur (view = epoch mod views); by default they never do."""
    views_folder: str | None = None
    """Folder in which the pixels of recurring views are kept (`deit`, without repeated augmentation): drawn once, and
    read by every run on the same images and settings. It takes views × images × 3 · image_size² bytes."""
    workers: Annotated[int, Field(ge=0, le=4096)] = 2
    """Loader processes for each training process; 0 loads in the training process itself."""
    on_error: Literal["raise", "skip"] = "raise"
    """An unreadable image stops the run, or is counted and replaced by the next readable one."""
