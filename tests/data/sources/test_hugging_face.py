"""Data sets of the Hugging Face Hub without a network: a copy on this machine serves, else one message comes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from helpers.hub import silent_hub
from helpers.work import ends
from PIL import Image

from coadvise.data.sources.opening import open_source, open_sources
from coadvise.errors import DataError
from coadvise.recipe.schema import Data


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A data set that `datasets` itself has put into its cache, as after a download; the Hub is silent since then."""
    datasets = pytest.importorskip("datasets")
    from datasets.packaged_modules.parquet.parquet import Parquet as Builder

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["x", "y"])})
    generator = np.random.default_rng(0)
    written = {"train": [], "test": []}
    for split, images in written.items():
        for _ in range(4):
            encoded = io.BytesIO()
            Image.fromarray(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(encoded, "PNG")
            images.append(encoded.getvalue())
        rows = {"image": [{"bytes": image, "path": None} for image in images], "label": [0, 1, 1, 0]}
        datasets.Dataset.from_dict(rows, features).to_parquet(str(tmp_path / f"{split}.parquet"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    files = {split: [str(tmp_path / f"{split}.parquet")] for split in written}
    for config in ("default", "other"):
        # With a name on the Hub it would want files from there, so the folder that it would choose is given instead.
        builder = Builder(str(tmp_path), dataset_name="tiny", config_name=config, config_id=config, data_files=files)
        builder.download_and_prepare(str(tmp_path / "cache" / "me___tiny" / config / "0.0.0" / "abc"))
    with silent_hub(monkeypatch, tmp_path / "hub") as asked:
        yield written, asked


@pytest.mark.parametrize("config", ["default", "other"])
def test_hf_from_the_cache_when_the_hub_is_silent(cached, config) -> None:
    """Also by another name than the first; each way to it asks the Hub once and does not wait for it again."""
    import datasets

    written, asked = cached
    with ends():
        train, validation = open_sources(Data(source=f"hf:me/tiny:{config}"))
    assert len(asked) == 3  # for the splits, and for each of the two
    assert [train.read(i) for i in range(4)] == written["train"] and train.labels.tolist() == [0, 1, 1, 0]
    assert [validation.read(i) for i in range(4)] == written["test"] and train.class_names == ("x", "y")
    assert not datasets.config.HF_HUB_OFFLINE


def test_hf_that_is_nowhere_asks_a_silent_hub_once(cached) -> None:
    with (
        ends(),
        pytest.raises(
            DataError, match=r"^hf:me/large cannot be had \(no answer.*no copy in the cache.*: connect"
        ) as caught,
    ):
        open_sources(Data(source="hf:me/large"))
    assert len(cached[1]) == 1 and "\n" not in str(caught.value)
    with pytest.raises(DataError, match=r"^hf:me/tiny:third cannot be loaded: .*default"):
        open_source("hf:me/tiny:third", "train")
    for folder in ("hf:no/such/folder", "hf:/no/such/folder"):
        with pytest.raises(DataError, match="cannot be loaded: Couldn't find any data file"):
            open_source(folder, "train")
    assert len(cached[1]) == 2


@pytest.mark.parametrize("place", ["inside", "beside"])
def test_paths_of_a_data_set_on_the_disk_begin_at_it(tmp_path: Path, place: str) -> None:
    """And not at the folder in which a command is used."""
    datasets = pytest.importorskip("datasets")
    root = tmp_path / "set"
    datasets.Dataset.from_dict({"image": ["photos/0.png", "photos/1.png"], "label": ["a", "b"]}).save_to_disk(str(root))
    photos = (root if place == "inside" else tmp_path) / "photos"
    photos.mkdir()
    for i in range(2):
        Image.new("L", (3, 2), i).save(photos / f"{i}.png")
    source = open_source(f"hf:{root}")
    assert [source.read(i) for i in range(2)] == [(photos / f"{i}.png").read_bytes() for i in range(2)]
