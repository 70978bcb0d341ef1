"""Which blocks of a student are compiled, and attention by matrix products."""

from __future__ import annotations

import copy
import unittest.mock

import timm
import torch
from timm.optim import create_optimizer_v2
from torch import nn
from torch._dynamo.testing import CompileCounter

import coadvise


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


class Blocks(nn.Module):
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(4, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem(x))


def compiled_by(backend):
    """In place of PyTorch's `Module.compile`."""
    return lambda m: setattr(m, "_compiled_call_impl", torch.compile(m._call_impl, backend=backend))


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
    with unittest.mock.patch.object(nn.Module, "compile", compiled_by(backend)):
        assert compile_blocks(student) == 12
    for size in (4, 4):
        sum(z.sum() for z in student.forward_tokens(torch.randn(size, 3, 32, 32)).values()).backward()
    assert 1 <= len(graphs) <= 4


def test_blocks_of_any_number_of_students_are_compiled():
    """PyTorch compiles a function eight times at most, here twice: each kind of student counts by itself."""
    from coadvise.models.compiling import compile_blocks, plain_again

    counted, x = CompileCounter(), torch.randn(2, 4)
    with (
        unittest.mock.patch.object(nn.Module, "compile", compiled_by(counted)),
        torch._dynamo.config.patch(recompile_limit=2),
    ):
        for number, width in enumerate((5, 6, 7, 7)):
            student = Blocks(width)
            expected = student(x)
            assert compile_blocks(student) == 3
            torch.testing.assert_close(student(x), expected)
            assert counted.frame_count == min(number + 1, 3)
    copied = copy.deepcopy(student)  # as averaged weights are
    copied.blocks[0].linear.weight.data.zero_()
    torch.testing.assert_close(student(x), expected)
    assert not torch.equal(copied(x), expected)
    plain_again(student)
    torch.testing.assert_close(student(x), expected)


def test_blocks_that_are_not_alike_are_left_alone():
    from coadvise.models.compiling import compile_blocks

    # Of four stages only the first has two blocks of the same shapes.
    assert compile_blocks(timm.create_model("resnet18")) == 2


def test_what_is_compiled_of_a_student_in_a_loop_of_ones_own():
    """As docs/guides/your-own-loop.md says: a step, not the tokens of a compiled student, which renames its weights."""

    class Step(nn.Module):
        def __init__(self, student: nn.Module) -> None:
            super().__init__()
            self.student = student

        def forward(self, x: torch.Tensor, advice: dict[str, torch.Tensor], y: torch.Tensor) -> torch.Tensor:
            return coadvise.co_advise_loss(self.student.forward_tokens(x), advice, y).total

    student = timm.create_model("cit_tiny", img_size=16, patch_size=8, depth=2, num_classes=3)
    x, y, advice = (
        torch.randn(2, 3, 16, 16),
        torch.tensor([0, 2]),
        {"conv": torch.randn(2, 3), "inv": torch.randn(2, 3)},
    )
    counted = CompileCounter()
    compiled = torch.compile(student, backend=counted)
    expected = Step(student)(x, advice, y)
    compiled.forward_tokens(x)
    assert counted.frame_count == 0
    found = torch.compile(Step(student), backend=counted, fullgraph=True)(x, advice, y)
    assert counted.frame_count == 1
    torch.testing.assert_close(found, expected)

    def spared(model: nn.Module) -> set[str]:
        names = {weight: name for name, weight in student.named_parameters()}
        groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=0.05).param_groups
        return {names[w] for group in groups if group["weight_decay"] == 0 for w in group["params"] if w.ndim > 1}

    assert spared(student) == {"cls_token", "pos_embed", "tokens.conv", "tokens.inv"}
