"""Loading: the same images whatever the workers, batch size, processes and start; nothing global is touched."""

from __future__ import annotations

import os
import random
import signal
import textwrap
import time

import numpy as np
import pytest
import torch
from helpers import processes
from PIL import Image
from torch.utils.data import DataLoader

from coadvise.data import loader as loading
from coadvise.data.loader import EvalLoader, TrainLoader, sample
from coadvise.data.sources.opening import open_sources
from coadvise.data.views.augment import keyed, train_pixels
from coadvise.data.views.draws import Stream, erasures, mixes, uniforms
from coadvise.data.views.finish import NOISE, Batch, Finish
from coadvise.data.views.order import epoch_order, partner
from coadvise.errors import DataError
from coadvise.recipe.schema import Augmentation, Data

ODD = 61


class Pictures:
    """An odd number of small images in memory; those listed in `broken` are unreadable."""

    class_names = ("a", "b", "c")

    def __init__(self, count: int = ODD, broken: tuple[int, ...] = ()) -> None:
        generator = np.random.default_rng(0)
        self.images = generator.integers(0, 256, (count, 20, 24, 3), dtype=np.uint8)
        self.labels = np.arange(count, dtype=np.int64) % 3
        self.broken = broken
        self.reads = 0

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, index: int) -> bytes | Image.Image:
        self.reads += 1
        return b"no image" if index in self.broken else Image.fromarray(self.images[index])

    def describe(self, index: int) -> str:
        return f"picture {index}"


def data(workers: int = 0, on_error: str = "raise", **augment: object) -> Data:
    return Data(
        source="digits", image_size=16, eval_crop=1.0, workers=workers, on_error=on_error, seed=3,
        augment=Augmentation(**{"policy": "deit", **augment}),
    )  # fmt: skip


Seen = dict[int, tuple[bytes, bytes, int]]


def collect(batches: list[Batch] | object) -> Seen:
    """index → image, target and label, to the bit."""
    seen: Seen = {}
    for batch in batches:
        for image, target, label, index in zip(*batch[:4], strict=True):
            assert int(index) not in seen
            seen[int(index)] = image.numpy().tobytes(), target.numpy().tobytes(), int(label)
    return seen


@pytest.fixture(scope="module")
def reference() -> Seen:
    """Every sample of epoch 5, made one at a time from its key."""
    source = Pictures()
    return collect([sample(source, data(), 3, 5, index, 0) for index in range(ODD)])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("batch_size", [8, 15, 32])
