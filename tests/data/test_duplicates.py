"""Perceptual hashes against imagehash, and the search for near ones against all pairs."""

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from coadvise.data.duplicates import alike, groups, near_pairs, perceptual_hash, thumbnail


def test_the_hash_is_that_of_imagehash(photo: Callable[..., Image.Image]) -> None:
    imagehash = pytest.importorskip("imagehash")
    for seed in range(20):
        image = photo(seed, (90 + seed, 120))
        assert f"{perceptual_hash(image):016x}" == str(imagehash.phash(image))


def test_copies_are_near_and_others_are_far(photo: Callable[..., Image.Image]) -> None:
    image, other = photo(1, (300, 200)), photo(2, (300, 200))
    code, far = perceptual_hash(image), perceptual_hash(other)
    assert code is not None and far is not None
    for copy in (image.resize((150, 100)), image.resize((330, 220), Image.Resampling.BICUBIC)):
        assert (code ^ (perceptual_hash(copy) or 0)).bit_count() <= 4
        assert alike(thumbnail(image)[None], thumbnail(copy)[None])[0]
    assert (code ^ far).bit_count() > 10
    assert perceptual_hash(Image.new("RGB", (50, 50), (10, 90, 200))) is None
    red, blue = (Image.merge("RGB", [image.convert("L").point(lambda v, k=k: v * k) for k in ks]) for ks in
                 ((1, 0.2, 0.2), (0.2, 0.2, 1)))  # fmt: skip
    assert not alike(thumbnail(red)[None], thumbnail(blue)[None])[0]


@pytest.mark.parametrize(("bits", "waiting"), [(1, 1 << 20), (3, 1 << 20), (4, 1 << 20), (4, 5)])
def test_near_pairs_are_those_of_all_pairs(bits: int, waiting: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where pairs that were found twice are dropped on the way."""
    monkeypatch.setattr("coadvise.data.duplicates._WAITING", waiting)
    rng = np.random.default_rng(bits)
    seeds = rng.integers(0, 2**64, 60, dtype=np.uint64)
    changed = [seed ^ np.uint64(sum(1 << int(b) for b in rng.choice(64, k, replace=False)))
               for seed in seeds for k in (0, 1, 2, 4, 6)]  # fmt: skip
    hashes = rng.permutation(np.unique(np.array(changed, dtype=np.uint64)))
    wanted = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= bits
    }
    assert len(wanted) > 30
    assert set(map(tuple, near_pairs(hashes, bits).tolist())) == wanted


def test_few_hashes_have_no_near_ones() -> None:
    for count in (0, 1):
        assert near_pairs(np.arange(count, dtype=np.uint64)).shape == (0, 2)


def test_groups_are_connected_components() -> None:
    pairs = np.array([[7, 2], [2, 9], [4, 5]])
    assert [group.tolist() for group in groups(pairs, 10)] == [[2, 7, 9], [4, 5]]
    assert groups(np.empty((0, 2), dtype=np.int64), 10) == []
