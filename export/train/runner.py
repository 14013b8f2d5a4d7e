"""A network of PyTorch behind the package's contract for networks, so that the package's own stages run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop_edge.runtime.base import Runner
from coop_edge.runtime.bundle import specs

Array = np.ndarray[Any, Any]


class TorchRunner(Runner):
    """Runs what a role of a bundle does. Feeds and results are NumPy arrays, wherever the network computes."""

    device = "cpu"

    def __init__(
        self, role: str, call: Callable[..., tuple[Tensor, ...]], *, size: int, stride: int, device: torch.device
    ) -> None:
        """Wrap ``call``, which takes the role's inputs and gives its outputs, as tensors on ``device``.

        Args:
            role: "refiner" or "selector".
            call: such as ``RefinerNet.export_outputs``.
            size: side of the images, pixels.
            stride: pixels per cell of the outputs.
            device: of the network.
        """
        super().__init__(f"PyTorch's {role}", *specs(role, input_size=size, patch_size=1, dim=1, stride=stride))
        self._call, self._where = call, device

    def _load(self) -> None:
        """Do nothing: the network is loaded."""

    def _release(self) -> None:
        """Do nothing: the network is its owner's."""

    @torch.no_grad()
    def _run(self, feed: Mapping[str, Array], batch: int, stream: Any) -> dict[str, Array]:
        tensors = {name: torch.from_numpy(np.ascontiguousarray(a)).to(self._where) for name, a in feed.items()}
        found = self._call(**tensors)
        return {name: value.float().cpu().numpy() for name, value in zip(self.outputs, found, strict=True)}
