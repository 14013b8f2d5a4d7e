"""How far an engine's outputs lie from PyTorch's, output by output.

The relative difference of an output is that of all its values over the whole set as one vector, in two norms:
max |a - b| / max |b|, which a single bad value shows in, and |a - b| / |b| in L2, which a difference everywhere shows
in though it is small against the largest value. Both have to keep the bound. (Element by element there is no scale
where values pass through zero. Nor is the largest difference held against the root mean square: this asks for more than
float32 has. The worst token of an ``xs`` encoder differs by 1.2e-4 of it between PyTorch's own float32 and float64,
since the normalisation of a flat image region magnifies rounding; ONNX Runtime's by 0.6e-4. Of the largest value these
are 1.7e-5 and 0.9e-5.)

Two outputs of the coarse decoder are decisions: ``index`` (argmax) and the zeros of ``probability`` (no match wins).
Where PyTorch itself is undecided, because the two classes' logits lie nearer than twice the bound times the logits'
root mean square, either answer is right and the element counts as a *tie*; a tie is counted only where the answers
differ. Any other changed decision is a *flip*: of ``index``, the difference is the share of flips and the bound is 0;
in ``probability`` it is a jump to or from 0, which no bound lets pass. ``offset`` belongs to the chosen class and is
compared where both chose the same.

The refiner decides too, where it matches finely: which window around the best feature a cell's match is the mean of.
No output says how, and a window that moves changes the flow of the cells around, and through the dense head, a little,
all outputs far around. So PyTorch gives both answers, the one with the window around the second best as well, wherever
the two features' logits lie as near as above; a value that is off by more than the bound, but lies between the two
answers, is a tie.

More than 1 % of ties fail an output: they would hide too much.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

FP32_BOUND = 1e-4
"""On the relative difference of every output of an FP32 graph."""
FP16_SCORE_BOUND = 1e-2
"""Likewise of the selector's score in FP16; FP16 outputs that a pose is computed from are judged by the pose."""
MAX_TIES = 0.01
"""Share of an output's elements that may be ties."""


@dataclass(frozen=True)
class Decisions:
    """What PyTorch's coarse decoder decided, and by how much: all gaps in logits (regression: patches)."""

    index_gap: Array  # float64 [N,T,T]: how far patch k lies behind the chosen one
    match_gap: Array  # float64 [N,T]: |best class - no match|
    index_tie: float  # a gap up to here is undecided
    match_tie: float


@dataclass(frozen=True)
class Answers:
    """Between what a refiner's outputs lie, by name, if windows that PyTorch is undecided about are moved, or not."""

    low: Mapping[str, Array]
    high: Mapping[str, Array]


@dataclass(frozen=True)
class OutputRow:
    """One line of the report. difference: the largest; relative = difference / scale, scale = max |b|; relative_l2 =
    |a - b| / |b|. Of ``index``: the number of flips, both times their share, and no scale.
    """

    engine: str
    role: str
    output: str
    precision: str
    difference: float
    scale: float
    relative: float
    relative_l2: float
    ties: int
    elements: int
    bound: float | None  # on both relative differences; None = reported only

    @property
    def passed(self) -> bool:
        """False for NaN too."""
        return self._within and (self.bound is None or self.ties <= MAX_TIES * self.elements)

    @property
    def _within(self) -> bool:
        both = (self.relative, self.relative_l2)
        if self.bound is None:
            return all(map(math.isfinite, both))
        return all(value <= self.bound for value in both)

    @property
    def complaint(self) -> str:
        """What is wrong, if it did not pass."""
        where = f"{self.engine}: {self.role}/{self.output} ({self.precision})"
        if self._within:
            return f"{where}: {self.ties} of {self.elements} elements are ties, wanted at most {MAX_TIES:.0%}"
        wanted = "a finite one" if self.bound is None else f"at most {self.bound:g}"
        return f"{where}: relative difference {self.relative:.3g} (L2: {self.relative_l2:.3g}), wanted {wanted}"


