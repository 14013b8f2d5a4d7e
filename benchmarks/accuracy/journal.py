"""Keeps the record of a run in progress beside its results: the images in it are done, so a killed run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from benchmarks.accuracy.records import ImageKey
from benchmarks.accuracy.results import Failure, ImageResult, Row
from coop_edge.base import journal

FORMAT = 1


def journal_path(results: str | os.PathLike[str]) -> Path:
    """Return the path of the record of a run that is to end in the file ``results``."""
    path = Path(results)
    return path.with_name(f"{path.name}.part")


def named_path(path: str | os.PathLike[str], name: object) -> Path:
    """Put ``name`` before the suffix: ``out.csv`` becomes ``out.fast.csv``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


class OfImage(Protocol):
    """What a record of one image has."""

    @property
    def image(self) -> ImageKey: ...


Result = TypeVar("Result", bound=OfImage)
Self = TypeVar("Self")


class ImageJournal(Generic[Result]):
    """The record of a run over images, a line each (``coop_edge.base.journal``). A context manager.

    Args:
        path: of the file.
        options: of this run; those of the earlier one must be the same.
        to_plain, from_plain: turn the result of an image into what JSON can hold, and back.

    Attributes:
        done: the results that are there, by image.

    Raises:
        InputError, OSError: as ``coop_edge.base.journal.Journal`` does.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        *,
        to_plain: Callable[[Result], Mapping[str, Any]],
        from_plain: Callable[[Mapping[str, Any]], Result],
    ) -> None:
        self.done: dict[ImageKey, Result] = {}

        def read(line: Mapping[str, Any]) -> None:
            result = from_plain(line)
            self.done[result.image] = result

        self.path, self._to_plain = path, to_plain
        self._lines = journal.Journal(path, {"format": FORMAT, **options}, "name other results", read)

    def append(self, result: Result) -> None:
        """Record an image as done."""
        self._lines.append(json.dumps(self._to_plain(result)))
        self.done[result.image] = result

    def remove(self) -> None:
        """Delete the record: the run is over and its results are elsewhere."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._lines.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Journal(ImageJournal[ImageResult]):
    """The record of a method's poses, beside their CSV; see ``ImageJournal``."""

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        super().__init__(path, options, to_plain=_plain, from_plain=_result)


def _plain(result: ImageResult) -> dict[str, Any]:
    return {
        "scene_id": result.scene_id,
        "im_id": result.im_id,
        "time": result.time,
        "stages": dict(result.stages),
        "rows": [
            {"obj_id": row.obj_id, "score": row.score, "R": row.R.tolist(), "t": row.t.tolist()} for row in result.rows
        ],
        "failures": [{"obj_id": f.obj_id, "reason": f.reason, "score": f.score} for f in result.failures],
    }


def _result(content: Mapping[str, Any]) -> ImageResult:
    scene_id, im_id, time = content["scene_id"], content["im_id"], content["time"]
    rows = tuple(Row(scene_id, im_id, **row, time=time) for row in content["rows"])
    failures = tuple(Failure(**failure) for failure in content["failures"])
    return ImageResult(scene_id, im_id, time, rows, failures, content["stages"])
