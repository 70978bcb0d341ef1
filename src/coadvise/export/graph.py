"""An ONNX graph in the form that engines run fastest; it computes the same.

PyTorch's exporter writes down what PyTorch does. Two things in it keep engines from what they do best:

- weights that a model cuts up while it runs stay whole in the file, and the pieces are no weights to an engine: it does
  not lay them out before, and int8 leaves them out;
- queries, keys and values come from one product and are cut apart by moves of the whole, and they are scaled one by
  one, in every layer. From three products with the scale in their weights, engines make one kernel of all of attention.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx_ir as ir

LARGEST_FOLDED = 2**26
"""Elements of a constant that is computed before the file is written: those of any weight, not of whole batches."""
_QKV = [2, 0, 3, 1, 4]  # b n (q, k, v) heads width → (q, k, v) b heads n width
_HEADS_FIRST = [0, 2, 1, 3]


def tidy(model: ir.Model) -> None:
    """Change a graph, in place."""
    from onnx_ir.passes import common
    from onnxscript import optimizer

    _fold(model)
    for node in list(model.graph):
        _split(model.graph, node)
    common.RemoveUnusedNodesPass()(model)
    for node in list(model.graph):
        _scale_weights(model.graph, node)
    common.RemoveUnusedNodesPass()(model)
    optimizer.optimize(model)


def _fold(model: ir.Model) -> None:
    from onnxscript import optimizer

    optimizer.optimize(model, input_size_limit=LARGEST_FOLDED, output_size_limit=LARGEST_FOLDED)


@dataclass(frozen=True)
class _Linear:
    """A product with weights, and the bias after it.

    Attributes:
        source: what is multiplied.
        weight: (in, out).
        bias: (out), or None.
    """

    source: ir.Value
    weight: np.ndarray
    bias: np.ndarray | None


def _linear(value: ir.Value | None) -> _Linear | None:
    """What makes a value, where it is a product with weights of which nothing else reads."""
    made, bias = _made_by(value, "Add"), None
    if made is not None:
        first, second = made.inputs
        product, constant = (first, second) if _constant(second) is not None else (second, first)
        bias = _constant(constant)
        if bias is None or bias.ndim != 1 or not _read_once(product):
            return None
        value = product
    made = _made_by(value, "MatMul")
    weight = None if made is None else _constant(made.inputs[1])
    if made is None or weight is None or weight.ndim != 2 or (bias is not None and len(bias) != weight.shape[1]):
        return None
    assert made.inputs[0] is not None
    return _Linear(made.inputs[0], weight, bias)


def _split(graph: ir.Graph, node: ir.Node) -> None:
    """One product for queries, keys and values, cut apart → a product for each."""
    if node.op_type != "Transpose" or _perm(node) != _QKV:
        return
    reshape = _made_by(node.inputs[0], "Reshape")
    linear = None if reshape is None else _linear(reshape.inputs[0])
    if reshape is None or linear is None or not (_read_once(node.inputs[0]) and _read_once(reshape.inputs[0])):
        return
    shape = _constant(reshape.inputs[1])
    parts = _parts(node)
    # The last three axes have to be those of the product alone: then it is regrouped, and not moved.
    if shape is None or shape.size != 5 or parts is None or (shape[2:] < 1).any():
        return
    if shape[2:].prod() != linear.weight.shape[1]:
        return
    width = linear.weight.shape[1] // int(shape[2])
    for number, old in parts.items():
        piece = slice(number * width, (number + 1) * width)
        bias = None if linear.bias is None else linear.bias[piece]
        value = _product(graph, node, _Linear(linear.source, linear.weight[:, piece], bias))
        value = _new(graph, node, "Reshape", [value, _initializer(graph, np.delete(shape, 2))])
        value = _new(graph, node, "Transpose", [value], perm=_HEADS_FIRST)
        value.shape, value.type = old.shape, old.type
        old.replace_all_uses_with(value)


def _parts(node: ir.Node) -> dict[int, ir.Value] | None:
    """The pieces that a value is cut into along its first axis, by number, where it is read in no other way."""
    parts: dict[int, ir.Value] = {}
    for cut, _ in node.outputs[0].uses():
        bounds = [_constant(value) for value in cut.inputs[1:]]
        if cut.op_type != "Slice" or any(bound is None or bound.size != 1 for bound in bounds):
            return None
        start, end, axis, *step = (int(bound.item()) for bound in bounds if bound is not None)
        squeezes = [use for use, _ in cut.outputs[0].uses()]
        if end != start + 1 or start < 0 or axis != 0 or step not in ([], [1]) or len(squeezes) != 1:
            return None
        axes = _constant(squeezes[0].inputs[-1])
        if squeezes[0].op_type != "Squeeze" or axes is None or axes.tolist() != [0]:
            return None
        parts[start] = squeezes[0].outputs[0]
    return parts


def _scale_weights(graph: ir.Graph, node: ir.Node) -> None:
    """(q · c) (k · c)ᵀ → a product of queries whose weights are scaled by c², and keys as they are."""
    scaled = [_scaled(value) for value in node.inputs] if node.op_type == "MatMul" else []
    if len(scaled) != 2 or scaled[0] is None or scaled[1] is None:
        return
    query, key, scale = scaled[0][0], _turned(scaled[1][0]), scaled[0][1] * scaled[1][1]
    if key is None:
        return
    heads = _made_by(query, "Transpose")
    flat = None if heads is None else _made_by(heads.inputs[0], "Reshape")
    linear = None if flat is None else _linear(flat.inputs[0])
    chain = [] if heads is None or flat is None else [node.inputs[0], query, heads.inputs[0], flat.inputs[0]]
    if flat is not None and linear is not None and all(map(_read_once, chain)):
        bias = None if linear.bias is None else linear.bias * scale
        product = _product(graph, flat, _Linear(linear.source, linear.weight * scale, bias))
        flat.replace_input_with(0, product)
    else:
        query = _new(graph, node, "Mul", [query, _initializer(graph, scale)])
    node.replace_input_with(0, query)
    node.replace_input_with(1, _new(graph, node, "Transpose", [key], perm=[0, 1, 3, 2]))


def _scaled(value: ir.Value | None) -> tuple[ir.Value, np.ndarray] | None:
    """A value and the number that it is multiplied by."""
    made = _made_by(value, "Mul")
    factor = None if made is None else _constant(made.inputs[1])
    if made is None or made.inputs[0] is None or factor is None or factor.size != 1:
        return None
    return made.inputs[0], factor.reshape(())


def _turned(value: ir.Value) -> ir.Value | None:
    """What a value is made from by exchanging its last two axes, in the four steps that the exporter takes."""
    last = _made_by(value, "Reshape")
    turn = None if last is None else _made_by(last.inputs[0], "Transpose")
    first = None if turn is None or _perm(turn) != [0, 2, 1] else _made_by(turn.inputs[0], "Reshape")
    source = None if first is None else first.inputs[0]
    if first is None or source is None or source.shape is None or len(source.shape) != 4:
        return None
    n, width = list(source.shape)[2:]
    regrouped = [] if first.outputs[0].shape is None else list(first.outputs[0].shape)
    apart = [] if value.shape is None else list(value.shape)
    return None if _differ(regrouped[1:], [n, width]) or _differ(apart[2:], [width, n]) else source


def _differ(sides: Sequence[object], others: Sequence[object]) -> bool:
    """Whether two shapes cannot be the same; sides that are computed while it runs can be any."""
    return any(isinstance(x, int) and isinstance(y, int) and x != y for x, y in zip(sides, others, strict=False))


def _product(graph: ir.Graph, before: ir.Node, linear: _Linear) -> ir.Value:
    weight = _initializer(graph, linear.weight)
    value = _new(graph, before, "MatMul", [linear.source, weight])
    return value if linear.bias is None else _new(
        graph, before, "Add", [value, _initializer(graph, linear.bias)]
    )  # fmt: skip


def _new(graph: ir.Graph, before: ir.Node, kind: str, inputs: list[ir.Value], **attributes: list[int]) -> ir.Value:
    import onnx_ir as ir

    node = ir.node(kind, inputs, attributes)
    graph.insert_before(before, node)
    return node.outputs[0]


def _initializer(graph: ir.Graph, array: np.ndarray) -> ir.Value:
    import onnx_ir as ir

    name = next(name for i in itertools.count() if (name := f"weight_{i}") not in graph.initializers)
    value = ir.val(name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    graph.register_initializer(value)
    return value


def _made_by(value: ir.Value | None, kind: str) -> ir.Node | None:
    made = None if value is None else value.producer()
    return made if made is not None and made.op_type == kind else None


def _constant(value: ir.Value | None) -> np.ndarray | None:
    if value is None or value.const_value is None or not (value.is_initializer() or _made_by(value, "Constant")):
        return None
    return value.const_value.numpy()


def _perm(node: ir.Node) -> list[int]:
    found = node.attributes.get("perm")
    return [] if found is None else list(found.as_ints())


def _read_once(value: ir.Value | None) -> bool:
    return value is not None and len(value.uses()) == 1 and not value.is_graph_output()