@pytest.mark.parametrize("world", [1, 2])
def test_the_same_images_whatever_the_setting(reference, workers, batch_size, world):
    if batch_size % world:
        batch_size += 1
    loaders = [TrainLoader(Pictures(), data(workers), batch_size, rank=rank, world=world) for rank in range(world)]
    assert {loader.steps_per_epoch for loader in loaders} == {ODD // batch_size}
    list(loaders[0].epoch(4))  # an epoch before leaves no trace
    parts = [list(loader.epoch(5)) for loader in loaders]
    order = epoch_order(ODD, 1, 3, 5)[:, 0]
    share = batch_size // world
    for step in range(ODD // batch_size):
        for rank in range(world):
            at = step * batch_size + rank * share
            assert parts[rank][step].index.tolist() == order[at : at + share].tolist()
    seen = collect([batch for part in parts for batch in part])
    assert len(seen) == ODD // batch_size * batch_size
    assert all(reference[index] == made for index, made in seen.items())


def test_a_sample_against_its_definition():
    """Augment two images under their keys, erase and mix them: recomputed without the loader."""
    source, settings = Pictures(), data()
    transform, mates = train_pixels(settings), partner(ODD, 3, 5)
    finish = Finish(settings, 3, torch.device("cpu"))
    bank = np.random.default_rng(np.random.SeedSequence((Stream.NOISE, 3))).standard_normal(NOISE, dtype=np.float32)
    for index in range(ODD):
        made = sample(source, settings, 3, 5, index, 1)

        def view(which: int) -> np.ndarray:
            with keyed(Stream.AUGMENT, 3, 5, which, 1):
                pixels = transform(Image.fromarray(source.images[which]))
            image = finish.images(torch.from_numpy(pixels)[None])[0].numpy().copy()
            key = (3, 5, np.array([which]), np.array([1]))
            top, bottom, left, right = erasures(*key, 16, 0.25)[0]
            at = int(uniforms(Stream.NOISE, *key, 1)[0, 0] * NOISE)
            noise = bank[(at + np.arange(16 * 16 * 3)) % NOISE].reshape(16, 16, 3).transpose(2, 0, 1)
            image[:, top:bottom, left:right] = noise[:, top:bottom, left:right]
            return image

        drawn = mixes(settings.augment, 16, 3, 5, np.array([index]), np.array([1]))
        lam, (top, bottom, left, right), mate = drawn.lam[0], drawn.box[0], int(mates[index])
        expected = view(index)
        if mate < 0:
            lam = 1.0
        elif bottom > top:
            expected[:, top:bottom, left:right] = view(mate)[:, top:bottom, left:right]
        else:
            expected = np.float32(lam) * expected + np.float32(1 - lam) * view(mate)
        assert np.allclose(made.images[0].numpy(), expected, atol=1e-6)
        target = np.full(3, 0.1 / 3)
        target[index % 3] += 0.9 * lam
        target[(mate if mate >= 0 else index) % 3] += 0.9 * (1 - lam)
        assert np.allclose(made.target[0].numpy(), target, atol=1e-6) and made.label.tolist() == [index % 3]


@pytest.mark.parametrize("workers", [0, 2])
def test_any_start_and_accumulation(reference, workers):
    loader = TrainLoader(Pictures(), data(workers), 8, accumulate=2)
    whole = list(loader.epoch(5))
    assert len(whole) == 7 * 2 and all(len(batch.images) == 4 for batch in whole)
    for start in (3, 6, 7):
        rest = list(loader.epoch(5, start))
        assert len(rest) == (7 - start) * 2
        for got, expected in zip(rest, whole[2 * start :], strict=True):
            assert torch.equal(got.images, expected.images) and torch.equal(got.index, expected.index)
    one = next(iter(loader.epoch(5)))  # an epoch that is given up half-way does not disturb the next
    assert torch.equal(one.images, whole[0].images)
    assert all(reference[index] == made for index, made in collect(loader.epoch(5)).items())


def test_workers_that_are_no_copies_of_this_process_see_the_same(reference):
    """What they get is pickled, as it is on macOS and Windows."""
    loader = TrainLoader(Pictures(), data(1), 15)
    old = loader._feed._start()
    loader._feed._loader = DataLoader(
        old.dataset, batch_sampler=old.batch_sampler, num_workers=1, collate_fn=old.collate_fn,
        worker_init_fn=old.worker_init_fn, generator=old.generator, multiprocessing_context=processes.CONTEXT,
    )  # fmt: skip
    assert all(reference[index] == made for index, made in collect(loader.epoch(5)).items())


@pytest.mark.parametrize("workers", [0, 2])
def test_global_generators_are_left_alone(workers):
    loader, evaluation = TrainLoader(Pictures(), data(workers), 8), EvalLoader(Pictures(), data(workers), 8)

    def states() -> tuple:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    for epoch in range(2):
        list(loader.epoch(epoch))
        list(evaluation)
    sample(Pictures(), data(), 3, 0, 0, 0)
    assert states() == before


def test_views_recur():
    settings = data().model_copy(update={"views": 3})
    loader = TrainLoader(Pictures(), settings, 15)
    first, second, third = (collect(loader.epoch(epoch)) for epoch in (1, 4, 5))
    assert first == second and first != third


def test_recurring_views_of_a_small_set_are_finished_once(monkeypatch):
    settings = data(policy="light").model_copy(update={"views": 2})
    kept = TrainLoader(Pictures(), settings, 15, accumulate=3)
    monkeypatch.setattr(loading, "FINISHED_BYTES", 0)
    anew = TrainLoader(Pictures(), settings, 15, accumulate=3)
    assert not anew.recurs and [len(list(anew.epoch(epoch, start=3))) for epoch in (0, 1)] == [3, 3]
    expected = [list(anew.epoch(epoch)) for epoch in range(4)]
    monkeypatch.undo()
    assert kept.recurs and not TrainLoader(Pictures(), data(policy="light"), 15).recurs
    list(kept.epoch(0, start=1))  # a resumed run begins within an epoch
    found = [list(kept.epoch(epoch)) for epoch in range(4)]
    assert all(a.images.data_ptr() == b.images.data_ptr() for a, b in zip(found[1], found[3], strict=True))
    assert [one.index.tolist() for one in kept.epoch(2, start=2)] == [one.index.tolist() for one in found[0][6:]]
    for epoch, batches in enumerate(found):
        for batch, other in zip(batches, expected[epoch], strict=True):
            assert torch.equal(batch.images, other.images) and torch.equal(batch.target, other.target)
            assert batch.view == other.view and np.array_equal(batch.position, other.position)


def test_a_model_that_writes_into_its_input_gets_it_anew():
    loader = TrainLoader(Pictures(), data(policy="light").model_copy(update={"views": 1}), 15)
    first = [batch.images.clone() for batch in loader.epoch(0)]
    for epoch in range(2):
        for batch, before in zip(loader.epoch(epoch), first, strict=True):
            assert torch.equal(batch.images, before)
            batch.images.mul_(2)


def test_repeats_differ_and_stay_together():
    settings = data(repeats=3, mixup=0, cutmix=0)
    batches = list(TrainLoader(Pictures(60), settings, 12).epoch(0))
    for batch in batches:
        assert len(set(batch.index.tolist())) == 4
        assert len({image.numpy().tobytes() for image in batch.images}) == 12
    assert len({int(i) for batch in batches for i in batch.index}) == 20


def test_a_pair_is_decoded_once_per_batch():
    source = Pictures(32)
    list(TrainLoader(source, data(), 8).epoch(0))
    assert source.reads == 32
    source.reads = 0
    # Shares of 3 split pairs: the partner of the image at the border is decoded once more.
    list(TrainLoader(source, data(), 6, rank=0, world=2).epoch(0))
    assert 15 <= source.reads <= 20


def test_too_few_samples_and_uneven_batches():
    with pytest.raises(DataError, match="fewer samples than a batch: 61 training images, batch size 64"):
        TrainLoader(Pictures(), data(), 64)
    with pytest.raises(DataError, match="a multiple of 6"):
        TrainLoader(Pictures(), data(), 8, world=3, accumulate=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_stops_the_run_and_is_named(workers):
    loader = TrainLoader(Pictures(broken=(7,)), data(workers), 8)
    for iterate in (lambda: list(loader.epoch(0)), lambda: list(EvalLoader(Pictures(broken=(7,)), data(workers), 8))):
        with pytest.raises(DataError) as caught:
            iterate()
        assert str(caught.value).startswith("picture 7 cannot be read as an image: it is in no known image format")
        assert "Traceback" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 2])
def test_skip_takes_the_next_readable_image(workers):
    broken = (7, 8, 60)
    settings = data(workers, "skip", mixup=0, cutmix=0)
    batches = list(TrainLoader(Pictures(broken=broken), settings, 15).epoch(0))
    names = [name for batch in batches for name in batch.skipped]
    seen, whole = collect(batches), Pictures()
    assert set(names) <= {"picture 7", "picture 8", "picture 60"} and len(names) >= 3
    for index, takes in ((7, 9), (8, 9), (60, 0)):
        if index in seen:
            expected = sample(whole, settings, 3, 0, takes, 0)
            assert seen[index][0] == expected.images[0].numpy().tobytes() and seen[index][2] == takes % 3
    with pytest.raises(DataError, match="none of the 61 training images can be read, picture"):
        list(TrainLoader(Pictures(broken=tuple(range(ODD))), settings, 8).epoch(0))


def test_skip_with_mixing_does_not_depend_on_the_batch():
    source, settings = Pictures(broken=(7, 8, 60)), data(0, "skip")
    runs = [collect(TrainLoader(source, settings, size).epoch(0)) for size in (8, 15)]
    assert all(runs[0][index] == runs[1][index] for index in runs[0].keys() & runs[1].keys())


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_evaluation_sees_each_sample_once(workers, world):
    source, settings = Pictures(), data(workers)
    loaders = [EvalLoader(source, settings, 8, rank=rank, world=world) for rank in range(world)]
    batches = [list(loader) for loader in loaders]
    assert [len(part) for part in batches] == [len(loader) for loader in loaders]
    seen = collect([batch for part in batches for batch in part])
    assert sorted(seen) == list(range(ODD))
    for part in batches:
        for batch in part:
            assert torch.equal(batch.target, torch.nn.functional.one_hot(batch.label, 3).float())
    assert seen == collect(loaders[0]) if world == 1 else True


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_leaves_out_and_reports(workers):
    loader = EvalLoader(Pictures(10, broken=(2, 4, 5, 6, 7)), data(workers, "skip"), 4)
    batches = list(loader)
    assert [batch.index.tolist() for batch in batches] == [[0, 1, 3], [], [8, 9]]
    assert [batch.skipped for batch in batches] == [
        ("picture 2",), ("picture 4", "picture 5", "picture 6", "picture 7"), ()
    ]  # fmt: skip
    assert batches[1].images.shape == (0, 3, 16, 16) and batches[1].target.shape == (0, 3)


def test_more_processes_than_samples():
    assert [len(list(EvalLoader(Pictures(2), data(), 8, rank=rank, world=3))) for rank in range(3)] == [1, 1, 0]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("policy", ["light", "none"])
@pytest.mark.parametrize("broken", [(), (7, 8, 60)])
def test_a_set_in_memory_is_read_once_and_gives_the_same(monkeypatch, workers, policy, broken):
    source, settings = Pictures(broken=broken), data(workers, "skip", policy=policy)
    held = TrainLoader(source, settings, 15)
    assert held.stays
    first, second, later = list(held.epoch(0)), list(held.epoch(0)), list(held.epoch(1, start=2))
    if not workers:
        assert source.reads == ODD  # all of them once, in the first epoch
    assert {name for batch in first for name in batch.skipped} == {f"picture {i}" for i in broken}
    assert collect(first) == collect(second)
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 0)
    read = TrainLoader(source, settings, 8)
    assert not read.stays
    fresh = collect(read.epoch(0))
    seen = collect(first)
    assert all(fresh[index] == seen[index] for index in fresh.keys() & seen.keys())
    assert collect(later).items() <= collect(TrainLoader(source, settings, 15).epoch(1)).items()


