"""What differs between the roles in training: the losses, and how the network is judged on held-out objects."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from export.data.stream import Stream, make_stream
from export.networks import Net, NetConfig
from export.train.options import TrainOptions

EVALUATION_SEED = 20250317
"""Of the held-out pairs: the same in every run, so that runs can be compared."""


class Task(ABC):
    """One role's training."""

    role: str
    stream_role: str

    def __init__(self, config: NetConfig, options: TrainOptions) -> None:
        self.config = config
        self.options = options

    @abstractmethod
    def losses(self, model: nn.Module, batch: dict[str, Tensor], progress: float) -> dict[str, Tensor]:
        """Return weighted parts of the loss by name; ``model`` is the network or its distributed wrapper.

        batch: the tensors of ``to_tensors``. progress: share of the run that has passed, in [0, 1].
        """

    @abstractmethod
    def evaluate(self, net: Net, device: torch.device) -> dict[str, float]:
        """Return figures on held-out objects; ``net`` is in eval mode. Every figure is finite or left out."""

    def held_out_stream(self, batch_size: int, **options: Any) -> Stream:
        """Make a stream of pairs of held-out objects, drawn in this process on the CPU: NumPy arrays."""
        return make_stream(
            self.stream_role,
            self.config.trunk.image_size,
            batch_size=batch_size,
            workers=0,
            seed=EVALUATION_SEED,
            split="heldout",
            **{**self.stream_options(), **options},
        )

    def stream_options(self) -> dict[str, Any]:
        """Return what ``make_stream`` needs besides the batch, the seed and the split."""
        o = self.options
        return {"pack": o.pack or None, "photos": o.photos or None, "small_starts": o.small_starts}


def to_tensors(batch: Any, device: torch.device) -> dict[str, Tensor]:
    """Copy a CoarseBatch or RefinerBatch to tensors on ``device``; images become float32 [N,3,S,S] in [0, 1] there."""
    tensors: dict[str, Tensor] = {}
    for f in fields(batch):
        value = getattr(batch, f.name)
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(np.ascontiguousarray(value))
        if device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        tensor = tensor.to(device, non_blocking=True)
        tensors[f.name] = to_image(tensor) if f.name in ("query", "template", "render") else tensor
    return tensors


def to_image(rgb: Tensor) -> Tensor:
    """Convert images uint8 [N,H,W,3] -> float32 [N,3,H,W] in [0, 1]."""
    return rgb.permute(0, 3, 1, 2).to(torch.float32) / 255
