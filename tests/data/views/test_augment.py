"""Augmentation of single images: equal to timm's own pipeline under the same seeds, and a function of the key alone."""

from __future__ import annotations

import io
import pickle
import random
import resource

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from coadvise.data.decode import decode
from coadvise.data.loader import sample
from coadvise.data.sources.opening import open_sources
from coadvise.data.views import square
from coadvise.data.views.augment import eval_pixels, keyed, train_pixels
from coadvise.data.views.finish import Finish
from coadvise.errors import DataError
from coadvise.recipe.schema import Augmentation, Data


def data(size: int = 32, resizer: str = "pillow", **augment: object) -> Data:
    return Data(source="digits", image_size=size, resizer=resizer, augment=Augmentation(**augment))


def ready(pixels: np.ndarray) -> torch.Tensor:
    """As the model sees them."""
    return Finish(data(), 10, torch.device("cpu")).images(torch.from_numpy(pixels)[None])[0]


def global_states() -> tuple:
    numpy = np.random.get_state()  # noqa: NPY002
    return random.getstate(), numpy[1].tolist(), numpy[2:], torch.get_rng_state().tolist()


@pytest.mark.parametrize("size", [32, 96])
def test_deit_is_timms_pipeline(photo, size):
    ours = train_pixels(data(size, policy="deit"))
    timms = create_transform(
        size, is_training=True, color_jitter=0.4, auto_augment="rand-m9-mstd0.5-inc1", interpolation="bicubic",
        re_prob=0.0, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), hflip=0.5,
    )  # fmt: skip
    compared = 0
    for seed in range(60):
        image = photo(seed, (120, 90))
        with keyed(1, seed):
            got = ready(ours(image))
        try:
            with keyed(1, seed):
                expected = timms(image)
        except ValueError:  # timm's posterize with 0 bits, which Pillow ≥ 13 refuses
            continue
        compared += 1
        assert torch.allclose(got, expected, atol=1e-6)
    assert compared > 30


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pytorch_resizes_nearly_as_pillow_does(photo, interpolation):
    """The same crops of the same images; values differ by a rounding here and there, more only at sharp edges."""
    settings = {"policy": "deit", "randaugment": None, "color_jitter": 0.0, "hflip": 0.0}
    sides = {}
    for resizer in ("torch", "pillow"):
        wanted = data(64, resizer, **settings).model_copy(update={"interpolation": interpolation})
        transform, found = train_pixels(wanted), []
        for seed in range(20):
            for image in (photo(seed, (320, 240)), np.asarray(photo(seed, (320, 240)))):
                with keyed(1, seed):
                    found.append(transform(image).astype(int))
        sides[resizer] = np.stack(found)
        assert (sides[resizer][::2] == sides[resizer][1::2]).all(), "an image or its pixels, that is the same"
    apart = np.abs(sides["torch"] - sides["pillow"])
    assert apart.mean() < 0.1 and (apart > 2).mean() < 0.01
    assert Data(source="-").resizer == "torch", "the fast one is the default"


def test_colour_jitter_where_randaugment_is_off(photo):
    ours = train_pixels(data(64, policy="deit", randaugment=None, color_jitter=0.3, erasing=0, hflip=0))
    timms = create_transform(
        64, is_training=True, color_jitter=0.3, auto_augment=None, interpolation="bicubic", re_prob=0, hflip=0
    )
    for seed in range(5):
        with keyed(seed):
            got = ready(ours(photo(seed)))
        with keyed(seed):
            assert torch.allclose(got, timms(photo(seed)), atol=1e-6)


def test_every_randaugment_op_runs_at_full_strength(photo):
    transform = train_pixels(data(32, policy="deit", randaugment="rand-m10-n8-p1.0-inc1"))
    for seed in range(60):
        with keyed(seed):
            assert transform(photo(seed)).shape == (32, 32, 3)


