"""The floors are measured on what they claim to be."""

import importlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL, OnnxModel

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """Imports a benchmark by its name: they are no package."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module


def tiny_graph(path):
    """Two equal products of 16 x 32, one of 32 x 8."""
    random = np.random.default_rng(0)
    weights = {"a": (16, 32), "b": (16, 32), "c": (32, 8)}
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["xa"]),
        helper.make_node("MatMul", ["x", "b"], ["xb"]),
        helper.make_node("Mul", ["xa", "xb"], ["m"]),
        helper.make_node("MatMul", ["m", "c"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 5, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5, 8])],
        [
            numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
            for name, shape in weights.items()
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)


def test_every_product_of_a_graph_is_found_with_its_shape(module, tmp_path):
    gemm = module("load.gemm")
    tiny_graph(tmp_path / "tiny.onnx")
    model = gemm.optimised(tmp_path / "tiny.onnx")
    found = gemm.products(model, {"x": np.ones((3, 5, 16), np.float32)})
    assert sorted((p.shape, p.count) for p, _ in found) == [((15, 16, 32), 2), ((15, 32, 8), 1)]
    for product, weights in found:
        for copies in (1, gemm.COPIES):
            product.runner(weights, copies)()


def test_a_convolution_of_one_tap_is_a_product(module):
    gemm = module("load.gemm")
    shapes = {"pointwise": (160, 80, 1, 1), "depthwise": (160, 1, 1, 5), "one": (160, 1, 1, 1)}
    weights = {
        name: numpy_helper.from_array(np.zeros(shape, np.int8), name)
        for name, shape in shapes.items()
    }
    found = [
        name
        for name in shapes
        if gemm.is_product(helper.make_node("QLinearConv", ["x", "", "", name], ["y"]), weights)
    ]
    assert found == ["pointwise"]


def test_the_size_of_a_product_is_that_of_what_it_multiplies(module):
    sizes, node = module("load.gemm").sizes, helper.make_node
    assert sizes(node("MatMul", ["x", "w"], ["y"]), (3, 16, 80), (80, 160)) == (48, 80, 160)
    turned = node("FusedMatMul", ["m", "x"], ["y"], transA=1)
    assert sizes(turned, (3, 16, 1), (3, 16, 160)) == (3, 16, 160)
    weights = node("FusedGemm", ["x", "w"], ["y"], transB=1)
    assert sizes(weights, (3, 160), (48, 160)) == (3, 160, 48)
    taps = node("QLinearConv", ["x", "", "", "w"], ["y"])
    assert sizes(taps, (1, 3, 16, 80), (160, 80, 1, 1)) == (48, 80, 160)


def test_the_shipped_products_are_as_wide_as_the_student(module):
    gemm = module("load.gemm")
    meta = OnnxModel(CPU_MODEL, provider="cpu").metadata
    found = gemm.products(gemm.optimised(CPU_MODEL), gemm.silence(meta, 3))
    kinds = {product.node.op_type: product for product, _ in found}
    expansions = kinds["QLinearConv"]
    assert (expansions.shape, expansions.count) == ((3 * 16, 160, 160), 4)
    assert sum(product.count for product, _ in found) > 20


@pytest.mark.parametrize("path", [CPU_MODEL, DEFAULT_MODEL], ids=["int8", "float32"])
def test_the_products_of_the_student_are_a_part_of_its_step(module, monkeypatch, path):
    gemm = module("load.gemm")
    monkeypatch.setattr(gemm, "ROUNDS", 2)
    point = gemm.gemm_floor(path, 8)
    assert point["batch"] == 8
    assert 0 < point["gemm_ms"] < point["step_ms"]
    assert 0 < point["fraction"] < 1
    assert point["gflops"] > 1
    assert point["mflop_per_speech_s"] > 1


@pytest.mark.parametrize("trunk_ms", [0.0, 10.0], ids=["streams", "a trunk"])
def test_the_empty_servicer_answers_as_often_as_the_server(module, trunk_ms):
    floors = module("floors")
    with module("load.run").Generators(1) as generators:
        found = floors.empty_servicer(
            generators, 3, 1.0, 100, os.sched_getaffinity(0), trunk_ms=trunk_ms, pollings=[""]
        )
    assert "empty_servicer_default" not in found
    assert found["empty_servicer"] > 0
    assert found["empty_p99_ms"] > 0
    assert (found["calls"], found["trunk_ms"]) == (3, trunk_ms)
