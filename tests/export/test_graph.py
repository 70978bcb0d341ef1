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
