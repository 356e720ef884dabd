"""Frames of all calls as one image, as convolutions in 8 bits want them.

Encoders are exported with frames [B, T, C]. ONNX Runtime convolves [N, H, W, C] (channels last):
here N is 1, H the calls and W time. So one kernel call convolves all calls, a product of each frame
with the same weights is a convolution too, and nothing is reshaped between the two.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from model.onnx_passes.graph import Graph, axis_of, reading

_EACH = frozenset(
    {"Add", "DequantizeLinear", "Div", "Exp", "Mul", "QuantizeLinear", "Relu", "Sub", "Tanh"}
)
"""Kinds of node that compute each number by itself: another operand broadcasts from the right."""
_PRODUCTS = frozenset({"MatMul", "MatMulIntegerToFloat", "QLinearConv"})
_CUTS = frozenset({"Concat", "Slice", "Split", "Squeeze"})
"""Those that name an axis."""
_NARROW = 3
"""Dimensions of frames as they are exported."""


def as_image(graph: Graph) -> None:
    """Make what QLinearConv nodes read, and all that comes of it, [1, B, T, C] from [B, T, C].

    The dimension in front comes with the Reshape that made the frames where there is one; who reads
    frames and is of a kind that is not known here reads them as they were.
    """
    image = _ChannelsLast(graph)
    for node in graph.nodes:
        image.pass_on(node)
    graph.replace(image.gone, image.new)


class _ChannelsLast:
    """Which tensors have the dimension in front by now.

    Attributes:
        gone: what nodes to leave out make.
        new: nodes in their place.
    """

    def __init__(self, graph: Graph) -> None:
        self.gone: list[str] = []
        self.new: list[NodeProto] = []
        self._graph = graph
        self._wide: set[str] = set()
        self._roots = _roots(graph)

    def pass_on(self, node: NodeProto) -> None:
        """To be called for all nodes, in order."""
        wide = self._wide.intersection(node.input)
        if node.op_type == "Reshape" and node.output[0] in self._roots:
            shape = self._graph.constant(node.input[1])
            assert shape is not None
            wider = self._graph.add(f"{node.output[0]}_image", np.append(np.int64(1), shape))
            self._write(node, [node.input[0], wider], wide=True)
        elif node.op_type == "QLinearConv" and node.input[0] not in wide:
            self._write(node, [self._widened(node.input[0]), *node.input[1:]], wide=True)
        elif not wide or node.op_type == "Reshape":
            return  # a complete shape stays as it is
        elif node.op_type in _EACH | _PRODUCTS:
            self._wide.update(node.output)
        elif node.op_type in _CUTS:
            self._cut(node)
        else:
            names = [self._narrowed(name) if name in wide else name for name in node.input]
            self._write(node, names, wide=False)

    def _cut(self, node: NodeProto) -> None:
        """The same along axes that are one further back."""
        names = list(node.input)
        if node.op_type == "Concat":
            names = [name if name in self._wide else self._widened(name) for name in names]
        place = {"Slice": 3, "Squeeze": 1}.get(node.op_type)
        axis = axis_of(node)
        if place is not None:
            axes = self._graph.constant(node.input[place])
            assert axes is not None
            further = np.where(axes < 0, axes, axes + 1)
            if node.op_type == "Squeeze":
                further = np.append(np.int64(0), further)
            name = "axes_" + "_".join(str(axis) for axis in further).replace("-", "last")
            names[place] = self._graph.add(name, further.astype(np.int64))
        further_back = {"axis": axis if axis < 0 else axis + 1} if place is None else {}
        self._write(node, names, wide=node.op_type != "Squeeze", **further_back)

    def _write(self, node: NodeProto, names: list[str], *, wide: bool, **changed: int) -> None:
        copy = reading(node, names)
        for attribute in copy.attribute:
            if attribute.name in changed:
                attribute.i = changed[attribute.name]
        self.gone += node.output
        self.new.append(copy)
        if wide:
            self._wide.update(node.output)

    def _widened(self, name: str) -> str:
        return self._moved("Unsqueeze", name, f"{name}_as_image")

    def _narrowed(self, name: str) -> str:
        return self._moved("Squeeze", name, f"{name}_as_frames")

    def _moved(self, kind: str, name: str, made: str) -> str:
        if all(made not in node.output for node in self.new):
            first = self._graph.add("axes_0", np.zeros(1, np.int64))
            self.new.append(helper.make_node(kind, [name, first], [made]))
        return made


def _roots(graph: Graph) -> set[str]:
    """The Reshapes that make the frames of which convolutions read something."""
    roots, seen = set[str](), set[str]()
    ahead = [node.input[0] for node in graph.nodes if node.op_type == "QLinearConv"]
    while ahead:
        name = ahead.pop()
        maker = graph.maker(name)
        if name in seen or maker is None:
            continue
        seen.add(name)
        shape = graph.constant(maker.input[1]) if maker.op_type == "Reshape" else None
        if shape is not None and len(shape) == _NARROW and (shape[1:] > 0).all():
            roots.add(name)
        elif maker.op_type in _EACH | {"Concat", "Split"}:
            ahead += maker.input
        elif maker.op_type in _PRODUCTS:
            ahead.append(maker.input[0])
    return roots
