"""Compares an engine's outputs with PyTorch's: the bounds, and where PyTorch's own decisions may go either way.

What a difference, a tie and a flip are is defined in ``coop_edge.runtime.parity``; plans are judged by the same.

Two outputs of the coarse decoder are decisions: ``index`` (argmax) and the zeros of ``probability`` (no match wins).
PyTorch is undecided where the two classes' logits lie nearer than twice the bound times the logits' root mean square. A
changed decision in ``probability`` that is no tie is a jump to or from 0, which no bound lets pass. ``offset`` belongs
to the chosen class and is compared where both chose the same.

The refiner decides too, where it matches finely: a cell's match is the mean of a window around the best feature. No
output says which window, and one that moves changes the flow of the cells around it and, through the dense head, a
little, all outputs far around. So PyTorch gives both answers, the one with the window around the second best feature as
well, wherever the two features' logits lie as near as above. A value that is off by more than the bound, but lies
between the two answers, is a tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from coop_edge.runtime.parity import Array, Difference, Outputs, Tolerance, Undecided, compare, largest

FP32_BOUND = 1e-4
"""Bound on both relative differences of every output of an FP32 graph."""
FP16_FEATURES_BOUND = 1e-2
"""The same of features whose weights are stored in FP16; other FP16 outputs are judged by the poses made of them."""
MAX_TIES = 0.01
"""Share of an output's elements that may be ties."""


@dataclass(frozen=True)
class Decisions:
    """Ties of the coarse decoder, from how far PyTorch's decisions were from others. Gaps are differences of logits; of
    the regression head, patches."""

    index_gap: Array  # float64 [N,T,T]: how far patch k lies behind the chosen one
    match_gap: Array  # float64 [N,T]: |best class - no match|
    index_tie: float  # a gap up to here is undecided
    match_tie: float

    def ties(self, name: str, wanted: Outputs, given: Outputs) -> tuple[Array, Array]:
        if name == "probability":
            tie = ((wanted[name] > 0) != (given[name] > 0)) & (self.match_gap <= self.match_tie)
            return tie, tie
        index = given.get("index")
        if index is None or index.shape != wanted["index"].shape:
            changed = index_tie = np.zeros(wanted["index"].shape, bool)
        else:
            changed, index_tie = index != wanted["index"], self._index_ties(wanted["index"], index)
        if name == "index":
            return index_tie, index_tie
        # Flips and ties are counted with the index; here both are left out.
        return np.broadcast_to(changed[..., None], wanted[name].shape), np.zeros(wanted[name].shape, bool)

    def _index_ties(self, wanted: Array, given: Array) -> Array:
        real = (given >= 0) & (given < self.index_gap.shape[-1])
        patch = np.where(real, given, 0)[..., None].astype(np.int64)
        gap = np.take_along_axis(self.index_gap, patch, axis=-1)[..., 0]
        return np.asarray((given != wanted) & real & (gap <= self.index_tie))


@dataclass(frozen=True)
class Answers:
    """Ties of a refiner: the least and the largest value of each output, by name, over the windows that PyTorch is
    undecided between."""

    low: Mapping[str, Array]
    high: Mapping[str, Array]

    def ties(self, name: str, wanted: Outputs, given: Outputs) -> tuple[Array, Array]:
        limit = FP32_BOUND * largest(wanted[name])
        off = np.abs(given[name].astype(np.float64) - wanted[name]) > limit
        tie = off & (given[name] >= self.low[name] - limit) & (given[name] <= self.high[name] + limit)
        return tie, tie


@dataclass(frozen=True)
class OutputRow(Difference):
    """One line of the report: the difference of one output of one role on one engine."""

    engine: str
    role: str
    precision: str

    @property
    def bound(self) -> float | None:
        """Return the bound on both relative differences; None = reported only."""
        bound = tolerance_of(self.role, self.precision).relative
        return 0.0 if bound is not None and self.output == "index" else bound

    @property
    def passed(self) -> bool:
        return not self.complaint

    @property
    def complaint(self) -> str:
        """Say what is wrong; "" if it passed."""
        complaint = tolerance_of(self.role, self.precision).complaint(self)
        return complaint and f"{self.engine}: {self.role}/{self.output} ({self.precision}): {complaint}"


def tolerance_of(role: str, precision: str) -> Tolerance:
    """Return what a role's outputs may differ by; without bounds where the poses decide."""
    if precision == "fp32":
        return Tolerance(FP32_BOUND, FP32_BOUND, MAX_TIES)
    if role == "features":
        return Tolerance(FP16_FEATURES_BOUND, FP16_FEATURES_BOUND, MAX_TIES)
    return Tolerance(None, None, None)


def compare_outputs(
    engine: str, role: str, precision: str, wanted: Outputs, given: Outputs, undecided: Undecided | None = None
) -> list[OutputRow]:
    """Compare a role's outputs on an engine with PyTorch's, a row per output.

    Args:
        engine, role, precision: what the rows are of.
        wanted, given: PyTorch's outputs and the engine's, by name.
        undecided: ``Decisions`` of a coarse decoder, ``Answers`` of a refiner with fine matching, else None.
    """
    return [
        OutputRow(**vars(found), engine=engine, role=role, precision=precision)
        for found in compare(wanted, given, undecided)
    ]
