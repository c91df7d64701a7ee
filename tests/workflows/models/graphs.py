"""ONNX graphs of one operator, with and without data in other files."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser

__all__ = ["adds", "big", "model", "tensor"]


def adds(number: int) -> bytes:
    """A graph that adds a number."""
    body = f"g (float[N] x) => (float[N] y) <float c = {{{number}}}> {{ y = Add(x,c) }}"
    return bytes(onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 21]> {body}').SerializeToString())


def tensor(location: str | None, **more: str) -> onnx.TensorProto:
    made = onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "w")
    if location is not None:
        made.ClearField("raw_data")
        made.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": location, **more}.items():
            made.external_data.add(key=key, value=value)
    return made


def model(*weights: onnx.TensorProto, node: onnx.NodeProto | None = None) -> onnx.ModelProto:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [node or onnx.helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [value("x", onnx.TensorProto.FLOAT, [4])],
        [value("y", onnx.TensorProto.FLOAT, [4])],
        list(weights),
    )
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])


def big(number: int, size: int) -> bytes:
    """A graph like `adds`, of about `size` bytes, all of which it needs."""
    made = onnx.load_from_string(adds(number))
    made.graph.ClearField("node")
    made.graph.ClearField("initializer")
    weights = np.zeros(size // 4, np.float32)
    weights[-1] = number
    made.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    made.graph.initializer.append(onnx.numpy_helper.from_array(np.array([size // 4 - 1]), "last"))
    made.graph.node.append(onnx.helper.make_node("Gather", ["w", "last"], ["c"]))
    made.graph.node.append(onnx.helper.make_node("Add", ["x", "c"], ["y"]))
    return bytes(made.SerializeToString())
