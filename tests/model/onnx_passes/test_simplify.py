"""Graphs of fewer nodes against the graphs they were made of."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.onnx_passes.graph import Graph, drop_unread
from model.onnx_passes.simplify import look_up, simplify, turn_first

BLOCK, FRAME = 40, 8


def made(nodes, constants, inputs, outputs):
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(name, *kind) for name, kind in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(v), name) for name, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def run(model, feed):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(None, feed)


def kinds(model):
    return sorted(node.op_type for node in model.graph.node)


# --- what depends on a block's length ---


def masked(frame=FRAME):
    """Whole frames of a block as a mask, and how many they are, as the exporter writes it."""
    node = helper.make_node
    nodes = [
        node("Cast", ["valid"], ["float"], to=TensorProto.FLOAT),
        node("Div", ["float", "frame"], ["share"]),
        node("Floor", ["share"], ["whole"]),
        node("Unsqueeze", ["whole", "one"], ["column"]),
        node("Less", ["places", "column"], ["heard"]),
        node("Cast", ["heard"], ["mask"], to=TensorProto.FLOAT),
        node("ReduceSum", ["mask", "one"], ["count"], keepdims=1),
        node("Mul", ["samples", "mask_of_samples"], ["gained"]),
        node("MatMul", ["mask", "weights"], ["of_mask"]),
        node("Add", ["gained", "of_mask"], ["answer"]),
        node("Sub", ["gained", "count"], ["other"]),
    ]
    frames = BLOCK // frame
    constants = {
        "frame": np.float32(frame),
        "one": np.asarray([1]),
        "places": np.arange(frames, dtype=np.float32)[None],
        "mask_of_samples": np.float32(2),
        "weights": np.random.default_rng(1).random((frames, BLOCK), np.float32),
    }
    inputs = {
        "samples": (TensorProto.FLOAT, ["b", BLOCK]),
        "valid": (TensorProto.INT64, ["b"]),
    }
    return made(nodes, constants, inputs, ["answer", "other"])


def test_masks_and_counts_of_every_length_come_out_of_tables():
    model = masked()
    feed = {
        "samples": np.random.default_rng(2).random((BLOCK + 1, BLOCK), np.float32),
        "valid": np.arange(BLOCK + 1),
    }
    expected = run(model, feed)
    look_up(model)
    drop_unread(model)
    assert kinds(model) == ["Add", "Div", "Gather", "Gather", "Mul", "Sub"]
    for got, wanted in zip(run(model, feed), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_equal_tables_are_there_once():
    model = masked()
    again = helper.make_node("ReduceSum", ["mask", "one"], ["again"], keepdims=1)
    reader = helper.make_node("Mul", ["gained", "again"], ["third"])
    model.graph.node.extend([again, reader])
    model.graph.output.append(helper.make_tensor_value_info("third", TensorProto.FLOAT, None))
    look_up(model)
    drop_unread(model)
    gathers = [node.input[0] for node in model.graph.node if node.op_type == "Gather"]
    assert (len(gathers), len(set(gathers))) == (3, 2)


@pytest.mark.parametrize("frame", [FRAME, 1])
def test_what_every_sample_changes_stays_what_it_is(frame):
    model = masked(frame)
    if frame != 1:  # nor is there anything to do where nothing reads the length
        for node in model.graph.node:
            names = ["samples" if name == "valid" else name for name in node.input]
            del node.input[:]
            node.input.extend(names)
    before = model.SerializeToString()
    look_up(model)
    assert model.SerializeToString() == before


def shared(divisor="column", again=True):
    """A mask over what each call has heard, transposed; and the mask transposed by itself."""
    node = helper.make_node
    nodes = [
        node("Unsqueeze", ["samples", "one"], ["rows"]),
        node("Unsqueeze", ["count", "one"], ["column"]),
        node("Div", ["rows", divisor], ["share"]),
        node("Transpose", ["share"], ["turned_share"], perm=[0, 2, 1]),
        node("Neg", ["turned_share"], ["answer"]),
    ]
    if again:
        nodes.append(node("Transpose", ["rows"], ["turned"], perm=[0, 2, 1]))
        nodes.append(node("Abs", ["turned"], ["other"]))
    inputs = {
        "samples": (TensorProto.FLOAT, ["b", BLOCK]),
        "count": (TensorProto.FLOAT, ["b", 1]),
    }
    return made(nodes, {"one": np.asarray([1])}, inputs, ["answer", "other"][: 1 + again])


@pytest.mark.parametrize("again", [True, False])
def test_what_each_call_is_divided_by_is_divided_by_last(again):
    model = shared(again=again)
    random = np.random.default_rng(2)
    feed = {
        "samples": random.random((3, BLOCK), np.float32),
        "count": random.random((3, 1), np.float32),
    }
    expected = run(model, feed)
    turn_first(model)
    drop_unread(model)
    assert kinds(model).count("Transpose") == 1
    assert Graph(model).maker(Graph(model).maker("turned_share").input[0]).op_type == "Transpose"
    for got, wanted in zip(run(model, feed), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_calls_that_do_not_come_first_any_more_are_divided_first():
    model = shared(again=False)
    node = next(node for node in model.graph.node if node.op_type == "Transpose")
    node.attribute[0].ints[:] = [2, 1, 0]
    before = model.SerializeToString()
    turn_first(model)
    assert model.SerializeToString() == before


def test_a_divisor_that_would_have_to_be_transposed_too_stays_where_it_is():
    model = shared("rows", again=False)
    before = model.SerializeToString()
    turn_first(model)
    assert model.SerializeToString() == before


# --- algebra ---

FLOATS = {name: (TensorProto.FLOAT, ["b", 6]) for name in "abmrs"}
FEED = {
    name: np.random.default_rng(seed).standard_normal((3, 6)).astype(np.float32)
    for seed, name in enumerate(FLOATS)
}


def simplified(nodes, constants=None, outputs=("y",)):
    """Node kinds before and after; the answers are compared here."""
    model = made(nodes, constants or {}, FLOATS, outputs)
    expected, before = run(model, FEED), kinds(model)
    simplify(Graph(model))
    drop_unread(model)
    for got, wanted in zip(run(model, FEED), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    return before, kinds(model)


@pytest.mark.parametrize("order", [("a", "r", "r", "b"), ("r", "a", "b", "r")])
def test_a_common_factor_is_multiplied_once(order):
    nodes = [
        helper.make_node("Mul", list(order[:2]), ["left"]),
        helper.make_node("Mul", list(order[2:]), ["right"]),
        helper.make_node("Add", ["left", "right"], ["y"]),
    ]
    assert simplified(nodes)[1] == ["Add", "Mul"]


def test_a_product_that_somebody_else_reads_stays():
    nodes = [
        helper.make_node("Mul", ["a", "r"], ["left"]),
        helper.make_node("Mul", ["b", "r"], ["right"]),
        helper.make_node("Add", ["left", "right"], ["y"]),
        helper.make_node("Neg", ["left"], ["z"]),
    ]
    before, after = simplified(nodes, outputs=("y", "z"))
    assert before == after


def mean(name, old, turned):
    """m + (a - m * s), with the operands of what commutes in either order."""
    return [
        helper.make_node("Mul", [old, "s"][:: 1 - 2 * turned], [f"{name}_gone"]),
        helper.make_node("Sub", ["a", f"{name}_gone"], [f"{name}_change"]),
        helper.make_node("Add", [old, f"{name}_change"][:: 1 - 2 * turned], [name]),
    ]


@pytest.mark.parametrize("turned", [0, 1])
def test_running_means_share_what_is_kept_of_the_old_ones(turned):
    nodes = [*mean("y", "m", turned), *mean("z", "b", turned)]
    before, after = simplified(nodes, outputs=("y", "z"))
    assert before == ["Add", "Add", "Mul", "Mul", "Sub", "Sub"]
    assert after == ["Add", "Add", "Mul", "Mul", "Sub"]


def test_a_difference_that_is_no_running_mean_stays():
    nodes = [
        helper.make_node("Mul", ["b", "s"], ["gone"]),
        helper.make_node("Sub", ["a", "gone"], ["change"]),
        helper.make_node("Add", ["m", "change"], ["y"]),
    ]
    before, after = simplified(nodes)
    assert before == after


def test_a_square_is_no_running_mean():
    nodes = [
        helper.make_node("Mul", ["m", "m"], ["gone"]),
        helper.make_node("Sub", ["a", "gone"], ["change"]),
        helper.make_node("Add", ["m", "change"], ["y"]),
    ]
    before, after = simplified(nodes)
    assert before == after


def test_the_only_row_is_what_it_was():
    constants = {"axis": np.asarray([1]), "first": np.asarray(0), "last": np.asarray([0])}
    nodes = [
        helper.make_node("Unsqueeze", ["a", "axis"], ["rows"]),
        helper.make_node("Gather", ["rows", "first"], ["row"], axis=1),
        helper.make_node("Mul", ["row", "row"], ["y"]),
    ]
    assert simplified(nodes, constants)[1] == ["Mul"]
    nodes[1] = helper.make_node("Gather", ["rows", "last"], ["row"], axis=1)  # keeps the dimension
    before, after = simplified(nodes, constants)
    assert before == after
    nodes[1] = helper.make_node("Gather", ["rows", "first"], ["y"], axis=1)  # an output of its own
    before, after = simplified(nodes[:2], constants)
    assert before == after
