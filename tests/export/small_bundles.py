"""Bundles of untrained networks small enough for a test, with their checkpoints; and ways to damage them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn import functional

from coop_edge.runtime.bundle import Bundle, Network, sha256_of, write_manifest
from export.data.pairs import TEMPLATE
from export.networks import CONFIGS, Net, build
from export.networks.refiner import cell_pixels
from export.onnx.graph import Graph
from export.onnx.precision import to_half
from export.onnx.trace import GRAPHS, specs_of, trace
from export.train.checkpoint import save_network
from export.train.losses import certainty_loss, laplace_nll
from export.train.provenance import Provenance
from export.train.task import to_tensors
from export.verify.bundle import DrawnPairs
from tests.export.small_nets import NET, TRUNK

SIZE = 64
ROLES = ("coarse", "refiner")


def small_net(role: str, seed: int = 0, **options) -> Net:
    """An untrained network for crops of SIZE."""
    torch.manual_seed(seed)
    config = {**NET[role], "trunk": {**TRUNK, "image_size": SIZE}, **options}
    return build(CONFIGS[role].from_dict(config)).eval()


def fine_refiner(seed: int = 0) -> Net:
    """A refiner with fine matching, of which its dense head is told as after training."""
    net = small_net("refiner", seed, fine_channels=8)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        net.fine.found.weight.copy_(0.3 * torch.randn(net.fine.found.weight.shape, generator=generator))
    return net


def learn_by_heart(nets: Sequence[Net], pairs: DrawnPairs, steps: int = 150) -> None:
    """Train the coarse network and the refiner on these few pairs until poses come out right."""
    coarse, refiner = (next(net for net in nets if net.role == role) for role in ("coarse", "refiner"))
    batch = to_tensors(pairs.coarse, torch.device("cpu"))
    matched = batch["match_index"] < batch["match_index"].shape[1]

    def coarse_loss() -> torch.Tensor:
        out = coarse(batch["query"], batch["template"], batch["match_index"])
        classes = functional.cross_entropy(out.logits.flatten(0, 1), batch["match_index"].flatten())
        return classes + 5 * (out.offset - batch["offset"]).abs()[matched].mean()

    seen = to_tensors(pairs.refiner, torch.device("cpu"))
    cells = cell_pixels(refiner.config.stride)
    visible, flow = seen["visible"][:, cells, cells], seen["flow"][:, :, cells, cells]

    silhouette = torch.isfinite(seen["object_points"][:, cells, cells, 0])

    def refiner_loss() -> torch.Tensor:
        """Of the scale and the certainty too: against the prior, flow alone has no weight."""
        out = refiner(seen["query"], seen["render"])
        sure = laplace_nll(out.flow, out.scale, flow, visible)
        seen_or_not = certainty_loss(out.certainty_logit, visible & silhouette, silhouette)
        return (out.flow - flow).abs().permute(0, 2, 3, 1)[visible].mean() + sure + seen_or_not

    for net, loss_of in ((coarse, coarse_loss), (refiner, refiner_loss)):
        optimiser = torch.optim.AdamW(net.parameters(), 3e-3)
        for _ in range(steps):
            optimiser.zero_grad()
            loss_of().backward()
            optimiser.step()
        net.eval()


def save_nets(folder: Path, nets: Sequence[Net]) -> list[Path]:
    """Checkpoint files of the networks in ``folder``."""
    for net in nets:
        save_network(folder / f"{net.role}.safetensors", net, Provenance())
    return [folder / f"{net.role}.safetensors" for net in nets]


def write_bundles(folders: Mapping[str, Path], nets: Sequence[Net]) -> dict[str, Bundle]:
    """The networks as a bundle in each of ``folders``, by precision."""
    models = {role: (net, trace(net, role).model()) for net in nets for role in GRAPHS[net.role]}
    return {precision: _write_bundle(folder, nets, models, precision) for precision, folder in folders.items()}


def _write_bundle(
    folder: Path, nets: Sequence[Net], models: Mapping[str, tuple[Net, onnx.ModelProto]], precision: str
) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    networks = {}
    for role, (net, model) in models.items():
        path = folder / f"{role}.onnx"
        onnx.save_model(to_half(Graph(model)).model() if precision == "fp16" else model, path)
        networks[role] = Network(role, path, sha256_of(path), precision, *specs_of(net, role))
    radius = next(net.config.radius_px for net in nets if net.role == "refiner")
    bundle = Bundle(folder, "small", "1", "Apache-2.0", {}, SIZE, 16, radius, TEMPLATE, networks)
    write_manifest(bundle)
    return Bundle.load(folder)


def spoil(bundle: Bundle, role: str, factor: float = 1.5) -> str:
    """Multiply half of a role's largest weight tensor and give its name; the manifest gets the new hash.

    Half of it: a normalisation would undo a factor on all of it.
    """
    network = bundle.network(role)
    model = onnx.load(network.path)
    tensor = max(
        (t for t in model.graph.initializer if t.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)),
        key=lambda t: int(np.prod(t.dims)),
    )
    values = numpy_helper.to_array(tensor).copy()
    values.flat[::2] *= values.dtype.type(factor)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save_model(model, network.path)
    networks = {**bundle.networks, role: replace(network, sha256=sha256_of(network.path))}
    write_manifest(replace(bundle, networks=networks))
    return tensor.name
