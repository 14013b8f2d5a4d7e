"""Checks what has to hold of a graph before it becomes part of a bundle; the runtime and TensorRT rely on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto, helper, numpy_helper

from coop_edge.errors import BundleError
from coop_edge.runtime.base import TensorSpec
from export.onnx.graph import OPSET, attribute, tensors_of
from export.onnx.precision import PRODUCTS, STORED_ONLY

FULL_PRECISION = ("LayerNormalization", "InstanceNormalization", "BatchNormalization", "Softmax", "Sigmoid",
                  "ReduceSum", "ReduceMax", "Exp")  # fmt: skip
"""Operators whose inputs are never FP16."""
UNWANTED = ("Attention", "RotaryEmbedding", "Constant", "Identity", "If", "Loop")
"""Newer than opset 20, or left over from tracing."""


def checked(
    model: ModelProto, role: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], precision: str
) -> ModelProto:
    """Return the model with the type and shape of every tensor recorded, after all checks; inference is strict.

    Raises:
        BundleError: a check fails; the message names the role, the node or tensor, what was found and what was
            wanted.
    """
    try:
        onnx.checker.check_model(model, full_check=True)
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise BundleError(f"{role}: not a valid ONNX graph: {error}") from error
    _check_interface(model, role, inputs, outputs)
    _check_operators(model, role)
    _check_shapes(model, role)
    _check_types(model, role, precision)
    _check_values(model, role)
    return model


def _check_interface(model: ModelProto, role: str, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    for side, found, wanted in (("inputs", model.graph.input, inputs), ("outputs", model.graph.output, outputs)):
        given = [_described(value.name, *_recorded(value)) for value in found]
        if given != (needed := [_described(spec.name, spec.shape, spec.dtype) for spec in wanted]):
            raise BundleError(f"{role}: {side} are {', '.join(given) or 'none'}, wanted {', '.join(needed)}")


def _check_operators(model: ModelProto, role: str) -> None:
    opsets = {o.domain: o.version for o in model.opset_import}
    if opsets != {"": OPSET}:
        raise BundleError(f"{role}: operator sets {opsets}, wanted ONNX's own of version {OPSET} alone")
    for node in model.graph.node:
        if node.domain or node.op_type in UNWANTED:
            raise BundleError(f"{role}: {node.name} is a {node.domain or 'standard'} {node.op_type}: not wanted here")


def _check_shapes(model: ModelProto, role: str) -> None:
    recorded = {value.name: value for value in tensors_of(model)}
    for node in model.graph.node:
        for name in node.output:
            if name and (name not in recorded or not recorded[name].type.tensor_type.HasField("shape")):
                raise BundleError(f"{role}: the shape of {name} ({node.op_type}) is not known")
    for name, value in recorded.items():
        shape, _ = _recorded(value)
        if any(side is None for side in shape[1:]):
            raise BundleError(f"{role}: {name} has the shape {shape}: wanted static sides but for the first")


def _check_types(model: ModelProto, role: str, precision: str) -> None:
    types = {v.name: v.type.tensor_type.elem_type for v in tensors_of(model)}
    types |= {t.name: t.data_type for t in model.graph.initializer}
    for node in model.graph.node:
        half = [name for name in node.input if name and types[name] == TensorProto.FLOAT16]
        if half and (precision == "fp32" or node.op_type in FULL_PRECISION):
            raise BundleError(f"{role}: {node.name} reads {half[0]} in FP16, wanted FP32")
        if node.op_type == "Cast" and types[node.input[0]] == attribute(node, "to"):
            raise BundleError(f"{role}: {node.name} casts to the type that is there")
    where = "weight" if role in STORED_ONLY else "product"
    products = [name for node in model.graph.node if node.op_type in PRODUCTS for name in node.output]
    names = products if where == "product" else [tensor.name for tensor in model.graph.initializer]
    if precision == "fp16" and not any(types[name] == TensorProto.FLOAT16 for name in names):
        raise BundleError(f"{role}: an FP16 graph without a {where} in FP16")


def _check_values(model: ModelProto, role: str) -> None:
    for tensor in model.graph.initializer:
        if not np.isfinite(numpy_helper.to_array(tensor)).all():
            raise BundleError(f"{role}: {tensor.name} holds NaN or infinity; did the training diverge?")


def _recorded(value: ValueInfoProto) -> tuple[tuple[int | None, ...], str]:
    """Return the shape and NumPy dtype that are recorded of a tensor; sides that are not numbers are None."""
    tensor = value.type.tensor_type
    shape = tuple(side.dim_value if side.HasField("dim_value") else None for side in tensor.shape.dim)
    return shape, helper.tensor_dtype_to_np_dtype(tensor.elem_type).name


def _described(name: str, shape: Sequence[int | None], dtype: str) -> str:
    return f"{name} [{','.join('N' if side is None else str(side) for side in shape)}] {dtype}"
