"""Options of a training run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from coop_edge.config import Config
from export.data.data import DRAWN
from export.networks import SIZES

PEAK_RATES = {"xs": 6e-4, "s": 4e-4, "b": 1e-4, "l": 1e-4}
"""Peak learning rates by size, where none is given."""


@dataclass(frozen=True)
class TrainOptions(Config):
    """How to train; what to train is the network's configuration."""

    size: Literal["xs", "s", "b", "l"] = "xs"
    """Size preset of the network."""
    minutes: float = 60.0
    """Wall time of this run; the learning rate falls over it, if there is no ``max_steps``. A resumed run has a time of
    its own."""
    seed: int = 0
    """Of the first weights and the data."""
    batch_size: int = 16
    """Pairs per step and process."""
    workers: int = 1
    """Processes that draw pairs, per process that trains; 0 draws in between steps."""
    threads: int = 0
    """Threads of PyTorch on the CPU; 0 leaves its own choice."""
    learning_rate: float = 0.0
    """Peak learning rate; 0 takes the size's."""
    warmup: float = 0.01
    """Share of the time over which the rate rises; a third of it after a resume."""
    ema_decay: float = 0.999
    """Of the averaged weights."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    pose_loss: bool = True
    """Refiner: the loss through differentiable PnP, the one teacher of the sensitivity."""
    no_match: bool = True
    """Coarse: patches that do not show the target are taught to be *no match*; else they teach nothing at all."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of matrix products; "auto" = bfloat16 on a GPU and on a CPU that has instructions for it, else float32."""
    compile: bool = False
    """torch.compile the network: slower to start, faster after."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train."""
    data: Literal["auto", "cpu", "device"] = "auto"
    """Who draws pairs: the workers, or the device in whole batches; "auto" = the device, if it is a GPU."""
    pack: str = ""
    """Asset pack; without one all objects are procedural."""
    photos: str = ""
    """Folder of photographs for textures and backgrounds; scikit-image's samples without one."""
    ramp: int = 60_000
    """Pairs, per process, over which they become hard; 0 = hard from the first (see ``data.make_stream``)."""
    hardness: float = 1.0
    """That they get to at the end of the ramp, 0 to 1. A small network, or a short run, learns more from less."""
    checkpoint_minutes: float = 3.0
    """Between checkpoints."""
    evaluate_minutes: float = 10.0
    """Between evaluations; there is one at the end in any case."""
    evaluate_samples: int = 256
    """Held-out pairs of an evaluation, rounded up to whole batches (32 coarse, 16 refiner)."""
    max_steps: int = 0
    """End after so many steps of this run, over which the learning rate falls; 0 = no bound. The minutes end it too."""

    def __post_init__(self) -> None:
        self._choice("size", SIZES)
        self._number("minutes", 1e-3, 1e7)
        self._int("seed", 0, (1 << 40) - 1)
        self._int("batch_size", 1, 1 << 16)
        self._int("workers", 0, 1024)
        self._int("threads", 0, 1024)
        self._number("learning_rate", 0.0, 1.0)
        self._number("warmup", 0.0, 0.9)
        self._number("ema_decay", 0.0, 1.0)
        self._number("clip", 1e-6, 1e6)
        self._flag("pose_loss")
        self._flag("no_match")
        self._choice("precision", ("auto", "float32", "bfloat16"))
        self._flag("compile")
        self._choice("device", ("auto", "cpu", "cuda"))
        self._choice("data", DRAWN)
        self._int("ramp", 0, 1 << 40)
        self._number("hardness", 0.0, 1.0)
        self._number("checkpoint_minutes", 1e-3, 1e6)
        self._number("evaluate_minutes", 1e-3, 1e6)
        self._int("evaluate_samples", 0, 1 << 20)
        self._int("max_steps", 0, 1 << 40)

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or PEAK_RATES[self.size]


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether matrix products run in bfloat16 with option ``precision`` on ``device``."""
    if precision != "auto":
        return precision == "bfloat16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported())
    capabilities: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return any(capabilities.get(name, False) for name in ("avx512_bf16", "amx_bf16"))
