"""Results: poses as rows of BOP's CSV file, and what a run says of an image besides.

    scene_id,im_id,obj_id,score,R,t,time        R row by row and t in mm, blanks between numbers; time in seconds

``time`` is that of the whole image, the same in all of its rows; -1 if unknown (BOP challenge, section "Results").
"""

from __future__ import annotations

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.files import nearest_rotation, numbers
from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError
from coop_edge.geometry import se3

COLUMNS = ("scene_id", "im_id", "obj_id", "score", "R", "t", "time")
_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Row:
    """One estimated pose. R [3,3], t [3] metres (model to camera); time: seconds of the whole image, -1 if unknown.

    Raises:
        InputError: a number is not finite, or R is not a rotation.
    """

    scene_id: int
    im_id: int
    obj_id: int
    score: float
    R: np.ndarray
    t: np.ndarray
    time: float = -1.0

    def __post_init__(self) -> None:
        R = nearest_rotation(numbers(self.R, 9, "R").reshape(3, 3), "R")
        object.__setattr__(self, "R", R)
        object.__setattr__(self, "t", numbers(self.t, 3, "t"))
        for name in ("score", "time"):
            if not math.isfinite(getattr(self, name)):
                raise InputError(f"{name}: wanted a finite number, got {getattr(self, name)!r}")

    @property
    def T_camera_object(self) -> np.ndarray:
        """Return the pose, float64 [4,4], metres."""
        return se3.from_rt(self.R, self.t)


@dataclass(frozen=True, eq=False)
class Failure:
    """A detection without a pose, and why."""

    obj_id: int
    reason: str
    score: float = 0.0


@dataclass(frozen=True, eq=False)
class ImageResult:
    """What a method made of one image. time: seconds for all detections together; stages: milliseconds of the same
    call by stage, empty if the method does not say."""

    scene_id: int
    im_id: int
    time: float
    rows: tuple[Row, ...] = ()
    failures: tuple[Failure, ...] = ()
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def image(self) -> tuple[int, int]:
        return self.scene_id, self.im_id

    @property
    def count(self) -> int:
        """Return the number of detections the method was given."""
        return len(self.rows) + len(self.failures)


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write BOP's CSV, whole or not at all; 0 rows are legal."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in rows:
        writer.writerow(_cells(row))
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Read BOP's CSV.

    Raises:
        InputError: there is no such file, or a line is not of this form; the message names the line.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; wanted results in BOP's form ({','.join(COLUMNS)})")
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.reader(file)
        header = next(lines, [])
        if tuple(cell.strip() for cell in header) != COLUMNS:
            raise InputError(f"{path}: wanted the first line {','.join(COLUMNS)}, got {','.join(header)!r:.80}")
        for cells in lines:
            if cells:
                rows.append(_row(cells, f"{path}: line {lines.line_num}"))
    return rows


def _cells(row: Row) -> list[Any]:
    def text(values: np.ndarray) -> str:
        return " ".join(f"{value:.10g}" for value in values.reshape(-1).tolist())

    ids = [row.scene_id, row.im_id, row.obj_id]
    return [*ids, f"{row.score:.10g}", text(row.R), text(row.t / _MM), f"{row.time:.6f}"]


def _row(cells: list[str], where: str) -> Row:
    if len(cells) != len(COLUMNS):
        raise InputError(f"{where}: wanted {len(COLUMNS)} columns, got {len(cells)}")
    try:
        scene, image, obj = (int(cell) for cell in cells[:3])
        score, time = float(cells[3]), float(cells[6])
        R = numbers(cells[4].split(), 9, "R").reshape(3, 3)
        return Row(scene, image, obj, score, R, numbers(cells[5].split(), 3, "t") * _MM, time)
    except ValueError as error:  # InputError is one
        raise InputError(f"{where}: {error}") from None
