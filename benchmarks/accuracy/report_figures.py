"""The report's figures: matplotlib as SVG within the page, in the page's own text colour."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from benchmarks.accuracy import metrics, reliability
from benchmarks.accuracy.evaluate import Evaluation

INK = "#010203"
"""Stands for the page's text colour, and is replaced by it."""
COLORS = ("#d97706", "#0891b2", "#7c5cff", "#16a34a")
"""Of about the same contrast on white and on black."""
SIZE = (4.6, 3.4)


def recall_figure(evaluation: Evaluation, error: str) -> str:
    """Draw recall over thresholds, "mssd" or "mspd", as SVG.

    All targets are in bold with BOP's ten thresholds as dots, each object thin.
    """
    total, objects = evaluation.total, evaluation.per_object
    marks, recalls = metrics.SHARES, total.recall_mssd
    values = np.array([t.mssd / t.diameter for t in evaluation.targets])
    label, color, area = "threshold on MSSD, diameters", COLORS[0], total.ar_mssd
    if error == "mspd":
        marks, recalls = metrics.PIXELS, total.recall_mspd
        values = np.array([t.mspd_640 for t in evaluation.targets])
        label, color, area = "threshold on MSPD, pixels of an image 640 wide", COLORS[1], total.ar_mspd
    with _style(f"recall {error}"):
        figure = reliability.new_figure(*SIZE)
        axes = _axes(figure)
        grid = np.linspace(0.0, marks[-1], 201)
        for scores in objects.values():
            axes.plot(marks, getattr(scores, f"recall_{error}"), color=INK, alpha=0.22, linewidth=0.8)
        if values.size:
            axes.plot(grid, (values[:, None] < grid).mean(axis=0), color=color, linewidth=2.2)
        axes.plot(marks, recalls, "o", color=color, markersize=5)
        axes.set_xlim(0, marks[-1] * 1.02)
        axes.set_ylim(-0.02, 1.02)
        axes.set_xlabel(label)
        axes.set_ylabel("recall")
        return _svg(figure, f"Recall over the {label}; the average of the ten dots is {area:.3f}")


def reliability_figure(curve: reliability.Reliability) -> str:
    """Draw the reliability curve as SVG."""
    with _style("reliability"):
        figure = reliability.new_figure(*SIZE)
        axes = _axes(figure)
        reliability.draw(axes, {"score": curve}, COLORS[2:3], INK)
        return _svg(figure, "Share of right poses over the score, with 95 % intervals")


def stage_figure(milliseconds: Mapping[str, float]) -> str:
    """Time of an object by stage, as SVG."""
    with _style("stages"):
        figure = reliability.new_figure(SIZE[0], 0.6 + 0.42 * len(milliseconds))
        axes = _axes(figure)
        names = list(milliseconds)
        bars = axes.barh(names, [milliseconds[name] for name in names], color=COLORS[3], height=0.6)
        axes.bar_label(bars, labels=[_milliseconds(ms) for ms in milliseconds.values()], padding=4, color=INK)
        axes.invert_yaxis()
        axes.set_xlim(0, 1.25 * max([*milliseconds.values(), 1e-9]))
        axes.set_xlabel("milliseconds an object, median")
        axes.grid(axis="y", visible=False)
        return _svg(figure, "Milliseconds an object by stage")


def _milliseconds(value: float) -> str:
    """Three digits, and no power of ten for what takes seconds."""
    return f"{value:.3g} ms" if value < 1000 else f"{value:,.0f} ms"


@contextlib.contextmanager
def _style(salt: str) -> Iterator[None]:
    """Settings for the time of drawing; ids differ from figure to figure, as they share a page."""
    reliability.new_figure(1, 1)  # says what is missing
    import matplotlib

    colors = dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK)
    fixed: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": salt, "font.family": "sans-serif", "font.size": 10}
    settings: Any = {**colors, **fixed}
    with matplotlib.rc_context(settings):
        yield


def _axes(figure: Any) -> Any:
    axes = figure.subplots()
    axes.patch.set_alpha(0.0)
    axes.grid(color=INK, alpha=0.15, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _svg(figure: Any, described: str) -> str:
    """The figure as an element of the page that grows with its column."""
    text = io.StringIO()
    figure.patch.set_alpha(0.0)
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<svg ([^>]*?)\bwidth="[^"]*"', r"<svg \1", svg, count=1)
    svg = re.sub(r'<svg ([^>]*?)\bheight="[^"]*"', r"<svg \1", svg, count=1)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{described}" ', 1)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1; font-family: inherit", svg)
    return svg.replace(INK, "currentColor")
