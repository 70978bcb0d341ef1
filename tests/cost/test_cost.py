"""What models cost, against counts that others publish and counts by hand."""

from __future__ import annotations

import unittest.mock

import pytest
import timm
import torch
from helpers.recipes import CNN, INN, tiny
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import coadvise
from coadvise.cost.model import model_cost, multiply_adds
from coadvise.cost.step import step_cost
from coadvise.errors import ModelError
from coadvise.system.clock import peak_bytes, short_bytes


@pytest.mark.parametrize(
    ("name", "gmacs"),
    [("regnety_040", 4.0), ("deit_small_patch16_224", 4.6), ("resnet50", 4.1), ("rednet101", 4.7), ("rednet26", 1.7)],
)
def test_multiply_adds_are_the_published_ones(name, gmacs):
    """RedNet as its paper states it (Table 2: 1.7 and 4.7 G), the others as timm's results do."""
    with torch.device("meta"):
        model = timm.create_model(name)
    assert multiply_adds(model, 224) / 1e9 == pytest.approx(gmacs, abs=0.051)


def test_the_involutions_share_by_hand():
    x, kernel = torch.randn(2, 32, 6, 6, requires_grad=True), torch.randn(2, 2 * 9, 3, 3, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        y = coadvise.involution(x, kernel, 3, 2)
    assert counter.get_total_flops() == 2 * (2 * 32 * 9 * 9)
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == 2 * 2 * (2 * 32 * 9 * 9)  # as much for each of the two gradients


def test_a_model_is_measured():
    cost = model_cost("cit_tiny", image_size=32, classes=5, batch_size=2, rounds=1)
    own = timm.create_model("cit_tiny", num_classes=5, img_size=32)
    assert cost.parameters == sum(p.numel() for p in own.parameters())
    assert cost.images_per_s > 0 and cost.batch_size == 2 and cost.multiply_adds > 1e6
    with pytest.raises(ModelError, match="no model is called"):
        model_cost("cit_tinny")


def test_memory_of_a_call():
    needed = peak_bytes(lambda: torch.ones(64, 2**20, dtype=torch.uint8).add_(1))
    assert needed is None or 0.9 < needed / 2**26 < 1.3
    assert [short_bytes(n) for n in (None, 5, 2048, 3 * 2**20)] == ["", "5 B", "2 KiB", "3 MiB"]


def test_the_parts_of_a_step(tmp_path):
    recipe = tiny(tmp_path, teachers={"conv": CNN, "inv": INN})
    cost = step_cost(recipe, rounds=2)
    names = [f"teacher {name}" for name in recipe.teachers]
    assert list(cost.parts) == ["input", *names, "student forward", "backward", "optimizer"]
    assert all(value > 0 for value in cost.parts.values()) and cost.flops > 0 and 0 < cost.of_peak < 1
    assert cost.whole < 3 * sum(cost.parts.values())


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))


def test_blocks_that_are_compiled(monkeypatch):
    from coadvise.models import compiling

    student = Blocks()
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert compiling.compile_blocks(student, "auto", cpu, 10**6) == (0, "")
    assert compiling.compile_blocks(student, "auto", gpu, compiling.WORTHWHILE_STEPS - 1) == (0, "")
    assert compiling.compile_blocks(student, False, gpu, 10**6) == (0, "")
    assert all(block._compiled_call_impl is None for block in student.blocks)
    count, note = compiling.compile_blocks(student, "auto", gpu, compiling.WORTHWHILE_STEPS)
    if "Triton" not in note:
        assert count == 3 and "3 blocks" in note
    count, _ = compiling.compile_blocks(student, True, cpu, 1)
    assert count == 3 and all(block._compiled_call_impl is not None for block in student.blocks)
    assert compiling.compile_blocks(nn.Linear(2, 2), True, cpu, 1)[0] == 0
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert "no C compiler" in compiling.compile_blocks(Blocks(), True, cpu, 1)[1]


def test_attention_by_matrix_products_on_the_cpu():
    from coadvise.models.compiling import plain_attention

    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    student = timm.create_model("transformer_tiny", img_size=32, patch_size=8, depth=3, num_classes=5).eval()
    x = torch.randn(2, 3, 32, 32)
    expected = student(x)
    assert plain_attention(student, gpu, torch.bfloat16) == plain_attention(student, cpu, None) == 0
    assert plain_attention(student, cpu, torch.bfloat16) == 3 and plain_attention(nn.Linear(2, 2), cpu, None) == 0
    with unittest.mock.patch("torch.nn.functional.scaled_dot_product_attention") as fused:
        torch.testing.assert_close(student(x), expected, atol=1e-5, rtol=1e-5)
    fused.assert_not_called()


def test_a_deep_student_with_drop_path_is_compiled_once_for_all_blocks():
    """Not once for each rate of drop path, up to the limit of PyTorch."""
    from coadvise.models.compiling import compile_blocks

    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    student = timm.create_model("cit_tiny", img_size=32, patch_size=8, depth=12, drop_path_rate=0.1).train()
    with unittest.mock.patch.object(nn.Module, "compile", lambda m: setattr(m, "_compiled_call_impl",
                                    torch.compile(m._call_impl, backend=backend))):  # fmt: skip
        assert compile_blocks(student, True, torch.device("cpu"), 1)[0] == 12
    for size in (4, 4):
        sum(z.sum() for z in student.forward_tokens(torch.randn(size, 3, 32, 32)).values()).backward()
    assert 1 <= len(graphs) <= 4


def test_blocks_that_are_not_alike_are_left_alone():
    from coadvise.models.compiling import compile_blocks

    # Of four stages only the first has two blocks of the same shapes.
    assert compile_blocks(timm.create_model("resnet18"), True, torch.device("cpu"), 1)[0] == 2
