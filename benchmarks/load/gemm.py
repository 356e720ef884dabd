"""What the student's matrix products alone would cost, at ONNX Runtime's best.

The graph is taken as ONNX Runtime optimises it, so that a quantised product is the kernel that
really runs. Of every distinct product (operator, shapes, types) a graph of nothing else is made,
once with one copy and once with several, each with weights of its own; the difference is the time
of a product without the overhead of a run. Outputs are bound beforehand: no allocation is timed.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper
from rich.progress import track

from streamer.inference.metadata import Metadata
from streamer.inference.model import Student

COPIES = 8
ROUNDS = 15
"""Each has the step and all products once: the speed of a shared host changes between two."""
SLICE_SECONDS = 0.02
"""How long each round times one thing."""
_SECOND = {"QGemm": 3, "QLinearConv": 3}
"""Where a product's second matrix is among its inputs, unless at 1."""
_TAPS = 4
"""Dimensions of a convolution's weights."""
Array = NDArray[Any]


def _options() -> onnxruntime.SessionOptions:
    """The server's: one thread, no spinning."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    return options


def _as_written() -> onnxruntime.SessionOptions:
    options = _options()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def _open(model: ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(
        model.SerializeToString(), _as_written(), providers=["CPUExecutionProvider"]
    )


def optimised(path: Path) -> ModelProto:
    """The graph that ONNX Runtime makes of a model file on a CPU."""
    with tempfile.TemporaryDirectory() as folder:
        options = _options()
        options.optimized_model_filepath = str(Path(folder) / "optimised.onnx")
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return onnx.load(options.optimized_model_filepath)


def is_product(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Whether a node multiplies matrices: MatMul, Gemm, MatMulIntegerToFloat, FusedMatMul, ...

    So does a convolution whose weights are [N, K, 1, 1], of a single tap for each two channels.
    """
    if node.op_type == "QLinearConv":
        outputs, inputs, *taps = weights[node.input[_SECOND[node.op_type]]].dims
        return inputs > 1 and outputs > 1 and all(tap == 1 for tap in taps)
    return "MatMul" in node.op_type or "Gemm" in node.op_type


def sizes(node: NodeProto, first: Sequence[int], second: Sequence[int]) -> tuple[int, int, int]:
    """Rows, K and N of a product of matrices of these shapes, whichever it transposes."""
    inner, columns = second[-2:] if len(second) < _TAPS else second[1::-1]
    if any(a.name == "transB" and a.i for a in node.attribute):
        inner, columns = columns, inner
    return prod(first) // inner, inner, columns


def mean_seconds(run: Callable[[], object]) -> float:
    """CPU seconds of one run, the mean over one slice of time."""
    runs, began = 0, time.thread_time()
    while (took := time.thread_time() - began) < SLICE_SECONDS:
        run()
        runs += 1
    return took / runs


@dataclass
class Product:
    """One distinct product.

    Attributes:
        node: of the optimised graph.
        inputs: that are no weights, as they were in a step.
        shape: rows, K, N.
        count: nodes in the graph that are the same.
    """

    node: NodeProto
    inputs: dict[str, Array]
    shape: tuple[int, int, int]
    count: int = 1

    def runner(self, weights: Sequence[TensorProto], copies: int) -> Callable[[], object]:
        """Runs a graph of ``copies`` of the product."""
        nodes, initializers, outputs = [], [], []
        own = {weight.name: weight for weight in weights}
        for copy in range(copies):
            node = NodeProto()
            node.CopyFrom(self.node)
            node.name = node.output[0] = f"product{copy}"
            for index, name in enumerate(self.node.input):
                if name in own:
                    weight = TensorProto()
                    weight.CopyFrom(own[name])
                    node.input[index] = weight.name = f"{name}.{copy}"
                    initializers.append(weight)
            nodes.append(node)
            outputs.append(onnx.ValueInfoProto(name=node.output[0]))
        wanted = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
            )
            for name, value in self.inputs.items()
        ]
        graph = helper.make_graph(nodes, "products", wanted, outputs, initializers)
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        session = _open(helper.make_model(graph, opset_imports=domains, ir_version=8))
        binding = session.io_binding()
        for name, value in self.inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for output, value in zip(outputs, session.run(None, self.inputs), strict=True):
            bound = onnxruntime.OrtValue.ortvalue_from_numpy(value)
            binding.bind_ortvalue_output(output.name, bound)
        return lambda: session.run_with_iobinding(binding)


