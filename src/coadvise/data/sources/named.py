"""Data sets by name: `hf:NAME[:CONFIG]` through `datasets`, `torchvision:NAME[@ROOT]` through torchvision."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...errors import DataError, did_you_mean, one_line
from ...system.extras import command_for, installed
from ...system.files import cache_folder
from ...system.hub import silence
from .base import InFile
from .columns import Columns, choose_columns
from .labels import label_column, labels_and_names, require_some
from .splits import pick_split

# --- Hugging Face ----------------------------------------------------------------------------------------


class HuggingFace:
    """One split of a `datasets.Dataset` with an Image and a ClassLabel (or plain label) column.

    Args:
        folder: in which the data set lies, with the name of the split; None for one of the Hub.
    """

    class_names: tuple[str, ...] = ()

    def __init__(self, dataset: Any, where: str, columns: Columns, folder: InFile | None = None) -> None:
        import datasets

        features = dataset.features
        self.where, self.folder = where, folder
        images, labels = (
            [name for name, feature in features.items() if isinstance(feature, kind)]
            for kind in (datasets.Image, datasets.ClassLabel)
        )
        self.image_column, name = choose_columns(features.arrow_schema, images, labels, columns, where)
        if isinstance(features[self.image_column], datasets.Image):
            dataset = dataset.cast_column(self.image_column, datasets.Image(decode=False))
        self.dataset = dataset.select_columns([self.image_column])
        if not columns.labelled:
            self.labels = np.full(len(dataset), -1, dtype=np.int64)
            return
        column = dataset.select_columns([name]).with_format("arrow")[:].column(name)
        require_some([column], name, where)
        values = label_column(column, name, where)
        feature = features[name]
        declared = feature.names if isinstance(feature, datasets.ClassLabel) else None
        self.labels, self.class_names = labels_and_names(values, declared)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | Image.Image:
        value = self.dataset[int(index)][self.image_column]
        if isinstance(value, (dict, str)):
            if isinstance(value, dict) and value.get("bytes") is not None:
                return value["bytes"]
            try:
                return self._place(value if isinstance(value, str) else value["path"]).read_bytes()
            except (OSError, TypeError) as error:
                raise DataError(f"{self.describe(index)} cannot be read: {error}") from error
        if not isinstance(value, (bytes, Image.Image)):
            raise DataError(f"{self.describe(index)} holds no image but {type(value).__name__}")
        return value

    def _place(self, name: str) -> Path:
        """The file of a name: in or beside the folder of a data set on the disk, where it is there."""
        if self.folder is None:
            return Path(name)
        root = Path(self.folder.path)
        return next((place for place in (root / name, root.parent / name) if place.is_file()), Path(name))

    def describe(self, index: int) -> str:
        return f"{self.where} row {index}"

    def file_of(self, index: int) -> InFile | None:
        return None if self.folder is None else self.folder._replace(part=f"{self.folder.part} row {index}")


def load_hf(name: str) -> dict[str, Any]:
    """All splits of a data set on the Hub, or of one that `save_to_disk` wrote, by split.

    Where the Hub does not answer, a copy in the cache of `datasets` serves.

    Args:
        name: `NAME`, `NAME:CONFIG` or the path of a folder.

    Raises:
        DataError: `datasets` is not installed, or the data set cannot be found, downloaded or read.
    """
    if not installed("datasets"):
        raise DataError(f"hf:{name} needs the datasets library: {command_for('datasets')}")
    import datasets

    silent: Exception | None = None
    try:
        if Path(name).is_dir() and any((Path(name) / file).is_file() for file in ("dataset_dict.json", "state.json")):
            loaded = datasets.load_from_disk(name)
        else:
            address, _, config = name.partition(":")
            # `datasets` takes a name with one stroke at most for one on the Hub, and first for a folder here.
            if not (datasets.config.HF_HUB_OFFLINE or address.count("/") > 1 or os.path.exists(address)):
                silent = silence(address, "README.md", "dataset")
            with nullcontext() if silent is None else _offline(datasets.config):
                loaded = datasets.load_dataset(address, config or None)
    except ConnectionError as error:
        raise DataError(
            f"hf:{name} cannot be had (no answer from the Hugging Face Hub: {one_line(silent or error)}), and there is "
            "no copy in the cache of `datasets`: connect to the internet, or write the data set with "
            "save_to_disk(FOLDER) where there is a network and give hf:FOLDER"
        ) from error
    # `datasets` raises whatever the network, the Hub, or a reader of some format raises.
    except Exception as error:
        raise DataError(f"hf:{name} cannot be loaded: {one_line(error)}") from error
    return dict(loaded) if isinstance(loaded, dict) else {str(loaded.split or "all"): loaded}


@contextmanager
def _offline(config: Any) -> Iterator[None]:
    """Have `datasets` look into its cache at once; it has no argument for that, and else tries for half a minute."""
    config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE = False


def open_hf(name: str, split: str | None, columns: Columns) -> HuggingFace:
    """One split of a Hugging Face data set."""
    splits = load_hf(name)
    split = pick_split(split, splits, f"hf:{name}")
    folder = InFile(name, split) if os.path.isdir(name) else None
    return HuggingFace(splits[split], f"hf:{name} {split}", columns, folder)


# --- torchvision -----------------------------------------------------------------------------------------

# Splits of the classification sets; the constructor takes train=True/False where it has no `split`.
TORCHVISION: dict[str, tuple[str, ...]] = {
    "CIFAR10": ("train", "test"),
    "CIFAR100": ("train", "test"),
    "Country211": ("train", "valid", "test"),
    "DTD": ("train", "val", "test"),
    "EuroSAT": (),
    "FashionMNIST": ("train", "test"),
    "FGVCAircraft": ("train", "val", "trainval", "test"),
    "Flowers102": ("train", "val", "test"),
    "Food101": ("train", "test"),
    "GTSRB": ("train", "test"),
    "Imagenette": ("train", "val"),
    "KMNIST": ("train", "test"),
    "MNIST": ("train", "test"),
    "OxfordIIITPet": ("trainval", "test"),
    "PCAM": ("train", "val", "test"),
    "RenderedSST2": ("train", "val", "test"),
    "StanfordCars": ("train", "test"),
    "STL10": ("train", "test", "unlabeled"),
    "SUN397": (),
    "SVHN": ("train", "test"),
    "USPS": ("train", "test"),
}


class TorchVision:
    """One split of a torchvision data set; files are read undecoded where the data set has files."""

    def __init__(self, dataset: Any, where: str) -> None:
        self.dataset, self.where = dataset, where
        self.paths = _paths(dataset)
        names = [name if isinstance(name, str) else str(name[0]) for name in getattr(dataset, "classes", None) or ()]
        self.labels, self.class_names = labels_and_names(_targets(dataset), names or None)

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | Image.Image:
        try:
            return Path(self.paths[index]).read_bytes() if self.paths else self.dataset[index][0]
        except OSError as error:
            raise DataError(f"{self.describe(index)} cannot be read: {error}") from error

    def describe(self, index: int) -> str:
        return str(self.paths[index]) if self.paths else f"{self.where} image {index}"

    def file_of(self, index: int) -> InFile | None:
        return InFile(self.paths[index]) if self.paths else None


def torchvision_splits(name: str) -> tuple[str, ...]:
    """Splits of `NAME[@ROOT]`, () where the data set has none."""
    return TORCHVISION[_known(name.partition("@")[0])]


def open_torchvision(name: str, split: str | None) -> TorchVision:
    """One split of a torchvision data set; it is downloaded to ROOT if it is not there.

    Raises:
        DataError: unknown name or split, or the files are neither there nor to be had.
    """
    import torchvision.datasets

    word, _, root = name.partition("@")
    known = _known(word)
    splits, where = TORCHVISION[known], f"torchvision:{known}"
    if splits or split is not None:
        split = pick_split(split, splits, where)
    build = getattr(torchvision.datasets, known)
    accepted = inspect.signature(build).parameters
    options: dict[str, Any] = {"root": Path(root).expanduser() if root else cache_folder() / "torchvision"}
    if splits and "split" in accepted:
        options["split"] = split
    elif splits:
        options["train"] = split == "train"
    options["root"].mkdir(parents=True, exist_ok=True)
    return TorchVision(_build(build, options, where), f"{where} {split}" if split else where)


def _build(build: Any, options: dict[str, Any], where: str) -> Any:
    try:
        return build(**options)
    except Exception:  # the classes differ in how they say that the files are not there
        try:
            return build(**options, download=True)
        except Exception as error:
            raise DataError(
                f"{where} is not in {options['root']} and cannot be downloaded: {one_line(error)}; "
                f"put it there, or name another folder with {where}@FOLDER"
            ) from error


def _known(word: str) -> str:
    for name in TORCHVISION:
        if name.lower() == word.lower():
            return name
    raise DataError(f"torchvision has no data set '{word}'{did_you_mean(word, TORCHVISION)}")


def _paths(dataset: Any) -> list[str]:
    """Paths of the images, where the data set keeps a list of them."""
    for attribute in ("_image_files", "_images", "samples", "_samples"):
        entries = getattr(dataset, attribute, None)
        if isinstance(entries, (list, tuple)) and len(entries) == len(dataset):
            paths = [entry[0] if isinstance(entry, tuple) else entry for entry in entries]
            if all(isinstance(path, (str, Path)) for path in paths):
                return [str(path) for path in paths]
    return []


def _targets(dataset: Any) -> NDArray:
    for attribute in ("targets", "_labels", "labels", "samples", "_samples"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            if isinstance(values[0], tuple):
                values = [entry[1] for entry in values]
            return np.asarray(values)
    return np.asarray([dataset[index][1] for index in range(len(dataset))])
