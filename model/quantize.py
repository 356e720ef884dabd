"""The student with its large matrix products in 8 bits: half the cost of a step on a CPU.

Static, not dynamic: scales are fixed when the file is made. A dynamic scale is taken over the
whole batch, so that a loud call would change the results of the calls beside it. Products of
integers are exact, so a call's answer depends on the batch less than in float32.

Between a block's expansion and its projection nothing is float32
(:mod:`model.onnx_passes.depthwise_int8`), nor is what is kept of it between two steps
(:mod:`model.onnx_passes.byte_caches`); calls are convolved together
(:mod:`model.onnx_passes.channels_last`). Front end (:mod:`model.onnx_passes.mel`),
squeeze-excitation, statistics and heads stay float32: they are small, or need the range. A pass
that merged small nodes saved nothing of a step of 32 blocks and 3 % of a step of one; it is gone.
Weights have 7 bits: CPUs without VNNI add two products in 16 bits and would saturate with 8 (ONNX
Runtime, "Quantize ONNX Models", reduce_range).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from model.export import METADATA_KEY
from model.onnx_passes.activation_ranges import Product, Ranges, products
from model.onnx_passes.byte_caches import in_bytes
from model.onnx_passes.channels_last import as_image
from model.onnx_passes.depthwise_int8 import DOMAIN, Depthwise, Int8Tensor, convolution, depthwise
from model.onnx_passes.framing import gather_frames
from model.onnx_passes.graph import Graph, axis_of, drop_unread, sooner
from model.onnx_passes.mel import add_first

Floats = NDArray[np.float32]

_WEIGHT_LEVELS = 63


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
        ranges: of its activations, see :func:`model.onnx_passes.activation_ranges.observe`.
        quantile: of an activation's absolute values at which it is clipped; 1 clips nothing.
        made_by: command and settings; published in the provenance beside the student's own.

    Raises:
        ValueError: the graph has no product to quantise.
    """
    result = ModelProto()
    result.CopyFrom(model)
    if all(entry.domain != DOMAIN for entry in result.opset_import):
        result.opset_import.append(helper.make_opsetid(DOMAIN, 1))
    writer = _Writer(Graph(result), ranges, quantile)
    found = products(writer.graph)
    if not found:
        raise ValueError("no product of the graph is large enough to quantise")
    layers = {layer.expanded: layer for layer in depthwise(writer.graph)}
    sources = {product.source for product in found}
    for index, product in enumerate(found):
        layer = layers.get(product.output)
        if layer is not None and layer.projected in sources:
            writer.expansion(f"product{index}", product, layer)
        else:
            writer.product(f"product{index}", product)
    writer.finish()
    sooner(writer.graph)
    add_first(writer.graph)
    gather_frames(result)
    floats, cached = in_bytes(result)
    as_image(Graph(result))
    _tidy(result, {"state_size": floats, "cache_size": cached}, dict(made_by or {}))
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

    def product(self, name: str, product: Product) -> None:
        """8 bits in, float32 out."""
        read, weight = self._joined(product)
        levels, scale = self._weight(name, weight)
        inputs = [read.data, levels, read.scale, scale, read.zero, ""]
        if product.bias is not None:
            inputs.append(self.graph.add(f"{name}_bias", product.bias.astype(np.float32)))
        node = helper.make_node("MatMulIntegerToFloat", inputs, [product.output], domain=DOMAIN)
        self._replace(product, [node])

    def _joined(self, product: Product) -> tuple[Int8Tensor, Floats]:
        """What it reads in 8 bits, and weights for it.

        Parts that other products read are quantised once, as those want them; how much more a
        level of one part is worth than of another is in the weights.
        """
        parts = [self._eight(name) for name in product.parts]
        if len({int(self._value(part.zero)) for part in parts}) != 1:
            return self._quantised(product.source), product.weight
        steps = np.asarray([self._value(part.scale) for part in parts])
        largest = parts[int(steps.argmax())]
        share = np.repeat(steps / steps.max(), list(product.parts.values()))
        data = [self._quantised(name).data for name in product.parts]
        joined = largest._replace(data=f"{product.source}_q")
        join = self.graph.maker(product.source)
        assert join is not None
        self._new.append(helper.make_node("Concat", data, [joined.data], axis=axis_of(join)))
        return joined, product.weight * share[:, None].astype(np.float32)

    def expansion(self, name: str, product: Product, layer: Depthwise) -> None:
        """8 bits in and out, as a convolution of one tap, and through the one behind."""
        read = self._quantised(product.source)
        levels, scale = self._weight(name, product.weight, as_taps=True)
        made = self._eight(layer.frames)
        bias = []
        if product.bias is not None:
            sums = np.rint(product.bias / (self._value(read.scale) * self._value(scale)))
            bias = [self.graph.add(f"{name}_bias", sums.astype(np.int32))]
        outputs = product.weight.shape[1]
        zero = self.graph.add(f"{name}_zero", np.zeros(outputs, np.int8))
        inputs = [*read, levels, scale, zero, made.scale, made.zero, *bias]
        projected = self._eight(layer.projected)
        gone, convolved = layer.in_bytes(self.graph, made, projected)
        self._made.add(projected.data)
        self._gone |= gone
        self._replace(product, [convolution(inputs, made), *convolved])

    def finish(self) -> None:
        """Change the graph."""
        self.graph.replace(self._gone, self._new)

    def _replace(self, product: Product, nodes: list[NodeProto]) -> None:
        self._gone |= {product.node.output[0], product.output}
        self._new += nodes

    def _eight(self, source: str) -> Int8Tensor:
        """How an activation is quantised."""
        top = self._ranges.top(source, self._quantile)
        signed = self._ranges.low[source] < 0.0
        scale = np.asarray(top / (127.0 if signed else 255.0), np.float32)
        zero = np.asarray(128 if signed else 0, np.uint8)
        return Int8Tensor(
            f"{source}_q",
            self.graph.add(f"{source}_scale", scale),
            self.graph.add(f"{source}_zero", zero),
        )

    def _quantised(self, source: str) -> Int8Tensor:
        """The activation in 8 bits, made from float32 unless something makes it so."""
        read = self._eight(source)
        if read.data not in self._made:
            self._made.add(read.data)
            self._new.append(helper.make_node("QuantizeLinear", [source, *read[1:]], [read.data]))
        return read

    def _weight(self, name: str, weight: Floats, *, as_taps: bool = False) -> tuple[str, str]:
        """Names of 7-bit levels, [inputs, outputs] or as taps, and of scales, one an output."""
        steps = np.abs(weight).max(axis=0).clip(min=1e-8) / _WEIGHT_LEVELS
        levels = np.rint(weight / steps).astype(np.int8)
        if as_taps:
            levels = np.ascontiguousarray(levels.T)[:, :, None, None]
        return (
            self.graph.add(f"{name}_weight", levels),
            self.graph.add(f"{name}_scale", steps.astype(np.float32)),
        )

    def _value(self, name: str) -> NDArray[Any]:
        value = self.graph.constant(name)
        assert value is not None
        return value


def _tidy(model: ModelProto, sizes: dict[str, int], made_by: dict[str, object]) -> None:
    """Drop unused nodes and name the file by its new content."""
    drop_unread(model)
    entry = next(prop for prop in model.metadata_props if prop.key == METADATA_KEY)
    metadata = json.loads(entry.value)
    bare = ModelProto()
    bare.CopyFrom(model)
    del bare.metadata_props[:]
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).hexdigest()[:12]
    metadata |= sizes
    metadata["provenance"]["quantised"] = {"from": metadata["model_id"], **made_by}
    metadata["model_id"] = f"{metadata['model_id'].rpartition('-')[0]}-int8-{digest}"
    entry.value = json.dumps(metadata, sort_keys=True)
    onnx.checker.check_model(model)