def bound_of(role: str, precision: str) -> float | None:
    """The bound on the relative difference of a role's outputs; None where the poses decide."""
    if precision == "fp32":
        return FP32_BOUND
    return FP16_SCORE_BOUND if role == "selector" else None


def compare_outputs(
    engine: str,
    role: str,
    precision: str,
    reference: Mapping[str, Array],
    given: Mapping[str, Array],
    decisions: Decisions | None = None,
    answers: Answers | None = None,
) -> list[OutputRow]:
    """A row per output. decisions: of the coarse decoder; answers: of a refiner with fine matching.

    A missing output, shape or dtype counts as infinite.
    """
    bound = bound_of(role, precision)
    rows = []
    for name, wanted in reference.items():
        got = given.get(name)
        ties, elements = 0, wanted.size
        if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
            difference = scale = relative = relative_l2 = math.inf
        elif decisions is not None and name == "index":
            flips, ties = _flips(wanted, got, decisions)
            difference, scale = float(flips), math.nan
            relative = relative_l2 = flips / max(elements, 1)
        else:
            keep = np.ones(wanted.shape, bool)
            if decisions is not None:
                keep, ties = _comparable(name, reference, given, decisions)
            elif answers is not None:
                keep, ties = _decided(wanted, got, answers.low[name], answers.high[name])
            gap = got[keep].astype(np.float64) - wanted[keep].astype(np.float64)
            difference, scale = _largest(gap), _largest(wanted)
            relative, relative_l2 = _ratio(difference, scale), _ratio(_length(gap), _length(wanted))
        limit = 0.0 if name == "index" and bound is not None else bound
        rows.append(
            OutputRow(engine, role, name, precision, difference, scale, relative, relative_l2, ties, elements, limit)
        )
    return rows


def _flips(wanted: Array, got: Array, decisions: Decisions) -> tuple[int, int]:
    """Changed decisions of the index: (flips, ties)."""
    patches = decisions.index_gap.shape[-1]
    real = (got >= 0) & (got < patches)
    gap = np.take_along_axis(decisions.index_gap, np.where(real, got, 0)[..., None].astype(np.int64), axis=-1)[..., 0]
    changed = got != wanted
    tie = changed & real & (gap <= decisions.index_tie)
    return int((changed & ~tie).sum()), int(tie.sum())


def _comparable(
    name: str, reference: Mapping[str, Array], given: Mapping[str, Array], decisions: Decisions
) -> tuple[Array, int]:
    """Elements of ``probability`` or ``offset`` that can be compared, and how many are left out as ties."""
    wanted, got = reference[name], given[name]
    if name == "probability":
        tie = ((wanted > 0) != (got > 0)) & (decisions.match_gap <= decisions.match_tie)
        return ~tie, int(tie.sum())
    same = np.ones(wanted.shape[:2], bool)
    if "index" in given and given["index"].shape == same.shape:
        same = given["index"] == reference["index"]
    # Flips are counted with the index; here both kinds are left out.
    keep = np.broadcast_to(same[..., None], wanted.shape)
    return keep, 0


def _decided(wanted: Array, got: Array, low: Array, high: Array) -> tuple[Array, int]:
    """Elements of a refiner's output that no window's tie accounts for, and how many are left out as ties."""
    limit = FP32_BOUND * _largest(wanted)
    off = np.abs(got.astype(np.float64) - wanted) > limit
    tie = off & (got >= low - limit) & (got <= high + limit)
    return ~tie, int(tie.sum())


def _largest(values: Array) -> float:
    """max |a|; NaN if anything is NaN, 0 of nothing."""
    return float(np.abs(values.astype(np.float64)).max()) if values.size else 0.0


def _length(values: Array) -> float:
    return float(np.linalg.norm(values.astype(np.float64).reshape(-1)))


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0  # an output that is zero everywhere has no scale, and nothing but equality passes
    return difference / scale if scale > 0 else (math.nan if math.isnan(difference) else math.inf)
