"""Collects the losses of training steps for the log, and stops a run whose loss or gradient is not finite."""

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


class LossMonitor:
    """Keeps the figures of each step on the device, and its batch until ``check`` has found the figures finite."""

    def __init__(self, folder: Path, rank: int) -> None:
        self._folder, self._rank = folder, rank
        self._names: list[str] = []
        self._figures: list[Tensor] = []
        self._unchecked: list[tuple[int, Any]] = []

    def add(self, step: int, batch: Any, figures: Mapping[str, Tensor]) -> None:
        """Record step number ``step``: its batch, and its figures ("loss", "gradient_norm", parts of the loss)."""
        self._names = list(figures)
        self._figures.append(torch.stack([value.detach().double() for value in figures.values()]))
        self._unchecked.append((step, batch))

    def check(self) -> None:
        """Check the steps added since the last call; waits for the device.

        Raises:
            TrainingDivergedError: a step has a figure that is not finite; its batch has been saved.
        """
        if not self._unchecked:
            return
        recent = torch.stack(self._figures[-len(self._unchecked) :]).tolist()
        for values, (step, batch) in zip(recent, self._unchecked, strict=True):
            bad = [name for name, value in zip(self._names, values, strict=True) if not np.isfinite(value)]
            if bad:
                path = self._folder / f"diverged_step{step}_rank{self._rank}.npz"
                arrays: dict[str, Any] = vars(on_host(batch))
                with atomic_write(path) as file:
                    np.savez_compressed(file, **arrays)
                raise TrainingDivergedError(
                    f"step {step}: not finite: {', '.join(bad)}; the pairs are in {path}, the last checkpoint is "
                    "intact; a lower learning_rate may help"
                )
        self._unchecked.clear()

    def means(self) -> dict[str, float]:
        """Return the mean figures of the checked steps since the last call; {} without any."""
        count = len(self._figures) - len(self._unchecked)
        if count == 0:
            return {}
        values = torch.stack(self._figures[:count]).mean(dim=0).tolist()
        del self._figures[:count]
        return dict(zip(self._names, values, strict=True))


class Interval:
    """Tells when a number of seconds has passed, again and again."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.reset()

    def due(self) -> bool:
        """Return True once per interval."""
        if time.monotonic() < self._next:
            return False
        self.reset()
        return True

    def reset(self) -> None:
        """Start a new interval now."""
        self._next = time.monotonic() + self.seconds
