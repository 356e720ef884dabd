"""A state whose quantised parts have become a cache of bytes, against the state as it was."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.onnx_passes.byte_caches import in_bytes

SIZES = {"a": 3, "b": 4, "c": 2, "d": 6}
ZERO = {"a": 0, "b": 0, "c": 0, "d": 0}


def model(zero=ZERO, scale_out=None, extra=(), widths=None):
    """b and d are bytes as soon as they are read; each step adds what was heard to all parts."""
    total = sum(SIZES.values())
    nodes = [helper.make_node("Split", ["state", "sizes"], list(SIZES), axis=1)]
    constants = {"sizes": np.asarray(list(SIZES.values()), np.int64)}
    for name, size in SIZES.items():
        heard = f"{name}_heard"
        nodes.append(helper.make_node("Expand", ["samples", f"{name}_wide"], [heard]))
        constants[f"{name}_wide"] = np.asarray([1, size], np.int64)
        if name in "ac":
            nodes.append(helper.make_node("Add", [name, heard], [f"{name}_out"]))
            continue
        width = (widths or {}).get(name, 2)
        constants[f"{name}_shape"] = np.asarray([-1, size // width, width], np.int64)
        constants[f"{name}_flat"] = np.asarray([-1, size], np.int64)
        constants[f"{name}_scale"] = np.asarray(0.5, np.float32)
        constants[f"{name}_scale_out"] = np.asarray(scale_out or 0.5, np.float32)
        constants[f"{name}_zero"] = np.asarray(zero[name], np.uint8)
        back = f"{name}_scale_out" if scale_out else f"{name}_scale"
        nodes += [
            helper.make_node("Reshape", [name, f"{name}_shape"], [f"{name}_3"]),
            helper.make_node(
                "QuantizeLinear", [f"{name}_3", f"{name}_scale", f"{name}_zero"], [f"{name}_q"]
            ),
            helper.make_node("Reshape", [heard, f"{name}_shape"], [f"{name}_new"]),
            helper.make_node(
                "QuantizeLinear", [f"{name}_new", f"{name}_scale", f"{name}_zero"], [f"{name}_n"]
            ),
            helper.make_node("Max", [f"{name}_q", f"{name}_n"], [f"{name}_max"]),
            helper.make_node(
                "DequantizeLinear", [f"{name}_max", back, f"{name}_zero"], [f"{name}_back"]
            ),
            helper.make_node("Reshape", [f"{name}_back", f"{name}_flat"], [f"{name}_out"]),
        ]
    nodes.append(helper.make_node("Concat", [f"{n}_out" for n in SIZES], ["state_out"], axis=1))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [*nodes, *extra],
        "test",
        [
            value("samples", TensorProto.FLOAT, ["batch", 1]),
            value("state", TensorProto.FLOAT, ["batch", total]),
        ],
        [value("state_out", TensorProto.FLOAT, ["batch", total])],
        [numpy_helper.from_array(values, name) for name, values in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def step(made, samples, **memory):
    session = onnxruntime.InferenceSession(made.SerializeToString())
    names = [output.name for output in session.get_outputs()]
    answers = session.run(names, {"samples": samples, **memory})
    return {name.removesuffix("_out"): a for name, a in zip(names, answers, strict=True)}


def test_what_is_quantised_when_read_moves_and_says_the_same():
    made = model()
    before = {"state": np.zeros((3, 15), np.float32)}
    heard = np.random.default_rng(0).uniform(0, 60, (5, 3, 1)).astype(np.float32)
    for samples in heard:
        before = step(made, samples, **before)
    assert in_bytes(made) == (5, 10)
    after = {"state": np.zeros((3, 5), np.float32), "cache": np.zeros((3, 10), np.uint8)}
    for samples in heard:
        after = step(made, samples, **after)
    a, b, c, d = np.split(before["state"], np.cumsum(list(SIZES.values()))[:-1], axis=1)
    np.testing.assert_array_equal(after["state"], np.concatenate([a, c], axis=1))
    np.testing.assert_array_equal(after["cache"] * 0.5, np.concatenate([b, d], axis=1))
    assert "QuantizeLinear" in {node.op_type for node in made.graph.node}, "of what is heard"
    assert not {"DequantizeLinear"} & {node.op_type for node in made.graph.node}


@pytest.mark.parametrize(
    ("wrong", "left"),
    [
        ({"zero": ZERO | {"b": 128}}, (9, 6)),  # zero bytes would not be silence
        ({"zero": dict.fromkeys("abcd", 128)}, (15, 0)),
        ({"scale_out": 0.25}, (15, 0)),
        ({"widths": {"b": 4}}, (15, 0)),  # frames of another width cannot be joined
    ],
)
def test_what_would_say_something_else_stays(wrong, left):
    made = model(**wrong)
    before = made.SerializeToString()
    assert in_bytes(made) == left
    assert (made.SerializeToString() == before) is (left[1] == 0)


def test_what_somebody_else_reads_stays():
    made = model(extra=[helper.make_node("Identity", ["b"], ["spy"])])
    assert in_bytes(made) == (9, 6)


def test_a_state_that_is_not_taken_apart_once_stays():
    made = model()
    made.graph.node.append(helper.make_node("Identity", ["state"], ["whole"]))
    before = made.SerializeToString()
    assert in_bytes(made) == (15, 0)
    assert made.SerializeToString() == before
