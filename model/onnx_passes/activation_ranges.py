"""What the products of a student read, and how large it gets: what scales are taken from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper

from model.onnx_passes.depthwise_int8 import depthwise
from model.onnx_passes.graph import Graph, axis_of
from model.onnx_passes.mel import squares_of

Floats = NDArray[np.float32]

SMALLEST_PRODUCT = 64 * 256
"""Weights of the smallest product that is worth quantising."""
_SAMPLED = 4096
"""Values of an activation that are kept of every block, for its quantile."""
_LAST = 2
"""Axis of the channels."""


@dataclass(frozen=True)
class Product:
    """A MatMul with constant weights, and the Add of a constant behind it, if there is one.

    Attributes:
        node: the MatMul.
        weight: [inputs, outputs].
        bias: [outputs].
        output: what it makes, bias included.
        parts: what its input is joined of, and how wide each is, if other products read some of
            them too.
    """

    node: NodeProto
    weight: Floats
    bias: Floats | None
    output: str
    parts: Mapping[str, int] = field(default_factory=dict)

    @property
    def source(self) -> str:
        """What it reads."""
        return str(self.node.input[0])

    @property
    def activations(self) -> list[str]:
        """What may be quantised for it: the whole, or its parts."""
        return [self.source, *self.parts]


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


def products(graph: Graph) -> list[Product]:
    """All that are worth quantising, in order."""
    found = list[Product]()
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
        found.append(Product(node, weight, bias, output))
    widths = {product.source: len(product.weight) for product in found}
    return [replace(product, parts=_parts(graph, product, widths)) for product in found]


def _parts(graph: Graph, product: Product, widths: Mapping[str, int]) -> dict[str, int]:
    join = graph.maker(product.source)
    if join is None or join.op_type != "Concat" or axis_of(join) not in {-1, _LAST}:
        return {}
    unknown = [name for name in join.input if name not in widths]
    parts = {name: widths.get(name, 0) for name in join.input}
    if len(unknown) == len(join.input) or len(unknown) > 1 or len(parts) < len(join.input):
        return {}
    for name in unknown:
        parts[name] = len(product.weight) - sum(parts.values())
    return parts


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
    read = [name for product in products(graph) for name in product.activations]
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
