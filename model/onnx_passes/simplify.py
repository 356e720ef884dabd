"""The same functions of an exported graph in fewer nodes.

A step of few calls is mostly the runtime's work between nodes: some 2 us each on a CPU, a kernel's
launch on a GPU, however little a node computes.
"""

from __future__ import annotations

from math import gcd
from typing import Any

import numpy as np
import onnx.shape_inference
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    NodeProto,
    OperatorSetIdProto,
    TensorProto,
    helper,
    numpy_helper,
)
from onnx.reference import ReferenceEvaluator

from model.onnx_passes.graph import Graph, axis_of, reading

_LENGTHS = "valid"
"""Samples that are real, int64 [B], 0 to those of a block."""


def turn_first(model: ModelProto) -> None:
    """Transpose what is divided before that, where each call has one divisor.

    What is transposed may be constant then, or come out of a table; see :func:`look_up`.
    """
    graph = Graph(model)
    inferred = onnx.shape_inference.infer_shapes(model).graph.value_info
    sizes = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim[1:]]
        for value in inferred
    }
    for node in graph.nodes:
        share = _only(graph, node.input[0], "Div") if node.op_type == "Transpose" else None
        if share is None or set(sizes.get(share.input[1], [0])) != {1}:
            continue
        if next((a.ints[0] for a in node.attribute if a.name == "perm"), None) != 0:
            continue  # the calls would no longer come first, as in the divisor they do
        turned = helper.make_node("Transpose", [share.input[0]], [f"{share.input[0]}_turned"])
        turned.attribute.extend(node.attribute)
        same = next((n for n in graph.readers(share.input[0]) if _same(n, turned)), None)
        made = turned if same is None else same
        new = helper.make_node("Div", [made.output[0], share.input[1]], node.output)
        graph.replace(
            [share.output[0], node.output[0]], [new] if same is not None else [turned, new]
        )


def _same(node: NodeProto, other: NodeProto) -> bool:
    """Whether both make the same of the same."""
    return (node.op_type, list(node.input), list(node.attribute)) == (
        other.op_type,
        list(other.input),
        list(other.attribute),
    )


def look_up(model: ModelProto) -> None:
    """Take what depends on nothing but a block's length out of tables, one row a whole frame.

    Masks and counts are a dozen nodes, and have as many values as a block has frames, and one.
    Changes ``model``; what nobody reads any more stays in it, see
    :func:`model.onnx_passes.graph.drop_unread`.
    """
    graph = Graph(model)
    found = _of_lengths(graph)
    inside = {name for node in found for name in node.output}
    names = [
        name
        for node in found
        for name in node.output
        if any(reader.output[0] not in inside for reader in graph.readers(name))
    ]
    if not names:
        return
    samples = next(value for value in model.graph.input if value.name == "samples")
    block = samples.type.tensor_type.shape.dim[1].dim_value
    opsets = [entry for entry in model.opset_import if not entry.domain]
    every_length = _values(graph, found, names, block, opsets)
    values = dict(zip(names, every_length, strict=True))
    frame = gcd(*(at for every in values.values() for at in _changes(every)))
    if frame < 2:
        return
    row = f"{_LENGTHS}_row"
    new = [
        helper.make_node(
            "Div", [_LENGTHS, graph.add(f"{row}_size", np.asarray(frame, np.int64))], [row]
        )
    ]
    tables = dict[tuple[tuple[int, ...], bytes], str]()  # what is the same has one name
    for name, every in values.items():
        rows = np.ascontiguousarray(every[::frame])
        table = tables.setdefault((rows.shape, rows.tobytes()), f"{name}_table")
        graph.add(table, rows)
        new.append(helper.make_node("Gather", [table, row], [name], axis=0))
    graph.replace(names, new)


def _of_lengths(graph: Graph) -> list[NodeProto]:
    """The nodes that depend on lengths alone."""
    known, found = {_LENGTHS}, list[NodeProto]()
    for node in graph.nodes:
        given = [name for name in node.input if name and graph.constant(name) is None]
        if given and known.issuperset(given):
            known.update(node.output)
            found.append(node)
    return found


