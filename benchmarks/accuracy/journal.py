"""The record of a run in progress, beside its results: what is in it is done, so a killed run goes on from there.

One JSON object a line: first the options that decide the results, then one line per image, written and flushed to the
disk when the image is finished. An image is done if its line is there in full; half a line, which a kill leaves at the
end, is cut off and its image done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Generic, Protocol, TypeVar

from benchmarks.accuracy.records import ImageKey
from benchmarks.accuracy.results import Failure, ImageResult, Row
from coop_edge.base.files import lock
from coop_edge.errors import InputError

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
    """The record of a run over images. A context manager.

    Args:
        path: of the file.
        options: of this run; those of the earlier one must be the same.
        to_plain, from_plain: turn the result of an image into what JSON can hold, and back.

    Attributes:
        done: the results that are there, by image.

    Raises:
        InputError: the file has other options (the message says which), is not of this kind, or another process is
            writing it.
        OSError: the file cannot be written.
    """

    def __init__(
        self,
        path: Path,
        options: Mapping[str, Any],
        *,
        to_plain: Callable[[Result], Mapping[str, Any]],
        from_plain: Callable[[Mapping[str, Any]], Result],
    ) -> None:
        self.path, self._to_plain, self._from_plain = path, to_plain, from_plain
        self.done: dict[ImageKey, Result] = {}
        header = json.loads(json.dumps({"format": FORMAT, **options}))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            lock(self._file, path, "name other results")
            self._read(header)
        except BaseException:
            self._file.close()
            raise

    def append(self, result: Result) -> None:
        """Record an image as done."""
        self._write(self._to_plain(result))
        self.done[result.image] = result

    def remove(self) -> None:
        """Delete the record: the run is over and its results are elsewhere."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _write(self, content: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(content).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, header: Mapping[str, Any]) -> None:
        self._file.seek(0)
        *lines, rest = self._file.read().split(b"\n")
        if rest:
            self._file.truncate(sum(len(line) + 1 for line in lines))
        if not lines:
            self._write(header)
            return
        try:
            earlier, *images = [json.loads(line) for line in lines]
            found = [self._from_plain(image) for image in images]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: not the record of an earlier run ({error}); delete it or name other results"
            ) from None
        if differences := _differences(earlier, header):
            raise InputError(
                f"{self.path}: the earlier run, which was not finished, had other options: {'; '.join(differences)}. "
                "Repeat it with the same ones to finish it, delete the file, or name other results"
            )
        self.done = {result.image: result for result in found}


class Journal(ImageJournal[ImageResult]):
    """The record of a method's poses, beside their CSV; see ``ImageJournal``."""

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        super().__init__(path, options, to_plain=_plain, from_plain=_result)


def _differences(earlier: Any, now: Any, name: str = "") -> list[str]:
    """What differs, by dotted name."""
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = sorted(set(earlier) | set(now))
        inner = (_differences(earlier.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return [text for texts in inner for text in texts]
    return [] if earlier == now else [f"{name} was {_said(earlier)}, now {_said(now)}"]


def _said(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


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