def test_what_stays_in_memory(monkeypatch):
    assert not TrainLoader(Pictures(), data(policy="deit"), 15).stays  # it draws image by image
    large = data(policy="light").model_copy(update={"image_size": 97})
    assert not TrainLoader(Pictures(), large, 15).stays
    monkeypatch.setattr(loading, "RESIDENT_BYTES", ODD * 16 * 16 * 3)
    assert TrainLoader(Pictures(), data(policy="light"), 15).stays
    monkeypatch.setattr(loading, "RESIDENT_BYTES", ODD * 16 * 16 * 3 - 1)
    assert not TrainLoader(Pictures(), data(policy="light"), 15).stays


def test_evaluation_reads_a_small_set_once(monkeypatch):
    source = Pictures(10, broken=(4,))
    evaluation = EvalLoader(source, data(0, "skip"), 4)
    first, second = list(evaluation), list(evaluation)
    assert source.reads == 10
    for got, expected in zip(second, first, strict=True):
        assert torch.equal(got.images, expected.images) and got.skipped == expected.skipped
    monkeypatch.setattr(loading, "RESIDENT_BYTES", 0)
    assert collect(EvalLoader(source, data(0, "skip"), 3)) == collect(second)


@pytest.mark.parametrize("policy", ["light", "none"])
def test_other_policies_and_shapes(policy):
    batch = next(TrainLoader(Pictures(), data(policy=policy), 10).epoch(0))
    assert batch.images.shape == (10, 3, 16, 16) and batch.images.dtype == torch.float32
    assert batch.target.shape == (10, 3) and torch.allclose(batch.target.sum(1), torch.ones(10))
    assert batch.label.dtype == batch.index.dtype == torch.int64 and batch.skipped == ()


