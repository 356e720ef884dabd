"""Where a student's depthwise convolutions lie in its graph, and the same in 8 bits.

What a block of the encoder (:class:`model.encoders.ecapa.Block`) does between its expansion and its
projection is mostly moving and converting frames. In 8 bits the expansion makes what the
convolution reads, and that what the projection reads.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from onnx import NodeProto, helper

from model.onnx_passes.graph import Graph, axis_of

DOMAIN = "com.microsoft"
_LEVELS = 127
"""Of a tap's weight. The kernel multiplies in 32 bits: 8 bits do not saturate without VNNI."""
_TIME = 1
"""Axis of the frames."""
_CHAIN = ("Unsqueeze", "Transpose", "Conv", "Relu", "Transpose", "Reshape")
"""From the joined frames to the projection, as :class:`model.layers.DepthwiseConv` is exported."""


class Int8Tensor(NamedTuple):
    """An activation in 8 bits: names of the uint8 tensor, its scale and its zero point."""

    data: str
    scale: str
    zero: str


@dataclass(frozen=True)
class Depthwise:
    """One convolution and what lies between the expansion before it and the projection behind.

    Attributes:
        expanded: what the expansion makes.
        frames: the same after its ReLU, which the convolution reads and the cache keeps.
        cache: frames from before.
        joined: the two.
        chain: the nodes from there to the projection.
    """

    expanded: str
    frames: str
    cache: str
    joined: NodeProto
    chain: tuple[NodeProto, ...]

    @property
    def projected(self) -> str:
        """What the projection reads."""
        return str(self.chain[-1].output[0])

    def in_bytes(
        self, graph: Graph, expanded: Int8Tensor, projected: Int8Tensor
    ) -> tuple[set[str], list[NodeProto]]:
        """What takes its place where it reads and makes 8 bits.

        See also :mod:`model.onnx_passes.channels_last`.

        Args:
            graph: that it is in.
            expanded: what the expansion makes now, not below its zero point, which is the ReLU.
            projected: what the projection reads from now on.

        Returns:
            What the nodes to leave out make, and the nodes to add.
        """
        scale = expanded.scale, expanded.zero
        old, both = f"{self.projected}_old", f"{self.projected}_both"
        new = [
            helper.make_node("QuantizeLinear", [self.cache, *scale], [old]),
            helper.make_node("Concat", [old, expanded.data], [both], axis=_TIME),
            self._convolution(graph, both, expanded, projected),
        ]
        gone = {self.frames, self.joined.output[0], *(node.output[0] for node in self.chain)}
        # What the state keeps of them stays what it was, real units in float32: whether it can be
        # kept in bytes is known when all is quantised, see model.onnx_passes.byte_caches.
        for node in graph.readers(self.joined.output[0]):
            if node.output[0] not in gone:
                kept = f"{node.output[0]}_kept"
                cut = helper.make_node(node.op_type, [both, *node.input[1:]], [kept])
                cut.attribute.extend(node.attribute)
                back = helper.make_node("DequantizeLinear", [kept, *scale], node.output)
                new += [cut, back]
                gone.add(node.output[0])
        if any(node.output[0] not in gone for node in graph.readers(self.frames)):
            new.append(helper.make_node("DequantizeLinear", [expanded.data, *scale], [self.frames]))
        return gone, new

    def _convolution(
        self, graph: Graph, both: str, read: Int8Tensor, projected: Int8Tensor
    ) -> NodeProto:
        conv = next(node for node in self.chain if node.op_type == "Conv")
        weight = graph.constant(conv.input[1])
        assert weight is not None
        steps = np.abs(weight).max(axis=(1, 2, 3)).clip(min=1e-8) / _LEVELS
        levels = np.rint(weight / steps[:, None, None, None]).astype(np.int8)
        step = graph.constant(read.scale)
        assert step is not None
        name = conv.output[0]
        inputs = [
            *(both, read.scale, read.zero),
            graph.add(f"{name}_weight", levels),
            graph.add(f"{name}_scale", steps.astype(np.float32)),
            graph.add(f"{name}_zero", np.zeros(len(steps), np.int8)),
            *(projected.scale, projected.zero),
        ]
        if len(conv.input) > 2:
            bias = graph.constant(conv.input[2])
            assert bias is not None
            levels = np.rint(bias / (step * steps)).astype(np.int32)
            inputs.append(graph.add(f"{name}_bias", levels))
        node = convolution(inputs, projected)
        node.attribute.extend(conv.attribute)
        return node


def convolution(inputs: list[str], made: Int8Tensor) -> NodeProto:
    """A QLinearConv of frames; its kernel's shape, if that is not the weights', is to be added."""
    return helper.make_node("QLinearConv", inputs, [made.data], domain=DOMAIN, channels_last=1)


def depthwise(graph: Graph) -> list[Depthwise]:
    """All of a graph, in order; convolutions of another shape are left alone."""
    joins = (node for node in graph.nodes if node.op_type == "Concat" and axis_of(node) == _TIME)
    return [found for node in joins if (found := _around(graph, node)) is not None]


def _around(graph: Graph, joined: NodeProto) -> Depthwise | None:
    if len(joined.input) != 2:
        return None
    cache, frames = joined.input
    relu = graph.maker(frames)
    if relu is None or relu.op_type != "Relu":
        return None
    at, chain = joined.output[0], list[NodeProto]()
    for kind in _CHAIN:
        node = next((node for node in graph.readers(at) if node.op_type == kind), None)
        if node is None:
            return None
        chain.append(node)
        at = node.output[0]
    return Depthwise(relu.input[0], frames, cache, joined, tuple(chain))