def _values(
    graph: Graph,
    nodes: list[NodeProto],
    names: list[str],
    block: int,
    opsets: list[OperatorSetIdProto],
) -> list[NDArray[Any]]:
    """Of what these nodes make: a row for every length, 0 to ``block``."""
    inputs = {name for node in nodes for name in node.input}
    constants = {name: values for name in inputs if (values := graph.constant(name)) is not None}
    made = helper.make_graph(
        nodes,
        "lengths",
        [helper.make_tensor_value_info(_LENGTHS, TensorProto.INT64, ["b"])],
        [helper.make_tensor_value_info(name, 0, None) for name in names],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(made, opset_imports=opsets)
    lengths = np.arange(block + 1, dtype=np.int64)
    return [np.asarray(every) for every in ReferenceEvaluator(model).run(None, {_LENGTHS: lengths})]


def _changes(values: NDArray[Any]) -> list[int]:
    """The rows that differ from the one before."""
    rows = values.reshape(len(values), -1)
    found: list[int] = (np.flatnonzero((rows[1:] != rows[:-1]).any(axis=1)) + 1).tolist()
    return found


def simplify(graph: Graph) -> None:
    """Factor out, and leave out, wherever a graph allows.

    ``a * r + b * r`` is ``(a + b) * r``; ``m + (a - m * s)``, a running mean, is
    ``a + m * (1 - s)``, and ``1 - s`` is there once for all that need it; the only row of what was
    given a dimension is what it was before.
    """
    for rule in (_factored, _mean, _picked):
        while found := next((new for node in graph.nodes if (new := rule(graph, node))), None):
            graph.replace(*found)


_Rewritten = tuple[list[str], list[NodeProto]]
"""What the nodes to leave out make, and the nodes to add."""


def _factored(graph: Graph, node: NodeProto) -> _Rewritten | None:
    if node.op_type != "Add":
        return None
    products = [_only(graph, name, "Mul") for name in node.input]
    if None in products:
        return None
    left, right = (list(product.input) for product in products if product is not None)
    common = next((name for name in left if name in right), None)
    if common is None:
        return None
    left.remove(common)
    right.remove(common)
    both = f"{node.output[0]}_both"
    return [*node.input, node.output[0]], [
        helper.make_node("Add", [left[0], right[0]], [both]),
        helper.make_node("Mul", [both, common], node.output),
    ]


def _mean(graph: Graph, node: NodeProto) -> _Rewritten | None:
    if node.op_type != "Add":
        return None
    for mean, name in (node.input, reversed(node.input)):
        change = _only(graph, name, "Sub")
        old = _only(graph, change.input[1], "Mul") if change is not None else None
        share = next((n for n in old.input if n != mean), None) if old is not None else None
        if change is None or old is None or share is None or mean not in old.input:
            continue
        new, kept = list[NodeProto](), f"{share}_kept"
        if graph.maker(kept) is None:
            one = graph.add("one", np.asarray(1.0, np.float32))
            new.append(helper.make_node("Sub", [one, share], [kept]))
        new.append(helper.make_node("Mul", [mean, kept], old.output))
        new.append(helper.make_node("Add", [old.output[0], change.input[0]], node.output))
        return [*old.output, *change.output, *node.output], new
    return None


def _picked(graph: Graph, node: NodeProto) -> _Rewritten | None:
    index = graph.constant(node.input[1]) if node.op_type == "Gather" else None
    widened = graph.maker(node.input[0])
    if index is None or index.ndim or index or widened is None or widened.op_type != "Unsqueeze":
        return None
    axes = graph.constant(widened.input[1])
    if axes is None or axes.tolist() != [axis_of(node)]:
        return None
    gone, new = [node.output[0]], list[NodeProto]()
    for reader in graph.readers(node.output[0]):
        if reader.output[0] in gone:
            continue  # it reads it twice
        names = [widened.input[0] if name == node.output[0] else name for name in reader.input]
        gone += reader.output
        new.append(reading(reader, names))
    return (gone, new) if new else None


def _only(graph: Graph, name: str, kind: str) -> NodeProto | None:
    """What makes it, if that is of a kind and nobody else reads it."""
    maker = graph.maker(name)
    alone = maker is not None and maker.op_type == kind and len(graph.readers(name)) == 1
    return maker if alone else None
