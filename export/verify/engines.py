"""Runs what is compared: PyTorch's networks as a bundle's roles, and the engines for the bundle's graphs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from coop_edge.backend import Backend, probe_cuda
from coop_edge.errors import BackendUnavailable, EngineError, InputError
from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import Bundle, specs
from export.networks import CoarseNet, Net, RefinerNet
from export.onnx.bundle import find_sources
from export.onnx.trace import GRAPHS, METHODS
from export.train.checkpoint import load_network
from export.verify.outputs import FP32_BOUND, Answers, Decisions

Array = np.ndarray[Any, Any]
Feed = Mapping[str, Array]

BATCH = 16
"""Samples of a run; the last run of a set is smaller, so that another batch size is tested too."""
MOST_MOVED = 16
"""Most windows of a sample that are moved to see what else a refiner may say: those it is least decided about."""
GPU_ENGINES: dict[str, Literal["onnx", "tensorrt"]] = {"ONNX Runtime, CUDA": "onnx", "TensorRT": "tensorrt"}
"""Engines of a GPU by the name the report gives them, as ``Backend.runner`` takes them."""
NETWORK_OF = {graph: role for role, graphs in GRAPHS.items() for graph in graphs}
"""The checkpoint's role of each of the bundle's roles."""


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
    """Find ONNX Runtime on the CPU always; its CUDA provider and TensorRT where they run this bundle's graphs here."""
    from coop_edge.runtime.onnx import OnnxRunner

    found = Engines([Engine("ONNX Runtime, CPU", lambda role: OnnxRunner(bundle.network(role), threads=threads))])
    missing = probe_cuda()
    cuda = Backend("cuda", "verification")
    for name, engine in GPU_ENGINES.items():
        if missing is not None:
            found.absent[name] = missing
            continue
        candidate = Engine(name, functools.partial(cuda.runner, bundle, engine=engine))
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
    """Return all outputs for a feed of any N, in runs of ``BATCH``, as NumPy arrays. ``runner`` is open."""
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
        """Load checkpoint files, or folders of ``train`` that hold one; one of each network that is trained.

        Raises:
            InputError: a network is missing, doubled, or of other sizes than the bundle says.
        """
        files = {role: source.path for role, source in find_sources(checkpoints).items()}
        nets = {role: load_network(files[role], role)[0] for role in files}
        for role, net in nets.items():
            _check_sizes(bundle, net, files[role])
        return cls(nets)

    def call(self, role: str) -> Callable[..., Any]:
        """Return the network's method that a role's graph computes: tensors by input name -> output or outputs."""
        method: Callable[..., Any] = getattr(self.nets[NETWORK_OF[role]], METHODS[role])
        return method

    @torch.inference_mode()
    def run(self, role: str, feed: Feed) -> dict[str, Array]:
        """Return the outputs of a role, named as in the bundle, for a feed of any N."""
        names = [spec.name for spec in specs(role, input_size=1, patch_size=1, dim=1, stride=1)[1]]
        call = self.call(role)
        parts = [call(**part) for part in _batches(feed)]
        parts = [part if isinstance(part, tuple) else (part,) for part in parts]
        columns = zip(*parts, strict=True)
        return {name: torch.cat(column).numpy() for name, column in zip(names, columns, strict=True)}

    @torch.inference_mode()
    def decisions(self, feed: Feed) -> Decisions:
        """Return by how much the coarse decoder decided as it did."""
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

    @torch.inference_mode()
    def answers(self, feed: Feed) -> Answers | None:
        """Return what else the refiner may say where fine matching is undecided; None without fine matching."""
        net = self.nets["refiner"]
        assert isinstance(net, RefinerNet)
        if not net.config.fine_channels:
            return None
        batches = _batches(feed)
        seen = [net(**part) for part in batches]
        logits = [out.fine_logits for out in seen if out.fine_logits is not None]
        count = sum(part.numel() for part in logits)
        square = sum(float(part.double().square().sum()) for part in logits)
        tie = 2 * FP32_BOUND * (square / max(count, 1)) ** 0.5
        names = [spec.name for spec in specs("refiner", input_size=1, patch_size=1, dim=1, stride=1)[1]]
        low: list[list[torch.Tensor]] = []
        high: list[list[torch.Tensor]] = []
        for part, out, similar in zip(batches, seen, logits, strict=True):
            said = net.exported(out)
            low.append([t.clone() for t in said])
            high.append([t.clone() for t in said])
            for rows, chosen in _moved_windows(similar, tie):
                other = net.exported(net(part["query"][rows], part["render"][rows], chosen))
                for i, (a, b) in enumerate(zip(said, other, strict=True)):
                    # The sum over windows: an engine may move any of them, and their surroundings overlap.
                    low[-1][i][rows] += (b - a[rows]).clamp(max=0)
                    high[-1][i][rows] += (b - a[rows]).clamp(min=0)
        ends = [[torch.cat(column).numpy() for column in zip(*side, strict=True)] for side in (low, high)]
        return Answers(*(dict(zip(names, end, strict=True)) for end in ends))


def _moved_windows(logits: torch.Tensor, tie: float) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Features to put windows around if one window per sample is moved: (samples [M], features [M,cells]), as often as
    there is a sample with a window left to move. logits: [N,cells,features]; tie: a gap up to here is undecided.
    """
    best, index = logits.topk(2, dim=2)
    gap, cells = (best[..., 0] - best[..., 1]).sort(dim=1)
    for k in range(min(MOST_MOVED, gap.shape[1])):
        rows = torch.nonzero(gap[:, k] <= tie)[:, 0]
        if not len(rows):
            return
        chosen, cell = index[rows, :, 0].clone(), cells[rows, k]
        chosen[torch.arange(len(rows)), cell] = index[rows, cell, 1]
        yield rows, chosen


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
    pairs: list[tuple[str, float, float]] = [
        ("input_size", bundle.input_size, trunk.image_size),
        ("patch_size", bundle.patch_size, trunk.patch_size),
    ]
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
