"""Small networks of every head, their graphs, and images with edges and shading to feed them."""

from __future__ import annotations

from functools import cache
from unittest.mock import patch

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from export.networks import CONFIGS, build
from export.onnx import precision
from export.onnx.graph import Graph, tensors_of
from export.onnx.precision import to_half
from export.onnx.trace import GRAPHS, METHODS, trace
from tests.export.small_nets import NET, TRUNK

SIZE = 64
WIDE = {**TRUNK, "image_size": SIZE}
VARIANTS = {
    "hybrid": ("coarse", {"trunk": WIDE}),
    "linear-logits": ("coarse", {"trunk": WIDE, "logits": "linear"}),
    "classification": ("coarse", {"trunk": WIDE, "head": "classification"}),
    "regression": ("coarse", {"trunk": WIDE, "head": "regression"}),
    "linear-stem": ("coarse", {"trunk": {**WIDE, "stem": "linear"}}),
    "laplace": ("refiner", {"trunk": WIDE}),
    "fine": ("refiner", {"trunk": WIDE, "fine_channels": 8}),
    "frozen": ("refiner", {"trunk": {**WIDE, "features": True}, "fine_channels": 8}),
    "odd-grid": ("refiner", {"trunk": {**WIDE, "image_size": 48}, "fine_channels": 8}),
    "deterministic": ("refiner", {"trunk": WIDE, "flow": "deterministic", "sensitivity": False, "stride": 8}),
    "stride-16": ("refiner", {"trunk": WIDE, "stride": 16}),
}
_STEMS, _HEADS = ("hybrid", "linear-stem"), ("hybrid", "linear-logits", "classification", "regression")
GRAPHS_OF_VARIANTS = [
    (name, role)
    for name, (role_of_net, _) in VARIANTS.items()
    for role in GRAPHS[role_of_net]
    if name in {"coarse_encoder": _STEMS, "coarse_decoder": _HEADS}.get(role, VARIANTS)
]
"""Graphs that differ: encoders do not know of the head, nor decoders of the stem."""
STORED = 16
"""Fewest values of a head's weight that is stored in FP16 in these graphs, whose heads are as small as all of them."""


@cache
def small_net(variant: str) -> nn.Module:
    """An untrained network none of whose parameters and statistics equal each other or say nothing."""
    role, options = VARIANTS[variant]
    net = build(CONFIGS[role].from_dict({**NET[role], **options})).eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.momentum = 1.0
        # Statistics of pictures such as these, as after training: with others all patches come out much the same.
        net.train().trunk.encode(torch.from_numpy(pictures(4, net.config.trunk.image_size)))
    return net.eval()


@cache
def small_model(variant: str, role: str, kind: str = "fp32") -> onnx.ModelProto:
    """The graph of a role, as it is written."""
    if kind == "fp32":
        return trace(small_net(variant), role).model()
    with patch.object(precision, "_STORED", STORED):
        return to_half(Graph(small_model(variant, role))).model()


def run(model: onnx.ModelProto, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Outputs by name, from ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feed), strict=True))


def torch_outputs(variant: str, role: str, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """What PyTorch makes of the same feed."""
    with torch.no_grad():
        out = getattr(small_net(variant), METHODS[role])(*map(torch.from_numpy, feed.values()))
    return [t.numpy() for t in (out if isinstance(out, tuple) else (out,))]


def pictures(n: int, size: int, shift: float = 0.0) -> np.ndarray:
    """Shaded, chequered balls before a graded background, [n,3,size,size] float32 in [0, 1]; ``shift`` in pixels."""
    v, u = np.mgrid[:size, :size] / size
    images = []
    for i in range(n):
        x = (u - 0.45 - 0.05 * i - shift / size) / 0.3
        y = (v - 0.55 + 0.04 * i) / 0.3
        inside = x**2 + y**2 < 1
        z = np.sqrt(np.clip(1 - x**2 - y**2, 0, None))
        light = 0.2 + 0.8 * np.clip(0.5 * x - 0.4 * y + 0.77 * z, 0, None)
        chequers = (np.floor(4 * x + i) + np.floor(4 * y)) % 2
        ball = np.stack([light * (0.3 + 0.6 * chequers), light * 0.7, light * (0.9 - 0.5 * chequers)])
        images.append(np.where(inside, ball, np.stack([0.3 + 0.4 * u, 0.5 * v + 0.2, 0.6 - 0.3 * u])))
    return np.array(images, np.float32).reshape(n, 3, size, size)


def feed_of(variant: str, role: str, n: int) -> dict[str, np.ndarray]:
    """Images, or for the decoder the tokens that PyTorch makes of images."""
    size = small_net(variant).config.trunk.image_size
    first, second = pictures(n, size), pictures(n, size, shift=3.0)
    if role == "coarse_encoder":
        return {"image": first}
    if role == "coarse_decoder":
        (query,), (template,) = (torch_outputs(variant, "coarse_encoder", {"image": x}) for x in (first, second))
        return {"query": query, "template": template}
    return {"query": first, "render": second}


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of every tensor, by strict inference."""
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    found = {v.name: v.type.tensor_type.elem_type for v in tensors_of(model)}
    return found | {t.name: t.data_type for t in model.graph.initializer}
