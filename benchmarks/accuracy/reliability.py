"""Does the score say how far a pose is to be believed? ``python -m benchmarks.accuracy.reliability``.

A pose counts as right if its MSSD is below a share of the object's diameter, a tenth unless another is asked for. Poses
are sorted by score into bins of equal count; the share of right ones per bin, with its binomial uncertainty, is the
reliability curve. The area under the ROC curve (AUROC) is the probability that a right pose scores higher than a wrong
one, ties counting one half; the expected calibration error (ECE) is how far the curve is from the diagonal.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.accuracy.calibration import auroc, bin_edges, calibration_error, intervals, rank_correlation, wilson
from benchmarks.common import command, print_table
from coop_edge.base.files import atomic_write
from coop_edge.errors import BackendUnavailable, InputError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from benchmarks.accuracy.evaluate import Evaluation

RIGHT = 0.1
"""Of the diameter: a pose whose MSSD is below is right, unless another share is asked for."""
CORRECT_HELP = f"poses are right whose MSSD is below so many diameters (default {RIGHT})"
BINS = 10


@dataclass(frozen=True)
class Bin:
    """Poses with scores in [low, high]; share: of right ones; lower, upper: its Wilson interval, 95 %."""

    low: float
    high: float
    mean_score: float
    count: int
    right: int
    share: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Reliability:
    """correct: diameters below which an error is right; count: poses; right: those of them; auroc, ece (see
    ``calibration``) with their 95 % intervals, rank_correlation (Spearman, of score and smallness of the error): None
    where they are undefined; falls: neighbouring bins whose share
    falls as the score rises, and clear_falls: those of them whose intervals do not even touch."""

    correct: float
    count: int
    right: int
    bins: tuple[Bin, ...]
    auroc: float | None
    auroc_interval: tuple[float, float] | None
    ece: float | None
    ece_interval: tuple[float, float] | None
    rank_correlation: float | None
    falls: int
    clear_falls: int

    @property
    def monotone(self) -> bool:
        """Tell whether no bin has a smaller share than the one below it."""
        return self.falls == 0

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self) | {"monotone": self.monotone}


def reliability(
    scores: Sequence[float], errors: Sequence[float], *, bins: int = BINS, correct: float = RIGHT
) -> Reliability:
    """Compare n poses' ``scores`` with their errors in diameters (MSSD; infinite is legal). n = 0 is legal.

    bins: at most so many; equal scores stay in one bin. correct: errors below are right.

    Raises:
        InputError: there is not one error per score, one is not a number, or an option is out of its range.
    """
    s, e = np.asarray(scores, np.float64).reshape(-1), np.asarray(errors, np.float64).reshape(-1)
    if s.shape != e.shape:
        raise InputError(f"errors: wanted one per score, got {len(e)} for {len(s)} scores")
    if not np.isfinite(s).all() or np.isnan(e).any() or (e < 0).any():
        raise InputError("scores, errors: wanted finite scores, and errors >= 0 that are not NaN")
    if bins < 1:
        raise InputError(f"bins: wanted at least 1, got {bins}")
    check_correct(correct)
    order = np.argsort(s, kind="stable")
    s, e = s[order], e[order]
    right = e < correct
    found = tuple(_bin(s[a:b], right[a:b]) for a, b in itertools.pairwise(bin_edges(s, bins)))
    of_auroc, of_ece = intervals(s, right, bins)
    pairs = list(itertools.pairwise(found))
    return Reliability(
        correct=correct,
        count=len(s),
        right=int(right.sum()),
        bins=found,
        auroc=auroc(s, right),
        auroc_interval=of_auroc,
        ece=calibration_error(s, right, bins),
        ece_interval=of_ece,
        rank_correlation=rank_correlation(s, -e),
        falls=sum(after.share < before.share for before, after in pairs),
        clear_falls=sum(after.upper < before.lower for before, after in pairs),
    )


def check_correct(correct: float) -> None:
    """Raise InputError unless ``correct`` is a share of the diameter that an error can lie below."""
    if not (math.isfinite(correct) and correct > 0.0):
        raise InputError(f"correct: wanted a share of the diameter above 0, such as {RIGHT}, got {correct!r}")


def of_evaluation(evaluation: Evaluation, *, bins: int = BINS, correct: float = RIGHT) -> Reliability:
    """Return the reliability of the poses that were given; instances without one have no score and take no part."""
    given = [t for t in evaluation.targets if t.row is not None]
    scores = [t.row.score for t in given if t.row is not None]
    return reliability(scores, [t.mssd / t.diameter for t in given], bins=bins, correct=correct)


def draw(axes: Axes, curves: Mapping[str, Reliability], colors: Sequence[str] = (), ink: str = "black") -> None:
    """Draw the curves, by name, into matplotlib axes; the diagonal is a score that is the probability."""
    axes.plot([0, 1], [0, 1], color=ink, alpha=0.35, linewidth=1, linestyle=(0, (2, 3)))
    for i, (name, curve) in enumerate(curves.items()):
        color = colors[i % len(colors)] if colors else f"C{i}"
        x, y = [b.mean_score for b in curve.bins], [b.share for b in curve.bins]
        low = [b.share - b.lower for b in curve.bins]
        high = [b.upper - b.share for b in curve.bins]
        axes.errorbar(
            x, y, yerr=[low, high], color=color, marker="o", markersize=4, capsize=2, linewidth=1.5, label=name
        )
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("score (mean of a bin)")
    shares = ", ".join(f"{share:g}" for share in sorted({curve.correct for curve in curves.values()}))
    axes.set_ylabel(f"share with MSSD below {shares} diameters")
    if len(curves) > 1:
        axes.legend(frameon=False)


def new_figure(width: float, height: float) -> Any:
    """Make a matplotlib figure of its own, inches, without the global state of pyplot.

    Raises:
        BackendUnavailable: matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendUnavailable(f"figures want matplotlib: {error}; install it: pip install matplotlib") from error
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def write_png(path: str | os.PathLike[str], curves: Mapping[str, Reliability], *, dpi: int = 150) -> None:
    """Write the reliability curves, by name, as a picture."""
    figure = new_figure(5.6, 4.4)
    axes = figure.subplots()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes, curves)
    axes.set_title("\n".join(f"{name}: {_said(curve)}" for name, curve in curves.items()), fontsize=6)
    with atomic_write(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def print_curve(name: str, curve: Reliability) -> None:
    """Print a curve's bins as a table."""
    lines = [(f"{b.low:.3f} to {b.high:.3f}", b.count, b.share, f"{b.lower:.2f} to {b.upper:.2f}") for b in curve.bins]
    print_table(f"{name}: {_said(curve)}, {curve.falls} falls", lines, ("score", "poses", "right", "95 %"))


def _bin(scores: np.ndarray, right: np.ndarray) -> Bin:
    count, n = len(scores), int(right.sum())
    low, high = wilson(n, count)
    return Bin(float(scores[0]), float(scores[-1]), float(scores.mean()), count, n, n / count, low, high)


def _said(curve: Reliability) -> str:
    figures = (
        f"AUROC {with_interval(curve.auroc, curve.auroc_interval)}, ECE {with_interval(curve.ece, curve.ece_interval)}"
    )
    return f"{curve.count} poses, {curve.right} right (MSSD < {curve.correct:g} d), {figures}"


def with_interval(value: float | None, interval: Sequence[float] | None) -> str:
    """Return a figure with its interval as a text."""
    if value is None or interval is None:
        return "undefined"
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"


@command
def main(arguments: list[str] | None = None) -> int:
    """Run the command. Returns 0, or 2 with one line on standard error."""
    from benchmarks.accuracy.dataset import BopDataset
    from benchmarks.accuracy.evaluate import evaluate
    from benchmarks.accuracy.results import read_rows

    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy.reliability",
        description="Does the score say how far a pose is to be believed?",
    )
    parser.add_argument("dataset", metavar="DATASET", help="folder of the data set, in BOP layout")
    parser.add_argument("poses", metavar="NAME=CSV", nargs="+", help="results in BOP's form, and what to call them")
    parser.add_argument("--split", default="test", help="its folder of scenes (default test)")
    parser.add_argument("--targets", metavar="FILE", help="targets file (default DATASET/test_targets_bop19.json)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--bins", type=int, default=BINS, help=f"of equal count (default {BINS})")
    parser.add_argument("--correct", type=float, default=RIGHT, metavar="SHARE", help=CORRECT_HELP)
    parser.add_argument("--png", metavar="PNG", help="the curves as a picture")
    options = parser.parse_args(arguments)
    check_correct(options.correct)
    dataset = BopDataset(options.dataset, options.split, targets=options.targets, limit=options.limit)
    curves = {}
    for text in options.poses:
        name, equals, path = text.partition("=")
        rows = read_rows(path if equals else text)
        curves[name if equals else os.path.basename(text)] = of_evaluation(
            evaluate(dataset, rows), bins=options.bins, correct=options.correct
        )
    for name, curve in curves.items():
        print_curve(name, curve)
    if options.png:
        write_png(options.png, curves)
    return 0


if __name__ == "__main__":
    sys.exit(main())
