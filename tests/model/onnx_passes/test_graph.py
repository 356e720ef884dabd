"""Nested splits and joins against the graph as it was."""

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from model.onnx_passes.graph import Graph, flatten, sooner


def graph(nodes, sizes, outputs, width):
    """A model from x [b, width] to the named outputs; ``sizes`` by the name of a constant."""
    value = helper.make_tensor_value_info
    constants = [numpy_helper.from_array(np.asarray(s, np.int64), n) for n, s in sizes.items()]
    made = helper.make_graph(
        nodes,
        "test",
        [value("x", TensorProto.FLOAT, ["b", width])],
        [value(name, TensorProto.FLOAT, None) for name in outputs],
        constants,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model, x):
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {"x": x})


def split(source, sizes, outputs, axis=1):
    return helper.make_node("Split", [source, sizes], outputs, axis=axis)


def join(inputs, output, axis=1):
    return helper.make_node("Concat", inputs, [output], axis=axis)


def kinds(model):
    return sorted(node.op_type for node in model.graph.node)


tree = st.recursive(st.integers(1, 4), lambda part: st.lists(part, min_size=2, max_size=3))


@settings(max_examples=40, deadline=None)
@given(tree.filter(lambda t: isinstance(t, list)))
def test_any_nest_becomes_one_split_and_one_join(nest):
    nodes, sizes, after = [], {}, []

    def width(part):
        return part if isinstance(part, int) else sum(map(width, part))

    def visit(name, part):
        """Split ``name``, negate the leaves, join them again; returns the name of the result."""
        if isinstance(part, int):
            nodes.append(helper.make_node("Neg", [name], [f"{name}n"]))
            return f"{name}n"
        names = [f"{name}_{k}" for k in range(len(part))]
        sizes[f"{name}s"] = [width(inner) for inner in part]
        nodes.append(split(name, f"{name}s", names))
        results = [visit(*pair) for pair in zip(names, part, strict=True)]
        after.append(join(results, f"{name}j"))
        return f"{name}j"

    output = visit("x", nest)
    model = graph(nodes + after, sizes, [output], width(nest))
    x = np.random.default_rng(0).standard_normal((3, width(nest))).astype(np.float32)
    expected = run(model, x)
    flat = flatten(model)
    assert [kinds(flat).count(kind) for kind in ("Split", "Concat")] == [1, 1]
    np.testing.assert_array_equal(run(flat, x)[0], expected[0])


def test_splits_into_equal_parts_stay():
    equal = helper.make_node("Split", ["b"], ["c", "d"], axis=1, num_outputs=2)
    again = helper.make_node("Split", ["x2"], ["e", "f"], axis=1, num_outputs=2)
    copy = helper.make_node("Identity", ["x"], ["x2"])
    model = graph(
        [split("x", "s", ["a", "b"]), equal, copy, again], {"s": [1, 4]}, ["a", "c", "d", "e"], 5
    )
    x = np.arange(10, dtype=np.float32).reshape(2, 5)
    # Five into two equal parts: ONNX makes the last one smaller, and nothing is merged there.
    expected = run(model, x)
    assert kinds(flatten(model)) == ["Identity", "Split", "Split"]
    for got, before in zip(run(model, x), expected, strict=True):
        np.testing.assert_array_equal(got, before)


@pytest.mark.parametrize("why", ["another axis", "read twice", "an output"])
@pytest.mark.parametrize("kind", ["Split", "Concat"])
def test_what_cannot_be_merged_stays(kind, why):
    axis, sizes = 0 if why == "another axis" else 1, {}
    if kind == "Split":
        nodes = [split("x", "s", ["a", "b"]), split("b", "t", ["c", "d"], axis=axis)]
        sizes, outputs, inner = {"s": [2, 2], "t": [1, 1]}, ["a", "c", "d"], "b"
    else:
        nodes = [join(["x", "x"], "a", axis=axis), join(["a", "x"] if axis else ["a"], "y")]
        outputs, inner = ["y"], "a"
    if why == "read twice":
        nodes.append(helper.make_node("Neg", [inner], ["n"]))
        outputs.append("n")
    elif why == "an output":
        outputs.append(inner)
    model = graph(nodes, sizes, outputs, 4)
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    expected = run(model, x)
    assert kinds(flatten(model)).count(kind) == 2
    for got, before in zip(run(model, x), expected, strict=True):
        np.testing.assert_array_equal(got, before)


def quantised(source, name="q"):
    return helper.make_node("QuantizeLinear", [source, "scale", "zero"], [name])


def with_scale(model):
    model.graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(128), "zero"))
    for value in model.graph.output:
        value.type.tensor_type.elem_type = TensorProto.UINT8
    return model


ROW = np.random.default_rng(3).standard_normal((2, 12)).astype(np.float32)


def test_what_is_cut_and_joined_is_quantised_once_before():
    cut = [
        helper.make_node("Slice", ["x", f"from{at}", f"to{at}", "one"], [f"part{at}"])
        for at in (0, 3)
    ]
    sizes = {"from0": [0], "to0": [8], "from3": [3], "to3": [11], "one": [1]}
    nodes = [*cut, join(["part0", "part3", "part0"], "all"), quantised("all")]
    before = with_scale(graph(nodes, sizes, ["q"], 12))
    expected = run(before, ROW)
    sooner(Graph(before))
    assert kinds(before) == ["Concat", "QuantizeLinear", "Slice", "Slice"]
    assert before.graph.node[0].op_type == "QuantizeLinear"
    assert list(before.graph.node[0].input) == ["x", "scale", "zero"]
    np.testing.assert_array_equal(run(before, ROW)[0], expected[0])


def test_what_is_read_unquantised_is_not_quantised_before():
    nodes = [join(["x", "x"], "all"), quantised("all"), helper.make_node("Neg", ["all"], ["n"])]
    model = with_scale(graph(nodes, {}, ["q"], 12))
    sooner(Graph(model))
    assert [node.op_type for node in model.graph.node] == ["Concat", "QuantizeLinear", "Neg"]


def test_a_constant_is_never_taken_for_another():
    made = Graph(graph([helper.make_node("Neg", ["x"], ["y"])], {"two": [2]}, ["y"], 12))
    assert made.add("two", np.asarray([2], np.int64)) == "two"
    for other in (np.asarray([3], np.int64), np.asarray([2.0], np.float32)):
        with pytest.raises(ValueError, match="a constant two is there already"):
            made.add("two", other)


def test_nodes_that_take_the_place_of_others_are_put_in_order():
    model = graph([helper.make_node("Neg", ["x"], ["y"])], {}, ["y"], 12)
    late, early = (helper.make_node("Abs", ["a"], ["y"]), helper.make_node("Neg", ["x"], ["a"]))
    Graph(model).replace(["y"], [late, early])
    assert [node.op_type for node in model.graph.node] == ["Neg", "Abs"]
    with pytest.raises(ValueError, match="no node makes an input of y"):
        Graph(model).replace(["a"], [])
