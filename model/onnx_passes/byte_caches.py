"""What layers keep of frames, as bytes beside the state instead of floats in it.

A depthwise convolution in 8 bits (:mod:`model.onnx_passes.depthwise_int8`) reads frames of the
block before again. In the state they would be made floats at the end of a step, moved, and made
bytes at the beginning of the next; four fifths of a call's memory are of this kind.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from model.onnx_passes.graph import Graph

INPUT, OUTPUT = "cache", "cache_out"
"""uint8 [B, C] in and out, where a student has it; zeros are a call that has not begun."""
STATE, STATE_OUT = "state", "state_out"


class _Cache(NamedTuple):
    """One part of the state that is quantised as soon as it is read.

    Attributes:
        part: of the state, by its number.
        frames: of a call.
        width: numbers of a frame.
        before: what reads it: Reshape, then QuantizeLinear.
        after: what makes the next one: DequantizeLinear, then Reshape.
    """

    part: int
    frames: int
    width: int
    before: tuple[NodeProto, NodeProto]
    after: tuple[NodeProto, NodeProto]


def in_bytes(model: ModelProto) -> tuple[int, int]:
    """Move what is quantised as soon as it is read out of the state.

    Returns:
        Floats of a call that stay in the state, and bytes of its cache; the latter is 0, and
        nothing changes, if no part of the state is of this kind, if frames of these parts are not
        equally wide, or if the state is not taken apart and joined once and in one order.
    """
    graph = Graph(model)
    split, join = next(iter(graph.readers(STATE)), None), graph.maker(STATE_OUT)
    if split is None or split.op_type != "Split" or len(graph.readers(STATE)) > 1:
        return _floats(model), 0
    sizes = graph.constant(split.input[1]) if len(split.input) > 1 else None
    if sizes is None or join is None or len(join.input) != len(split.output):
        return _floats(model), 0
    found = [_cache(graph, split, join, part, int(size)) for part, size in enumerate(sizes)]
    caches = [cache for cache in found if cache is not None]
    moved = {cache.part for cache in caches}
    stays = [part for part in range(len(sizes)) if part not in moved]
    floats = int(sizes[stays].sum())
    if len({cache.width for cache in caches}) != 1:
        return _floats(model), 0
    frames = np.asarray([cache.frames for cache in caches])
    width = caches[0].width
    count = int(frames.sum()) * width
    new = [
        _split(graph, STATE, sizes[stays], [split.output[part] for part in stays]),
        _reshape(graph, INPUT, f"{INPUT}_frames", int(frames.sum()), width),
        _split(graph, f"{INPUT}_frames", frames, [c.before[-1].output[0] for c in caches]),
        _join([join.input[part] for part in stays], STATE_OUT),
        _join([cache.after[0].input[0] for cache in caches], f"{OUTPUT}_frames"),
        _reshape(graph, f"{OUTPUT}_frames", OUTPUT, count),
    ]
    gone = {STATE_OUT, split.output[0]}
    for cache in caches:
        gone |= {node.output[0] for node in (*cache.before, *cache.after)}
    _declare(model, floats, count)
    graph.replace(gone, new)
    return floats, count


def _cache(graph: Graph, split: NodeProto, join: NodeProto, part: int, size: int) -> _Cache | None:
    before = _chain_down(graph, split.output[part], ("Reshape", "QuantizeLinear"))
    after = _chain_up(graph, join.input[part], ("Reshape", "DequantizeLinear"))
    if before is None or after is None:
        return None
    (reshape, quantise), (flat, back) = before, after
    zero, shape = graph.constant(quantise.input[2]), graph.constant(reshape.input[1])
    if quantise.input[1:] != back.input[1:] or zero is None or zero.any() or shape is None:
        return None
    width = int(shape[-1])
    return _Cache(part, size // width, width, (reshape, quantise), (back, flat))


def _chain_down(graph: Graph, name: str, kinds: tuple[str, ...]) -> list[NodeProto] | None:
    """The only readers, one after the other, if they are of these kinds."""
    found = []
    for kind in kinds:
        readers = graph.readers(name)
        if len(readers) != 1 or readers[0].op_type != kind:
            return None
        found.append(readers[0])
        name = readers[0].output[0]
    return found


def _chain_up(graph: Graph, name: str, kinds: tuple[str, ...]) -> list[NodeProto] | None:
    """The makers, one before the other, if they are of these kinds and have no other reader."""
    found = []
    for kind in kinds:
        maker = graph.maker(name)
        if maker is None or maker.op_type != kind or len(graph.readers(name)) != 1:
            return None
        found.append(maker)
        name = maker.input[0]
    return found


def _split(graph: Graph, name: str, sizes: NDArray[np.int64], parts: list[str]) -> NodeProto:
    lengths = graph.add(f"{name}_parts", sizes.astype(np.int64))
    return helper.make_node("Split", [name, lengths], parts, axis=1)


def _reshape(graph: Graph, name: str, made: str, *sizes: int) -> NodeProto:
    shape = graph.add(f"{made}_shape", np.asarray([-1, *sizes], np.int64))
    return helper.make_node("Reshape", [name, shape], [made])


def _join(parts: list[str], name: str) -> NodeProto:
    return helper.make_node("Concat", parts, [name], axis=1)


def _floats(model: ModelProto) -> int:
    state = next(value for value in model.graph.input if value.name == STATE)
    return int(state.type.tensor_type.shape.dim[1].dim_value)


def _declare(model: ModelProto, floats: int, count: int) -> None:
    for values, state, name in (
        (model.graph.input, STATE, INPUT),
        (model.graph.output, STATE_OUT, OUTPUT),
    ):
        batch, size = next(v for v in values if v.name == state).type.tensor_type.shape.dim
        size.dim_value = floats
        rows = batch.dim_param or None
        values.append(helper.make_tensor_value_info(name, TensorProto.UINT8, [rows, count]))
