"""Adds the role ``features`` to a bundle, or replaces it; killed at any moment, it leaves a sound bundle."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from coop_edge.base.files import atomic_write
from coop_edge.errors import BundleError
from coop_edge.runtime.bundle import Bundle, Network, write_manifest
from export.networks import FeaturesNet, FeaturesNetConfig, load_efficientnet_lite0
from export.networks.efficientnet import SOURCE
from export.onnx.checks import checked
from export.onnx.precision import to_half
from export.onnx.trace import specs_of, trace

ROLE = "features"
Verify = Callable[[Bundle, FeaturesNet], Mapping[str, Any]]


def add_features(
    folder: str | Path, state: Mapping[str, Tensor], precision: str, verify: Verify, *, version: str | None = None
) -> Bundle:
    """Give the bundle in ``folder`` the frozen features as a graph at its size, and return it as it is then.

    Args:
        folder: of the bundle.
        state: weights, as ``efficientnet_lite0`` returns them.
        precision: "fp32", or "fp16": weights stored in FP16, computation in FP32.
        verify: called with the bundle as it will be and the network in PyTorch, before the manifest names the graph;
            returns the report that the manifest keeps. Its exceptions leave the bundle as it was.
        version: new version of the bundle; None keeps the old one.

    Raises:
        InputError: the weights are not those of EfficientNet-Lite0.
        ConfigError: the bundle's size is no multiple of 16.
        BundleError: the folder is not a bundle, or the graph fails a check.
        OSError: the folder cannot be written.
    """
    before = Bundle.load(folder)
    net = FeaturesNet(FeaturesNetConfig(before.input_size)).eval()
    load_efficientnet_lite0(net, state)
    graph = _graph(net, precision)
    network = _planned(before, net, graph, precision)
    after = replace(
        before,
        version=before.version if version is None else version,
        training={**before.training, ROLE: {**SOURCE, "network": net.config.to_dict()}},
        networks={**before.networks, ROLE: network},
    )
    old = before.networks.get(ROLE)
    known = old is not None and old.path == network.path
    if not known:  # else these very bytes are there
        with atomic_write(network.path) as file:
            file.write(graph)
    try:
        write_manifest(replace(after, verification={**before.verification, ROLE: dict(verify(after, net))}))
    except BaseException:
        if not known:
            network.path.unlink(missing_ok=True)
        raise
    if old is not None and not known:
        old.path.unlink(missing_ok=True)
    return Bundle.load(before.folder)


def _graph(net: FeaturesNet, precision: str) -> bytes:
    graph = trace(net, ROLE)
    if precision == "fp16":
        graph = to_half(graph)
    return checked(graph.model(), ROLE, *specs_of(net, ROLE), precision).SerializeToString(deterministic=True)


def _planned(bundle: Bundle, net: FeaturesNet, graph: bytes, precision: str) -> Network:
    """Describe the graph that is to be written.

    Its file is never that of another graph which the manifest names: the manifest of a replaced one stays true until
    the new one is written.
    """
    digest = hashlib.sha256(graph).hexdigest()
    old = bundle.networks.get(ROLE)
    name = f"{ROLE}.onnx"
    if old is not None:
        name = old.path.name if old.sha256 == digest else f"{ROLE}-{digest[:8]}.onnx" if old.path.name == name else name
    path = bundle.folder / name
    if users := [role for role, network in bundle.networks.items() if network.path == path and role != ROLE]:
        raise BundleError(f"{path}: is the graph of {users[0]}; wanted that name free for {ROLE}")
    return Network(ROLE, path, digest, precision, *specs_of(net, ROLE))
