"""Measures how long each stage of one call takes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from coop_edge.base import compile_time
from coop_edge.types import StageTimes


class StageClock:
    """Adds up wall time per stage, in milliseconds.

        clock = StageClock()
        with clock("crop"): ...
        clock.times().crop_ms

    Stages are those of ``StageTimes``. Compilation is no part of any.
    """

    def __init__(self) -> None:
        self._ms: dict[str, float] = {}

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = compile_time.working_time()
        try:
            yield
        finally:
            self._ms[stage] = self._ms.get(stage, 0.0) + 1e3 * (compile_time.working_time() - start)

    def times(self) -> StageTimes:
        """Return what was measured so far; 0 for a stage that was not entered."""
        return StageTimes(**{f"{stage}_ms": ms for stage, ms in self._ms.items()})
