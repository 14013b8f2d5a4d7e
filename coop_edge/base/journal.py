"""Keeps the record of a long run, a line of JSON for each finished item, by which a run that was killed goes on."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from coop_edge.base.files import lock, naming
from coop_edge.errors import InputError, quoted

Line = dict[str, Any]


class Journal:
    """Holds a file of JSON objects, one a line, for this process alone; a context manager.

    Half a line at the end, which a kill leaves, is cut off. Lines are not kept in memory.

    Args:
        path: of the file; missing folders are made.
        header: its first line, the options that decide the results; those of an earlier run must be the same.
        advice: what to do where the file cannot be used, such as "give another folder"; ends the messages.
        read: is given each further line of an earlier run; a ``KeyError`` and the like is a file of another kind.

    Attributes:
        count: number of lines after the header.

    Raises:
        InputError: the earlier run had other options (the message says which), the file is of another kind or damaged,
            or another process is writing it. The file is left as it was.
        OSError: the file cannot be read or written.
    """

    def __init__(
        self, path: Path, header: Mapping[str, Any], advice: str, read: Callable[[Line], object] = dict
    ) -> None:
        self.path, self.count, self._end = path, -1, 0
        with naming(path), contextlib.ExitStack() as failed:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = failed.enter_context(path.open("a+b", buffering=0))
            lock(self._file, path, advice)
            self._begin(json.dumps(header), f"delete the file, or {advice}", read)
            failed.pop_all()

    def append(self, line: str) -> None:
        """Write a line to the disk; if that fails, the file is as before."""
        data = line.encode() + b"\n"
        try:
            with naming(self.path):
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
                os.fsync(self._file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):
                self._file.truncate(self._end)
            raise
        self.count, self._end = self.count + 1, self._end + len(data)

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, header: str, advice: str, read: Callable[[Line], object]) -> None:
        different: list[str] = []
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as file:
            for number, line in enumerate(file, 1):
                if not line.endswith(b"\n") and (number > 1 or header.encode().startswith(line)):
                    break
                content = _parse(line, f"{self.path}: line {number}", advice, read if number > 1 else dict)
                if number == 1:
                    different = _differences(content, json.loads(header))
                self.count, self._end = self.count + 1, self._end + len(line)
        if different:
            raise InputError(
                f"{self.path}: the earlier run had other options: {'; '.join(different)}. Repeat it with the same ones "
                f"to finish it, {advice}"
            )
        self._file.truncate(self._end)
        if self.count < 0:
            self.append(header)


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines of a finished run, in order, without the header.

    Raises:
        InputError: a line is damaged.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            content = _parse(line, f"{path}: line {number}", "delete the file and run again")
            if number > 1:
                yield content


def _parse(line: bytes, where: str, advice: str, read: Callable[[Line], object] = dict) -> Line:
    try:
        content = json.loads(line)
        if not isinstance(content, dict) or not line.endswith(b"\n"):
            raise ValueError("no whole JSON object")
        read(content)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{where}: not the record of an earlier run, or damaged ({quoted(error)}); {advice}") from None
    return content


def _differences(earlier: Any, now: Any, name: str = "") -> list[str]:
    """Say what differs, by dotted name; elements of a list by their place, from 0."""
    if isinstance(earlier, list) and isinstance(now, list):
        earlier, now = dict(enumerate(earlier)), dict(enumerate(now))
    if isinstance(earlier, dict) and isinstance(now, dict):
        keys = sorted({*earlier, *now})
        inner = (_differences(earlier.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys)
        return [text for texts in inner for text in texts]
    was, is_ = (text if len(text) <= 200 else f"{text[:197]}..." for text in map(json.dumps, (earlier, now)))
    return [] if earlier == now else [f"{name} was {was}, now {is_}"]
