"""An exported graph: who makes and reads what, and fewer copies in it.

Every layer takes its part of the state and returns the next one, which nests as the layers do. In
the graph each level copies the whole state once more; :func:`flatten` leaves only the innermost
parts. :func:`sooner` has frames quantised before they are copied.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper


class Graph:
    """The nodes of a model by what they make and read.

    Args:
        model: whose; :meth:`replace` changes it.
    """

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._look()

    def _look(self) -> None:
        self._makers = {name: node for node in self._graph.node for name in node.output}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in self._graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    @property
    def nodes(self) -> list[NodeProto]:
        """All, in order."""
        return list(self._graph.node)

    def maker(self, name: str) -> NodeProto | None:
        """The node that makes it; None for an input or a constant."""
        return self._makers.get(name)

    def readers(self, name: str) -> list[NodeProto]:
        """The nodes that read it, once for each time."""
        return self._readers.get(name, [])

    def constant(self, name: str) -> NDArray[Any] | None:
        """Its values, if it is a constant."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def add(self, name: str, values: NDArray[np.generic]) -> str:
        """A constant of that name, if there is none yet; returns the name.

        Raises:
            ValueError: there is one, with other values.
        """
        known = self.constant(name)
        if known is None:
            self._constants[name] = numpy_helper.from_array(values, name)
            self._graph.initializer.append(self._constants[name])
        elif known.dtype != values.dtype or not np.array_equal(known, values):
            raise ValueError(f"a constant {name} is there already, with other values")
        return name

    def replace(self, old: Iterable[str], new: Iterable[NodeProto]) -> None:
        """Leave out the nodes that make ``old``, add others, and put all in order.

        Raises:
            ValueError: a node reads what no node makes.
        """
        gone = set(old)
        left = [node for node in self._graph.node if gone.isdisjoint(node.output)] + list(new)
        known = {"", *self._constants, *(value.name for value in self._graph.input)}
        ordered: list[NodeProto] = []
        while left:
            waiting = []
            for node in left:
                if known.issuperset(node.input):
                    ordered.append(node)
                    known.update(node.output)
                else:
                    waiting.append(node)
            if len(waiting) == len(left):
                raise ValueError(f"no node makes an input of {waiting[0].output[0]}")
            left = waiting
        del self._graph.node[:]
        self._graph.node.extend(ordered)
        self._look()


def reading(node: NodeProto, names: Iterable[str]) -> NodeProto:
    """The same node, with other inputs."""
    copy = NodeProto()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend(names)
    return copy


def sooner(graph: Graph) -> None:
    """Quantise before a join or a cut instead of after it: one byte is copied instead of four."""
    while True:
        for node in graph.nodes:
            copied = graph.maker(node.input[0]) if node.op_type == "QuantizeLinear" else None
            if (
                copied is not None
                and copied.op_type in _COPIES
                and len(graph.readers(copied.output[0])) == 1
            ):
                _quantise_before(graph, node, copied)
                break
        else:
            return


_COPIES = {"Concat": None, "Slice": 1}
"""Kinds of node, and how many of their inputs, from the first, are what they copy."""


def _quantise_before(graph: Graph, quantise: NodeProto, copied: NodeProto) -> None:
    count = _COPIES[copied.op_type]
    sources, others = copied.input[:count], copied.input[count:] if count else []
    names = [f"{source}_by_{quantise.input[1]}" for source in sources]
    new = [
        helper.make_node("QuantizeLinear", [source, *quantise.input[1:]], [name])
        for source, name in dict(zip(sources, names, strict=True)).items()
        if graph.maker(name) is None
    ]
    moved = helper.make_node(copied.op_type, [*names, *others], quantise.output)
    moved.attribute.extend(copied.attribute)
    graph.replace([copied.output[0], quantise.output[0]], [*new, moved])


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
    """Drop unused nodes and weights."""
    graph = model.graph
    read = {value.name for value in graph.output}
    kept_nodes = list[NodeProto]()
    for node in reversed(graph.node):
        if not read.isdisjoint(node.output):
            kept_nodes.insert(0, node)
            read.update(node.input)
    del graph.node[:]
    graph.node.extend(kept_nodes)
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    del graph.initializer[:]
    graph.initializer.extend(kept)


def axis_of(node: NodeProto) -> int:
    """Of a join or a split."""
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
            if inner and axis_of(inner) == axis_of(node) and (within := pieces(inner, part)):
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
                    "Split", [node.input[0], name], names, name=node.name, axis=axis_of(node)
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
            if inner is not None and readers[name] == 1 and axis_of(inner) == axis_of(node):
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
                "Concat", names, node.output, name=node.name, axis=axis_of(node)
            )
        merged.append(node)
    return merged
