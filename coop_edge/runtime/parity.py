"""Decides whether two computations of one network give the same numbers: the one definition, for plans and exports.

The difference of an output is that of all its values as one vector, relative to the reference's, in two norms:
max |a - b| / max |b|, which shows a single bad value, and |a - b| / |b| in L2, which shows small ones everywhere.
A value that is not finite, a missing output, and another shape or dtype make it infinite. (Element by element there is
no scale where values pass through zero. Nor is the largest difference held against the root mean square, which asks for
more than float32 has: the worst token of an ``xs`` encoder differs by 1.2e-4 of it between PyTorch's own float32 and
float64, since the normalisation of a flat image region magnifies rounding; ONNX Runtime's by 0.6e-4. Relative to the
largest value these are 1.7e-5 and 0.9e-5.)

A network also decides, between classes or windows. Where the reference is undecided either answer is right: such an
element is a *tie*, and is left out of the differences. Ties are counted only where the answers differ, and a
``Tolerance`` limits their share, because too many would hide too much. An integer output holds decisions alone: its
difference is the number of *flips*, changes that are no ties, and its relative difference their share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

Array = np.ndarray[Any, Any]
Outputs = Mapping[str, Array]
"""Outputs of a network by name, each [N,...]."""


class Undecided(Protocol):
    """Knows where the reference's decisions may go either way."""

    def ties(self, name: str, wanted: Outputs, given: Outputs) -> tuple[Array, Array]:
        """Return two bool arrays of the shape of output ``name``: elements to leave out, and those that count as ties.

        What is counted is also left out.

        Args:
            wanted: outputs of the reference and of the network under test.
            given: outputs of the reference and of the network under test.
        """


@dataclass(frozen=True)
class Difference:
    """How far one output lies from the reference's.

    Attributes:
        difference: max |a - b|; of an integer output the number of flips.
        scale: max |b|; NaN of an integer output.
        relative: in the two norms; of an integer output both are the share of flips.
        relative_l2: in the two norms; of an integer output both are the share of flips.
        elements: how many values the output has, ties included.
    """

    output: str
    difference: float
    scale: float
    relative: float
    relative_l2: float
    ties: int
    elements: int

    @property
    def of_decisions(self) -> bool:
        """Tell whether the output is one of integers."""
        return math.isnan(self.scale)


@dataclass(frozen=True)
class Tolerance:
    """The largest differences that pass. A bound of None passes every finite difference.

    Attributes:
        relative: bounds on an output's differences; an integer output that has either may not flip at all.
        relative_l2: bounds on an output's differences; an integer output that has either may not flip at all.
        ties: bound on their share of an output's elements, None for no bound.
    """

    relative: float | None
    relative_l2: float | None
    ties: float | None

    def complaint(self, found: Difference) -> str:
        """Return what is wrong with a difference, to be read after the output's name; "" if it passes."""
        values = (found.relative, found.relative_l2)
        bounds = [self.relative, self.relative_l2]
        if found.of_decisions:
            bounds = [None if bound is None else 0.0 for bound in bounds]
        if not all(map(_within, values, bounds)):
            limits = dict.fromkeys(f"{bound:g}" for bound in bounds if bound is not None)
            wanted = f"at most {' and '.join(limits)}" if limits else "a finite one"
            return f"relative difference {values[0]:.3g} (L2: {values[1]:.3g}), wanted {wanted}"
        if self.ties is not None and found.ties > self.ties * found.elements:
            return f"{found.ties} of {found.elements} elements are ties, wanted at most {100 * self.ties:g}%"
        return ""


class AnyDecision:
    """Takes every changed decision of the coarse decoder for a tie, for want of the logits behind the decisions.

    A decision is the match of a query patch, or that it has none. It is counted once, with ``index``; the other outputs
    are left out where it has changed.
    """

    def ties(self, name: str, wanted: Outputs, given: Outputs) -> tuple[Array, Array]:
        """Return which differing decisions may differ: all of them, for this rule."""
        ours, theirs = (np.where(outputs["probability"] > 0, outputs["index"], -1) for outputs in (wanted, given))
        changed = ours != theirs
        if name == "index":
            return changed | (ours == -1), changed  # where nothing matches, the index means nothing
        left_out = np.broadcast_to(changed.reshape(*changed.shape, *[1] * (wanted[name].ndim - 2)), wanted[name].shape)
        return left_out, np.zeros(wanted[name].shape, bool)


def compare(wanted: Outputs, given: Outputs, undecided: Undecided | None = None) -> list[Difference]:
    """Compare outputs with those of a reference.

    Args:
        wanted: outputs of the reference.
        given: outputs of the network under test for the same inputs.
        undecided: knows the ties; None: there are none.

    Returns:
        One difference for each output of the reference.
    """
    return [_difference(name, wanted, given, undecided) for name in wanted]


def _difference(name: str, wanted: Outputs, given: Outputs, undecided: Undecided | None) -> Difference:
    reference, got = wanted[name], given.get(name)
    if got is None or got.shape != reference.shape or got.dtype != reference.dtype:
        return Difference(name, math.inf, math.inf, math.inf, math.inf, 0, reference.size)
    keep, ties = np.ones(reference.shape, bool), 0
    if undecided is not None:
        left_out, counted = undecided.ties(name, wanted, given)
        finite = np.isfinite(got)
        keep, ties = ~(left_out & finite), int((counted & finite).sum())
    if np.issubdtype(reference.dtype, np.integer):
        flips = int((got != reference)[keep].sum())
        share = flips / max(reference.size, 1)
        return Difference(name, float(flips), math.nan, share, share, ties, reference.size)
    gap = got[keep].astype(np.float64) - reference[keep].astype(np.float64)
    difference, scale = largest(gap), largest(reference)
    relative, relative_l2 = _ratio(difference, scale), _ratio(_length(gap), _length(reference))
    return Difference(name, difference, scale, relative, relative_l2, ties, reference.size)


def largest(values: Array) -> float:
    """Return max |a|: infinity if any value is not finite, 0 of nothing."""
    if not np.isfinite(values).all():
        return math.inf
    return float(np.abs(values.astype(np.float64)).max()) if values.size else 0.0


def _length(values: Array) -> float:
    return float(np.linalg.norm(values.astype(np.float64).reshape(-1)))


def _ratio(difference: float, scale: float) -> float:
    if difference == 0:
        return 0.0  # an output that is zero everywhere has no scale, and nothing but equality passes
    return difference / scale if math.isfinite(difference) and 0 < scale < math.inf else math.inf


def _within(value: float, bound: float | None) -> bool:
    """Return whether a difference keeps its bound; NaN does not."""
    return math.isfinite(value) if bound is None else value <= bound
