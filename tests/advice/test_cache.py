"""Stored advice: the format against float64, the cache against live teachers, and whatever may befall its files."""

from __future__ import annotations

import copy
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import TESTS
from helpers.caches import shrink
from helpers.recipes import CNN, INN, tiny
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from coadvise.advice import layout as advice_layout
from coadvise.advice import writer as advice_writer
from coadvise.advice.cache import FORMAT, AdviceCache
from coadvise.advice.checking import CHECKED
from coadvise.advice.identity import data_facts
from coadvise.advice.layout import Layout, cache_path
from coadvise.advice.profile import ProfileSums
from coadvise.advice.record import RecordFormat
from coadvise.data.sources.opening import open_sources
from coadvise.errors import RunError
from coadvise.losses import co_advise_loss, soft_advice
from coadvise.recipe.schema import Recipe
from coadvise.run.folder import read_metrics
from coadvise.system.progress import Display
from coadvise.training.caching import cache_advice
from coadvise.training.train import train

QUIET = Display(quiet=True)


def logits(images: int, classes: int, seed: int = 0, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(images, classes, generator=torch.Generator().manual_seed(seed)) + 7


# --- format -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "top"), [(100, 10), (1000, 10), (1000, 50), (40_000, 5), (70_000, 4)])
@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_record_keeps_the_distribution_with_the_rest_spread_evenly(classes, top, temperature):
    z = logits(6, classes)
    record = RecordFormat(classes, top)
    stored = record.encode(z)
    assert not record.dense and stored.shape == (6, record.bytes) and stored.dtype == torch.uint8
    found = (record.decode(stored).double() / temperature).softmax(1)
    for row, got in zip(z.double().numpy(), found.numpy(), strict=True):
        order = np.argsort(-row)
        kept, rest = order[:top], order[top:]
        outside = np.log(np.exp(row[rest] - row.max()).sum()) + row.max()
        expected = np.full(classes, outside - np.log(classes - top))
        expected[kept] = row[kept]
        p = np.exp((expected - expected.max()) / temperature)
        assert np.allclose(got, p / p.sum(), rtol=1e-2, atol=1e-9)
        assert set(np.argsort(-got)[:top]) == set(kept)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_a_profile_spreads_the_rest_as_the_teacher_usually_does(temperature):
    """Against NumPy in float64: mean logits of the views whose first class is the same, and one average view more."""
    classes, top = 30, 4
    usual = logits(classes, classes, seed=3)
    views = usual[torch.randint(classes, (500,), generator=torch.Generator().manual_seed(4))] + 0.5 * logits(500, 30)
    sums = ProfileSums(classes)
    for part in views.split(170):
        sums.add(part)
    z = views.double().numpy()
    z -= z.max(axis=1, keepdims=True)
    first = z.argmax(axis=1)
    expected = np.stack(
        [(z[first == c].sum(axis=0) + z.mean(axis=0)) / (1 + (first == c).sum()) for c in range(classes)]
    )
    profile = sums.profile()
    assert profile.dtype == torch.float16 and np.allclose(profile.double().numpy(), expected, rtol=1e-3, atol=1e-3)
    record = RecordFormat(classes, top)
    found = (record.decode(record.encode(views[:8]), profile).double() / temperature).softmax(1).numpy()
    for row, got in zip(z[:8], found, strict=True):
        order = np.argsort(-row)
        rest = order[top:]
        table = expected[order[0], rest]
        whole = row.copy()
        for _ in range(3):
            table = np.minimum(
                table - np.log(np.exp(table).sum()) + np.log(np.exp(row[rest]).sum()), row[order[top - 1]]
            )
        whole[rest] = table
        p = np.exp((whole - whole.max()) / temperature)
        assert np.allclose(got, p / p.sum(), rtol=2e-2, atol=1e-6)


def test_a_profile_keeps_the_direction_of_the_gradients():
    """Of a teacher whose mass is spread widely, in a way that depends on its first class."""
    draw = torch.Generator().manual_seed(4)
    usual = 0.5 * logits(100, 100, seed=3)
    usual.diagonal().copy_(usual.max(dim=1).values + 0.5)
    views = usual[torch.randint(100, (4000,), generator=draw)] + 0.2 * torch.randn(4000, 100, generator=draw)
    sums = ProfileSums(100)
    sums.add(views[64:])
    teacher, student = views[:64], logits(64, 100, seed=2, scale=0.3).requires_grad_()
    record = RecordFormat(100, 5)
    exact = torch.autograd.grad(soft_advice(student, teacher, 1.0), student)[0]

    def cosine(profile: Tensor | None) -> float:
        cut = record.decode(record.encode(teacher), profile)
        found = torch.autograd.grad(soft_advice(student, cut, 1.0), student)[0]
        return float(torch.cosine_similarity(exact.flatten(), found.flatten(), dim=0))

    even, spread = cosine(None), cosine(sums.profile())
    assert spread > 0.99 and 1 - spread < (1 - even) / 5, (even, spread)


def test_no_profile_puts_another_class_first_or_breaks_the_order():
    """What is outside stays at or below the last of the k, whatever the profile says of it."""
    z, profile = logits(200, 40), (4 * logits(40, 40, seed=9)).half()
    record = RecordFormat(40, 3)
    found = record.decode(record.encode(z), profile)
    assert torch.equal(found.argmax(1), z.argmax(1))
    top = z.topk(3, dim=1).indices
    outside = found.scatter(1, top, -torch.inf)
    assert (outside.max(1).values <= found.gather(1, top)[:, -1] + 1e-6).all()
    masked = z.clone()
    masked[:, 7] = -1e9  # a usual way of leaving a class out
    sums = ProfileSums(40)
    sums.add(masked)
    assert sums.profile().isfinite().all() and record.decode(record.encode(masked), sums.profile()).isfinite().all()


def test_too_many_classes_for_a_profile():
    assert RecordFormat(4096, 10).profile_bytes == 2 * 4096**2 and RecordFormat(4097, 10).profile_bytes == 0
    assert RecordFormat(10, 10).profile_bytes == 0, "where all logits are stored, nothing is spread"


def test_all_logits_are_stored_where_that_takes_no_more_room():
    for classes, top, dense, size in (
        (10, 10, True, 20),
        (10, 3, False, 14),
        (21, 10, True, 42),
        (100, 100, True, 200),
    ):
        record = RecordFormat(classes, top)
        assert (record.dense, record.bytes) == (dense, size)
    z = logits(5, 100, scale=5)
    found = RecordFormat(100, 100).decode(RecordFormat(100, 100).encode(z))
    expected = z.double() - z.double().max(1, keepdim=True).values
    assert (found.double() - expected).abs().max() < 2**-11 * expected.abs().max()


def test_the_rest_survives_a_confident_teacher():
    """exp(−12) of the mass outside the top: as a difference of whole sums in half precision it would be nothing."""
    z = torch.full((1, 50), -14.0)
    z[0, 7] = 0.0
    found = RecordFormat(50, 2).decode(RecordFormat(50, 2).encode(z)).double().softmax(1)
    exact = z.double().softmax(1)
    assert found[0, 3] == pytest.approx(exact[0, 3].item(), rel=0.02)


def test_extreme_logits_stay_finite():
    z = torch.tensor([[0.0, -1e6, 3e5, 3e5]])
    for classes, top in ((70_000, 5), (70_000, 4), (40_000, 3)):  # one image alone: its bytes start anywhere
        one = RecordFormat(classes, top)
        assert one.decode(one.encode(logits(1, classes))).isfinite().all()
    for record in (RecordFormat(4, 4), RecordFormat(4, 1)):
        assert record.decode(record.encode(z)).isfinite().all()


def test_a_record_of_imagenet():
    """Ten of 1000 classes take 42 bytes; 50 views of two teachers at most 5.5 GB."""
    record = RecordFormat(1000, 10)
    assert record.bytes == 42
    layout = Layout(1_281_167, 50, record)
    assert 2 * layout.bytes <= 5.5e9 and record.profile_bytes == 2_000_000
    assert layout.bytes == sum(map(layout.shard_bytes, range(layout.shards))) + record.profile_bytes


def test_blocks_cover_every_record_once(monkeypatch):
    monkeypatch.setattr(advice_layout, "BATCH", 7)
    monkeypatch.setattr(advice_layout, "BLOCK_BATCHES", 3)
    layout = Layout(50, 3, RecordFormat(10, 10))
    seen = [view * 50 + p for view, start, stop in map(layout.block, range(layout.blocks)) for p in range(start, stop)]
    assert seen == list(range(150))


def test_gradients_of_cut_advice_point_the_same_way():
    """Ten of 100 classes, at initialisation: a teacher as sure as trained ones are."""
    teacher = logits(64, 100, seed=1)
    student = logits(64, 100, seed=2, scale=0.3).requires_grad_()
    record = RecordFormat(100, 10)
    exact = torch.autograd.grad(soft_advice(student, teacher, 1.0), student)[0]
    cut = torch.autograd.grad(soft_advice(student, record.decode(record.encode(teacher)), 1.0), student)[0]
    assert torch.cosine_similarity(exact.flatten(), cut.flatten(), dim=0) > 0.99


# --- cache --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of two trained teachers."""
    folder = tmp_path_factory.mktemp("trained")
    teachers = {"conv": {**CNN, "train": {"epochs": 30}}, "inv": {**INN, "train": {"epochs": 30}}}
    train(tiny(folder / "run", teachers=teachers), display=QUIET)
    return folder / "run" / "teachers"


def recipe_with(trained: Path, output: Path, changes: dict[str, Any] | None = None, **parts: Any) -> Recipe:
    advisers = {
        name: {**settings, "train": None, "checkpoint": str(trained / name / "best.safetensors")}
        for name, settings in {"conv": CNN, "inv": INN}.items()
    }
    base = {"advice.folder": str(output / "cache"), "run.log_every": 1, "data.augment.cutmix": 1.0}
    return tiny(output / "run", base | (changes or {}), **({"teachers": advisers} | parts))


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks and shards so small that the tiny cache has many of them."""
    shrink(monkeypatch.setattr)


def write(recipe: Recipe) -> Path:
    return cache_advice(recipe, display=QUIET)[0]


def losses(folder: Path) -> list[dict[str, float]]:
    return [line["terms"] for line in read_metrics(folder / "metrics.jsonl") if line["kind"] == "train"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"data.views": 2},
        {"optim.accumulate": 2, "data.train_size": 93},
        {"data.augment.repeats": 3, "loss.temperatures": {"conv": 4.0}},
    ],
)
def test_training_from_the_cache_is_training_with_live_teachers(small, trained, tmp_path, changes):
    """All classes are kept: every term of every step agrees to the rounding of half precision."""
    live = recipe_with(trained, tmp_path, {**changes, "run.output": str(tmp_path / "live")})
    write(live)
    stored = recipe_with(trained, tmp_path, {**changes, "advice.source": "cache"})
    results = [train(recipe, display=QUIET) for recipe in (live, stored)]
    for a, b in zip(losses(tmp_path / "live"), losses(tmp_path / "run"), strict=True):
        assert a.keys() == b.keys() == {"class", "conv", "inv"}
        assert all(a[name] == pytest.approx(b[name], rel=2e-3, abs=2e-3) for name in a)
    assert abs(results[0]["final"]["accuracy/class"] - results[1]["final"]["accuracy/class"]) < 0.05
    assert len(list((tmp_path / "cache" / "conv").glob("*.bin"))) > 3


def test_teachers_are_not_asked_in_training(trained, tmp_path, monkeypatch):
    recipe = recipe_with(trained, tmp_path, {"advice.source": "cache"})
    write(recipe)
    from coadvise.models.teachers import Teachers

    asked = []
    plain = Teachers.forward
    monkeypatch.setattr(Teachers, "forward", lambda self, x: asked.append(len(x)) or plain(self, x))
    train(recipe, display=QUIET)
    # The check of some views at the start, and the last evaluation: nothing for any of the 4 × 100 training images.
    assert sum(asked) == CHECKED + 101


def test_advice_is_that_for_the_mixed_image(trained, tmp_path):
    """Never a mix of the advice on two images."""
    recipe = recipe_with(trained, tmp_path, {"data.augment.mixup": 1.0, "data.augment.cutmix": 0.0})
    cache, loader, teachers = opened(recipe)
    for batch in loader.epoch(1):
        stored = cache.read(batch.view, batch.position)
        with torch.no_grad():
            fresh = {name: teacher(batch.images) for name, teacher in teachers.items()}
        for name, z in fresh.items():
            assert torch.allclose(stored[name].softmax(1), z.softmax(1), atol=5e-3)


def opened(recipe: Recipe) -> tuple[AdviceCache, Any, Any]:
    from coadvise.checkpoints.build import build_teacher
    from coadvise.data.loader import TrainLoader

    write(recipe)
    source = open_sources(recipe.data)[0]
    teachers = {name: build_teacher(name, settings, recipe, 10).eval() for name, settings in recipe.teachers.items()}
    return (
        AdviceCache(cache_path(recipe), recipe, source, teachers),
        TrainLoader(source, recipe.data, 20),
        teachers,
    )


def test_a_teacher_is_added_without_touching_the_other(small, trained, tmp_path):
    both = recipe_with(trained, tmp_path)
    one = recipe_with(trained, tmp_path, teachers={"conv": both.model_dump(mode="json")["teachers"]["conv"]})
    write(one)
    before = contents(tmp_path / "cache")
    with pytest.raises(RunError, match=r"has no advice of teacher 'inv' \(it has: conv\); add it with"):
        train(recipe_with(trained, tmp_path, {"advice.source": "cache"}), display=QUIET)
    write(both)
    after = contents(tmp_path / "cache")
    assert before.items() <= after.items() and any(name.startswith("inv/") for name in after)
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").rglob("*") if path.is_file()}
    write(both)  # complete: nothing is written
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_killed_at_twenty_moments_and_shared_by_two_writers(small, trained, tmp_path):
    """The bytes are those of one writer that nobody disturbed."""
    found = {}
    for name, kills, writers in (("calm", 0, 1), ("killed", 20, 1), ("shared", 0, 2)):
        done = subprocess.run(
            [sys.executable, "-m", "helpers.kill_writer", str(tmp_path / name), str(trained), str(kills), str(writers)],
            capture_output=True, text=True, timeout=300, cwd=TESTS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found[name] = contents(tmp_path / name / "cache")
        if kills:
            counts = list(map(int, done.stdout.split()))
            # Killed while it wrote, each time a little further on.
            assert len(set(counts)) == kills and counts == sorted(counts) and counts[-1] < 480
    assert found["calm"] == found["killed"] == found["shared"]


# --- what may befall it -------------------------------------------------------------------------------------


@pytest.fixture
def complete(small: None, trained: Path, tmp_path: Path) -> Recipe:
    recipe = recipe_with(trained, tmp_path, {"advice.source": "cache"})
    write(recipe)
    return recipe


def refused(recipe: Recipe, words: str, action: Any = train) -> None:
    """One clear message, and nothing is overwritten."""
    folder = cache_path(recipe)
    before = contents(folder)
    with pytest.raises(RunError, match=words):
        action(recipe, display=QUIET)
    assert contents(folder) == before


def verify(recipe: Recipe, **options: Any) -> None:
    cache_advice(recipe, verify=True, **options)


def test_verify_finds_a_flipped_byte_and_names_the_shard(complete, tmp_path):
    verify(complete, display=QUIET)
    shard = tmp_path / "cache" / "inv" / "00002.bin"
    raw = bytearray(shard.read_bytes())
    raw[137] ^= 1
    shard.write_bytes(raw)
    refused(complete, r"inv/00002\.bin: the contents are not what was written", verify)


def test_a_profile_that_is_not_what_was_written(small, trained, tmp_path):
    recipe = recipe_with(trained, tmp_path, {"advice.source": "cache", "advice.top_k": 2})
    write(recipe)
    verify(recipe, display=QUIET)
    path = tmp_path / "cache" / "inv" / "profile.bin"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    refused(recipe, r"inv/profile\.bin holds something else than was written", verify)
    refused(recipe, r"inv/profile\.bin holds something else than was written")
    path.write_bytes(whole[:50])
    refused(recipe, r"inv/profile\.bin has 50 bytes, should have 200: it was cut off")
    path.unlink()
    refused(recipe, r"inv/profile\.bin has 0 bytes")
    path.write_bytes(whole)
    train(recipe, display=QUIET)


def test_a_truncated_shard(complete, tmp_path):
    shard = tmp_path / "cache" / "conv" / "00001.bin"
    shard.write_bytes(shard.read_bytes()[:100])
    refused(complete, r"conv/00001\.bin has 100 bytes, should have 1,000: it was cut off")
    shard.unlink()
    refused(complete, r"conv/00001\.bin has 0 bytes")


def test_an_incomplete_cache_and_one_being_written(complete, tmp_path):
    folder = tmp_path / "cache"
    (folder / "conv" / "column.json").unlink()
    progress = bytearray((folder / "conv" / "progress").read_bytes())
    progress[5] = 0
    (folder / "conv" / "progress").write_bytes(progress)
    refused(complete, rf"'conv' in .* is incomplete \({len(progress) - 1} of {len(progress)} blocks\)")
    holder = subprocess.Popen(
        [sys.executable, "-c", "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 1, 5);"
         "print('held', flush=True); sys.stdin.read()", str(folder / "lock")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    refused(complete, "is being written by another process")
    holder.communicate("")
    write(complete)
    train(complete, display=QUIET)


def test_a_cache_of_something_else(complete, tmp_path, trained):
    def changed(**changes: Any) -> Recipe:
        settings = {name.replace("__", "."): value for name, value in changes.items()}
        return recipe_with(trained, tmp_path, {"advice.source": "cache"} | settings)

    for action in (train, cache_advice):
        refused(
            changed(data__augment__mixup=0.2), r"other views of the data \(augmentation\.mixup 0\.4 → 0\.2\)", action
        )
        refused(changed(data__seed=5), "augmentation seed 0 → 5", action)
        refused(changed(data__train_size=99), "images 100 → 99", action)
        refused(changed(advice__top_k=2), r"another teacher 'conv' \(top_k 10 → 2\)", action)
        refused(changed(schedule__epochs=9), "has 4 views, the run takes 9; set data.views=4", action)
    train(changed(data__augment__label_smoothing=0.0, schedule__epochs=3), display=QUIET)  # other targets, same views
    weights = trained / "conv" / "best.safetensors"
    with safe_open(weights, "pt") as file:
        facts, tensors = file.metadata(), {key: file.get_tensor(key) * 1.01 for key in file.keys()}  # noqa: SIM118
    save_file(tensors, tmp_path / "other.safetensors", facts)
    other = copy.deepcopy(complete.model_dump(mode="json")["teachers"])
    other["conv"]["checkpoint"] = str(tmp_path / "other.safetensors")
    changes = {"advice.source": "cache", "run.output": str(tmp_path / "b")}
    refused(recipe_with(trained, tmp_path, changes, teachers=other), r"another teacher 'conv' \(weights")


def test_other_images_under_the_same_names(small, trained, tmp_path, write_folder):
    source = write_folder(tmp_path / "photos", tuple("abcdefghij"), 4)
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "data.val_fraction": 0.25,
               "optim.batch_size": 10, "advice.source": "cache"}  # fmt: skip
    recipe = recipe_with(trained, tmp_path, changes)
    write(recipe)
    for path in source.glob("a/*.png"):
        shutil.copy(next(source.glob("b/*.png")), path)
    refused(recipe, "image contents")


def test_a_newer_format_and_no_cache_at_all(complete, tmp_path, trained):
    header = tmp_path / "cache" / "header.json"
    facts = json.loads(header.read_text())
    header.write_text(json.dumps(facts | {"format": FORMAT + 1}))
    refused(complete, "has format 3, this version of coadvise reads 2; update coadvise")
    header.write_text(json.dumps(facts | {"format": FORMAT - 1}))
    refused(complete, "has format 1, this version of coadvise reads 2; delete it and write the cache again")
    header.unlink()
    refused(complete, "holds no advice cache; make one with `coadvise cache RECIPE`")
    refused(complete, "holds other files; choose another folder", cache_advice)


def test_other_library_versions_make_it_check_and_not_refuse(complete, tmp_path):
    header = tmp_path / "cache" / "header.json"
    facts = json.loads(header.read_text())
    facts["versions"]["pillow"] = "1.0"
    header.write_text(json.dumps(facts))
    train(complete, display=QUIET)


def test_stale_advice_is_found_at_the_start(complete, tmp_path):
    for shard in (tmp_path / "cache" / "conv").glob("*.bin"):
        raw = np.frombuffer(shard.read_bytes(), dtype=np.uint8).reshape(-1, 20)
        shard.write_bytes(np.roll(raw, 1, axis=0).tobytes())  # each image has its neighbour's advice
    refused(complete, "is stale: teacher 'conv' now says something else of the same views")


def test_too_little_room(trained, tmp_path, monkeypatch):
    recipe = recipe_with(trained, tmp_path)
    monkeypatch.setattr(advice_writer.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 5, 5))
    with pytest.raises(RunError, match=r"the cache needs 0\.0 GB, 0\.0 GB are free"):
        write(recipe)
    assert not (tmp_path / "cache").exists()


def test_a_disk_that_cannot_be_written(complete, tmp_path, monkeypatch):
    """Reading needs no writing; what is missing cannot be added."""
    import builtins

    plain = Path.open

    def read_only(self: Path, mode: str = "r", *args: Any, **options: Any) -> Any:
        if str(self).startswith(str(tmp_path / "cache")) and set(mode) & set("wa+"):
            raise OSError(30, os.strerror(30))
        return plain(self, mode, *args, **options)

    monkeypatch.setattr(Path, "open", read_only)
    assert builtins.open
    train(complete, display=QUIET)
    (tmp_path / "cache" / "conv" / "column.json").unlink()
    refused(complete, "cannot write to .*: Read-only file system", cache_advice)


def test_the_order_of_views_does_not_depend_on_who_reads(trained, tmp_path):
    """Two processes with half a batch each read what one would."""
    from coadvise.data.loader import TrainLoader

    recipe = recipe_with(trained, tmp_path)
    cache, whole, _ = opened(recipe)
    source = open_sources(recipe.data)[0]
    halves = [TrainLoader(source, recipe.data, 20, rank=rank, world=2) for rank in range(2)]
    for one, *parts in zip(whole.epoch(3), *(half.epoch(3) for half in halves), strict=True):
        together = np.concatenate([part.position for part in parts])
        assert together.tolist() == one.position.tolist()
        assert torch.equal(
            cache.read(3, one.position)["inv"], torch.cat([cache.read(3, part.position)["inv"] for part in parts])
        )


def test_facts_leave_out_what_changes_no_pixel():
    recipe = tiny(Path("x"), {"data.augment.label_smoothing": 0.3})
    source = open_sources(recipe.data)[0]
    assert data_facts(recipe, source) == data_facts(tiny(Path("y"), {"data.workers": 1}), source)


def test_eq1_from_decoded_advice():
    z = {"class": logits(4, 10, 3), "conv": logits(4, 10, 4)}
    teacher, target = {"conv": logits(4, 10, 5)}, torch.tensor([1, 2, 3, 4])
    record = RecordFormat(10, 10)
    live = co_advise_loss(z, teacher, target)
    stored = co_advise_loss(z, {"conv": record.decode(record.encode(teacher["conv"]))}, target)
    assert stored.total.item() == pytest.approx(live.total.item(), rel=1e-3)


def test_a_cache_keeps_the_teachers_that_were_trained_for_it(tmp_path):
    """Other students, in other folders and with other settings, learn from the same teachers."""
    advisers = {"conv": CNN, "inv": INN}
    changes = {"advice.folder": str(tmp_path / "cache"), "data.views": 4}
    write(tiny(tmp_path / "first", changes, teachers=advisers))
    other = changes | {"advice.source": "cache", "run.seed": 3, "optim.lr": 5e-4, "optim.batch_size": 10}
    result = train(tiny(tmp_path / "second", other, teachers=advisers), display=QUIET)
    assert result["seed"] == 3 and not (tmp_path / "second" / "teachers").exists()
    verify(tiny(tmp_path / "third", changes, teachers=advisers), display=QUIET)
    longer = {"conv": {**CNN, "train": {"epochs": 2}}, "inv": INN}
    refused(tiny(tmp_path / "fourth", other, teachers=longer), r"another teacher 'conv' \(train ")


def test_two_writers_train_their_teachers_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from helpers.recipes import CNN, tiny;"
        "from coadvise.training.caching import cache_advice; from coadvise.system.progress import Display;"
        "p = Path(sys.argv[1]);"
        "cache_advice(tiny(p / 'run', {'advice.folder': str(p / 'cache')}, teachers={'conv': CNN}),"
        " display=Display(quiet=True))"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=TESTS, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0], errors
    assert (tmp_path / "cache" / "conv" / "column.json").is_file()
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "teachers" / "conv" / "metrics.jsonl")]
    assert steps == sorted(steps) and len(steps) == len(set(steps)) + 1  # the evaluation has the last step's number


def test_only_the_teacher_that_is_added_is_asked(trained, tmp_path, monkeypatch):
    from coadvise.models.teachers import FrozenTeacher

    both = recipe_with(trained, tmp_path)
    write(recipe_with(trained, tmp_path, teachers={"conv": both.model_dump(mode="json")["teachers"]["conv"]}))
    asked: dict[int, int] = {}
    plain = FrozenTeacher.forward

    def counted(self: FrozenTeacher, x: Tensor) -> Tensor:
        asked[id(self)] = asked.get(id(self), 0) + len(x)
        return plain(self, x)

    monkeypatch.setattr(FrozenTeacher, "forward", counted)
    write(both)
    assert sorted(asked.values()) == [101, 101 + 4 * 100]  # both are measured, one says something of 4 views


def test_unreadable_images_are_replaced_in_the_cache_too(trained, tmp_path, write_folder):
    source = write_folder(tmp_path / "photos", tuple("abcdefghij"), 4, (8, 8))
    broken = sorted(source.glob("c/*.png"))[1]
    broken.write_bytes(b"no image")
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "data.val_fraction": 0.25,
               "optim.batch_size": 10, "advice.source": "cache", "data.on_error": "skip",
               "data.augment.policy": "none", "data.augment.mixup": 0.0, "data.augment.cutmix": 0.0}  # fmt: skip
    recipe = recipe_with(trained, tmp_path, changes)
    cache, loader, teachers = opened(recipe)
    files = [loader.source.describe(index) for index in range(len(loader.source))]
    place = files.index(str(broken))
    for batch in loader.epoch(0):  # of unchanged views, so that what the teachers see follows from the files alone
        shown = [(place + 1) % len(files) if index == place else index for index in batch.index.tolist()]
        rows = [np.array(Image.open(files[index])) / 255 for index in shown]
        pixels = torch.from_numpy((np.stack(rows) - recipe.data.mean) / recipe.data.std).permute(0, 3, 1, 2).float()
        assert batch.skipped == ((str(broken),) if place in batch.index.tolist() else ())
        for name, stored in cache.read(batch.view, batch.position).items():
            with torch.no_grad():
                assert torch.allclose(stored.softmax(1), teachers[name](pixels).softmax(1), atol=5e-3)
    train(recipe, display=QUIET)  # which asks the teachers about some views again


def test_what_is_no_cache(complete, tmp_path, trained):
    folder = tmp_path / "cache"
    (folder / "conv" / "00001.bin").unlink()
    refused(complete, r"conv/00001\.bin has 0 bytes", cache_advice)
    (folder / "conv" / "teacher.json").write_text("[]")
    refused(complete, r"teacher\.json is damaged")
    (folder / "header.json").write_text(json.dumps({"format": FORMAT}))
    for action in (train, cache_advice):
        refused(complete, r"header\.json is damaged", action)
    shutil.rmtree(folder)
    folder.write_text("x")
    with pytest.raises(RunError, match="is a file; choose a folder"):
        write(complete)


# --- plan ---------------------------------------------------------------------------------------------------


def test_a_plan_adds_up(trained, tmp_path):
    from coadvise.cost.plan import plan_run

    recipe = recipe_with(trained, tmp_path, {"schedule.epochs": 40})
    plan = plan_run(recipe, rounds=1)
    assert plan.steps == 40 * 5 and plan.live_s > plan.cached_s > 0
    assert [way.views for way in plan.ways] == [10, 25, 40]
    assert [way.bytes for way in plan.ways] == [2 * 20 * 100 * views for views in (10, 25, 40)]
    for way in plan.ways:
        assert way.students == pytest.approx(way.write_s / (plan.live_s - plan.cached_s))
    assert plan.cosines == {} and plan.recommended == 10  # ten classes are stored whole
    untrained = recipe_with(trained, tmp_path, teachers={"conv": CNN})
    assert plan_run(untrained, rounds=1).recommended is None


def test_gradients_of_a_real_student_from_cut_advice(tmp_path, write_folder, monkeypatch):
    """As `plan` measures them, against training losses cut by hand."""
    from coadvise.cost import plan

    monkeypatch.setattr(plan, "TOPS", (2, 5))
    source = write_folder(tmp_path / "photos", tuple(f"c{i:02d}" for i in range(30)), 3)
    changes = {"data.source": str(source), "data.train_size": None, "data.val_size": None, "schedule.epochs": 2}
    recipe = tiny(tmp_path / "run", changes, teachers={"conv": CNN})
    train(recipe, display=QUIET)
    cosines = plan.gradient_cosines(recipe)
    assert cosines is not None and list(cosines) == [2, 5]
    assert all(-1 <= value <= 1 + 1e-6 for value in cosines.values()) and cosines[5] > 0
