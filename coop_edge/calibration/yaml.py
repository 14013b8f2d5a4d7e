"""Reads the YAML that calibration tools write, so that a camera file needs no package of its own.

Mappings, sequences and plain or quoted scalars, in block and flow style; tags and comments are dropped. What else YAML
has (anchors, aliases, block texts, several keys on a line) is refused, never misread. Of several documents the first is
read.
"""

from __future__ import annotations

import math
import re
from typing import Any

from coop_edge.errors import InputError

Line = tuple[int, int, str]
"""Number in the file, indentation, text."""

_NUMBER = re.compile(r"[-+]?(\d[\d_]*\.?\d*|\.\d+)([eE][-+]?\d+)?$")
_WORDS: dict[str, Any] = {"true": True, "false": False, "null": None, "~": None, "": None}
_SPECIAL = {".nan": float("nan"), ".inf": float("inf"), "-.inf": float("-inf")}


def parse(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        InputError: it is not YAML that is read here; the message names the line.
    """
    lines = _logical_lines(text)
    if not lines:
        return None
    value, rest = _block(lines, 0, lines[0][1])
    if rest < len(lines):
        raise _error(lines[rest], "is indented in a way that fits nothing above it")
    return value


def _error(line: Line, what: str) -> InputError:
    return InputError(f"YAML, line {line[0]}: {what}: {line[2]!r:.60}")


def _logical_lines(text: str) -> list[Line]:
    """Return the lines of the first document, without comments; a flow collection over several lines is one."""
    lines: list[Line] = []
    open_since: Line | None = None
    for number, raw in enumerate(text.splitlines(), 1):
        if raw.startswith("%"):
            continue
        if raw.rstrip() in ("---", "...") or raw.startswith("--- "):
            if lines:
                break
            continue
        bare = _without_comment(raw).rstrip()
        if not bare.strip():
            continue
        indent = len(bare) - len(bare.lstrip(" "))
        if "\t" in bare[: indent + 1]:
            raise InputError(f"YAML, line {number}: wanted spaces as indentation, got a tab")
        line = (number, indent, bare.strip())
        if open_since is not None:
            line = (open_since[0], open_since[1], f"{open_since[2]} {line[2]}")
        open_since = line if _depth(line[2]) > 0 else None
        if open_since is None:
            lines.append(line)
    if open_since is not None:
        raise _error(open_since, "has a bracket that is never closed")
    return lines


def _outside_quotes(text: str) -> str:
    """Return the text with what stands in quotes blanked."""
    return re.sub(r"\"(?:\\.|[^\"\\])*\"|'[^']*'", lambda match: "_" * len(match.group()), text)


def _without_comment(text: str) -> str:
    match = re.search(r"(^|\s)#", _outside_quotes(text))
    return text[: match.start()] if match else text


def _depth(text: str) -> int:
    bare = _outside_quotes(text)
    return sum(bare.count(c) for c in "[{") - sum(bare.count(c) for c in "]}")


def _block(lines: list[Line], at: int, indent: int) -> tuple[Any, int]:
    """Parse the block that starts at line ``at``, of this indentation; return it and the line after it."""
    if lines[at][2] == "-" or lines[at][2].startswith("- "):
        return _sequence(lines, at, indent)
    if _key(lines[at][2]) is None:
        return _scalar_or_flow(lines[at], lines[at][2]), at + 1
    return _mapping(lines, at, indent)


def _sequence(lines: list[Line], at: int, indent: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while at < len(lines) and lines[at][1] == indent and (lines[at][2] == "-" or lines[at][2].startswith("- ")):
        number, _, text = lines[at]
        rest = text[1:].strip()
        if not rest:
            value, at = _nested(lines, at, indent)
        else:  # the item's own block begins where its text does
            inner = indent + len(text) - len(text[1:].lstrip())
            lines = [*lines[:at], (number, inner, rest), *lines[at + 1 :]]
            value, at = _block(lines, at, inner)
        items.append(value)
    return items, at


def _mapping(lines: list[Line], at: int, indent: int) -> tuple[dict[str, Any], int]:
    values: dict[str, Any] = {}
    while at < len(lines) and lines[at][1] == indent:
        found = _key(lines[at][2])
        if found is None:
            break
        key, rest = found
        if key in values:
            raise _error(lines[at], f"gives the key {key!r} a second time")
        if re.fullmatch(r"!\S+", rest):  # a tag, such as !!opencv-matrix
            rest = ""
        if rest:
            values[key], at = _scalar_or_flow(lines[at], rest), at + 1
        else:
            values[key], at = _nested(lines, at, indent)
    return values, at


def _nested(lines: list[Line], at: int, indent: int) -> tuple[Any, int]:
    """Parse what belongs to the key or dash at line ``at``: a deeper block, a sequence as deep, or nothing."""
    following = at + 1
    if following < len(lines):
        deeper = lines[following][1] > indent
        dashes = (
            lines[following][1] == indent and lines[following][2].startswith("-") and not lines[at][2].startswith("-")
        )
        if deeper or dashes:
            return _block(lines, following, lines[following][1])
    return None, following


def _key(text: str) -> tuple[str, str] | None:
    """Split ``key: rest``; None if the text is no such thing."""
    if text[0] in "[{":
        return None
    match = re.match(r"(.*?):(\s|$)", _outside_quotes(text))
    if not match:
        return None
    return str(_scalar(text[: match.end(1)].strip(), quoted_only=True)), text[match.end() :].strip()


def _scalar_or_flow(line: Line, text: str) -> Any:
    if text[0] in "&*|>":
        raise _error(line, f"begins with {text[0]!r}, YAML that camera files do not need and that is not read")
    text = re.sub(r"^!\S+\s+", "", text)
    if text[0] not in "[{":
        return _scalar(text)
    value, end = _flow(line, text, 0)
    if text[end:].strip():
        raise _error(line, "goes on after its closing bracket")
    return value


def _flow(line: Line, text: str, at: int) -> tuple[Any, int]:
    """Parse the flow value that starts at ``at``; return it and where it ends."""
    while at < len(text) and text[at] == " ":
        at += 1
    if at < len(text) and text[at] in "[{":
        closing, mapping = ("]", False) if text[at] == "[" else ("}", True)
        items: list[Any] = []
        at += 1
        while True:
            while at < len(text) and text[at] in " ,":
                at += 1
            if at >= len(text):
                raise _error(line, f"lacks a {closing!r}")
            if text[at] == closing:
                return (dict(items) if mapping else items), at + 1
            if mapping:
                match = re.compile(r"(\"[^\"]*\"|'[^']*'|[^:,{}\[\]]+):").match(text, at)
                if not match:
                    raise _error(line, "has a flow mapping without a key")
                value, at = _flow(line, text, match.end())
                items.append((str(_scalar(match.group(1).strip(), quoted_only=True)), value))
            else:
                value, at = _flow(line, text, at)
                items.append(value)
    match = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'|[^,\[\]{}]*").match(text, at)
    assert match
    return _scalar(match.group().strip()), match.end()


def _scalar(text: str, *, quoted_only: bool = False) -> Any:
    """Return the value of a scalar; of a key (``quoted_only``) the text as it is."""
    if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    if quoted_only:
        return text
    lowered = text.lower()
    if lowered in _WORDS or lowered in _SPECIAL:
        return _WORDS.get(lowered, _SPECIAL.get(lowered))
    if _NUMBER.match(text):
        number = float(text.replace("_", ""))
        return int(number) if re.fullmatch(r"[-+]?\d+", text) and math.isfinite(number) else number
    return text
