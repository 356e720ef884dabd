"""Measure the floors of the server's cost: gRPC with an empty servicer, and matrix products alone.

The empty servicer runs on the same library, event loop and protocol. It parses the same messages
and answers a prepared prediction after every update interval, on streams and on trunks.

The matrix products are those of the graph that ONNX Runtime optimises, so that a quantised product
is the kernel that really runs. Each distinct product (operator, shapes, types) is timed in a graph
of one copy and in one of several, each copy with weights of its own. The difference is the time of
a product without the overhead of a run.
"""

from __future__ import annotations

from streamer.process import environment as polling  # before gRPC, as the server does

# isort: split
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import numpy as np
import uvloop
from load.generator import prediction_due
from load.processes import Generators, cpu_seconds, on_cores

from streamer.process.local_server import local_server
from streamer.rpc import envelope_pb2 as envelope
from streamer.rpc import voicecohort_pb2 as pb
from streamer.rpc import voicecohort_pb2_grpc as pb_grpc
from streamer.transport.trunk import TrunkService

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto
    from onnxruntime import InferenceSession

POLLING = {"": polling.POLLING, "_default": ""}  # GRPC_EXPERIMENTS by suffix of the figures
STARTED = pb.StreamClassifyResponse(started=pb.Started())
GEMM_BATCH = 32
COPIES = 8
ROUNDS = 15
"""Each times the step and all products once, since a shared host changes its speed."""
SLICE_SECONDS = 0.02  # of one timing
_WEIGHTS = {"QGemm": 3, "QLinearConv": 3}
"""Index of a node's second matrix; 1 for other operators."""


def prepared_response() -> pb.StreamClassifyResponse:
    """Make a prediction as large as a real one."""

    def task(label: str, classes: int) -> pb.TaskPrediction:
        posterior = [0.5, *[0.5 / (classes - 1)] * (classes - 1)]
        return pb.TaskPrediction(posterior=posterior, label=label, confidence=0.5)

    prediction = pb.Prediction(
        sequence=1, gender=task("female", 2), age_group=task("young", 4), age_band=task("20s", 7)
    )
    for duration in (prediction.audio_time, prediction.speech_time, prediction.lost_time):
        duration.seconds, duration.nanos = 12, 340_000_000
    return pb.StreamClassifyResponse(prediction=prediction)


async def _read(context: Any) -> object:  # noqa: ANN401 - the stubs do not know gRPC's EOF
    return await context.read()


class EmptyServicer(pb_grpc.ClassifierServiceServicer):
    """Read requests of ``chunk_ms`` of audio; answer prepared responses."""

    def __init__(self, chunk_ms: int) -> None:
        self._chunk_ms = chunk_ms

    async def StreamClassify(  # type: ignore[override]  # noqa: N802 - the protocol's name
        self,
        request_iterator: AsyncIterator[pb.StreamClassifyRequest],  # noqa: ARG002 - read() instead
        context: grpc.aio.ServicerContext[pb.StreamClassifyRequest, pb.StreamClassifyResponse],
    ) -> None:
        """Serve one call."""
        response = prepared_response()
        while isinstance(request := await _read(context), pb.StreamClassifyRequest):
            sequence = request.audio.sequence
            if not sequence:
                await context.write(STARTED)
            elif prediction_due(sequence, self._chunk_ms):
                response.prediction.sequence = sequence
                await context.write(response)
        response.prediction.final = True
        await context.write(response)


class EmptyTrunks(TrunkService):
    """Answer each message of a trunk by one message of prepared responses."""

    def __init__(self, chunk_ms: int) -> None:
        self._chunk_ms = chunk_ms
        self._started = STARTED.SerializeToString()

    async def StreamTrunk(  # noqa: N802 - the protocol's name
        self,
        request_iterator: AsyncIterator[envelope.StreamTrunkRequest],  # noqa: ARG002 - read() instead
        context: grpc.aio.ServicerContext[
            envelope.StreamTrunkRequest, envelope.StreamTrunkResponse
        ],
    ) -> None:
        """Serve one trunk."""
        response = prepared_response()
        last: dict[int, int] = {}
        while isinstance(message := await _read(context), envelope.StreamTrunkRequest):
            batch = envelope.StreamTrunkResponse()
            for item in message.lines:
                request = pb.StreamClassifyRequest.FromString(item.request)
                sequence = last[item.line] = request.audio.sequence or last.get(item.line, 0)
                kind = request.WhichOneof("message")
                if kind == "config":
                    batch.lines.add(line=item.line, response=self._started)
                elif kind == "control" or prediction_due(sequence, self._chunk_ms):
                    response.prediction.sequence = sequence
                    response.prediction.final = kind == "control"
                    batch.lines.add(line=item.line, response=response.SerializeToString())
                if kind == "control":
                    batch.lines.add(line=item.line, end=envelope.LineEnd())
            if batch.lines:
                await context.write(batch)


