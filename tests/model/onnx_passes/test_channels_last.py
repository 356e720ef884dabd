"""Frames as one image against what the same arithmetic gives in numpy."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.onnx_passes.channels_last import as_image
from model.onnx_passes.depthwise_int8 import DOMAIN, Int8Tensor, convolution
from model.onnx_passes.graph import Graph

FRAMES, CHANNELS, KEPT = 6, 4, 2
SCALE = np.float32(0.02)
RANDOM = np.random.default_rng(1)
POINTS = RANDOM.integers(-60, 60, (CHANNELS, CHANNELS, 1, 1)).astype(np.int8)
TAPS = RANDOM.integers(-60, 60, (CHANNELS, 1, 1, KEPT + 1)).astype(np.int8)
CONSTANTS = {
    "scale": SCALE,
    "zero": np.uint8(0),
    "points": POINTS,
    "taps": TAPS,
    "step": np.full(CHANNELS, 0.01, np.float32),
    "middle": np.zeros(CHANNELS, np.int8),
    "flat": np.asarray([-1, KEPT * CHANNELS]),
    "frames": np.asarray([-1, FRAMES, CHANNELS]),
    "kept": np.asarray([-1, KEPT, CHANNELS]),
    "time": np.asarray([1]),
    "from": np.asarray([-KEPT]),
    "to": np.asarray([1 << 40]),
    "share": np.full((1, FRAMES), 1 / FRAMES, np.float32),
}


def convolved(read, weights, made, group=1):
    inputs = [read, "scale", "zero", weights, "step", "middle", "scale", "zero"]
    node = convolution(inputs, Int8Tensor(made, "scale", "zero"))
    node.attribute.append(helper.make_attribute("group", group))
    return node


def encoder(*, reshaped=True):
    """Product, cache, convolution, residual and mean of frames, as they are while [B, T, C]."""
    node = helper.make_node
    nodes = [
        node("Reshape", ["x", "frames"], ["rows"]) if reshaped else node("Neg", ["x"], ["rows"]),
        node("Reshape", ["cache", "kept"], ["old"]),
        node("QuantizeLinear", ["rows", "scale", "zero"], ["rows_q"]),
        convolved("rows_q", "points", "new"),
        node("Concat", ["old", "new"], ["both"], axis=1),
        convolved("both", "taps", "heard", CHANNELS),
        node("DequantizeLinear", ["heard", "scale", "zero"], ["back"]),
        node("Add", ["rows", "back"], ["sum"]),
        node("MatMul", ["share", "sum"], ["means"]),
        node("Squeeze", ["means", "time"], ["mean"]),
        node("ReduceMax", ["sum", "time"], ["largest"], keepdims=0),
        node("Concat", ["sum", "back"], ["wide"], axis=2),
        node("Slice", ["both", "from", "to", "time"], ["newest"]),
        node("Reshape", ["newest", "flat"], ["cache_out"]),
    ]
    shape = ["b", FRAMES * CHANNELS] if reshaped else ["b", FRAMES, CHANNELS]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "test",
        [
            value("x", TensorProto.FLOAT, shape),
            value("cache", TensorProto.UINT8, ["b", KEPT * CHANNELS]),
        ],
        [
            value("mean", TensorProto.FLOAT, None),
            value("largest", TensorProto.FLOAT, None),
            value("wide", TensorProto.FLOAT, None),
            value("cache_out", TensorProto.UINT8, None),
        ],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in CONSTANTS.items()],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(DOMAIN, 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def levels(values):
    return np.rint(values / SCALE).clip(0, 255)


def expected(frames, cache):
    """What the nodes say, call by call."""
    new = levels(0.01 * SCALE * levels(frames) @ POINTS[:, :, 0, 0].T.astype(np.float32))
    both = np.concatenate([cache.reshape(-1, KEPT, CHANNELS), new], axis=1)
    taps = TAPS[:, 0, 0].T.astype(np.float32)
    sums = sum(both[:, k : k + FRAMES] * taps[k] for k in range(KEPT + 1))
    back = SCALE * levels(0.01 * SCALE * sums)
    total = frames + back
    return total.mean(axis=1), total.max(axis=1), np.concatenate([total, back], axis=2), both


@pytest.mark.parametrize("reshaped", [True, False], ids=["from a Reshape", "as they come"])
def test_calls_are_convolved_together_and_each_is_what_it_is_alone(reshaped):
    model = encoder(reshaped=reshaped)
    as_image(Graph(model))
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    random = np.random.default_rng(2)
    frames = random.random((5, FRAMES, CHANNELS), np.float32)
    cache = random.integers(0, 255, (5, KEPT * CHANNELS)).astype(np.uint8)
    given = frames.reshape(5, -1) if reshaped else -frames
    mean, largest, wide, cache_out = session.run(None, {"x": given, "cache": cache})
    means, most, joined, both = expected(frames, cache)
    quantum = 1.01 * SCALE  # half a level is rounded either way, at each of two places
    np.testing.assert_allclose(mean, means, atol=quantum)
    np.testing.assert_allclose(largest, most, atol=quantum)
    np.testing.assert_allclose(wide[0], joined, atol=quantum)
    newest = cache_out.reshape(5, KEPT, CHANNELS).astype(int)
    assert np.abs(newest - both[:, -KEPT:]).max() <= 1
    kinds = [node.op_type for node in model.graph.node]
    assert kinds.count("Unsqueeze") == (0 if reshaped else 1)
    for row in range(5):
        alone = session.run(None, {"x": given[row : row + 1], "cache": cache[row : row + 1]})
        np.testing.assert_array_equal(alone[0][0], mean[row])
        np.testing.assert_array_equal(alone[3][0], cache_out[row])


def test_who_is_not_known_reads_frames_as_they_were():
    model = encoder()
    graph = Graph(model)
    as_image(graph)
    reader = graph.maker("largest")
    narrowed = graph.maker(reader.input[0])
    assert (narrowed.op_type, narrowed.input[0]) == ("Squeeze", "sum")


def test_a_graph_without_such_convolutions_stays_what_it_is():
    node = helper.make_node("Reshape", ["x", "frames"], ["y"])
    model = helper.make_model(
        helper.make_graph(
            [node],
            "test",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", FRAMES * CHANNELS])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(CONSTANTS["frames"], "frames")],
        )
    )
    before = [n.SerializeToString() for n in model.graph.node]
    as_image(Graph(model))
    assert [n.SerializeToString() for n in model.graph.node] == before
