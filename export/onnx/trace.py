"""Turns a PyTorch network into the FP32 ONNX graphs of its roles: traced, simplified, declared as the bundle's table.

The legacy exporter (TorchScript) is used: it makes one LayerNormalization node per norm and takes a second a graph.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx
import torch
from onnx import ModelProto, helper
from torch import nn

from coop_edge.errors import InputError
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.bundle import specs
from export.networks import FeaturesNet, Net, RefinerNet
from export.onnx.graph import OPSET, Graph
from export.onnx.simplify import simplify

GRAPHS = {"coarse": ("coarse_encoder", "coarse_decoder"), "refiner": ("refiner",), "features": ("features",)}
"""Roles of the graphs that a network gives, by the network's role."""
METHODS = {
    "coarse_encoder": "encode",
    "coarse_decoder": "decode",
    "refiner": "export_outputs",
    "features": "forward",
}
"""Method of the network that each graph computes."""
_BATCH = 2

Specs = tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]


def specs_of(net: Net | FeaturesNet, role: str) -> Specs:
    """Return the inputs and outputs of a role's graph at the size that the network was trained at."""
    if isinstance(net, FeaturesNet):
        return specs(role, input_size=net.config.image_size, patch_size=1, dim=1, stride=1)
    trunk = net.config.trunk
    return specs(
        role,
        input_size=trunk.image_size,
        patch_size=trunk.patch_size,
        dim=trunk.decoder_dim,
        stride=net.config.stride if isinstance(net, RefinerNet) else 1,
    )


def trace(net: Net | FeaturesNet, role: str) -> Graph:
    """Return the FP32 graph of a role ("coarse_encoder", "coarse_decoder", "refiner", "features"); only N is dynamic.

    Inputs and outputs are those of the bundle's table. The network is put into eval mode and traced on the CPU. Raises
    InputError if it cannot have the role, BundleError if the graph depends on N in a way that cannot be exported.
    """
    if role not in GRAPHS[net.role]:
        raise InputError(f"a {net.role} network gives the graphs {', '.join(GRAPHS[net.role])}, not {role}")
    inputs, outputs = specs_of(net, role)
    model = _trace(net.eval(), METHODS[role], inputs, outputs)
    graph = simplify(model)
    graph.rename()
    graph.name = role
    # The trace writes down what it saw: shapes of outputs are declared as the table has them, and checked against it.
    graph.inputs = [_value_info(spec) for spec in inputs]
    graph.outputs = [_value_info(spec) for spec in outputs]
    return graph


def _value_info(spec: TensorSpec) -> onnx.ValueInfoProto:
    shape = ["N" if side is None else side for side in spec.shape]
    return helper.make_tensor_value_info(spec.name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), shape)


def _trace(net: Net | FeaturesNet, method: str, inputs: tuple[TensorSpec, ...], outputs: tuple[Any, ...]) -> ModelProto:
    examples = tuple(torch.zeros([_BATCH if n is None else n for n in spec.shape]) for spec in inputs)
    names = [spec.name for spec in inputs], [spec.name for spec in outputs]
    buffer = io.BytesIO()
    with _forward_is(net, method), _chunks_split(), _quiet(), torch.no_grad():
        torch.onnx.export(
            net,
            examples,
            buffer,  # type: ignore[arg-type]
            input_names=names[0],
            output_names=names[1],
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,  # ``simplify`` does, and keeps the names of the parameters
            dynamic_axes={name: {0: "N"} for side in names for name in side},
        )
    return onnx.load_from_string(buffer.getvalue())


@contextmanager
def _forward_is(net: nn.Module, method: str) -> Iterator[None]:
    """Let calls of the network mean another method; calls that this method makes mean ``forward`` as ever.

    Not a wrapping module: its name would precede those of all nodes and parameters.
    """

    def forward(*args: Any) -> Any:
        del net.forward
        try:
            return getattr(net, method)(*args)
        finally:
            net.forward = forward

    net.forward = forward
    try:
        yield
    finally:
        del net.forward


@contextmanager
def _chunks_split() -> Iterator[None]:
    """Export ``Tensor.chunk`` as one Split into equal parts, instead of a Slice per part with bounds from Shape."""

    def chunk(g: Any, x: Any, chunks: int, dim: int) -> Any:
        return g.op("Split", x, axis_i=dim, num_outputs_i=chunks, outputs=chunks)

    torch.onnx.register_custom_op_symbolic("prim::ConstantChunk", chunk, OPSET)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        torch.onnx.unregister_custom_op_symbolic("prim::ConstantChunk", OPSET)  # type: ignore[attr-defined]


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the notes that sizes become constants, which is wanted here, and that this exporter is the old one."""
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", UserWarning)
            yield
    finally:
        log.setLevel(level)
