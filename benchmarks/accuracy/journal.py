"""The record of a run in progress, beside its CSV: what is in it is done, so a run that was killed goes on from there.

One JSON object a line: first the options that decide the results, then one line per image, written and flushed to the
disk when the image is finished. An image is done if its line is there in full; half a line, which a kill leaves at the
end, is cut off and its image done again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from benchmarks.accuracy.records import ImageKey
from benchmarks.accuracy.results import Failure, ImageResult, Row
from coop_edge.base.files import lock
from coop_edge.errors import InputError

FORMAT = 1


def journal_path(csv: str | os.PathLike[str]) -> Path:
    """Of the run that is to end in ``csv``."""
    path = Path(csv)
    return path.with_name(f"{path.name}.part")


def named_path(path: str | os.PathLike[str], name: object) -> Path:
    """Put ``name`` before the suffix: ``out.csv`` becomes ``out.fast.csv``."""
    path = Path(path)
    return path.with_name(f"{path.stem}.{name}{path.suffix}")


class Journal:
    """Opened with the options of this run; those of the earlier one must be the same. A context manager.

    done: the results that are there, by image. Raises InputError: other options (it says which), a file that is not of
    this kind, or one that another process is writing; OSError.
    """

    def __init__(self, path: Path, options: Mapping[str, Any]) -> None:
        self.path = path
        self.done: dict[ImageKey, ImageResult] = {}
        header = json.loads(json.dumps({"format": FORMAT, **options}))
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            lock(self._file, path, "choose another --csv")
            self._read(header)
        except BaseException:
            self._file.close()
            raise

    def append(self, result: ImageResult) -> None:
        """Record an image as done. Raises OSError."""
        self._write(_plain(result))
        self.done[result.image] = result

    def remove(self) -> None:
        """The run is over and its results are elsewhere."""
        self.path.unlink(missing_ok=True)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
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
            found = [_result(image) for image in images]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"{self.path}: not the record of an earlier run ({error}); delete it or choose another --csv"
            ) from None
        if differences := _differences(earlier, header):
            raise InputError(
                f"{self.path}: the earlier run, which was not finished, had other options: {'; '.join(differences)}. "
                "Repeat it with the same ones to finish it, delete the file, or choose another --csv"
            )
        self.done = {result.image: result for result in found}


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
