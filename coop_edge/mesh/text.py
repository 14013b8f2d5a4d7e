"""Reads the numbers of text formats, and says what is wrong with those that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError


def decode(data: bytes) -> str:
    """Decode UTF-8, or else Latin-1, which has a letter for every byte: the two differ in names and comments alone."""
    wide = _wide(data[:4])
    if wide:
        try:
            return data.decode(wide)
        except UnicodeDecodeError:
            pass
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _wide(head: bytes) -> str:
    """Return the name of the encoding if letters take two bytes each, by a mark or by every other byte being zero."""
    if (head[:2] == b"\xff\xfe" and head[3:4] == b"\0") or (head[:2] == b"\xfe\xff" and head[2:3] == b"\0"):
        return "utf-16"
    zeros = "".join(str(int(byte == 0)) for byte in head)
    return {"0101": "utf-16-le", "1010": "utf-16-be"}.get(zeros, "")


def lines(text: str) -> list[str]:
    """Split at line ends alone: ``str.splitlines`` also splits at characters that names may hold."""
    return re.split(r"\r\n|\n|\r", text)


def statements(text: str, numbers: Collection[str], names: Collection[str]) -> Iterator[tuple[int, str]]:
    """Yield the lines of OBJ or MTL text and their numbers, from 1; what goes on behind a backslash is joined to one.

    A comment and a name may end in a backslash as well (``C:\\models\\``): they are not continued.

    Args:
        numbers: keywords (lower case) that numbers follow: continued where the next line begins with one.
        names: keywords that names follow: continued where the backslash stands apart and no keyword follows.
    """
    rows = lines(text)
    if "\\" not in text:
        yield from enumerate(rows, 1)
        return
    at = 0
    while at < len(rows):
        number, line = at + 1, rows[at]
        at += 1
        while at < len(rows) and _goes_on(line, rows[at], numbers, names):
            line = f"{line.rstrip()[:-1]} {rows[at]}"
            at += 1
        yield number, line


def _goes_on(line: str, following: str, numbers: Collection[str], names: Collection[str]) -> bool:
    before = line.rstrip()
    if not before.endswith("\\") or "#" in line:
        return False
    key, after = before.split()[0].lower(), following.strip()
    if key in numbers:
        return not after or after[0] in "0123456789+-.\\"
    first = after.split()[0].lower() if after else ""
    apart = before[:-1] != before[:-1].rstrip()
    return key in names and apart and first not in numbers and first not in names and not first.startswith("#")


def floats(tokens: Sequence[str], what: str) -> NDArray[np.float64]:
    """Return the numbers of ``tokens`` [n].

    Raises:
        MeshError: one of them is none; the message names the first, and why.
    """
    try:
        return np.array(list(map(float, tokens)), np.float64)
    except ValueError:
        raise MeshError(f"{what}: {_reason(tokens, float)}") from None


def integers(tokens: Sequence[str], what: str) -> NDArray[np.int64]:
    """Return the integers of ``tokens`` [n].

    Raises:
        MeshError: one of them is none, or too large; the message names the first.
    """
    try:
        return np.array(list(map(int, tokens)), np.int64)
    except ValueError:
        raise MeshError(f"{what}: {_reason(tokens, int)}") from None
    except OverflowError:
        raise MeshError(f"{what}: an index is larger than any file; the file is damaged") from None


def _reason(tokens: Sequence[str], kind: type) -> str:
    for token in tokens:
        try:
            kind(token)
        except ValueError:
            if re.fullmatch(r"[+-]?\d*,\d+(e[+-]?\d+)?", token, re.I) and kind is float:
                return f"{token[:40]!r} is not a number: decimals want a point, not a comma; export it with points"
            if "," in token and all(is_number(each) for each in token.strip(",").split(",")):
                return f"{token[:40]!r}: numbers are to be parted by blanks, not by commas; export it so"
            wanted = "an integer" if kind is int else "a number"
            return f"{token[:40]!r} is not {wanted}; the file is damaged, or of another format"
    return "not all of them are numbers"


def is_number(token: str) -> bool:
    """Tell whether Python reads a number in ``token``."""
    try:
        float(token)
    except ValueError:
        return False
    return True
