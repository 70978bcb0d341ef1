"""Compiled teachers give the logits of the teachers they were made from, and are compiled once for blocks alike."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import timm
import torch
from helpers.compiling import quickly
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter

import coadvise  # noqa: F401  (registers the models)
from coadvise.models.teachers import FrozenTeacher, Teachers


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def ready(model: nn.Module, fuse: bool = True, size: int | None = None) -> Teachers:
    torch.manual_seed(0)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.3, 0.6)  # residual branches start at zero
    teachers = Teachers({"net": FrozenTeacher(model.eval(), image_size=size)})
    assert not fuse or teachers.fuse(torch.randn(2, 3, 32, 32)) == ("net",)
    return teachers


# PyTorch 2.11 compiles none of its own layers and containers that stand alone, but what is in them.
OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 12)
# name, options, whether it is fused, graphs: forms of blocks, and what lies outside of them
NETWORKS = [
    ("rednet101", {"layers": (1, 1, 6, 1)}, True, 5 + (3 if OLD else 2)),  # stem, of three parts; fc
    ("regnety_002", {}, True, 6 + 2),  # stages 1 and 2 have one block; stem, head
    ("resnet18", {}, False, 7 + (0 if OLD else 3)),  # stage 1 has no shortcut of its own; conv1, bn1, fc
    (
        "vit_tiny_patch16_224",
        {"img_size": 32, "drop_path_rate": 0.3},
        False,
        1 + (2 if OLD else 3),
    ),  # patch_embed, norm, head
]


@pytest.mark.parametrize(
    ("name", "options", "fuse", "graphs"),
    [one if one[0].startswith("vit") else pytest.param(*one, marks=pytest.mark.slow) for one in NETWORKS],
)
def test_blocks_alike_are_compiled_once_and_other_batches_never(
    name: str, options: dict[str, Any], fuse: bool, graphs: int
) -> None:
    teachers = ready(timm.create_model(name, num_classes=3, **options), fuse)
    counter = CompileCounter()
    x = torch.randn(4, 3, 32, 32)
    plain = teachers(x)["net"]
    assert teachers.compile((4, 3, 32, 32), backend=counter) == {} and teachers.compiled() == ("net",)
    assert counter.frame_count == graphs
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(teachers(x)["net"], plain, atol=1e-4, rtol=1e-4)
        for batch in (3, 1, 5):  # the last of an evaluation, a teacher's check
            assert teachers(torch.randn(batch, 3, 32, 32))["net"].shape == (batch, 3)
        other_layout = x.contiguous(memory_format=torch.channels_last)
        assert torch.equal(teachers(other_layout)["net"], teachers(x)["net"])
        with torch.autocast("cpu", torch.bfloat16):
            teachers(x)
        with torch.inference_mode():  # its tensors are of another kind
            torch.testing.assert_close(teachers(x + 0)["net"], plain, atol=1e-4, rtol=1e-4)
    assert counter.frame_count == graphs
    if name.startswith("vit"):
        assert teachers.compile((4, 3, 32, 32), (2, 3, 32, 32), backend=counter) == {}
        assert counter.frame_count == 2 * graphs  # a new size, once


@pytest.mark.slow
def test_a_compiled_form_is_used_and_leaves_the_model_as_it_is() -> None:
    """With the compiler that runs use, in a size, normalisation and autocast of its own."""
    net = timm.create_model("rednet26", layers=(2, 1), width=32, num_classes=3, stem="small")
    teachers = ready(net)
    before = copy.deepcopy(teachers.state_dict())
    model = next(iter(teachers.items()))[1].model
    x = torch.randn(3, 3, 32, 32)
    plain = teachers(x)["net"]
    with quickly():
        assert teachers.compile((3, 3, 32, 32)) == {}
    called = []
    model.register_forward_hook(lambda *_: called.append(1))
    found = teachers(x)["net"]
    assert called == [] and plain.std() > 1e-3
    torch.testing.assert_close(found, plain, atol=1e-4, rtol=1e-4)
    with torch.inference_mode():
        teachers(x + 0)
    assert called == []
    teachers(x[:2])
    assert called == [1]
    after = teachers.state_dict()
    assert list(after) == list(before) and all(torch.equal(after[key], before[key]) for key in before)
    again = copy.deepcopy(teachers)
    assert again.compiled() == () and teachers.compiled() == ("net",)
    torch.testing.assert_close(again(x)["net"], plain, atol=1e-4, rtol=1e-4)
    teachers.fuse(x)  # makes another copy, of which nothing is compiled
    assert teachers.compiled() == ()


def test_weights_are_not_copied() -> None:
    teachers = ready(timm.create_model("resnet18", num_classes=3), fuse=False)
    teachers.compile((2, 3, 32, 32), backend="eager")
    with torch.no_grad():
        for parameter in teachers.parameters():
            parameter.zero_()
    assert not teachers(torch.randn(2, 3, 32, 32))["net"].any()


def test_what_is_no_network_of_torch_is_left_alone() -> None:
    def answer(x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))

    teachers = Teachers({"function": answer})
    assert teachers.compile((2, 3, 8, 8)) == {} and teachers.compiled() == ()


def test_a_teacher_that_cannot_be_compiled_advises_as_it_is() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no such\n  processor")

    def wrong(graph: Any, inputs: Any) -> Any:
        return lambda *args: tuple(2 * out + 1 for out in graph.forward(*args))

    teachers = ready(timm.create_model("resnet18", num_classes=3))
    x = torch.randn(2, 3, 32, 32)
    plain = teachers(x)["net"]
    assert "no such processor" in teachers.compile((2, 3, 32, 32), backend=broken)["net"]
    torch._dynamo.reset()
    assert teachers.compile((2, 3, 32, 32), backend=wrong) == {"net": "its compiled form gives other logits"}
    assert teachers.compiled() == () and torch.equal(teachers(x)["net"], plain)
