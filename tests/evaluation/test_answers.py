"""Answers kept image by image: against a loop, over processes, and as pictures."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.runs import photographs
from PIL import Image

from coadvise.data.sources.opening import open_sources
from coadvise.data.views.finish import Batch
from coadvise.errors import DataError
from coadvise.evaluation.answers import Collected
from coadvise.evaluation.pictures import SIDE, pictures_of, thumbnail
from coadvise.recipe.schema import Data
from coadvise.run.answers import Answers
from coadvise.run.pictures import SURE, read_pictures, write_pictures


def batch(index: list[int]) -> Batch:
    nothing = torch.zeros(len(index), 3, 1, 1)
    place = torch.tensor(index)
    return Batch(nothing, nothing, place % 3, place, ())


def logits(seed: int) -> torch.Tensor:
    return torch.randn(10, 3, generator=torch.Generator().manual_seed(seed))


def test_answers_are_those_of_a_loop_whoever_computed_them() -> None:
    tokens, advice = {"class": logits(0), "conv": logits(1)}, {"conv": logits(2)}
    ranks = []
    for rank in range(2):
        one = Collected()
        for index in (list(range(rank, 6, 2)), list(range(6 + rank, 10, 2))):
            one.add(batch(index), {n: z[index] for n, z in tokens.items()}, {n: z[index] for n, z in advice.items()})
        ranks.append(one)
    parts: list[dict[str, np.ndarray]] = []
    ranks[1].answers("d", "abc", lambda rows: parts.extend(rows) or rows)
    found = ranks[0].answers("d", "abc", lambda rows: rows + parts)
    assert found.index.tolist() == list(range(10)) and found.label.tolist() == [i % 3 for i in range(10)]
    for i in range(10):
        for name, z in {**tokens, "average": (tokens["class"] + tokens["conv"]) / 2}.items():
            shares = z[i].exp() / z[i].exp().sum()
            assert found.outputs[name][i] == int(shares.argmax())
            assert found.confidence[name][i] == pytest.approx(float(shares.max()), rel=1e-5)
        assert found.teachers["conv"][i] == int(advice["conv"][i].argmax())


def test_without_any_image_there_are_no_answers() -> None:
    with pytest.raises(DataError, match="none of the images"):
        Collected().answers("d", "abc")


def test_pictures_show_the_images_that_were_answered(tmp_path: Path) -> None:
    """Of three classes by their brightness the middle one is never named."""
    data = Data(source=photographs(tmp_path / "photos", 3), image_size=8)
    source = open_sources(data)[1]
    answer = np.where(source.labels == 1, 2, source.labels)
    sure = np.linspace(0.5, 0.9, 9).astype(np.float32)
    one = Answers("d", source.class_names, np.arange(9), source.labels, {"class": answer}, {"class": sure})
    write_pictures(tmp_path / "pictures.json", pictures_of(one, source))
    found = read_pictures(tmp_path / "pictures.json")[SURE]
    assert [picture.index for picture in found] == [5, 4, 3]
    for picture in found:
        assert (picture.label, picture.answer, picture.name) == ("grey", "light", f"{picture.index - 3:03}.png")
        with Image.open(io.BytesIO(base64.b64decode(picture.jpeg))) as image:
            assert image.size == (8, 8) and abs(np.asarray(image).mean() - 128) < 12
    with Image.open(io.BytesIO(thumbnail(Image.new("RGB", (500, 250))))) as small:
        assert small.size == (SIDE, SIDE // 2)
