"""Reading a cache: the same advice as from live teachers, and damaged files."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from helpers.caches import QUIET, losses, opened, recipe_with, refused, write
from helpers.work import calls_at_most
from PIL import Image

from coadvise.advice import headers
from coadvise.advice.cache import AdviceCache, require_undamaged
from coadvise.advice.headers import FORMAT
from coadvise.data.sources.opening import open_sources
from coadvise.errors import RunError
from coadvise.training.caching import cache_advice
from coadvise.training.train import train


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"schedule.epochs": 2}, marks=pytest.mark.slow),  # these two are in the others, too
        pytest.param({"data.views": 2}, marks=pytest.mark.slow),
        pytest.param({"schedule.epochs": 2, "optim.accumulate": 2, "data.train_size": 93}, marks=pytest.mark.slow),
        {"schedule.epochs": 2, "data.augment.repeats": 3, "loss.temperatures": {"conv": 4.0}},
        pytest.param({"data.balance": "sampling", "data.views": 2}, marks=pytest.mark.slow),
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
    assert abs(results[0].final["accuracy/class"] - results[1].final["accuracy/class"]) < 0.05
    assert len(list((tmp_path / "cache" / "conv").glob("*.bin"))) > 3


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


def test_advice_goes_to_a_gpu_without_waiting_for_it(complete, monkeypatch):
    """What is copied while the device works lies in pinned memory, as the CUDA runtime wants it."""
    cache, _, _ = opened(complete)
    expected = cache.read(0, np.arange(7))
    copied, pinned, to = [], [], torch.Tensor.to

    def copy(tensor, *place, non_blocking=False, **how):
        if non_blocking:
            copied.append(tensor)
        return to(tensor) if place[:1] == (torch.device("cuda"),) else to(tensor, *place, **how)

    monkeypatch.setattr(torch.Tensor, "to", copy)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor.clone()) or pinned[-1])
    found = cache.read(0, np.arange(7), torch.device("cuda"))
    assert all(torch.equal(found[name], z) for name, z in expected.items())
    assert len(copied) == len(expected) == 2 and all(a is b for a, b in zip(copied, pinned, strict=True))


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


def test_a_cache_that_fits_is_named_where_there_is_none(complete, tmp_path):
    """Of the same data and views; one with too few views, or of other views, is not."""
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "header.json").write_text("{")
    change = lambda part, **values: complete.model_copy(
        update={part: getattr(complete, part).model_copy(update=values)}
    )
    new = change("advice", folder=str(tmp_path / "new"))
    refused(new, rf"new holds no advice cache; '{tmp_path}/cache' beside it fits .* advice.folder={tmp_path}/cache, or")
    other = new.model_copy(update={"data": new.data.model_copy(update={"seed": 7})})
    refused(other, "new holds no advice cache; make one with")


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


def test_unreadable_images_are_replaced_in_the_cache_too(trained, tmp_path, write_folder):
    source = write_folder(tmp_path / "photos", tuple("0123456789"), 4, (8, 8))
    broken = sorted(source.glob("2/*.png"))[1]
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


@pytest.mark.parametrize("broken", ["", '{"format": 2,', "\0\0"])
def test_a_file_that_is_no_json_says_what_to_delete(tmp_path, broken):
    """Every file of JSON in a cache, with the folder that has to go: a column, or all of it."""
    folder = tmp_path / "cache"
    (folder / "conv").mkdir(parents=True)
    for name in ("header.json", "conv/teacher.json", "conv/column.json"):
        (folder / name).write_text(broken)
    reads = (
        (folder, lambda: headers.read_header(folder)),
        (folder / "conv", lambda: headers.require_same_teacher(folder, "conv", {})),
        (folder / "conv", lambda: headers.read_column(folder, "conv")),
    )
    for gone, read in reads:
        with pytest.raises(RunError, match=r"json is no valid JSON: .*coadvise cache RECIPE`$") as caught:
            read()
        assert f"; restore it, or delete {gone} and " in str(caught.value)


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


DAMAGED = (
    None, True, "x", "", 0.5, float("nan"), -1, 0, 10**12, 10**30, float("inf"), [], {}, "x" * 10**6, "\ud800",
    json.loads("[" * 400 + "]" * 400),
)  # fmt: skip


@pytest.mark.parametrize("file", ["header.json", "conv/teacher.json", "conv/column.json"])
def test_any_other_content_of_a_header_is_one_message(complete, tmp_path, file):
    """Every value missing or replaced, and files that are no JSON object: refused at once, whatever is in it."""
    from coadvise.advice.request import CacheRequest

    teachers = opened(complete)[2]
    source, request = open_sources(complete.data)[0], CacheRequest.of(complete)
    path = tmp_path / "cache" / file
    good = path.read_text()
    facts = json.loads(good)
    inside = {"header.json": "data", "conv/column.json": "sha256"}.get(file)
    places = [(key,) for key in facts] + ([(inside, key) for key in facts[inside]] if inside else [])
    texts = [good[:50], "", "[]", "3", "null", '"x"', "[" * 10**5, "9" * 10**4, "\0", '{"format": 2}', '{"sha256": {}}']
    # Versions that changed are no damage, nor how a teacher came by its weights.
    for *outer, key in [place for place in places if place != ("train",)]:
        for value in [KeyError, *DAMAGED]:
            damaged = json.loads(good)
            inner = damaged[outer[0]] if outer else damaged
            if value is KeyError:
                without = inner.pop(key) is not None
            else:
                without, inner[key] = inner[key] != value, value
            if without and not (key == "versions" and value == {}):
                texts.append(json.dumps(damaged))
    for text in texts:
        path.write_text(text)
        with calls_at_most(20_000), pytest.raises(RunError) as caught:
            checked = AdviceCache(request, source, teachers)
            require_undamaged(checked)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 3000, text[:200]
        assert str(tmp_path / "cache") in str(caught.value)
    path.write_text(good)
    AdviceCache(request, source, teachers)


def test_a_number_of_views_that_is_not_that_of_the_files(complete, tmp_path):
    header = tmp_path / "cache" / "header.json"
    facts = json.loads(header.read_text())
    for views in (facts["views"] + 1, 10**9):
        header.write_text(json.dumps(facts | {"views": views}))
        refused(complete, rf"header\.json is damaged: it says {views:,} views")
        refused(complete, rf"header\.json is damaged: it says {views:,} views", cache_advice)


@pytest.mark.parametrize("damage", ["not finite", "above the maximum"])
def test_damaged_records_are_named_where_training_meets_them(complete, tmp_path, damage):
    """Not taken for a learning rate that is too high."""
    cache, loader, _ = opened(complete)
    number = int(loader.keys(1, 0, 100).position[7]) + 100  # of the second view: not among those checked at the start
    shard, row = divmod(number, cache.layout.per_shard)
    path = tmp_path / "cache" / "conv" / f"{shard:05d}.bin"
    values = np.frombuffer(path.read_bytes(), np.float16).reshape(-1, 10).copy()
    values[row, 3] = np.nan if damage == "not finite" else 1.0
    path.write_bytes(values.tobytes())
    refused(complete, rf"conv/{shard:05d}\.bin is damaged: record {row} holds no logits of 10 classes", _read_all)


def _read_all(recipe, display):
    from coadvise.advice.request import CacheRequest
    from coadvise.checkpoints.teachers import build_teacher

    source = open_sources(recipe.data)[0]
    teachers = {name: build_teacher(name, settings, source.class_names) for name, settings in recipe.teachers.items()}
    cache = AdviceCache(CacheRequest.of(recipe), source, teachers)
    for view in range(cache.layout.views):
        cache.read(view, np.arange(cache.layout.images))
