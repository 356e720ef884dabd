"""Overlapping frames of an exported graph, each copied once.

Frames that overlap are exported as shifted slices, joined: of samples for the DFT, of fbank frames
for the taps of the stem. Nothing is computed, numbers are moved in runs: one Gather does that.
"""

from __future__ import annotations

from math import gcd, prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from model.onnx_passes.graph import Graph

_MOVES = ("Slice", "Reshape")
_FRAMES = 2
"""Dimensions of a call's frames: time and channel."""


def gather_frames(model: ModelProto) -> None:
    """Replace joins of pieces of one tensor by one Gather each.

    Changes ``model``; what no node reads any more stays in it, see
    :func:`model.onnx_passes.graph.drop_unread`.
    """
    graph = Graph(model)
    shapes = {
        value.name: tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)[1:]
        for value in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    for join in graph.nodes:
        found = _pieces(graph, join) if join.op_type == "Concat" else None
        if found is None:
            continue
        source, moves = found
        size = prod(shapes.get(source, (0,)))  # of one call; 0 if it is not known
        if not size:
            continue
        origin = _origin(graph, source, shapes[source], [*moves, join])
        if origin.ndim == _FRAMES:
            made = join.output[0]
            graph.replace([made], _gather(graph, source, size, origin, made))


def _pieces(graph: Graph, join: NodeProto) -> tuple[str, list[NodeProto]] | None:
    """The one tensor that all is cut out of, and the nodes that cut, in order."""
    sources, moves = set[str](), list[NodeProto]()
    for name in join.input:
        chain, at = list[NodeProto](), name
        while (maker := graph.maker(at)) is not None and maker.op_type in _MOVES:
            chain.insert(0, maker)
            at = maker.input[0]
        sources.add(at)
        moves += [node for node in chain if node not in moves]
    return (sources.pop(), moves) if len(sources) == 1 else None


def _origin(
    graph: Graph, source: str, shape: tuple[int, ...], nodes: list[NodeProto]
) -> NDArray[np.int64]:
    """Where in a call's ``source`` each number comes from that the last node makes: [T, K]."""
    names = {name for node in nodes for name in node.input}
    constants = {name: values for name in names if (values := graph.constant(name)) is not None}
    made = nodes[-1].output[0]
    moves = helper.make_graph(
        nodes,
        "moves",
        [helper.make_tensor_value_info(source, TensorProto.INT64, [1, *shape])],
        [helper.make_tensor_value_info(made, TensorProto.INT64, None)],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    model = helper.make_model(moves, opset_imports=[helper.make_opsetid("", 18)])
    numbers = np.arange(prod(shape), dtype=np.int64).reshape(1, *shape)
    (moved,) = ReferenceEvaluator(model).run(None, {source: numbers})
    origin: NDArray[np.int64] = np.asarray(moved)[0]
    return origin


def _gather(
    graph: Graph, source: str, size: int, origin: NDArray[np.int64], made: str
) -> list[NodeProto]:
    """Runs as long as they can be."""
    frames, width = origin.shape
    breaks = np.flatnonzero(np.diff(origin, axis=1) != 1) % (width - 1) + 1
    run = gcd(size, width, *origin[:, 0].tolist(), *breaks.tolist())
    run = gcd(run, *origin[:, ::run].ravel().tolist())

    def shape(name: str, *sizes: int) -> str:
        return graph.add(f"{made}_{name}", np.asarray([-1, *sizes], np.int64))

    runs = graph.add(f"{made}_runs", origin[:, ::run] // run)
    cut, gathered = f"{made}_cut", f"{made}_gathered"
    return [
        helper.make_node("Reshape", [source, shape("cut_shape", size // run, run)], [cut]),
        helper.make_node("Gather", [cut, runs], [gathered], axis=1),
        helper.make_node("Reshape", [gathered, shape("shape", frames, width)], [made]),
    ]