def test_workers_persist_across_epochs():
    batches = TrainLoader(Pictures(), data(2), 15)
    list(batches.epoch(0))
    workers = [worker.pid for worker in batches._feed._loader._iterator._workers]
    list(batches.epoch(1))
    assert [worker.pid for worker in batches._feed._loader._iterator._workers] == workers
    batches.close()
    for pid in workers:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert len(list(batches.epoch(2))) == 4


def test_real_data_through_workers(shared_data):
    settings = Data(source=str(shared_data / "pacs"), image_size=64, workers=2, train_size=40, val_size=21)
    train, validation = open_sources(settings)
    seen = collect(TrainLoader(train, settings, 20).epoch(0))
    for index in list(seen)[:5]:
        assert sample(train, settings, 7, 0, index, 0).images[0].numpy().tobytes() == seen[index][0]
    assert sum(len(batch.images) for batch in EvalLoader(validation, settings, 8)) == 21


@pytest.mark.slow
def test_ctrl_c_ends_a_run_without_tracebacks_of_workers():
    script = textwrap.dedent(
        """
        import sys
        from coadvise.data.loader import TrainLoader
        from coadvise.data.sources.opening import open_sources
        from coadvise.recipe.schema import Data
        data = Data(source="digits", image_size=64, workers=2)
        loader = TrainLoader(open_sources(data)[0], data, 50)
        try:
            for epoch in range(10000):
                for batch in loader.epoch(epoch):
                    print("batch", flush=True)
        except KeyboardInterrupt:
            print("interrupted", flush=True)
            sys.exit(7)
        """
    )
    started = processes.start("-c", script, group=True)
    while not (started.folder / "stdout").stat().st_size:
        assert started.process.is_alive(), started.wait()
        time.sleep(0.01)
    os.killpg(started.pid, signal.SIGINT)  # as a terminal does: to the workers too
    done = started.wait(60)
    assert done.returncode == 7 and done.stdout.endswith("interrupted\n") and done.stderr == ""
