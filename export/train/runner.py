"""A refiner of PyTorch behind the package's contract for networks, so that the package's own stages run it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import specs
from export.networks import RefinerNet

Array = np.ndarray[Any, Any]


class RefinerRunner(Runner):
    """Runs a refiner as a bundle's role. Feeds and results are NumPy arrays, wherever the network computes."""

    device = "cpu"

    def __init__(self, net: RefinerNet, size: int, where: torch.device) -> None:
        """Wrap ``net``, which is on ``where``, for crops of ``size`` pixels."""
        super().__init__(
            "PyTorch's refiner", *specs("refiner", input_size=size, patch_size=1, dim=1, stride=net.config.stride)
        )
        self._net, self._where = net, where

    def _load(self) -> None:
        """Do nothing: the network is loaded."""

    def _release(self) -> None:
        """Do nothing: the network is its owner's."""

    @torch.no_grad()
    def _run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)).to(self._where) for name, a in feed.items()}
        found = self._net.export_outputs(**tensors)
        return {name: value.float().cpu().numpy() for name, value in zip(self.outputs, found, strict=True)}