async def serve(listen: str, chunk_ms: int) -> None:
    """Serve the empty servicer until the process is killed; log the address as the server does."""
    server = grpc.aio.server()
    pb_grpc.add_ClassifierServiceServicer_to_server(EmptyServicer(chunk_ms), server)
    EmptyTrunks(chunk_ms).add_to(server)
    port = server.add_insecure_port(listen)
    await server.start()
    address = f"{listen.rpartition(':')[0]}:{port}"
    print(json.dumps({"event": "serving", "address": address}), file=sys.stderr)
    await server.wait_for_termination()


def empty_servicer(
    generators: Generators,
    server_cores: set[int],
    experiments: str = "",
    *,
    chunk_ms: int = 100,
    **load: Any,  # noqa: ANN401 - passed on
) -> float:
    """Return CPU-ms per call-second of the empty servicer, polling as :data:`POLLING` names it.

    ``chunk_ms`` and ``load`` are arguments of :meth:`load.processes.Generators.run`.
    """
    path = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {polling.POLLING_VARIABLE: POLLING[experiments], "PYTHONPATH": path}
    command = ("-m", "load.floors", str(chunk_ms))
    started = local_server(command=command, environment=environment, stop_seconds=2.0)
    with on_cores(server_cores), started as server:
        meter = lambda: {"cpu": cpu_seconds(server.process.pid)}  # noqa: E731
        outcome = generators.run(server.target, chunk_ms=chunk_ms, meter=meter, **load)
    if outcome.lost:
        raise RuntimeError(f"the empty servicer lost calls: {outcome.observed.errors[:1]}")
    return outcome.per_call_second(outcome.metered["cpu"])


