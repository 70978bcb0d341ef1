"""The compiled forms of `Finish` against the plain one, which `test_finish.py` holds against NumPy and timm."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from helpers.compiling import quickly
from torch._inductor.graph import GraphLowering
from torch.utils._python_dispatch import TorchDispatchMode

from coadvise.data.loader import TrainLoader
from coadvise.data.samples import Keys, needs_of
from coadvise.data.sources.opening import open_sources
from coadvise.data.views import rows as module
from coadvise.data.views.finish import Batch, Finish, Unfinished, mixing_table, view_table
from coadvise.data.views.fused import Fused, choices, finished
from coadvise.data.views.order import Order
from coadvise.data.views.rows import Rows
from coadvise.recipe.data import Augmentation, Data
from coadvise.system.native import compiler

CPU, SIZE, IMAGES, CLASSES = torch.device("cpu"), 12, 61, 5
CASES = {
    "all": ({"erasing": 0.5, "mixup": 0.8, "cutmix": 1.0}, {"smoothing": 0.1}),
    "half mixed": ({"erasing": 0.0, "mixup": 0.8, "cutmix": 1.0, "mix_probability": 0.5}, {}),
    "bare": ({"erasing": 0.0, "mixup": 0.0, "cutmix": 0.0}, {"smoothing": 0.1}),
    "cropped before": ({"policy": "deit", "erasing": 0.25}, {"smoothing": 0.1}),
    "nothing drawn": ({"policy": "none", "mixup": 0.0, "cutmix": 0.0}, {}),
    "weights": ({"mixup": 1.0}, {"weights": np.array([0.5, 1, 2, 4, 0])}),
    "unlabelled": ({"mixup": 1.0}, {"smoothing": 0.1, "unlabelled": True}),
    "several": ({"mixup": 1.0}, {"sets": np.random.default_rng(0).random((CLASSES, CLASSES)) < 0.4}),
}


def made(case: str) -> tuple[Finish, Data, np.ndarray]:
    augment, options = CASES[case]
    settings = {"policy": "light", **augment}
    data = Data(source="digits", image_size=SIZE, seed=5, augment=Augmentation(**settings))
    labels = np.arange(IMAGES) % CLASSES - (case == "unlabelled")
    return Finish(data, CLASSES, CPU, **options), data, labels


def batch_of(data: Data, labels: np.ndarray, start: int, count: int, resident: bool) -> Unfinished:
    pixels = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (IMAGES, SIZE, SIZE, 3), dtype=np.uint8))
    order = Order(data, labels)
    rows = order.rows(3)[start : start + count]
    needs = needs_of(Keys(3, np.arange(count), rows[:, 0], rows[:, 1]), order, data)
    views = view_table(data, 3, needs.index, needs.repeat, labels[needs.index])
    mixing, index = mixing_table(needs.partner, needs.mixes), torch.from_numpy(needs.index)
    if resident:
        return Unfinished(pixels, views, mixing, index[:count], (), index)
    return Unfinished(pixels[index], views, mixing, index[:count], ())


def equal(a: Batch, b: Batch) -> bool:
    rows = [one.images.is_contiguous(memory_format=torch.channels_last) for one in (a, b)]
    return rows == [True, True] and all(torch.equal(x, y) for x, y in zip(a[:4], b[:4], strict=True))


@pytest.mark.parametrize("case", list(CASES))
def test_the_same_bits_as_the_plain_way(case):
    finish, data, labels = made(case)
    fused, rows = Fused(finish), Rows(finish)
    fused._function = finished  # not traced, which takes a second
    for start, count in ((0, 16), (7, 16), (45, 16), (3, 1)):
        plain = finish(batch_of(data, labels, start, count, resident=False))
        for resident in (False, True):
            batch = batch_of(data, labels, start, count, resident)
            assert equal(finish(batch), plain) and equal(fused(batch), plain), (start, resident)
            assert equal(rows(batch), plain), (start, resident)
    assert fused.compiled and rows.compiled is (compiler() is not None), "it falls back"


def test_threads_do_not_change_the_bits(monkeypatch):
    finish, data, labels = made("all")
    batch = batch_of(data, labels, 0, 40, resident=True)
    monkeypatch.setattr(module, "WORTH_A_THREAD", 1000)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    assert equal(Rows(finish)(batch), finish(batch))


def test_training_takes_compiled_rows():
    source = open_sources(Data(source="digits"))[0]
    finish = TrainLoader(source, Data(source="digits", image_size=16, workers=0), 8)._finish
    assert isinstance(finish, Rows) and finish.compiled is (compiler() is not None)


def test_any_number_of_them():
    """PyTorch compiles a function eight times at most, and a run of several students has more."""
    torch._dynamo.reset()
    _, data, labels = made("bare")
    batch = batch_of(data, labels, 0, 4, resident=True)
    for number in range(10):
        fused = Fused(Finish(data, CLASSES + number, CPU), backend="eager")
        assert fused(batch).target.shape == (4, CLASSES + number) and fused.compiled


def test_one_graph_serves_all_batches():
    """Those with images from other batches, too, and those of which none is erased or mixed."""
    torch._dynamo.reset()
    graphs = []

    def count(graph, examples):
        graphs.append(graph)
        return graph.forward

    for case, resident in (("half mixed", True), ("all", False)):
        finish, data, labels = made(case)
        fused, lengths = Fused(finish, backend=count), set()
        graphs.clear()
        for start in (0, 1, 8, 17, 20):
            batch = batch_of(data, labels, start, 8, resident)
            lengths.add(len(batch.views))
            fused(batch)
        assert fused.compiled and len(lengths) > 1 and len(graphs) == 1, case


def test_nothing_but_the_results_is_written(monkeypatch):
    """One loop for the images, one for labels and targets: on a GPU each of them is a kernel."""
    torch._dynamo.reset()
    finish, data, labels = made("all")
    fused, batch, codes = Fused(finish), batch_of(data, labels, 1, 16, resident=True), []

    def stop(self):
        codes.append(self.codegen()[0].value)
        raise RuntimeError("stopped before a compiler is called")

    monkeypatch.setattr(GraphLowering, "compile_to_module", stop)
    alone = torch._inductor.config.patch({"force_disable_caches": True, "cpp.vec_isa_ok": True})
    with alone, pytest.warns(RuntimeWarning, match="stopped before"):
        fused(batch)
    (code,) = codes
    assert code.count("for(int64_t x0=") == 2 and code.count(" = empty_strided_cpu(") == 3


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler")
def test_compiled_on_the_cpu():
    torch._dynamo.reset()
    finish, data, labels = made("all")
    fused, batch = Fused(finish), batch_of(data, labels, 1, 16, resident=True)
    with quickly():
        found, plain = fused(batch), finish(batch)
    assert fused.compiled, "it falls back"
    for a, b in zip(found[:3], plain[:3], strict=True):
        assert torch.allclose(a, b, atol=1e-6)
    assert found.images.is_contiguous(memory_format=torch.channels_last)


class Operations(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.names.add(function.overloadpacket.__name__)
        return function(*arguments, **(options or {}))


def test_nothing_waits_for_the_device():
    """No value is read from a tensor of the device, and no shape depends on one."""
    finish, data, labels = made("all")
    fused, batch = Fused(finish), batch_of(data, labels, 1, 16, resident=True)
    table = torch.from_numpy(choices(batch))
    with Operations() as seen:
        finished(batch.pixels, table, fused.constants, fused.steps)
    assert {"index", "where"} <= seen.names
    assert not seen.names & {"_local_scalar_dense", "nonzero", "item", "masked_select", "unique_dim", "is_nonzero"}


def test_where_nothing_can_be_compiled_the_plain_way_goes_on():
    def broken(graph, examples):
        raise RuntimeError("no compiler\nhere")

    torch._dynamo.reset()
    finish, data, labels = made("all")
    fused, batch = Fused(finish, backend=broken), batch_of(data, labels, 0, 8, resident=True)
    with pytest.warns(RuntimeWarning, match="batches are made without compiled code here, more slowly: ") as said:
        first = fused(batch)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    assert not fused.compiled and equal(first, finish(batch)) and equal(fused(batch), finish(batch))
