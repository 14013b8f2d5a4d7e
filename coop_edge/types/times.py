"""How long the stages of a call took."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from coop_edge.errors import InputError
from coop_edge.types.checks import real


@dataclass(frozen=True)
class StageTimes:
    """Wall time per stage, milliseconds. Stages run as one batch: the times are those of the whole call."""

    crop_ms: float = 0.0
    coarse_ms: float = 0.0
    refine_ms: float = 0.0
    outline_ms: float = 0.0
    select_ms: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (real(value) and math.isfinite(value) and value >= 0.0):
                raise InputError(f"StageTimes.{f.name}: wanted milliseconds >= 0, got {value!r}")

    @property
    def total_ms(self) -> float:
        """Return the sum of all stages, milliseconds."""
        return self.crop_ms + self.coarse_ms + self.refine_ms + self.outline_ms + self.select_ms
