"""Affine operations by compiled code against Pillow's, and what happens where nothing can be compiled."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from helpers import processes
from PIL import Image
from timm.data import auto_augment

from coadvise.data.views import warp
from coadvise.data.views.augment import keyed, train_pixels
from coadvise.data.views.bare import bare
from coadvise.recipe.schema import Augmentation, Data

SHAPES = [(1, 1), (2, 5), (7, 3), (31, 40), (64, 64)]
STRENGTHS = [0.0, 0.25, -0.3, 0.5, 1.0, -1.7]


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_it_is_compiled_here() -> None:
    assert warp.library() is not None, "there is a compiler where this project is tested"


@pytest.mark.parametrize("operation", warp.AFFINE, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("resample", [Image.Resampling.BICUBIC, Image.Resampling.BILINEAR])
def test_the_pixels_are_pillows(operation, resample) -> None:
    lengths = operation is auto_augment.rotate or "abs" in operation.__name__
    for shape in SHAPES:
        image = noise(*shape)
        for strength in STRENGTHS:
            value = strength * (90 if lengths else 1)
            theirs = operation(image, value, resample=resample, fillcolor=(124, 116, 104))
            ours = warp.Affine(operation)(image, value, resample=resample, fillcolor=(124, 116, 104))
            assert np.array_equal(np.asarray(ours), np.asarray(theirs)), (shape, value)


def test_a_turn_against_a_loop() -> None:
    """Keys' cubic convolution with a = -1 in float64, pixel by pixel."""
    image = noise(9, 12)
    pixels = np.asarray(image).astype(float)
    angle = np.radians(20)
    matrix = (np.cos(angle), np.sin(angle), -0.7, -np.sin(angle), np.cos(angle), 2.3)

    def weight(d: float) -> float:
        d = abs(d)
        return (d**3 - 2 * d**2 + 1) if d < 1 else (-(d**3) + 5 * d**2 - 8 * d + 4) if d < 2 else 0.0

    library = warp.library()
    assert library is not None
    found = warp._warped(library, bare(image), matrix, np.full(4, 9, dtype=np.uint8))[..., :3]
    for y in range(9):
        for x in range(12):
            sx = matrix[0] * (x + 0.5) + matrix[1] * (y + 0.5) + matrix[2]
            sy = matrix[3] * (x + 0.5) + matrix[4] * (y + 0.5) + matrix[5]
            if not (0 <= sx < 12 and 0 <= sy < 9):
                assert (found[y, x] == 9).all()
                continue
            value = np.zeros(3)
            for j in range(int(np.floor(sy)) - 3, int(np.floor(sy)) + 4):
                for i in range(int(np.floor(sx)) - 3, int(np.floor(sx)) + 4):
                    w = weight(sx - 0.5 - i) * weight(sy - 0.5 - j)
                    value += w * pixels[min(max(j, 0), 8), min(max(i, 0), 11)]
            assert np.abs(found[y, x] - np.clip(np.floor(value + 1e-9), 0, 255)).max() <= 1e-6


def test_the_training_pipeline_takes_it_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    transform = train_pixels(Data(source="-", image_size=32, augment=Augmentation(randaugment="rand-m9-n30")))
    steps = [op.aug_fn for step in transform.rest.transforms for op in getattr(step, "ops", ())]
    assert sum(isinstance(step, warp.Affine) for step in steps) == 5
    assert isinstance(pickle.loads(pickle.dumps(warp.Affine(auto_augment.rotate))), warp.Affine)
    calls = []
    plain = warp._warped
    monkeypatch.setattr(warp, "_warped", lambda *a: calls.append(1) or plain(*a))
    with keyed(0):
        transform(noise(50, 40))
    assert calls, "none of thirty operations went through compiled code"


def test_where_the_pixels_differ_pillow_does_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert warp.library() is not None
    monkeypatch.setattr(warp, "_warped", lambda function, pixels, matrix, fill: pixels + 1)
    with pytest.warns(RuntimeWarning, match="give other pixels than this Pillow"):
        assert warp.library.__wrapped__() is None


def test_an_image_without_pixels_is_pillows() -> None:
    empty = Image.new("RGB", (0, 5))
    assert warp.Affine(auto_augment.shear_x)(empty, 0.3, fillcolor=(0, 0, 0)).size == (0, 5)


def test_without_a_compiler_it_says_so_once_and_goes_on(tmp_path) -> None:
    """In a process of its own, with no compiler to be found and nothing built before."""
    code = (
        "import numpy as np; from PIL import Image; from timm.data.auto_augment import rotate\n"
        "from coadvise.data.views.warp import Affine\n"
        "image = Image.new('RGB', (8, 8), (10, 20, 30))\n"
        "for _ in range(3): turned = Affine(rotate)(image, 45, fillcolor=(0, 0, 0))\n"
        "print(turned.getpixel((4, 4)), turned.getpixel((0, 0)))"
    )
    environment = {"PATH": str(tmp_path), "CXX": "", "XDG_CACHE_HOME": str(tmp_path / "cache")}
    done = processes.run("-c", code, environment=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "(10, 20, 30) (0, 0, 0)"
    assert done.stderr.count("there is no C++ compiler") == 1