def test_an_unknown_randaugment_string_is_an_error():
    for text in ("tand-m9", "rand-x9", "rand-mnine"):
        with pytest.raises(DataError, match=f"randaugment is '{text}'"):
            train_pixels(data(policy="deit", randaugment=text))


def test_light_leaves_fitting_images_alone(photo):
    pixels = np.asarray(photo(3, (32, 32)))
    assert np.array_equal(train_pixels(data(policy="light"))(Image.fromarray(pixels)), pixels)


def test_light_resizes_other_images_first(photo):
    image = photo(4, (90, 60))
    transform = train_pixels(data(policy="light"))
    expected = np.asarray(image.resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32)))
    assert np.array_equal(transform(image), expected)


def test_evaluation_against_pillow(photo):
    image = photo(6, (300, 200))
    pixels = eval_pixels(data(64))(image)  # 64 / 0.875 = 73
    resized = image.resize((int(73 * 300 / 200), 73), Image.Resampling.BICUBIC)
    left, top = round((resized.width - 64) / 2), round((73 - 64) / 2)
    assert np.array_equal(pixels, np.asarray(resized.crop((left, top, left + 64, top + 64))))
    timms = create_transform(224, interpolation="bicubic", crop_pct=0.875)
    assert torch.allclose(ready(eval_pixels(data(224))(image)), timms(image), atol=1e-6)


def test_none_is_the_evaluation_transform_and_fitting_images_keep_their_pixels(photo):
    image = photo(7, (32, 32))
    whole = Data(source="digits", image_size=32, eval_crop=1.0, augment=Augmentation(policy="none"))
    assert np.array_equal(train_pixels(whole)(image), np.asarray(image))
    states = global_states()
    other = photo(8)
    assert np.array_equal(train_pixels(whole)(other), eval_pixels(whole)(other))
    assert states == global_states()


def test_the_key_decides(photo):
    transform = pickle.loads(pickle.dumps(train_pixels(data())))  # as in a spawned worker
    image = photo(9)

    def draw(*key: int) -> np.ndarray:
        with keyed(*key):
            return transform(image)

    first = [draw(1, 2, index) for index in range(20)]
    random.seed(1), np.random.seed(1), torch.manual_seed(1)  # noqa: NPY002
    assert all(np.array_equal(draw(1, 2, index), first[index]) for index in reversed(range(20)))
    assert len({pixels.tobytes() for pixels in first}) == 20
    assert not np.array_equal(draw(1, 3, 0), first[0])


def test_keyed_restores_all_generators_also_after_an_error():
    np.random.standard_normal()  # noqa: NPY002 - leaves a second value cached inside the generator
    states = global_states()
    with keyed(1, 2, 3):
        a = random.random(), np.random.rand(), torch.rand(1).item(), np.random.standard_normal()  # noqa: NPY002
    assert states == global_states()
    with pytest.raises(KeyError), keyed(1, 2, 3):
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
        raise KeyError
    assert states == global_states()
    with keyed(1, 2, 3):
        b = random.random(), np.random.rand(), torch.rand(1).item(), np.random.standard_normal()  # noqa: NPY002
    with keyed(1, 2, 4):
        c = random.random(), np.random.rand(), torch.rand(1).item(), np.random.standard_normal()  # noqa: NPY002
    assert a == b and not set(a) & set(c)


def jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


@pytest.mark.parametrize("policy", ["deit", "none"])
def test_large_jpegs_are_decoded_smaller_and_look_the_same(photo, policy):
    raw = jpeg(photo(11, (1600, 1200)))
    transform = train_pixels(data(64, policy=policy, randaugment=None, color_jitter=0, hflip=0))
    sizes, worst = [], 0.0
    for seed in range(8):
        with keyed(seed):
            small = decode(raw, "x", transform.needed)
            got = transform(small)
        with keyed(seed):
            whole = decode(raw, "x")
            expected = transform(whole)
        sizes.append(small.size)
        assert whole.size == (1600, 1200)
        worst = max(worst, np.abs(got.astype(int) - expected).mean())
    assert worst < 1.0  # of 255
    assert set(sizes) & {(800, 600), (400, 300), (200, 150)}


