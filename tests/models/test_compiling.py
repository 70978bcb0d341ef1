"""Which blocks of a student are compiled, and attention by matrix products."""

from __future__ import annotations

import unittest.mock

import timm
import torch
from torch import nn


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 4)
        self.blocks = nn.Sequential(*(nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)))


def test_blocks_that_are_compiled_and_plain_again():
    from coadvise.models.compiling import compile_blocks, plain_again

    student = Blocks()
    assert compile_blocks(student) == 3 and all(block._compiled_call_impl is not None for block in student.blocks)
    plain_again(student)
    assert all(block._compiled_call_impl is None for block in student.blocks)
    assert compile_blocks(nn.Linear(2, 2)) == 0


def test_what_a_machine_lacks(monkeypatch):
    from coadvise.models import compiling

    assert compiling.lacking(torch.device("cpu")) == "", "there is a compiler where this project is tested"
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    assert "Triton is missing" in compiling.lacking(torch.device("cuda"))
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert "no C compiler" in compiling.lacking(torch.device("cpu"))


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
        assert compile_blocks(student) == 12
    for size in (4, 4):
        sum(z.sum() for z in student.forward_tokens(torch.randn(size, 3, 32, 32)).values()).backward()
    assert 1 <= len(graphs) <= 4


def test_blocks_that_are_not_alike_are_left_alone():
    from coadvise.models.compiling import compile_blocks

    # Of four stages only the first has two blocks of the same shapes.
    assert compile_blocks(timm.create_model("resnet18")) == 2
