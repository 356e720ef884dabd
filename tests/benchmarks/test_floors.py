"""The floors are measured on the products and the calls that they name."""

import importlib
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from streamer.inference.model import CPU_MODEL, DEFAULT_MODEL

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
    floors = module("load.floors")
    tiny_graph(tmp_path / "tiny.onnx")
    found = floors.products(tmp_path / "tiny.onnx", {"x": np.ones((3, 5, 16), np.float32)})
    assert sorted((p.shape, p.count) for p in found) == [((15, 16, 32), 2), ((15, 32, 8), 1)]
    for product in found:
        for copies in (1, floors.COPIES):
            product.runner(copies)()


def test_a_convolution_of_one_tap_is_a_product(module):
    floors = module("load.floors")
    shapes = {"pointwise": (160, 80, 1, 1), "depthwise": (160, 1, 1, 5), "one": (160, 1, 1, 1)}
    weights = {
        name: numpy_helper.from_array(np.zeros(shape, np.int8), name)
        for name, shape in shapes.items()
    }
    found = [
        name
        for name in shapes
        if floors.is_product(helper.make_node("QLinearConv", ["x", "", "", name], ["y"]), weights)
    ]
    assert found == ["pointwise"]


def test_the_size_of_a_product_is_that_of_what_it_multiplies(module):
    shape, node = module("load.floors").product_shape, helper.make_node
    assert shape(node("MatMul", ["x", "w"], ["y"]), (3, 16, 80), (80, 160)) == (48, 80, 160)
    turned = node("FusedMatMul", ["m", "x"], ["y"], transA=1)
    assert shape(turned, (3, 16, 1), (3, 16, 160)) == (3, 16, 160)
    weights = node("FusedGemm", ["x", "w"], ["y"], transB=1)
    assert shape(weights, (3, 160), (48, 160)) == (3, 160, 48)
    taps = node("QLinearConv", ["x", "", "", "w"], ["y"])
    assert shape(taps, (1, 3, 16, 80), (160, 80, 1, 1)) == (48, 80, 160)


@pytest.mark.parametrize("path", [CPU_MODEL, DEFAULT_MODEL], ids=["int8", "float32"])
def test_the_products_of_the_model_are_a_part_of_its_step(module, monkeypatch, path):
    floors = module("load.floors")
    monkeypatch.setattr(floors, "ROUNDS", 2)
    found = floors.gemm_share(path, os.sched_getaffinity(0), batch=8)
    assert (found["gemm_batch"], found["gemm_model"]) == (8, path.name)
    assert 0 < found["gemm_fraction"] < 1
    assert found["gemm_gflops"] > 1
    assert found["gemm_step_ms"] > 0


@pytest.mark.parametrize("trunk_ms", [0.0, 10.0], ids=["streams", "a trunk"])
def test_the_empty_servicer_serves_the_calls_of_a_generator(module, trunk_ms):
    floors = module("load.floors")
    with module("load.processes").Generators(1) as generators:
        cost = floors.empty_servicer(
            generators, os.sched_getaffinity(0), calls=3, seconds=1.0, trunk_ms=trunk_ms
        )
    assert cost > 0, "it raises if a call is lost"
