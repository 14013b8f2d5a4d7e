"""The table of the ablations in Markdown, and a plot: mean and spread over seeds, and what each change does to them."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.ablations.plan import QUESTIONS, VARIANTS, Question
from coop_edge.base.files import atomic_write

Run = dict[str, Any]


@dataclass(frozen=True)
class Figure:
    """How a figure is shown: times ``scale``, with ``digits`` behind the point."""

    name: str
    title: str
    scale: float = 100.0
    digits: int = 1
    better: int = 1  # -1: less is better


FIGURES = {
    "coarse": (
        Figure("class_accuracy", "right patch, %"),
        Figure("within_5px", "match within 5 px, %"),
        Figure("within_16px", "within 16 px, %"),
        Figure("match_recall", "matches found, %"),
        Figure("no_match_accuracy", "*no match* found, %"),
        Figure("pose_recall_10", "pose within 10 %, %"),
        Figure("pose_recall_20", "pose within 20 %, %"),
        Figure("template_auroc", "templates, AUROC", 1.0, 3),
        Figure("template_near", "best template near, %"),
    ),
    "refiner": (
        Figure("flow_epe", "flow error, px", 1.0, 2, -1),
        Figure("error_before", "pose error at the start, % of diameter", 100.0, 1, -1),
        Figure("free_error_after_1", "pose error after 1 iteration", 100.0, 1, -1),
        Figure("free_error_after_5", "pose error after 5", 100.0, 1, -1),
        Figure("free_within_10_percent_5", "pairs within 10 % after 5, %"),
        Figure("error_after_1", "anchored: after 1", 100.0, 1, -1),
        Figure("error_after_5", "anchored: after 5", 100.0, 1, -1),
        Figure("within_10_percent_5", "anchored: pairs within 10 %, %"),
        Figure("flow_calibration_error", "flow calibration error", 1.0, 3, -1),
        Figure("certainty_accuracy", "visibility right, %"),
        Figure("certainty_calibration_error", "its calibration error", 1.0, 3, -1),
    ),
}
SETS = (("hard", ""), ("easy", "easy_"))


def write_report(path: Path, runs: Sequence[Run]) -> str:
    """Write ``path`` as .md and .png, and return the text of the first."""
    text = markdown(runs)
    with atomic_write(path.with_suffix(".md")) as file:
        file.write(text.encode())
    with atomic_write(path.with_suffix(".png")) as file:
        file.write(plot(runs))
    return text


def markdown(runs: Sequence[Run]) -> str:
    """Return a section per question that has runs: figures, then differences from the first variant, seed by seed."""
    parts = ["# Ablations\n", *[_origin(role, runs) for role in FIGURES if any(r["role"] == role for r in runs)]]
    parts.append(
        "Means over seeds ± standard deviation; after a semicolon the mean difference from the first row, seed by seed "
        "(same pairs, and the same first weights in all that both have), and in how many seeds the variant did better. "
        "All on held-out objects; hard pairs are occluded, freely lit and coloured, easy ones are not. "
        "Pose errors are the paper's, of a solver weighted by the confidence; anchored, the estimator's, with a prior, "
        "against which the flow's scale is taken at its word.\n"
    )
    parts += [_section(question, runs) for question in QUESTIONS if _answered(question, runs)]
    return "\n".join(parts)


def summary(values: Sequence[float], figure: Figure) -> str:
    """Format mean ± standard deviation; of one value the value, of none a dash."""
    if not len(values):
        return "–"
    shown = np.asarray(values) * figure.scale
    mean = f"{shown.mean():.{figure.digits}f}"
    return mean if len(shown) == 1 else f"{mean} ± {shown.std(ddof=1):.{figure.digits}f}"


def difference(base: dict[int, float], other: dict[int, float], figure: Figure) -> str:
    """Format the mean difference over the seeds that both have, and in how many of them ``other`` is better."""
    shared = sorted(base.keys() & other.keys())
    if not shared:
        return "–"
    change = np.array([other[s] - base[s] for s in shared]) * figure.scale
    wins = int((change * figure.better > 0).sum())
    return f"{change.mean():+.{figure.digits}f} ({wins}/{len(shared)})"


def figures_of(runs: Sequence[Run], variant: str, name: str) -> dict[int, float]:
    """Return a figure of a variant by seed, where there is one."""
    return {r["seed"]: r["figures"][name] for r in runs if r["variant"] == variant and name in r["figures"]}


def plot(runs: Sequence[Run]) -> bytes:
    """Draw a panel per question: its key figure of every run (dots) and the means (bars), hard and easy pairs. PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Canvas

    questions = [q for q in QUESTIONS if _answered(q, runs)]
    canvas = Canvas(figsize=(3.6 * max(len(questions), 1), 3.8), layout="constrained")
    panels = canvas.subplots(1, max(len(questions), 1), squeeze=False)[0]
    for axes, question in zip(panels[: len(questions)], questions, strict=True):
        figure = next(f for f in FIGURES[VARIANTS[question.variants[0]].role] if f.name == question.key)
        for k, (label, prefix) in enumerate(SETS):
            for i, variant in enumerate(question.variants):
                values = [v * figure.scale for v in figures_of(runs, variant, prefix + question.key).values()]
                if not values:
                    continue
                x, color = i + 0.36 * (k - 0.5), f"C{k}"
                axes.bar(x, np.mean(values), 0.32, color=color, alpha=0.35, label=f"{label} pairs" if i == 0 else None)
                axes.plot([x] * len(values), values, ".", color=color, markersize=7)
        axes.set_xticks(range(len(question.variants)), [v.replace("_", " ") for v in question.variants], fontsize=8)
        axes.set_title(question.title.replace("*", ""), fontsize=9)
        axes.set_ylabel(f"{figure.title} ({'more' if figure.better > 0 else 'less'} is better)", fontsize=8)
        if figure.name == "template_auroc":
            axes.axhline(0.5, color="grey", linewidth=0.8, linestyle=":")  # chance
        axes.grid(axis="y", alpha=0.3)
    canvas.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    data = io.BytesIO()
    FigureCanvasAgg(canvas).print_png(data)
    return data.getvalue()