def _session(model: ModelProto | Path, optimised: Path | None = None) -> InferenceSession:
    """Open a graph as the server does: one thread, no spinning; as written unless optimised."""
    import onnxruntime  # noqa: PLC0415 - the empty servicer needs none

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if optimised:
        options.optimized_model_filepath = str(optimised)
    else:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = str(model) if isinstance(model, Path) else model.SerializeToString()
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def is_product(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Return whether a node multiplies matrices; a pointwise convolution does, too."""
    if node.op_type == "QLinearConv":
        outputs, inputs, *taps = weights[node.input[_WEIGHTS[node.op_type]]].dims
        return inputs > 1 and outputs > 1 and all(tap == 1 for tap in taps)
    return "MatMul" in node.op_type or "Gemm" in node.op_type


def product_shape(node: NodeProto, first: Sequence[int], second: Sequence[int]) -> tuple[int, ...]:
    """Return rows, K and N of the product of matrices of these shapes."""
    inner, columns = second[-2:] if len(second) < 4 else second[1::-1]
    if any(a.name == "transB" and a.i for a in node.attribute):
        inner, columns = columns, inner
    return prod(first) // inner, inner, columns


@dataclass
class Product:
    """One distinct product: its node, inputs of a real step, weights, (rows, K, N) and count."""

    node: NodeProto
    inputs: dict[str, Any]
    weights: list[TensorProto]
    shape: tuple[int, ...]
    count: int = 0

    def runner(self, copies: int) -> Callable[[], object]:
        """Make a function that runs a graph of ``copies`` of the product, outputs bound."""
        import onnx  # noqa: PLC0415
        import onnxruntime  # noqa: PLC0415
        from onnx import helper  # noqa: PLC0415

        nodes, initializers = [], []
        own = {weight.name: weight for weight in self.weights}
        for copy in range(copies):
            node, named = onnx.NodeProto(), f"product{copy}"
            node.CopyFrom(self.node)
            node.name = node.output[0] = named
            for index, name in enumerate(self.node.input):
                if name in own:
                    weight = onnx.TensorProto()
                    weight.CopyFrom(own[name])
                    node.input[index] = weight.name = f"{name}.{copy}"
                    initializers.append(weight)
            nodes.append(node)
        given = [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
            for n, v in self.inputs.items()
        ]
        outputs = [onnx.ValueInfoProto(name=node.output[0]) for node in nodes]
        graph = helper.make_graph(nodes, "products", given, outputs, initializers)
        domains = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
        session = _session(helper.make_model(graph, opset_imports=domains, ir_version=8))
        binding = session.io_binding()
        for name, value in self.inputs.items():
            binding.bind_cpu_input(name, np.ascontiguousarray(value))
        for output, value in zip(outputs, session.run(None, self.inputs), strict=True):
            bound = onnxruntime.OrtValue.ortvalue_from_numpy(value)
            binding.bind_ortvalue_output(output.name, bound)
        return lambda: session.run_with_iobinding(binding)


def products(path: Path, feed: dict[str, Any]) -> list[Product]:
    """Return the distinct products of an ONNX file, optimised, with inputs of the step ``feed``."""
    import onnx  # noqa: PLC0415

    with tempfile.TemporaryDirectory() as folder:
        _session(path, Path(folder) / "optimised.onnx")
        model = onnx.load(Path(folder) / "optimised.onnx")
    weights = {weight.name: weight for weight in model.graph.initializer}
    nodes = [node for node in model.graph.node if is_product(node, weights)]
    given = {name for node in nodes for name in node.input if name and name not in weights}
    names = sorted(given - feed.keys())
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    values = feed | dict(zip(names, _session(model).run(names, feed), strict=True))
    found: dict[object, Product] = {}
    for node in nodes:
        inputs = {name: values[name] for name in node.input if name in given}
        own = [weights[name] for name in node.input if name in weights]
        first, second = (
            tuple(weights[name].dims) if name in weights else values[name].shape
            for name in (node.input[0], node.input[_WEIGHTS.get(node.op_type, 1)])
        )
        types = (*(str(v.dtype) for v in inputs.values()), *(weight.data_type for weight in own))
        product = Product(node, inputs, own, product_shape(node, first, second))
        found.setdefault((node.op_type, first, second, types), product).count += 1
    return list(found.values())


def mean_seconds(run: Callable[[], object]) -> float:
    """Return CPU seconds of one run, the mean over :data:`SLICE_SECONDS`."""
    runs, began = 0, time.thread_time()
    while (took := time.thread_time() - began) < SLICE_SECONDS:
        run()
        runs += 1
    return took / runs


def gemm_share(path: Path, server_cores: set[int], batch: int = GEMM_BATCH) -> dict[str, Any]:
    """Return the share of matrix products in a CPU step, and their speed; medians of the rounds.

    ``gemm_fraction`` is CPU time of the products alone by that of the step of ``gemm_batch``
    blocks, ``gemm_gflops`` counts integer operations for integer products.
    """
    from streamer.inference.model import OnnxModel  # noqa: PLC0415

    with on_cores(server_cores):
        model = OnnxModel(path, provider="cpu")
        meta, noise = model.metadata, np.random.default_rng(0)
        samples = (0.1 * noise.standard_normal((batch, meta.block))).astype(np.float32)
        valid, memory = np.full(batch, meta.block), meta.fresh(batch)
        state = {name: part for name, part in memory._asdict().items() if part.size}
        found = products(path, {"samples": samples, "valid": valid, **state})
        runners = [(p, p.runner(1), p.runner(COPIES)) for p in found]
        steps, ideals = [], []
        for _ in range(ROUNDS):
            steps.append(mean_seconds(lambda: model.step(samples, valid, memory)))
            ideals.append(0.0)
            for product, one, many in runners:
                gain = max(0.0, mean_seconds(many) - mean_seconds(one))
                ideals[-1] += product.count * gain / (COPIES - 1)
    flops = sum(2.0 * p.count * prod(p.shape) for p in found)
    shares = [ideal / step for ideal, step in zip(ideals, steps, strict=True)]
    return {
        "gemm_fraction": round(statistics.median(shares), 3),
        "gemm_gflops": round(flops / statistics.median(ideals) / 1e9, 1),
        "gemm_batch": batch,
        "gemm_step_ms": round(1000 * statistics.median(steps), 4),
        "gemm_model": path.name,
    }


if __name__ == "__main__":
    uvloop.run(serve(sys.argv[3], int(sys.argv[1])))  # local_server appends "--listen HOST:PORT"
