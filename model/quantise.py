"""The student with its large matrix products in 8 bits: half the cost of a step on a CPU.

Static, not dynamic: scales are fixed when the file is made. A dynamic scale is taken over the
whole batch, so that a loud call would change what the calls beside it are told. Products of
integers are exact, so a call's answer depends on the batch less than in float32.

Between a block's expansion and its projection nothing is float32, see :mod:`model.depthwise`. Front
end (:mod:`model.spectrum`), squeeze-excitation, statistics and heads stay float32: they are small,
or need the range.
Weights have 7 bits: CPUs without VNNI add two products in 16 bits and would saturate with 8 (ONNX
Runtime, "Quantize ONNX Models", reduce_range).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from model.depthwise import DOMAIN, Depthwise, Eight, depthwise
from model.export import METADATA_KEY
from model.graph import Graph, drop_unread, sooner
from model.spectrum import add_first, squares_of

Floats = NDArray[np.float32]

SMALLEST_PRODUCT = 64 * 256
"""Weights of the smallest product that is worth quantising."""
_WEIGHT_LEVELS = 63
_SAMPLED = 4096
"""Values of an activation that are kept of every block, for its quantile."""


@dataclass(frozen=True)
class _Product:
    """A MatMul with constant weights, and the Add of a constant behind it, if there is one.

    Attributes:
        node: the MatMul.
        weight: [inputs, outputs].
        bias: [outputs].
        output: what it makes, bias included.
    """

    node: NodeProto
    weight: Floats
    bias: Floats | None
    output: str

    @property
    def source(self) -> str:
        """What it reads."""
        return str(self.node.input[0])


@dataclass
class Ranges:
    """What was seen of each activation that feeds a product.

    Attributes:
        low: smallest value, by tensor name.
        sample: absolute values, by tensor name.
    """

    low: dict[str, float] = field(default_factory=dict)
    sample: dict[str, list[Floats]] = field(default_factory=dict)

    def see(self, name: str, values: Floats) -> None:
        """Note the values of one block."""
        self.low[name] = min(self.low.get(name, 0.0), float(values.min()))
        flat = np.abs(values).ravel()
        step = max(1, flat.size // _SAMPLED)
        self.sample.setdefault(name, []).append(np.append(flat[::step], flat.max()))

    def top(self, name: str, quantile: float) -> float:
        """The value at which the activation is clipped; more than 0."""
        return max(float(np.quantile(np.concatenate(self.sample[name]), quantile)), 1e-6)


def _products(graph: Graph) -> list[_Product]:
    found = []
    for node in graph.nodes:
        weight = graph.constant(node.input[1]) if node.op_type == "MatMul" else None
        if weight is None or weight.size < SMALLEST_PRODUCT or _feeds_spectrum(graph, node):
            continue
        bias, output = None, node.output[0]
        readers = graph.readers(output)
        if len(readers) == 1 and readers[0].op_type == "Add":
            after = readers[0]
            other = next((name for name in after.input if name != output), "")
            bias = graph.constant(other)
            output = output if bias is None else after.output[0]
        found.append(_Product(node, weight, bias, output))
    return found


def _feeds_spectrum(graph: Graph, node: NodeProto) -> bool:
    """Whether the product is the DFT (squared next) or the mel matrix (clipped for the log)."""
    clipped = any(reader.op_type == "Clip" for reader in graph.readers(node.output[0]))
    return clipped or squares_of(graph, node) is not None


def observe(model: ModelProto, feeds: Iterable[Mapping[str, NDArray[np.generic]]]) -> Ranges:
    """Run blocks through the float32 student and note what its products and convolutions read.

    Args:
        model: as :func:`model.export.export` writes it.
        feeds: inputs of consecutive steps without ``state``; it starts from zeros and is carried
            on. A new call begins after an empty batch.
    """
    graph = Graph(model)
    read = [product.source for product in _products(graph)]
    names = list(dict.fromkeys([*read, *(layer.frames for layer in depthwise(graph))]))
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.extend(
        helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    size = session.get_inputs()[2].shape[1]
    ranges = Ranges()
    state = np.zeros((0, size), np.float32)
    for feed in feeds:
        batch = len(feed["samples"])
        if not len(state):
            state = np.zeros((batch, size), np.float32)
        if not batch:
            state = state[:0]
            continue
        *activations, state = session.run([*names, "state_out"], {**feed, "state": state})
        for name, values in zip(names, activations, strict=True):
            ranges.see(name, values)
    return ranges


def quantised(
    model: ModelProto,
    ranges: Ranges,
    *,
    quantile: float = 0.9999,
    made_by: Mapping[str, object] | None = None,
) -> ModelProto:
    """The same student with its large products in 8 bits, under a model id of its own.

    Args:
        model: float32 student.
        ranges: of its activations, see :func:`observe`.
        quantile: of an activation's absolute values at which it is clipped; 1 clips nothing.
        made_by: command and settings; published in the provenance beside the student's own.

    Raises:
        ValueError: the graph has no product to quantise.
    """
    result = ModelProto()
    result.CopyFrom(model)
    writer = _Writer(Graph(result), ranges, quantile)
    products = _products(writer.graph)
    if not products:
        raise ValueError("no product of the graph is large enough to quantise")
    layers = {layer.expanded: layer for layer in depthwise(writer.graph)}
    heard = {product.source for product in products}
    for index, product in enumerate(products):
        layer = layers.get(product.output)
        if layer is not None and layer.projected in heard:
            writer.expansion(f"product{index}", product, layer)
        else:
            writer.product(f"product{index}", product)
    writer.finish()
    sooner(writer.graph)
    add_first(writer.graph)
    _tidy(result, dict(made_by or {}))
    return result


class _Writer:
    """Puts nodes that compute in 8 bits in place of others.

    Args:
        graph: of the student.
        ranges: of its activations.
        quantile: at which they are clipped.
    """

    def __init__(self, graph: Graph, ranges: Ranges, quantile: float) -> None:
        self.graph = graph
        self._ranges = ranges
        self._quantile = quantile
        self._gone: set[str] = set()
        self._new: list[NodeProto] = []
        self._made: set[str] = set()  # activations in 8 bits

    def product(self, name: str, product: _Product) -> None:
        """8 bits in, float32 out."""
        read = self._quantised(product.source)
        levels, scale = self._weight(name, product.weight)
        inputs = [read.data, levels, read.scale, scale, read.zero, ""]
        if product.bias is not None:
            inputs.append(self.graph.add(f"{name}_bias", product.bias.astype(np.float32)))
        node = helper.make_node("MatMulIntegerToFloat", inputs, [product.output], domain=DOMAIN)
        self._replace(product, [node])

    def expansion(self, name: str, product: _Product, layer: Depthwise) -> None:
        """8 bits in and out, and through the convolution behind."""
        read = self._quantised(product.source)
        levels, scale = self._weight(name, product.weight)
        made = self._eight(layer.frames)
        bias = ""
        if product.bias is not None:
            sums = np.rint(product.bias / (self._step(read.scale) * self._step(scale)))
            bias = self.graph.add(f"{name}_bias", sums.astype(np.int32))
        inputs, outputs = product.weight.shape
        rows = self.graph.add(f"rows_of_{inputs}", np.asarray([-1, inputs], np.int64))
        new = [
            helper.make_node("Reshape", [read.data, rows], [f"{name}_rows"]),
            helper.make_node(
                "QGemm",
                [
                    *(f"{name}_rows", read.scale, read.zero),
                    *(levels, scale, self.graph.add(f"{name}_zero", np.zeros(outputs, np.int8))),
                    *(bias, made.scale, made.zero),
                ],
                [made.data],
                domain=DOMAIN,
            ),
        ]
        heard = self._eight(layer.projected)
        gone, convolution = layer.in_bytes(self.graph, made, heard)
        self._made.add(heard.data)
        self._gone |= gone
        self._replace(product, [*new, *convolution])

    def finish(self) -> None:
        """Change the graph."""
        self.graph.replace(self._gone, self._new)

    def _replace(self, product: _Product, nodes: list[NodeProto]) -> None:
        self._gone |= {product.node.output[0], product.output}
        self._new += nodes

    def _eight(self, source: str) -> Eight:
        """How an activation is quantised."""
        top = self._ranges.top(source, self._quantile)
        signed = self._ranges.low[source] < 0.0
        scale = np.asarray(top / (127.0 if signed else 255.0), np.float32)
        zero = np.asarray(128 if signed else 0, np.uint8)
        return Eight(
            f"{source}_q",
            self.graph.add(f"{source}_scale", scale),
            self.graph.add(f"{source}_zero", zero),
        )

    def _quantised(self, source: str) -> Eight:
        """The activation in 8 bits, made from float32 unless something makes it so."""
        read = self._eight(source)
        if read.data not in self._made:
            self._made.add(read.data)
            self._new.append(helper.make_node("QuantizeLinear", [source, *read[1:]], [read.data]))
        return read

    def _weight(self, name: str, weight: Floats) -> tuple[str, str]:
        """Names of 7-bit levels and of their scales, one an output."""
        steps = np.abs(weight).max(axis=0).clip(min=1e-8) / _WEIGHT_LEVELS
        levels = np.rint(weight / steps).astype(np.int8)
        return (
            self.graph.add(f"{name}_weight", levels),
            self.graph.add(f"{name}_scale", steps.astype(np.float32)),
        )

    def _step(self, scale: str) -> Floats:
        steps: Floats | None = self.graph.constant(scale)
        assert steps is not None
        return steps


def _tidy(model: ModelProto, made_by: dict[str, object]) -> None:
    """Drop weights that nobody reads, declare the domain, name the file by its new content."""
    drop_unread(model)
    if all(entry.domain != DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    entry = next(prop for prop in model.metadata_props if prop.key == METADATA_KEY)
    metadata = json.loads(entry.value)
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:12]
    metadata["provenance"]["quantised"] = {"from": metadata["model_id"], **made_by}
    metadata["model_id"] = f"{metadata['model_id'].rpartition('-')[0]}-int8-{digest}"
    entry.value = json.dumps(metadata, sort_keys=True)
    onnx.checker.check_model(model)
