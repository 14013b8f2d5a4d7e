"""Reads the numbers of text formats, and says what is wrong with those that cannot be read."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError


def decode(data: bytes) -> str:
    """Decode UTF-8, or else Latin-1, which has a letter for every byte: the two differ in names and comments alone."""
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        try:
            return data.decode("utf-16")
        except UnicodeDecodeError:
            pass
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def lines(text: str) -> list[str]:
    """Split at line ends alone: ``str.splitlines`` also splits at characters that names may hold."""
    return re.split(r"\r\n|\n|\r", text)


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
            if "," in token and is_number(token.replace(",", ".")):
                return f"{token[:40]!r} is not a number: decimals want a point, not a comma; export it with points"
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
