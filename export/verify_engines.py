"""What is compared: PyTorch's networks as a bundle's roles, and the engines that run the bundle's graphs here."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from coop_edge.backend import Backend, probe_cuda
from coop_edge.errors import BackendUnavailable, EngineError, InputError
from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import Bundle, specs
from export.checkpoint import load_network
from export.networks import CoarseNet, Net, RefinerNet
from export.onnx import find_sources
from export.trace import GRAPHS
from export.verify_outputs import FP32_BOUND, Decisions

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]

BATCH = 16
"""Samples of a run; the last run of a set is smaller, so that another batch size is met too."""
NETWORK_OF = {graph: role for role, graphs in GRAPHS.items() for graph in graphs}
"""The checkpoint's role of each of the bundle's roles."""
METHODS = {
    "coarse_encoder": "encode",
    "coarse_decoder": "decode",
    "refiner": "export_outputs",
    "selector": "export_outputs",
}
"""What a role is in PyTorch."""


@dataclass(frozen=True)
class Engine:
    """An engine by the name the report gives it; ``runner(role)`` makes a closed Runner."""

    name: str
    runner: Callable[[str], Runner]


@dataclass
class Engines:
    """The engines that can run here, and why the others cannot, by name."""

    present: list[Engine] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)


def find_engines(bundle: Bundle, threads: int) -> Engines:
    """ONNX Runtime on the CPU always; its CUDA provider and TensorRT where they run this bundle's graphs here."""
    from coop_edge.runtime.onnx import OnnxRunner

    found = Engines([Engine("ONNX Runtime, CPU", lambda role: OnnxRunner(bundle.network(role), threads=threads))])
    missing = probe_cuda()
    cuda = Backend("cuda", "verification")
    for name, engine in (("ONNX Runtime, CUDA", "onnx"), ("TensorRT", "tensorrt")):
        if missing is not None:
            found.absent[name] = missing
            continue
        candidate = Engine(name, lambda role, engine=engine: cuda.runner(bundle, role, engine=engine))
        try:
            for role in bundle.networks:
                with candidate.runner(role):
                    pass
        except (BackendUnavailable, EngineError) as error:
            found.absent[name] = str(error)
        else:
            found.present.append(candidate)
    return found


def run_all(runner: Runner, feed: Feed) -> dict[str, Array]:
    """All outputs for a feed of any N, in runs of ``BATCH``, as NumPy arrays. ``runner`` is open."""
    step = min(BATCH, runner.max_batch or BATCH)
    parts: list[dict[str, Array]] = []
    count = len(next(iter(feed.values())))
    for low in range(0, max(count, 1), step):
        part = {name: np.ascontiguousarray(values[low : low + step]) for name, values in feed.items()}
        if runner.device == "cuda":
            import cupy

            result = runner.run({name: cupy.asarray(values) for name, values in part.items()})
            parts.append({name: cupy.asnumpy(values) for name, values in result.items()})
        else:
            parts.append({name: np.array(values) for name, values in runner.run(part).items()})
    return {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}


class Reference:
    """PyTorch, float32, on the CPU: the networks of checkpoints, called as the bundle's roles."""

    def __init__(self, nets: Mapping[str, Net]) -> None:
        self.nets = {role: net.eval().float() for role, net in nets.items()}

    @classmethod
    def of(cls, bundle: Bundle, checkpoints: Sequence[str | Path]) -> Reference:
        """From checkpoint files, or folders of ``train`` that hold one; one of each network that the bundle has.

        Raises InputError if one is missing, doubled, or of other sizes than the bundle says.
        """
        wanted = {NETWORK_OF[role] for role in bundle.networks}
        sources = find_sources(checkpoints)
        if missing := sorted(wanted - set(sources)):
            raise InputError(f"no {missing[0]} checkpoint; bundle {bundle.name} has that network too")
        files = {role: sources[role].path for role in sorted(wanted)}
        nets = {role: load_network(files[role], role)[0] for role in files}
        for role, net in nets.items():
            _check_sizes(bundle, net, files[role])
        return cls(nets)

    def call(self, role: str) -> Callable[..., Any]:
        """The network's method that does what a role's graph does: tensors by input name -> output or outputs."""
        method: Callable[..., Any] = getattr(self.nets[NETWORK_OF[role]], METHODS[role])
        return method

    @torch.inference_mode()
    def run(self, role: str, feed: Feed) -> dict[str, Array]:
        """Outputs of a role, named as in the bundle, for a feed of any N."""
        names = [spec.name for spec in specs(role, input_size=1, patch_size=1, dim=1, stride=1)[1]]
        call = self.call(role)
        parts = [call(**part) for part in _batches(feed)]
        parts = [part if isinstance(part, tuple) else (part,) for part in parts]
        columns = zip(*parts, strict=True)
        return {name: torch.cat(column).numpy() for name, column in zip(names, columns, strict=True)}

    @torch.inference_mode()
    def decisions(self, feed: Feed) -> Decisions:
        """By how much the coarse decoder decided as it did."""
        net = self.nets["coarse"]
        assert isinstance(net, CoarseNet)
        outputs = [net.compare(part["query"], part["template"]) for part in _batches(feed)]
        if net.config.head == "regression":
            position = np.concatenate([o.position.double().numpy() for o in outputs if o.position is not None])
            matched = np.concatenate([o.matched.double().numpy() for o in outputs if o.matched is not None])
            return _decisions_of_positions(position, matched)
        logits = np.concatenate([o.logits.double().numpy() for o in outputs if o.logits is not None])
        best = logits[..., :-1].max(axis=-1)
        tie = 2 * FP32_BOUND * float(np.sqrt(np.mean(logits**2)))  # both logits of a pair may move by the bound
        return Decisions(best[..., None] - logits[..., :-1], np.abs(best - logits[..., -1]), tie, tie)


def _decisions_of_positions(position: Array, matched: Array) -> Decisions:
    """Of the regression head: a patch's gap is the distance of the position from that patch, in patches."""
    side = round(position.shape[1] ** 0.5)
    patch = np.arange(side * side)
    corner = np.stack([patch % side, patch // side], axis=-1).astype(np.float64)
    outside = np.maximum(corner - position[:, :, None], position[:, :, None] - (corner + 1)).max(axis=-1)
    tie = FP32_BOUND * float(np.sqrt(np.mean(position**2)))
    return Decisions(np.maximum(outside, 0), np.abs(matched), tie, FP32_BOUND * float(np.sqrt(np.mean(matched**2))))


def _batches(feed: Feed) -> list[dict[str, torch.Tensor]]:
    count = len(next(iter(feed.values())))
    return [
        {name: torch.from_numpy(np.ascontiguousarray(values[low : low + BATCH])) for name, values in feed.items()}
        for low in range(0, max(count, 1), BATCH)
    ]


def _check_sizes(bundle: Bundle, net: Net, path: Path) -> None:
    """Raise InputError unless the checkpoint's sizes are those the manifest states."""
    trunk = net.config.trunk
    pairs = [("input_size", bundle.input_size, trunk.image_size), ("patch_size", bundle.patch_size, trunk.patch_size)]
    if isinstance(net, CoarseNet):
        pairs.append(("dim", bundle.dim, trunk.decoder_dim))
    if isinstance(net, RefinerNet):
        pairs += [("stride", bundle.stride, net.config.stride), ("radius_px", bundle.radius_px, net.config.radius_px)]
    for name, stated, own in pairs:
        if stated != own:
            raise InputError(
                f"checkpoint {path}: {name} = {own}, but bundle {bundle.name} says {stated}; "
                "it was exported from another checkpoint"
            )