def test_how_much_smaller(photo):
    image = photo(12, (1000, 640))
    for factor, size in ((1.9, (1000, 640)), (2.0, (500, 320)), (7.9, (250, 160)), (100.0, (125, 80))):
        assert decode(jpeg(image), "x", lambda w, h, f=factor: f).size == size
    seen = []
    turned = Image.new("RGB", (640, 1000))
    exif = turned.getexif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    turned.save(stream, "JPEG", exif=exif)
    assert decode(stream.getvalue(), "x", lambda w, h: seen.append((w, h)) or 2.0).size == (500, 320)
    assert seen == [(1000, 640)]  # as it stands upright
    png = io.BytesIO()
    image.save(png, "PNG")
    assert decode(png.getvalue(), "x", lambda w, h: 8.0).size == (1000, 640)


def test_shrinking_is_a_setting(tmp_path, photo):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    for name in ("a", "b"):
        (tmp_path / name / "1.jpg").write_bytes(jpeg(photo(13, (900, 700))))
        (tmp_path / name / "2.jpg").write_bytes(jpeg(photo(14, (900, 700))))
    found = {}
    for shrink in (True, False):
        settings = Data(source=str(tmp_path), image_size=32, shrink_on_load=shrink, workers=0)
        source = open_sources(settings)[0]
        found[shrink] = sample(source, settings, 2, 0, 0, 0).images
    assert not torch.equal(found[True], found[False])
    assert (found[True] - found[False]).abs().mean() < 0.2


def test_a_broken_jpeg_leaves_no_crop_for_the_next_image(tmp_path, photo):
    """The image that takes its place is seen as it would be by itself."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(2):
            photo(number, (90, 40)).save(tmp_path / name / f"{number}.png")
    found = []
    for raw in (jpeg(photo(3, (900, 700)))[:5000], b"empty"):
        (tmp_path / "a" / "0.jpg").write_bytes(raw)
        settings = Data(source=str(tmp_path), image_size=32, workers=0, on_error="skip", val_fraction=0.3)
        source = open_sources(settings)[0]
        index = next(i for i in range(len(source)) if source.describe(i).endswith("0.jpg"))
        found.append(sample(source, settings, 2, 0, index, 0).images)
    assert torch.equal(*found)


@pytest.mark.parametrize("size", [(60_000, 2), (2, 60_000)])
@pytest.mark.parametrize("policy", ["none", "light", "deit"])
def test_a_very_long_image_takes_little_memory(size, policy):
    """Resized whole, its longer side has millions of pixels; the middle of what is resized is that of the image."""
    generator = np.random.default_rng(0)
    image = Image.fromarray(generator.integers(90, 160, (size[1], size[0], 3), dtype=np.uint8))
    transform = train_pixels(Data(source="x", augment={"policy": policy, "hflip": 0}))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with keyed(0):
        found = transform(image)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 100_000  # KB
    assert found.shape == (224, 224, 3)
    if policy == "none":
        few = image.crop([max(side // 2 - 50, 0) for side in size] + [min(side // 2 + 50, side) for side in size])
        expected = F.center_crop(F.resize(few, [256], InterpolationMode.BICUBIC), [224, 224])
        assert np.abs(found.astype(int) - np.asarray(expected)).max() <= 2


@pytest.mark.parametrize("size", [(3000, 37), (37, 3000), (500, 375)])
def test_the_square_of_a_long_image_is_that_of_the_whole(size, photo, monkeypatch):
    image = photo(5, size)
    whole = F.center_crop(F.resize(image, [256], InterpolationMode.BICUBIC, antialias=True), [224, 224])
    monkeypatch.setattr(square, "RESIZED_WHOLE", 0)
    found = eval_pixels(Data(source="x"))(image)
    assert np.abs(found.astype(int) - np.asarray(whole)).max() <= 1
