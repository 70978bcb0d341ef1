"""ONNX graphs in the form that engines like, run by ONNX Runtime beside attention written out in float64."""

from collections import Counter

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from coadvise.export.graph import tidy
from coadvise.export.tracing import OPSET

onnx = pytest.importorskip("onnx", reason="the extra [export] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [export] is not installed")
pytest.importorskip("onnxscript", reason="the extra [export] is not installed")

HEADS, WIDTH = 2, 4


class Attention(nn.Module):
    """Attention of one layer as ViTs have it: one product for queries, keys and values."""

    def __init__(self, bias: bool, first: int, normalised: bool, shown: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(8, 3 * HEADS * WIDTH, bias=bias)
        self.first, self.normalised, self.shown = first, normalised, shown

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.qkv.weight, self.qkv.bias
        inner = HEADS * WIDTH
        if self.first:  # queries of some tokens alone: the weights are cut while it runs
            q = F.linear(x[:, : self.first], weight[:inner], None if bias is None else bias[:inner])
            q = q.view(x.shape[0], self.first, HEADS, WIDTH).transpose(1, 2)
            kv = F.linear(x, weight[inner:], None if bias is None else bias[inner:])
            k, v = kv.view(*x.shape[:2], 2, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
        else:
            parts = self.qkv(x).reshape(*x.shape[:2], 3, HEADS, WIDTH).permute(2, 0, 3, 1, 4)
            q, k, v = parts.unbind(0)
        if self.normalised:
            q, k = F.normalize(q, dim=-1), F.normalize(k, dim=-1)
        z = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return z + parts.sum((0, 2, 3, 4))[:, None, None] if self.shown else z


def by_hand(attention: Attention, x: np.ndarray) -> np.ndarray:
    """The same, one head of one image after the other."""
    weight = attention.qkv.weight.detach().double().numpy()
    bias = 0 if attention.qkv.bias is None else attention.qkv.bias.detach().double().numpy()
    answers = []
    for image in x.astype(np.float64):
        qkv = image @ weight.T + bias
        heads = []
        for head in range(HEADS):
            q, k, v = (qkv[:, (part * HEADS + head) * WIDTH :][:, :WIDTH] for part in range(3))
            if attention.normalised:
                q, k = (one / np.linalg.norm(one, axis=1, keepdims=True) for one in (q, k))
            scores = np.exp(q @ k.T / np.sqrt(WIDTH))
            heads.append(scores / scores.sum(1, keepdims=True) @ v)
        answer = np.concatenate(heads, axis=1)[: attention.first or None]
        answers.append(answer + qkv.sum() if attention.shown else answer)
    return np.stack(answers)


@pytest.mark.parametrize(
    ("kind", "products", "factors"),
    [
        ({}, 5, 0),  # three with weights, and two of attention
        ({"bias": False}, 5, 0),
        ({"first": 2}, 5, 0),
        ({"normalised": True}, 5, 1),  # no weights to take the scale
        ({"shown": True}, 3, 1),  # something else reads the whole: it is left as it is
    ],
    ids=["plain", "no-bias", "first-tokens", "normalised", "read-elsewhere"],
)
def test_attention_is_computed_from_three_products(kind: dict, products: int, factors: int) -> None:
    torch.manual_seed(0)
    attention = Attention(**{"bias": True, "first": 0, "normalised": False, "shown": False} | kind).eval()
    made = torch.onnx.export(
        attention, (torch.zeros(2, 5, 8),), dynamo=True, verbose=False, input_names=["x"], opset_version=OPSET,
        dynamic_shapes=({0: "batch"},),
    )  # fmt: skip
    assert made is not None
    tidy(made.model)
    onnx.checker.check_model(made.model_proto, full_check=True)
    graph = made.model_proto.graph
    session = onnxruntime.InferenceSession(made.model_proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        x = np.random.default_rng(count).standard_normal((count, 5, 8), dtype=np.float32)
        np.testing.assert_allclose(session.run(None, {"x": x})[0], by_hand(attention, x), atol=1e-5)
    kinds = Counter(node.op_type for node in graph.node)
    assert (kinds["MatMul"], kinds["Mul"]) == (products, factors)
    weights = {tensor.name for tensor in graph.initializer}
    assert sum(node.op_type == "MatMul" and node.input[1] in weights for node in graph.node) == products - 2


def attention_by_nodes(read_again: bool, turned: bool) -> "onnx.ModelProto":
    """(q · c) (k · c)ᵀ in the steps of PyTorch's exporter, of 5 tokens in 2 heads of width 4.

    Args:
        read_again: whether the scaled queries are an output, too.
        turned: whether keys are turned within heads; otherwise over all heads at once, which is another product.
    """
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(0)
    middle = (-1, 5, WIDTH) if turned else (-1, WIDTH, 5)
    tensors = {
        "weight": generator.standard_normal((8, 8), dtype=np.float32), "bias": np.arange(8, dtype=np.float32),
        "c": np.float32(0.5), "apart": np.array([-1, 5, HEADS, WIDTH]), "together": np.array(middle),
        "heads": np.array([-1, HEADS, WIDTH, 5]),
    }  # fmt: skip
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["product"]),
        helper.make_node("Add", ["product", "bias"], ["flat"]),
        helper.make_node("Reshape", ["flat", "apart"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["q"], perm=[0, 2, 1, 3]),
        helper.make_node("Mul", ["q", "c"], ["scaled"]),
        helper.make_node("Reshape", ["k", "together"], ["rows"]),
        helper.make_node("Transpose", ["rows"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["columns", "heads"], ["keys"]),
        helper.make_node("Mul", ["keys", "c"], ["scaled_keys"]),
        helper.make_node("MatMul", ["scaled", "scaled_keys"], ["scores"]),
        *([helper.make_node("Identity", ["scaled"], ["again"])] if read_again else []),
    ]
    values = {"x": ["b", 5, 8], "k": ["b", HEADS, 5, WIDTH], "scores": ["b", HEADS, 5, 5]}
    values |= {"again": ["b", HEADS, 5, WIDTH]} if read_again else {}
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in values.items()]
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()]
    graph = helper.make_graph(nodes, "attention", infos[:2], infos[2:], initializers)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    return onnx.shape_inference.infer_shapes(made)


@pytest.mark.parametrize("read_again", [False, True], ids=["once", "read-again"])
@pytest.mark.parametrize("turned", [True, False], ids=["turned", "moved"])
def test_what_only_looks_like_attention_stays_what_it_is(read_again: bool, turned: bool) -> None:
    onnx_ir = pytest.importorskip("onnx_ir")
    before = attention_by_nodes(read_again, turned)
    model = onnx_ir.from_proto(before)
    tidy(model)
    after = onnx_ir.to_proto(model)
    generator = np.random.default_rng(1)
    given = {"x": (3, 5, 8), "k": (3, HEADS, 5, WIDTH)}
    given = {name: generator.standard_normal(shape, dtype=np.float32) for name, shape in given.items()}
    answers = [
        onnxruntime.InferenceSession(one.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, given)
        for one in (before, after)
    ]
    for old, new in zip(*answers, strict=True):
        np.testing.assert_allclose(new, old, atol=1e-5)
