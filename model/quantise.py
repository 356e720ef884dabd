"""The student with its large matrix products in 8 bits: half the cost of a step on a CPU.

Static, not dynamic: scales are fixed when the file is made. A dynamic scale is taken over the
whole batch, so that a loud call would change what the calls beside it are told. Products of
integers are exact, so a call's answer depends on the batch less than in float32.

Front end, squeeze-excitation, statistics and heads stay float32: they are small, or need the range.
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
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from model.export import METADATA_KEY
from model.graph import drop_unread

Floats = NDArray[np.float32]

SMALLEST_PRODUCT = 64 * 256
"""Weights of the smallest product that is worth quantising."""
_WEIGHT_LEVELS = 63
_DOMAIN = "com.microsoft"
_SAMPLED = 4096
"""Values of an activation that are kept of every block, for its quantile."""


@dataclass(frozen=True)
class _Product:
    """A MatMul with constant weights, and the Add of a constant behind it, if there is one."""

    node: NodeProto
    weight: Floats
    add: NodeProto | None
    bias: Floats | None


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


def _products(model: ModelProto) -> list[_Product]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found = []
    for node in model.graph.node:
        if node.op_type != "MatMul" or node.input[1] not in constants:
            continue
        weight = numpy_helper.to_array(constants[node.input[1]])
        if weight.size < SMALLEST_PRODUCT or _feeds_spectrum(node, readers):
            continue
        add, bias = None, None
        (after, *others) = readers.get(node.output[0], [None])
        if after is not None and not others and after.op_type == "Add":
            other = next((name for name in after.input if name != node.output[0]), "")
            if other in constants:
                add, bias = after, numpy_helper.to_array(constants[other])
        found.append(_Product(node, weight, add, bias))
    return found


def _feeds_spectrum(node: NodeProto, readers: Mapping[str, list[NodeProto]]) -> bool:
    """Whether the product is the DFT (squared next) or the mel matrix (clipped for the log)."""
    return any(
        reader.op_type == "Clip" or (reader.op_type == "Mul" and len(set(reader.input)) == 1)
        for reader in readers.get(node.output[0], [])
    )


def observe(model: ModelProto, feeds: Iterable[Mapping[str, NDArray[np.generic]]]) -> Ranges:
    """Run blocks through the float32 student and note what its products read.

    Args:
        model: as :func:`model.export.export` writes it.
        feeds: inputs of consecutive steps without ``state``; it starts from zeros and is carried
            on. A new call begins after an empty batch.
    """
    products = _products(model)
    names = list(dict.fromkeys(product.node.input[0] for product in products))
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
    products = _products(result)
    if not products:
        raise ValueError("no product of the graph is large enough to quantise")
    graph = result.graph
    replaced: dict[str, list[NodeProto]] = {}
    dropped: set[str] = set()
    ready: dict[str, list[str]] = {}  # activation -> its quantised form, scale, zero point

    def constant(name: str, values: NDArray[np.generic]) -> str:
        graph.initializer.append(numpy_helper.from_array(values, name))
        return name

    for index, product in enumerate(products):
        source, nodes = product.node.input[0], []
        if source not in ready:
            top = ranges.top(source, quantile)
            signed = ranges.low[source] < 0.0
            scale = top / (127.0 if signed else 255.0)
            zero = 128 if signed else 0
            names = [
                f"{source}_q",
                constant(f"{source}_scale", np.asarray(scale, np.float32)),
                constant(f"{source}_zero", np.asarray(zero, np.uint8)),
            ]
            ready[source] = names
            nodes.append(helper.make_node("QuantizeLinear", [source, *names[1:]], names[:1]))
        weight_scale = np.abs(product.weight).max(axis=0).clip(min=1e-8) / _WEIGHT_LEVELS
        levels = np.rint(product.weight / weight_scale).astype(np.int8)
        data, scale_name, zero_name = ready[source]
        inputs = [
            data,
            constant(f"product{index}_weight", levels),
            scale_name,
            constant(f"product{index}_scale", weight_scale.astype(np.float32)),
            zero_name,
            "",
        ]
        output = product.node.output[0]
        if product.add is not None and product.bias is not None:
            inputs.append(constant(f"product{index}_bias", product.bias.astype(np.float32)))
            output = product.add.output[0]
            dropped.add(product.add.output[0])
        nodes.append(helper.make_node("MatMulIntegerToFloat", inputs, [output], domain=_DOMAIN))
        replaced[product.node.output[0]] = nodes
    before = list(graph.node)
    del graph.node[:]
    for node in before:
        if node.output[0] in replaced:
            graph.node.extend(replaced[node.output[0]])
        elif node.output[0] not in dropped:
            graph.node.append(node)
    _tidy(result, dict(made_by or {}))
    return result


def _tidy(model: ModelProto, made_by: dict[str, object]) -> None:
    """Drop weights that nobody reads, declare the domain, name the file by its new content."""
    drop_unread(model)
    if all(entry.domain != _DOMAIN for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
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
