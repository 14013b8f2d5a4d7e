"""Losses on their way to the log, and the guard against those that are not finite."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from coop_edge.base.files import atomic_write
from coop_edge.errors import CoopEdgeError
from export.data.batch import on_host


class TrainingDivergedError(CoopEdgeError, ArithmeticError):
    """A loss or gradient that is not finite; the message names the file that holds the pairs."""


class Watch:
    """Keeps the figures of each step on the device, and its batch until ``check`` has found the figures finite."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._names: list[str] = []
        self._figures: list[Tensor] = []
        self._unchecked: list[Any] = []

    def add(self, batch: Any, loss: Tensor, norm: Tensor, parts: Mapping[str, Tensor]) -> None:
        """Note a step: its batch, the loss, the norm of the gradient and the parts of the loss."""
        self._names = ["loss", "gradient_norm", *parts]
        self._figures.append(torch.stack([v.detach().double() for v in (loss, norm, *parts.values())]))
        self._unchecked.append(batch)

    def check(self, step: int) -> None:
        """Look at what was added since the last look; the batch of the first bad step is saved.

        step: number of the step, for the message. Raises TrainingDivergedError.
        """
        if not self._unchecked:
            return
        recent = torch.stack(self._figures[-len(self._unchecked) :]).tolist()
        for values, batch in zip(recent, self._unchecked, strict=True):
            bad = [name for name, value in zip(self._names, values, strict=True) if not np.isfinite(value)]
            if bad:
                path = self._folder / f"diverged_step{step}_rank{self._rank}.npz"
                arrays: dict[str, Any] = vars(on_host(batch))
                with atomic_write(path) as file:
                    np.savez_compressed(file, **arrays)
                raise TrainingDivergedError(
                    f"step {step}: not finite: {', '.join(bad)}; the pairs are in {path}, the last checkpoint is "
                    "intact; a lower --learning-rate may help"
                )
        self._unchecked.clear()

    def means(self) -> dict[str, float]:
        """Mean figures of the checked steps since the last call: "loss", "gradient_norm", then the parts."""
        count = len(self._figures) - len(self._unchecked)
        if count == 0:
            return {}
        values = torch.stack(self._figures[:count]).mean(dim=0).tolist()
        del self._figures[:count]
        return dict(zip(self._names, values, strict=True))


class Pace:
    """Due every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reset()

    def due(self) -> bool:
        """True once per interval."""
        if time.monotonic() < self._next:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Count from now."""
        self._next = time.monotonic() + self.seconds
