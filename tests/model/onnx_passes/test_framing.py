"""Frames by one Gather against frames by slices and a join."""

import numpy as np
import onnxruntime
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model.onnx_passes.framing import gather_frames
from model.onnx_passes.graph import drop_unread


def model(nodes, constants, width, output="y"):
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["source"]), *nodes],
        "test",
        [value("x", TensorProto.FLOAT, ["b", *width])],
        [value(output, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v, np.int64), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(made, x):
    (answer,) = onnxruntime.InferenceSession(made.SerializeToString()).run(None, {"x": x})
    return answer


def kinds(made):
    return [node.op_type for node in made.graph.node]


def taps(frames, width, kernel, stride):
    """The stem's frames: taps of [b, T, width] side by side."""
    last = (frames - kernel) // stride * stride + 1
    constants = {"axis": [1], "stride": [stride]}
    nodes, names = [], []
    for tap in range(kernel):
        constants |= {f"from{tap}": [tap], f"to{tap}": [tap + last]}
        names.append(f"tap{tap}")
        nodes.append(
            helper.make_node(
                "Slice", ["source", f"from{tap}", f"to{tap}", "axis", "stride"], [names[-1]]
            )
        )
    nodes.append(helper.make_node("Concat", names, ["y"], axis=2))
    return model(nodes, constants, [frames, width])


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 4), st.integers(2, 6), st.integers(1, 4), st.integers(0, 9)
)
def test_taps_are_gathered(batch, width, kernel, stride, more):
    made = taps(kernel + more, width, kernel, stride)
    x = np.random.default_rng(0).standard_normal((batch, kernel + more, width)).astype(np.float32)
    before = run(made, x)
    gather_frames(made)
    drop_unread(made)
    np.testing.assert_array_equal(run(made, x), before)
    assert kinds(made) == ["Neg", "Reshape", "Gather", "Reshape"]


def test_samples_are_gathered():
    """As the front end is exported: hop 4, window 10."""
    constants = {"axis": [1], "one": [1], "last": [2], "two": [2], "rows": [-1, 3, 4], "none": [0]}
    nodes, names = [], []
    for number, start in enumerate((0, 4, 8)):
        constants |= {f"from{number}": [start], f"to{number}": [start + 12]}
        cut = f"cut{number}"
        nodes += [
            helper.make_node(
                "Slice", ["source", f"from{number}", f"to{number}", "axis", "one"], [cut]
            ),
            helper.make_node("Reshape", [cut, "rows"], [f"rows{number}"]),
        ]
        names.append(f"rows{number}")
    nodes.append(helper.make_node("Slice", ["rows2", "none", "two", "last", "one"], ["short"]))
    nodes.append(helper.make_node("Concat", [*names[:2], "short"], ["y"], axis=2))
    made = model(nodes, constants, [20])
    x = np.arange(40, dtype=np.float32).reshape(2, 20)
    before = run(made, x)
    assert before.shape == (2, 3, 10)
    gather_frames(made)
    drop_unread(made)
    np.testing.assert_array_equal(run(made, x), before)
    assert kinds(made) == ["Neg", "Reshape", "Gather", "Reshape"]
    gather = next(node for node in made.graph.node if node.op_type == "Gather")
    runs = next(
        numpy_helper.to_array(t) for t in made.graph.initializer if t.name == gather.input[1]
    )
    assert runs.shape == (3, 5), "runs of two samples: the longest that fit all starts"


def test_what_comes_from_two_tensors_stays():
    constants = {"axis": [1], "one": [1], "zero": [0], "two": [2], "three": [3]}
    nodes = [
        helper.make_node("Abs", ["x"], ["other"]),
        helper.make_node("Slice", ["source", "zero", "two", "axis", "one"], ["a"]),
        helper.make_node("Slice", ["other", "one", "three", "axis", "one"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["y"], axis=2),
    ]
    made = model(nodes, constants, [4, 2])
    before = made.SerializeToString()
    gather_frames(made)
    assert made.SerializeToString() == before