def _answered(question: Question, runs: Sequence[Run]) -> bool:
    """Whether at least one run of a variant of its own, not of the one that all share, is there."""
    there = {r["variant"] for r in runs}
    return question.variants[0] in there and bool(there & set(question.variants[1:]))


def _section(question: Question, runs: Sequence[Run]) -> str:
    figures = FIGURES[VARIANTS[question.variants[0]].role]
    lines = [
        f"## {question.title}\n",
        "| variant | pairs | " + " | ".join(f.title for f in figures) + " |",
        "|" + "---|" * (len(figures) + 2),
    ]
    for label, prefix in SETS:
        base = {f.name: figures_of(runs, question.variants[0], prefix + f.name) for f in figures}
        for variant in question.variants:
            found = {f.name: figures_of(runs, variant, prefix + f.name) for f in figures}
            cells = [summary(list(found[f.name].values()), f) for f in figures]
            if variant != question.variants[0]:
                changes = [difference(base[f.name], found[f.name], f) for f in figures]
                pairs = zip(cells, changes, strict=True)
                cells = [f"{cell}; {change}" if change != "–" else cell for cell, change in pairs]
            lines.append("| " + " | ".join([VARIANTS[variant].label, label, *cells]) + " |")
    return "\n".join([*lines, ""])


def _origin(role: str, runs: Sequence[Run]) -> str:
    """How the runs of a role were made; what differs among them as a range or a list."""
    mine = [r for r in runs if r["role"] == role]
    shared = mine[0]["options"]
    sizes, minutes = [r["parameters"] / 1e6 for r in mine], [r["minutes"] for r in mine]
    lines = [
        f"**{role.capitalize()}**, {shared['size']}, {_listed(f'{n:.2f}' for n in sizes)} M parameters",
        f"{mine[0]['samples']} pairs per run ({shared['steps']} steps of {shared['batch_size']})",
        f"hardness up to {shared['hardness']} after {shared['ramp']} pairs",
        f"started from `{shared['init']}`" if shared["init"] else "from scratch",
        _listed(r["data"] for r in mine),
        f"{len(mine)} runs of {min(minutes):.1f} to {max(minutes):.1f} minutes",
        "seeds " + ", ".join(str(s) for s in sorted({r["seed"] for r in mine})),
        _listed(f"{r['hardware']['cpu']}, {r['hardware']['cores']} cores, on {r['device']}" for r in mine),
        "code " + _listed(str(r["code"]) for r in mine),
    ]
    return "; ".join(lines) + ".\n"


def _listed(words: Iterable[str]) -> str:
    return " or ".join(sorted(set(words)))
