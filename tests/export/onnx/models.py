"""Makes ONNX models of a few nodes."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper


def traced(nodes, constants=(), shape=("N", 4), outputs=(("y", TensorProto.FLOAT, None),)):
    """A model of one input x."""
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    out = [helper.make_tensor_value_info(name, kind, sides) for name, kind, sides in outputs]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants]
    graph = helper.make_graph(nodes, "g", inputs, out, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def node(kind, inputs, outputs, **options):
    return helper.make_node(kind, inputs, outputs, name=f"/{outputs[0]}", **options)
