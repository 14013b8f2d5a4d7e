"""The files of a finished run: BOP's scenes and results, COCO, and a page that sums it up; written line by line."""

from __future__ import annotations

import html
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from coop_edge.base.files import atomic_write
from coop_edge.base.journal import read_lines
from coop_edge.labels.records import MM, coco_annotation, coco_document, pose_entry

BINS = 20
"""Of the scores' histogram."""


class Summary(NamedTuple):
    """What a run came to.

    Attributes:
        failed: name and reason of the images that could not be annotated.
    """

    images: int
    found: int
    missed: int
    failed: list[tuple[str, str]]


def write_files(record: Path, root: Path, ids: Mapping[str, int]) -> Summary:
    """Write all files of a run into ``root``, from its record; the same record gives the same bytes."""
    for name, entry in (("scene_camera", _camera), ("scene_gt", _truth(ids)), ("scene_gt_info", _info)):
        for scene, lines in itertools.groupby(_whole(record), key=lambda line: line["scene"]):
            pairs = ((str(line["image"]), entry(line)) for line in lines)
            _write_object(root / "bop" / f"{scene:06d}" / f"{name}.json", pairs)
    for scene, lines in itertools.groupby(_whole(record), key=lambda line: line["scene"]):
        pairs = ((str(line["image"]), line["name"]) for line in lines)
        _write_object(root / "bop" / f"{scene:06d}" / "images.json", pairs)
    _write_lines(root / "bop_results.csv", _csv(record, ids))
    _write_coco(record, root / "coco.json", ids)
    with atomic_write(root / "objects.json") as file:
        file.write(json.dumps(dict(ids)).encode())
    return _write_page(record, root / "index.html", ids)


def _whole(record: Path) -> Iterator[dict[str, Any]]:
    return (line for line in read_lines(record) if "error" not in line)


def _found(line: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [result for result in line["results"] if result["success"]]


def _camera(line: Mapping[str, Any]) -> Any:
    return line["camera"]


def _truth(ids: Mapping[str, int]) -> Any:
    def entry(line: Mapping[str, Any]) -> Any:
        return [pose_entry(ids[r["object"]], np.array(r["T_camera_object"])) for r in _found(line)]

    return entry


def _info(line: Mapping[str, Any]) -> Any:
    return [result.get("info", {}) for result in _found(line)]


def _csv(record: Path, ids: Mapping[str, int]) -> Iterator[str]:
    yield "scene_id,im_id,obj_id,score,R,t,time"
    for line in _whole(record):
        for result in _found(line):
            T = np.array(result["T_camera_object"])
            texts = (" ".join(f"{v:.10g}" for v in part.ravel().tolist()) for part in (T[:3, :3], T[:3, 3] / MM))
            key = f"{line['scene']},{line['image']},{ids[result['object']]},{result['score']:.10g}"
            yield f"{key},{','.join(texts)},-1"


def _write_coco(record: Path, path: Path, ids: Mapping[str, int]) -> None:
    """Images are numbered by their place in the run, from 1, as there may be several scenes."""

    def images() -> Iterator[Any]:
        for line in _whole(record):
            size = {key: line[key] for key in ("width", "height")}
            yield {"id": line["index"] + 1, "file_name": line["name"], **size}

    def annotations() -> Iterator[Any]:
        number = itertools.count(1)
        for line in _whole(record):
            for result in _found(line):
                if "info" in result:
                    of = ids[result["object"]]
                    pose = {**pose_entry(of, np.array(result["T_camera_object"])), "unit": "mm"}
                    yield coco_annotation(
                        next(number), line["index"] + 1, of, result["info"], result["segmentation"],
                        score=result["score"], pose=pose,
                    )  # fmt: skip

    document = coco_document([], [], ids)
    with atomic_write(path) as file:
        file.write(b"{")
        for i, (key, value) in enumerate(document.items()):
            file.write(f"{', ' if i else ''}{json.dumps(key)}: ".encode())
            parts: Iterable[Any] | None = {"images": images, "annotations": annotations}.get(key, lambda: None)()
            if parts is None:
                file.write(json.dumps(value).encode())
                continue
            file.write(b"[")
            for k, part in enumerate(parts):
                file.write((",\n" if k else "").encode() + json.dumps(part).encode())
            file.write(b"]")
        file.write(b"}\n")


def _write_object(path: Path, pairs: Iterable[tuple[str, Any]]) -> None:
    with atomic_write(path) as file:
        file.write(b"{")
        for i, (key, value) in enumerate(pairs):
            file.write(f"{',' if i else ''}\n  {json.dumps(key)}: {json.dumps(value)}".encode())
        file.write(b"\n}\n")


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with atomic_write(path) as file:
        for line in lines:
            file.write(line.encode() + b"\n")


def _write_page(record: Path, path: Path, ids: Mapping[str, int]) -> Summary:
    counts = {name: [0, 0] for name in ids}  # found, missed
    scores = np.zeros(BINS, np.int64)
    reasons: dict[str, int] = {}
    images, failed = 0, []
    for line in read_lines(record):
        images += 1
        if "error" in line:
            failed.append((line["name"], line["error"]))
            continue
        for result in line["results"]:
            counts[result["object"]][0 if result["success"] else 1] += 1
            if result["success"]:
                scores[min(BINS - 1, int(result["score"] * BINS))] += 1
            else:
                reasons[result["reason"]] = reasons.get(result["reason"], 0) + 1
    summary = Summary(images, sum(c[0] for c in counts.values()), sum(c[1] for c in counts.values()), failed)
    with atomic_write(path) as file:
        file.write(_page(summary, counts, scores, reasons).encode())
    return summary


def _page(summary: Summary, counts: Mapping[str, list[int]], scores: Any, reasons: Mapping[str, int]) -> str:
    def table(head: tuple[str, ...], rows: Iterable[tuple[Any, ...]]) -> str:
        cells = "".join(f"<tr>{''.join(f'<td>{html.escape(str(c))}</td>' for c in row)}</tr>" for row in rows)
        return f"<table><tr>{''.join(f'<th>{html.escape(h)}</th>' for h in head)}</tr>{cells}</table>"

    most = max(int(scores.max()), 1)
    bars = "".join(
        f'<rect x="{24 * i}" y="{100 - 100 * int(n) / most:.1f}" width="22" height="{100 * int(n) / most:.1f}"/>'
        for i, n in enumerate(scores)
    )
    objects = [(name, found, missed) for name, (found, missed) in counts.items()]
    why = sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0]))[:20]
    style = "body{font:15px sans-serif;margin:2em}td,th{padding:2px 12px;text-align:left;border-bottom:1px solid #ddd}"
    return (
        f'<!doctype html><meta charset="utf-8"><title>coop_edge annotate</title><style>{style}</style>'
        f"<h1>{summary.images} images</h1><p>{summary.found} poses found, {summary.missed} not, "
        f"{len(summary.failed)} images failed.</p><h2>Objects</h2>{table(('object', 'found', 'not found'), objects)}"
        f'<h2>Scores</h2><svg width="480" height="120" fill="#2b6cb0">{bars}<text x="0" y="116" fill="#333">0</text>'
        f'<text x="465" y="116" fill="#333">1</text></svg><h2>Why not found</h2>{table(("reason", "times"), why)}'
        f"<h2>Images that failed</h2>{table(('image', 'error'), summary.failed)}\n"
    )
