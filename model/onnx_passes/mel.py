"""The exported front end with half the mel product.

:class:`model.frontend.LogMel` squares real and imaginary parts side by side and has the mel matrix,
twice over, add them up. One product less while training; on a CPU adding first is cheaper.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from model.onnx_passes.graph import Graph


def squares_of(graph: Graph, node: NodeProto) -> NodeProto | None:
    """The node that squares what this one makes, if there is one."""
    squares = (reader for reader in graph.readers(node.output[0]) if reader.op_type == "Mul")
    return next((reader for reader in squares if len(set(reader.input)) == 1), None)


def add_first(graph: Graph) -> None:
    """Add real and imaginary parts before the mel product where a graph does it in the product."""
    for node in graph.nodes:
        squares = squares_of(graph, node) if node.op_type == "MatMul" else None
        readers = graph.readers(squares.output[0]) if squares is not None else []
        if squares is None or len(readers) != 1 or readers[0].op_type != "MatMul":
            continue
        dft, mel = graph.constant(node.input[1]), graph.constant(readers[0].input[1])
        if dft is None or mel is None or len(mel) % 2:
            continue
        half = len(mel) // 2
        if not np.array_equal(mel[:half], mel[half:]):
            continue
        power = f"{squares.output[0]}_power"
        new, parts = list[NodeProto](), list[str]()
        for part, columns in (("real", dft[:, :half]), ("imaginary", dft[:, half:])):
            matrix = graph.add(f"{node.input[1]}_{part}", np.ascontiguousarray(columns))
            made, squared = f"{node.output[0]}_{part}", f"{squares.output[0]}_{part}"
            new.append(helper.make_node("MatMul", [node.input[0], matrix], [made]))
            new.append(helper.make_node("Mul", [made, made], [squared]))
            parts.append(squared)
        matrix = graph.add(f"{readers[0].input[1]}_half", np.ascontiguousarray(mel[:half]))
        new.append(helper.make_node("Add", parts, [power]))
        new.append(helper.make_node("MatMul", [power, matrix], readers[0].output))
        graph.replace([node.output[0], squares.output[0], readers[0].output[0]], new)
        return
