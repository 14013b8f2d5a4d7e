"""One self-contained page about a run: figures, tables, pictures of what failed. Nothing is fetched from anywhere."""

from __future__ import annotations

import html
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.accuracy import report_cases, report_figures
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evaluate import Evaluation, TargetResult
from benchmarks.accuracy.records import Box, ImageKey
from benchmarks.accuracy.reliability import Reliability, of_evaluation, with_interval
from benchmarks.accuracy.results import ImageResult
from benchmarks.accuracy.summary import summary as summarise
from coop_edge.base.files import atomic_write

WORST = 24
TYPICAL = 12

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1b1f24; --soft: #5b6470; --line: #d9dee4; --card: #f5f7f9;
  --estimate: #b45309; --truth: #0e7490; }
@media (prefers-color-scheme: dark) { :root { --page: #14171b; --ink: #e6e9ed; --soft: #9aa4b0; --line: #343b44;
  --card: #1d2228; --estimate: #ffb000; --truth: #00c8ff; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.2rem; max-width: 72rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .3rem; } h2 { font-size: 1.2rem; margin: 2.2rem 0 .6rem; }
p { margin: .4rem 0; max-width: 46rem; } .soft { color: var(--soft); }
.grid { display: grid; gap: .8rem; }
.tiles { grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); margin: 1rem 0; }
.tile { background: var(--card); border-radius: .5rem; padding: .7rem .9rem; }
.tile b { display: block; font-size: 1.5rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile span { color: var(--soft); font-size: .85rem; }
.figures { grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr)); }
figure { margin: 0; min-width: 0; } figure svg { display: block; width: 100%; height: auto; }
figcaption { color: var(--soft); font-size: .82rem; line-height: 1.35; margin-top: .3rem; overflow-wrap: anywhere; }
figcaption b { color: var(--ink); font-weight: 600; }
.cases { grid-template-columns: repeat(auto-fill, minmax(9.5rem, 1fr)); }
.cases img { display: block; width: 100%; height: auto; border-radius: .4rem; }
.origin { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; font-size: .85rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--soft); font-weight: 600; font-size: .85rem; } th:first-child, td:first-child { text-align: left; }
td.wrap { white-space: normal; text-align: left; min-width: 14rem; } tr.all td { font-weight: 700; }
.estimate { color: var(--estimate); font-weight: 600; } .truth { color: var(--truth); font-weight: 600; }
"""


def write_report(
    path: str | os.PathLike[str],
    dataset: BopDataset,
    evaluation: Evaluation,
    *,
    images: Sequence[ImageResult] = (),
    boxes: Mapping[ImageKey, Sequence[Box]] | None = None,
    summary: Mapping[str, Any] | None = None,
    title: str = "",
    curve: Reliability | None = None,
    origin: str = "",
) -> None:
    """Write the page, whole or not at all.

    Args:
        path: file to write, .html.
        dataset, evaluation: what was measured, and how it came out.
        images, boxes: of the run, as for ``summary.summary``.
        summary: the result of it; made of ``images`` and ``boxes`` if None.
        title: what was measured; the name of the data set if empty.
        curve: reliability of the score; made of the evaluation if None.
        origin: a sentence on what code and machine it comes from.

    Raises:
        OSError: the file cannot be written.
        BackendUnavailable: matplotlib is missing.
    """
    said = summarise(dataset, evaluation, images, boxes) if summary is None else summary
    curve = of_evaluation(evaluation) if curve is None else curve
    bad = report_cases.worst(evaluation, WORST)
    usual = report_cases.typical(evaluation, TYPICAL, without=bad)
    overlays, reasons = report_cases.Overlays(dataset), report_cases.reasons_of(said)
    heading = title or f"Accuracy on {dataset.name}"
    parts = [
        f"<h1>{html.escape(heading)}</h1>",
        f'<p class="soft">{said["targets"]["instances"]} instances in {said["targets"]["images"]} images of '
        f"{html.escape(dataset.name)}, measured by the rules of the BOP challenge.</p>",
        _tiles(said, curve),
        _recalls(evaluation),
        _objects(said),
        _box_noise(said),
        _reliability(curve),
        _time(said["time"]),
        _misses(said),
        _cases("What fails", _WORST_NOTE, dataset, overlays, bad, reasons),
        _cases("What is typical", _TYPICAL_NOTE, dataset, overlays, usual, reasons),
        f'<p class="soft origin">{html.escape(origin)}</p>' if origin else "",
    ]
    page = (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(heading)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body>\n</html>\n"
    )
    with atomic_write(path) as file:
        file.write(page.encode())


_COLOURS = (
    '<span class="truth">Cyan</span> is the truth, <span class="estimate">amber</span> the estimate, unless it is too '
    "far off to be shown."
)
_WORST_NOTE = (
    "The targets that meet the fewest thresholds, the objects in turn; of equal ones the more visible first. "
    + _COLOURS
)
_TYPICAL_NOTE = (
    "Taken at equal distances from all other targets, in the order of their errors, the best first. " + _COLOURS
)


def _tiles(said: Mapping[str, Any], curve: Reliability) -> str:
    total = said["total"]
    ar = "AR" if total["ar_vsd"] is not None else "AR (mean of MSSD and MSPD)"
    tiles = [(_share(total["ar"]), ar), (_share(total["ar_mssd"]), "AR_MSSD"), (_share(total["ar_mspd"]), "AR_MSPD")]
    if total["ar_vsd"] is not None:
        tiles.append((_share(total["ar_vsd"]), "AR_VSD"))
    tiles.append((_share(total["add_recall"]), "ADD(-S) recall at 0.1 d"))
    if curve.auroc is not None:
        tiles.append((f"{curve.auroc:.2f}", "AUROC of the score"))
    if curve.ece is not None:
        tiles.append((f"{curve.ece:.2f}", "ECE of the score"))
    if said["time"]:
        tiles.append((_seconds(said["time"]["object_s"]["p50"]), "an object, median"))
    inner = "".join(f'<div class="tile"><b>{value}</b><span>{name}</span></div>' for value, name in tiles)
    return f'<div class="grid tiles">{inner}</div>'


def _recalls(evaluation: Evaluation) -> str:
    figures = "".join(f"<figure>{report_figures.recall_figure(evaluation, name)}</figure>" for name in ("mssd", "mspd"))
    note = "The dots are BOP's thresholds, their mean is the AR; the thin lines are the single objects."
    return f'<h2>Recall</h2><div class="grid figures">{figures}</div><p class="soft">{note}</p>'


def _objects(said: Mapping[str, Any]) -> str:
    vsd = said["total"]["ar_vsd"] is not None
    names = ["ar", "ar_mssd", "ar_mspd", *(["ar_vsd"] if vsd else []), "add_recall"]
    columns = ["object", "instances", "AR", "AR_MSSD", "AR_MSPD", *(["AR_VSD"] if vsd else []), "ADD(-S) 0.1 d"]

    def row(name: str, scores: Mapping[str, Any]) -> list[str]:
        return [name, str(scores["instances"]), *(_share(scores[key]) for key in names)]

    rows = [row(name, scores) for name, scores in said["per_object"].items()]
    table = _table(columns, [*rows, row("all", said["total"])], last="all")
    classes = [
        (f"{c['from']:.0%} to {c['to']:.0%}", str(c["instances"]), "-" if c["ar"] is None else _share(c["ar"]))
        for c in said["by_visibility"]
    ]
    visible = _table(["visible", "instances", "AR"], classes)
    return f"<h2>By object</h2>{table}<h2>By visible share</h2>{visible}"


def _box_noise(said: Mapping[str, Any]) -> str:
    noisy = said.get("box_noise", [])
    if not noisy:
        return ""
    names = ("ar", "ar_mssd", "ar_mspd")
    rows = [["as given", *(_share(said["total"][key]) for key in names), ""]]
    rows += [[each["noise"], *(_share(each[key]) for key in names), f"{each['change']:+.3f}"] for each in noisy]
    note = (
        "Shifts are shares of the box's sides in a random direction, the same for every length; sizes are factors on "
        "the sides. Boxes are cut off at the image's border."
    )
    table = _table(["boxes", "AR", "AR_MSSD", "AR_MSPD", "change of AR"], rows)
    return f'<h2>Boxes that are off</h2>{table}<p class="soft">{note}</p>'


def _reliability(curve: Reliability) -> str:
    head = "<h2>Is the score to be believed?</h2>"
    if not curve.count:
        return f"{head}<p>No pose was given.</p>"
    rank = "none" if curve.rank_correlation is None else f"{curve.rank_correlation:.2f}"
    area, off = with_interval(curve.auroc, curve.auroc_interval), with_interval(curve.ece, curve.ece_interval)
    steps = max(len(curve.bins) - 1, 0)
    falls = "rises from bin to bin" if curve.monotone else f"falls at {curve.falls} of {steps} steps between bins"
    clear = f", {curve.clear_falls} of them beyond the intervals" if curve.falls else ""
    text = (
        f"<p>{curve.right} of {curve.count} poses are right (MSSD below {curve.correct:g} diameters). A right pose "
        f"scores higher than a wrong one with probability {area} (AUROC); the score is off from the probability of "
        f"being right by {off} on average (ECE); the rank correlation of score and closeness is {rank}. The share of "
        f"right poses {falls}{clear}. The bars are 95 % intervals, the bins hold equally many poses, "
        "and on the dotted line the score would be the probability itself.</p>"
    )
    return f'{head}{text}<div class="grid figures"><figure>{report_figures.reliability_figure(curve)}</figure></div>'


def _time(time: Mapping[str, Any] | None) -> str:
    if not time:
        return ""
    rows = [
        (name, *(_seconds(values[key]) for key in ("p50", "p90", "mean")))
        for name, values in (("image", time["image_s"]), ("object", time["object_s"]))
    ]
    table = _table(["", "median", "90 %", "mean"], rows)
    stages = {name: ms for name, ms in time["stages_ms_per_object"].items() if ms > 0}
    figure = f"<figure>{report_figures.stage_figure(stages)}</figure>" if stages else ""
    note = f"{time['objects_per_image']:.1f} objects an image, which the stages treat as one batch."
    return f'<h2>Time</h2><div class="grid figures"><div>{table}<p class="soft">{note}</p></div>{figure}</div>'


def _misses(said: Mapping[str, Any]) -> str:
    if not said["misses"]:
        return ""
    rows = [(why, str(count)) for why, count in said["miss_counts"].items()]
    total = said["targets"]["instances"]
    table = _table(["why", "instances"], rows, wrap=True)
    return f"<h2>Missed: {len(said['misses'])} of {total} meet no threshold</h2>{table}"


def _cases(
    head: str,
    note: str,
    dataset: BopDataset,
    overlays: report_cases.Overlays,
    targets: Sequence[TargetResult],
    reasons: Mapping[tuple[int, int, int], str],
) -> str:
    if not targets:
        return ""
    figures = []
    for target in targets:
        first, *lines = map(html.escape, report_cases.caption(dataset, target, reasons))
        source = report_cases.data_uri(overlays.picture(target))
        text = "<br>".join([f"<b>{first}</b>", *lines])
        image = f'<img src="{source}" width="{report_cases.PICTURE}" height="{report_cases.PICTURE}" alt="{first}">'
        figures.append(f"<figure>{image}<figcaption>{text}</figcaption></figure>")
    return f'<h2>{head}</h2><p class="soft">{note}</p><div class="grid cases">{"".join(figures)}</div>'


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, last: str = "", wrap: bool = False) -> str:
    """The first column holds names. last: name of a row in bold. wrap: names are sentences."""
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    body = ""
    for first, *cells in rows:
        kind = ' class="all"' if first == last else ""
        name = f"<td{' class=wrap' if wrap else ''}>{html.escape(first)}</td>"
        body += f"<tr{kind}>{name}" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _share(value: float) -> str:
    return f"{value:.3f}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms"
