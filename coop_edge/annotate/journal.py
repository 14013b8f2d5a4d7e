"""The record of a run: a line per image, in order, written as they come. A run that was killed goes on from there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from coop_edge.base.files import lock
from coop_edge.errors import InputError


class Journal:
    """Lines of a run in ``path``; a context manager. Half a line, which a kill leaves at the end, is cut off.

    Args:
        header: what decides the results; that of an earlier run must be the same.

    Attributes:
        done: images that are there.

    Raises:
        InputError: other options, another kind of file, or one that another process is writing.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path, self.done = path, 0
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file: BinaryIO = path.open("a+b")
        try:
            lock(self._file, path, "give another folder")
            self._begin(json.loads(json.dumps(header)))
        except BaseException:
            self._file.close()
            raise

    def append(self, line: str) -> None:
        """Write the next image's line to the disk."""
        self._file.write(line.encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self.done += 1

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _begin(self, header: dict[str, Any]) -> None:
        self._file.seek(0)
        whole, first = 0, None
        for line in self._file:
            if not line.endswith(b"\n"):
                break
            if first is None:
                first = line
            else:
                self.done += 1
            whole += len(line)
        self._file.truncate(whole)
        if first is None:
            self._file.write(json.dumps(header).encode() + b"\n")
            self._file.flush()
            return
        try:
            earlier = json.loads(first)
            different = sorted(key for key in {*earlier, *header} if earlier.get(key) != header.get(key))
        except (ValueError, TypeError, AttributeError):
            raise InputError(f"{self.path}: not the record of an earlier run; give another folder") from None
        if different:
            raise InputError(
                f"{self.path}: the earlier run differs in {', '.join(different)}; repeat it with the same options to "
                "finish it, or give another folder"
            )


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield what a finished run says of each image, in order."""
    with path.open("rb") as file:
        next(file)
        for line in file:
            yield json.loads(line)
