"""The front end that adds before the mel product against the one that adds in it."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from model.onnx_passes.graph import Graph
from model.onnx_passes.mel import add_first, squares_of


def front_end(mel_halves_differ=False):
    """A model of frames [b, 20] -> 5 energies, as the exporter writes it, of random matrices."""
    random = np.random.default_rng(1)
    half = random.random((8, 5), np.float32)
    mel = np.concatenate([half, half + np.float32(mel_halves_differ)])
    dft = random.standard_normal((20, 16)).astype(np.float32)
    nodes = [
        helper.make_node("MatMul", ["x", "dft"], ["spectrum"]),
        helper.make_node("Mul", ["spectrum", "spectrum"], ["squares"]),
        helper.make_node("MatMul", ["squares", "mel"], ["energies"]),
    ]
    made = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["b", 20])],
        [helper.make_tensor_value_info("energies", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(values, name) for values, name in ((dft, "dft"), (mel, "mel"))],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def run(model):
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    frames = np.random.default_rng(2).standard_normal((3, 20)).astype(np.float32)
    return session.run(None, {"x": frames})[0]


def test_energies_stay_what_they_are():
    model = front_end()
    before = run(model)
    add_first(Graph(model))
    kinds = [node.op_type for node in model.graph.node]
    assert sorted(kinds) == ["Add", "MatMul", "MatMul", "MatMul", "Mul", "Mul"]
    np.testing.assert_allclose(run(model), before, rtol=1e-6)


def test_a_product_that_does_not_add_halves_is_left():
    model = front_end(mel_halves_differ=True)
    add_first(Graph(model))
    assert [node.op_type for node in model.graph.node] == ["MatMul", "Mul", "MatMul"]


@pytest.mark.parametrize(("index", "found"), [(0, True), (2, False)])
def test_squares(index, found):
    graph = Graph(front_end())
    assert (squares_of(graph, graph.nodes[index]) is not None) == found
