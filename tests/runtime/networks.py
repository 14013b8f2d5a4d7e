"""Tiny networks with the names and shapes of the real ones, and a bundle of them: milliseconds, and no PyTorch.

They compute something of the right kind (tokens are linear in their patches, matching is a softmax over inner products,
maps of features are linear in the pixels of their cells), with random weights that ``seed`` fixes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.bundle import (
    REQUIRED,
    ROLES,
    Bundle,
    Network,
    TemplateSettings,
    sha256_of,
    specs,
    write_manifest,
)
from coop_edge.runtime.network import FEATURES

OPSET = 17
_IR_VERSION = 8  # of opset 17, so that every supported ONNX Runtime reads it
_TYPES = {"float32": TensorProto.FLOAT, "int32": TensorProto.INT32}


def tiny_bundle(
    folder: str | Path,
    *,
    input_size: int = 32,
    dim: int = 16,
    stride: int = 4,
    seed: int = 0,
    patch_size: int = 8,
    features: bool = True,
    name: str = "tiny",
) -> Path:
    """Write a bundle with a graph for every role into ``folder`` (made if missing) and return ``folder``."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    sizes = {"input_size": input_size, "patch_size": patch_size, "dim": dim, "stride": stride}
    networks = {}
    for role in ROLES if features else REQUIRED:
        path = folder / f"{role}.onnx"
        onnx.save_model(tiny_model(role, seed=seed, **sizes), path)
        inputs, outputs = specs(role, **sizes)
        networks[role] = Network(role, path, sha256_of(path), "fp32", inputs, outputs)
    bundle = Bundle(
        folder=folder,
        name=name,
        version="0.0.1",
        licence="Apache-2.0",
        training={"data": "none: random weights", "samples": 0, "commit": "none"},
        input_size=input_size,
        patch_size=patch_size,
        radius_px=2.0,
        template=TemplateSettings(42, 1.05, 15.0),
        networks=networks,
    )
    write_manifest(bundle)
    return folder


def tiny_model(
    role: str, *, input_size: int = 32, patch_size: int = 8, dim: int = 16, stride: int = 4, seed: int = 0
) -> onnx.ModelProto:
    """The graph of a role, checked by ONNX."""
    rng = np.random.default_rng([seed, ROLES.index(role)])
    tokens = (input_size // patch_size) ** 2
    nodes, constants = {
        "coarse_encoder": lambda: _encoder(rng, patch_size, dim, tokens),
        "coarse_decoder": lambda: _decoder(rng, dim, tokens),
        "refiner": lambda: _refiner(rng, stride),
        "features": lambda: _features(rng),
    }[role]()
    inputs, outputs = specs(role, input_size=input_size, patch_size=patch_size, dim=dim, stride=stride)
    return model_of(role, nodes, constants, inputs, outputs)


def model_of(
    name: str,
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: tuple[TensorSpec, ...],
    outputs: tuple[TensorSpec, ...],
    *,
    batch: str | int = "N",
) -> onnx.ModelProto:
    """A model of ``nodes`` with the given inputs and outputs. batch: what stands for the batch axis in their shapes."""

    def declared(spec: TensorSpec) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(spec.name, _TYPES[spec.dtype], [batch, *spec.shape[1:]])

    graph = helper.make_graph(
        nodes,
        name,
        [declared(spec) for spec in inputs],
        [declared(spec) for spec in outputs],
        [numpy_helper.from_array(array, key) for key, array in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def _encoder(rng: np.random.Generator, patch: int, dim: int, tokens: int):
    constants = {
        "W": rng.standard_normal((dim, 3, patch, patch)).astype(np.float32) / patch,
        "rows": np.array([0, dim, tokens], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["image", "W"], ["map"], strides=[patch, patch]),
        helper.make_node("Reshape", ["map", "rows"], ["columns"]),
        helper.make_node("Transpose", ["columns"], ["tokens"], perm=[0, 2, 1]),
    ]
    return nodes, constants


def _decoder(rng: np.random.Generator, dim: int, tokens: int):
    constants = {
        "scale": np.float32(1 / np.sqrt(dim)).reshape(1),
        "W": rng.standard_normal((dim, 2)).astype(np.float32) / np.sqrt(dim, dtype=np.float32),
        "half": np.array([0.5], np.float32),
        "zero": np.array([0.0], np.float32),
        "none": np.array([0.1], np.float32),
        "parts": np.array([tokens, 1], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("Transpose", ["template"], ["columns"], perm=[0, 2, 1]),
        helper.make_node("MatMul", ["query", "columns"], ["products"]),
        helper.make_node("Mul", ["products", "scale"], ["logits"]),
        # One more logit, the same for all: no match.
        helper.make_node("ReduceMax", ["logits"], ["largest"], axes=[2], keepdims=1),
        helper.make_node("Mul", ["largest", "zero"], ["zeros"]),
        helper.make_node("Add", ["zeros", "none"], ["no_match"]),
        helper.make_node("Concat", ["logits", "no_match"], ["all"], axis=2),
        helper.make_node("Softmax", ["all"], ["shares"], axis=2),
        helper.make_node("Split", ["shares", "parts"], ["matches", "unmatched"], axis=2),
        helper.make_node("ReduceMax", ["matches"], ["best"], axes=[2], keepdims=1),
        helper.make_node("Greater", ["best", "unmatched"], ["matched"]),
        helper.make_node("Where", ["matched", "best", "zero"], ["column"]),
        helper.make_node("Squeeze", ["column", "last"], ["probability"]),
        helper.make_node("ArgMax", ["matches"], ["index64"], axis=2, keepdims=0),
        helper.make_node("Cast", ["index64"], ["index"], to=TensorProto.INT32),
        helper.make_node("MatMul", ["query", "W"], ["raw"]),
        helper.make_node("Tanh", ["raw"], ["bounded"]),
        helper.make_node("Mul", ["bounded", "half"], ["offset"]),
    ]
    return nodes, constants


def _refiner(rng: np.random.Generator, stride: int):
    constants = {
        "W": rng.standard_normal((5, 6, stride, stride)).astype(np.float32) / stride,
        "parts": np.array([2, 1, 1, 1], np.int64),
    }
    nodes = [
        helper.make_node("Concat", ["query", "render"], ["pair"], axis=1),
        helper.make_node("Conv", ["pair", "W"], ["map"], strides=[stride, stride]),
        helper.make_node("Split", ["map", "parts"], ["flow", "raw_scale", "raw_certainty", "raw_sensitivity"], axis=1),
        helper.make_node("Softplus", ["raw_scale"], ["scale"]),
        helper.make_node("Sigmoid", ["raw_certainty"], ["certainty"]),
        helper.make_node("Sigmoid", ["raw_sensitivity"], ["sensitivity"]),
    ]
    return nodes, constants


def _features(rng: np.random.Generator):
    constants, nodes, source, channels, pixels = {}, [], "image", 3, 1
    for name, (wanted, cell) in FEATURES.items():
        side = cell // pixels
        weight = rng.standard_normal((wanted, channels, side, side)) / (side * np.sqrt(channels))
        constants[f"W_{name}"] = weight.astype(np.float32)
        nodes.append(helper.make_node("Conv", [source, f"W_{name}"], [name], strides=[side, side]))
        source, channels, pixels = name, wanted, cell
    return nodes, constants
