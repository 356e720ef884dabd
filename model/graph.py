"""Fewer copies of the state: splits of splits and joins of joins become one of each.

Every layer takes its part of the state and returns the next one, which nests as the layers do. In
the graph each level copies the whole state once more; here only the innermost parts are left.
"""

from __future__ import annotations

from collections import Counter

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper


def flatten(model: ModelProto) -> ModelProto:
    """The same computation with nested Split and Concat nodes of one axis merged.

    Changes ``model`` and returns it. What somebody else reads too stays as it is.
    """
    graph = model.graph
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    nodes = _merged_splits(model, list(graph.node), readers)
    nodes = _merged_joins(nodes, readers)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unread(model)
    return model


def drop_unread(model: ModelProto) -> None:
    """Drop the weights that no node reads."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def _axis(node: NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "axis"), 0)


def _splits(node: NodeProto, readers: Counter[str]) -> bool:
    """Whether it is a split, and the only reader of what it splits."""
    return node.op_type == "Split" and readers[node.input[0]] == 1


def _merged_splits(
    model: ModelProto, nodes: list[NodeProto], readers: Counter[str]
) -> list[NodeProto]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    only = {node.input[0]: node for node in nodes if _splits(node, readers)}
    inside: set[str] = set()

    def pieces(node: NodeProto, size: int | None = None) -> list[tuple[str, int]]:
        """Outputs and their sizes; ``size`` is that of the input, for a split into equal parts."""
        if len(node.input) > 1 and node.input[1] in constants:
            sizes = numpy_helper.to_array(constants[node.input[1]]).tolist()
        elif size is not None and size % len(node.output) == 0:
            sizes = [size // len(node.output)] * len(node.output)
        else:
            return []
        found = []
        for name, part in zip(node.output, sizes, strict=True):
            inner = only.get(name)
            if inner and _axis(inner) == _axis(node) and (within := pieces(inner, part)):
                inside.add(inner.output[0])
                found.extend(within)
            else:
                found.append((name, part))
        return found

    merged = []
    for node in nodes:  # in topological order: the outermost split comes first
        if node.output[0] in inside:
            continue
        if node.op_type == "Split":
            flat = pieces(node)
            if len(flat) > len(node.output):
                sizes = np.asarray([size for _, size in flat], np.int64)
                name = f"{node.output[0]}_sizes"
                model.graph.initializer.append(numpy_helper.from_array(sizes, name))
                names = [name for name, _ in flat]
                node = helper.make_node(  # noqa: PLW2901
                    "Split", [node.input[0], name], names, name=node.name, axis=_axis(node)
                )
        merged.append(node)
    return merged


def _merged_joins(nodes: list[NodeProto], readers: Counter[str]) -> list[NodeProto]:
    joins = {node.output[0]: node for node in nodes if node.op_type == "Concat"}
    inside: set[str] = set()

    def pieces(node: NodeProto) -> list[str]:
        found = []
        for name in node.input:
            inner = joins.get(name)
            if inner is not None and readers[name] == 1 and _axis(inner) == _axis(node):
                inside.add(name)
                found.extend(pieces(inner))
            else:
                found.append(name)
        return found

    flat = {name: pieces(node) for name, node in joins.items()}
    merged = []
    for node in nodes:
        if node.output[0] in inside:
            continue
        if node.output[0] in flat:
            names = flat[node.output[0]]
            node = helper.make_node(  # noqa: PLW2901
                "Concat", names, node.output, name=node.name, axis=_axis(node)
            )
        merged.append(node)
    return merged