def products(model: ModelProto, feed: dict[str, Array]) -> list[tuple[Product, list[TensorProto]]]:
    """The distinct products of an optimised graph, each with its weights."""
    weights = {weight.name: weight for weight in model.graph.initializer}
    nodes = [node for node in model.graph.node if is_product(node, weights)]
    given = {name for node in nodes for name in node.input if name and name not in weights}
    watched = ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    names = sorted(given - feed.keys())
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = dict(zip(names, _open(watched).run(names, feed), strict=True)) | feed
    found: dict[tuple[object, ...], tuple[Product, list[TensorProto]]] = {}
    for node in nodes:
        inputs = {name: values[name] for name in node.input if name in given}
        own = [weights[name] for name in node.input if name in weights]
        shapes = [
            tuple(weights[name].dims) if name in weights else values[name].shape
            for name in (node.input[0], node.input[_SECOND.get(node.op_type, 1)])
        ]
        types = tuple(str(value.dtype) for value in inputs.values())
        key = (node.op_type, *shapes, types, tuple(weight.data_type for weight in own))
        if key in found:
            found[key][0].count += 1
        else:
            found[key] = (Product(node, inputs, sizes(node, *shapes)), own)
    return list(found.values())


def silence(meta: Metadata, batch: int) -> dict[str, Array]:
    """Inputs of a step: the first block of so many calls that say nothing."""
    samples, valid = np.zeros((batch, meta.block), np.float32), np.full(batch, meta.block)
    memory = {name: part for name, part in meta.fresh(batch)._asdict().items() if part.size}
    return {"samples": samples, "valid": valid, **memory}


def gemm_floor(path: Path, batch: int) -> dict[str, float]:
    """Step and ideal CPU time at one batch size, taken in turns; see :func:`gemm_curve`."""
    student = Student(path, provider="cpu")
    meta = student.metadata
    random = np.random.default_rng(0)
    feed = silence(meta, batch)
    feed["samples"] = (0.1 * random.standard_normal((batch, meta.block))).astype(np.float32)
    memory = meta.fresh(batch)
    found = products(optimised(path), feed)
    runners = [
        (product, product.runner(own, 1), product.runner(own, COPIES)) for product, own in found
    ]
    steps: list[float] = []
    singles: list[list[float]] = [[] for _ in runners]
    copies: list[list[float]] = [[] for _ in runners]
    for _ in range(ROUNDS):
        steps.append(mean_seconds(lambda: student.step(feed["samples"], feed["valid"], memory)))
        for index, (_, one, many) in enumerate(runners):
            singles[index].append(mean_seconds(one))
            copies[index].append(mean_seconds(many))
    counts = [product.count for product, _, _ in runners]
    ideals = [
        sum(
            count * max(0.0, more[number] - one[number]) / (COPIES - 1)
            for count, one, more in zip(counts, singles, copies, strict=True)
        )
        for number in range(ROUNDS)
    ]
    flops = sum(
        2.0 * count * prod(p.shape) for count, (p, _, _) in zip(counts, runners, strict=True)
    )
    ideal = statistics.median(ideals)
    shares = [one / step for one, step in zip(ideals, steps, strict=True)]
    return {
        "batch": batch,
        "step_ms": round(1000 * statistics.median(steps), 4),
        "gemm_ms": round(1000 * ideal, 4),
        "fraction": round(statistics.median(shares), 3),
        "gflops": round(flops / ideal / 1e9, 1),
        "step_ms_per_speech_s": round(
            1000 * statistics.median(steps) / batch / student.metadata.block_seconds, 4
        ),
        "mflop_per_speech_s": round(flops / batch / student.metadata.block_seconds / 1e6, 2),
    }


def gemm_curve(path: Path, batches: Sequence[int]) -> list[dict[str, float]]:
    """For each batch size what the student's step costs and what its products alone would.

    Keys, medians of the rounds: ``batch``, ``step_ms`` and ``gemm_ms`` (CPU), ``fraction`` (of the
    second in the first), ``gflops`` (speed of the products; integer operations for integer ones),
    ``step_ms_per_speech_s``, ``mflop_per_speech_s`` (in products).
    """
    return [gemm_floor(path, batch) for batch in track(batches, "matrix products", transient=True)]
