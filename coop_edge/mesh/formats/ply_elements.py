"""Reads the elements of a PLY file, text or binary, as columns of numbers; what they mean is ``formats.ply``'s."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.text import decode, floats, lines

_NAMES = {
    "i1": "char int8",
    "u1": "uchar uint8",
    "i2": "short int16",
    "u2": "ushort uint16",
    "i4": "int int32",
    "u4": "uint uint32",
    "f4": "float float32",
    "f8": "double float64",
}
TYPES = {name: code for code, names in _NAMES.items() for name in names.split()}
_AGAIN = "copy or export it again"


@dataclass(frozen=True)
class Property:
    """A column: its name (lower case), the type of its numbers, and that of its count if each row holds a list."""

    name: str
    dtype: str
    count: str | None = None


@dataclass(frozen=True)
class ListColumn:
    """The lists of a column, one after the other, and the length of each."""

    values: NDArray[Any]
    sizes: NDArray[np.int64]


@dataclass
class Element:
    """Rows of one kind, such as vertices."""

    name: str
    rows: int
    properties: list[Property] = field(default_factory=list)
    columns: dict[str, Any] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)  # names of the columns that have been asked for

    def scalar(self, name: str) -> NDArray[Any] | None:
        """Return a column of numbers [rows], None if there is none.

        Raises:
            MeshError: it holds lists.
        """
        column = self._get(name)
        if isinstance(column, ListColumn):
            raise MeshError(f"property {name!r} of {self.name!r} holds lists; wanted a number per row")
        return column

    def lists(self, name: str) -> ListColumn | None:
        """Return a column of lists, None if there is none.

        Raises:
            MeshError: it holds numbers.
        """
        column = self._get(name)
        if column is not None and not isinstance(column, ListColumn):
            raise MeshError(f"property {name!r} of {self.name!r} holds single numbers; wanted a list per row")
        return column

    def _get(self, name: str) -> Any:
        self.used.add(name)
        return self.columns.get(name)


@dataclass
class Header:
    """Format, comments and elements of a file, and where its rows begin."""

    format: str
    comments: list[str]
    elements: list[Element]
    start: int


def read_header(data: bytes) -> Header:
    """Read all up to and with the line end_header.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    if data[:3].lower() != b"ply":
        raise MeshError(f"not a PLY file: it begins with {data[:12]!r}, not with 'ply'")
    header, start = _header_lines(data)
    kind, comments, elements = "", [], []
    for line in header:
        words = line.split()
        if not words or words[0].lower() == "ply":
            continue
        key = words[0].lower()
        if key in ("comment", "obj_info"):
            comments.append(line.strip()[len(key) :].strip())
        elif key == "format" and len(words) >= 2:
            kind = words[1].lower()
        elif key == "element" and len(words) == 3 and words[2].isascii() and words[2].isdigit():
            elements.append(Element(words[1].lower(), int(words[2])))
        elif key == "property" and elements:
            elements[-1].properties.append(_property(words))
        else:
            raise MeshError(f"header line {line[:60]!r} is not understood; {_AGAIN}")
    if kind not in ("ascii", "binary_little_endian", "binary_big_endian"):
        raise MeshError(f"format {kind or 'line missing'!r}; wanted ascii, binary_little_endian or binary_big_endian")
    for element in elements:
        names = [p.name for p in element.properties]
        if len(set(names)) < len(names):
            raise MeshError(f"element {element.name!r} has two properties of one name; {_AGAIN}")
    return Header(kind, comments, elements, start)


def _header_lines(data: bytes) -> tuple[list[str], int]:
    first = next((end for end in (b"\r\n", b"\n", b"\r") if data[3:].lstrip(b" \t").startswith(end)), b"\n")
    found: list[str] = []
    at = 0
    while True:
        end = data.find(first, at)
        raw = data[at:] if end < 0 else data[at:end]
        line = decode(raw).strip()
        if line.lower() == "end_header":
            return found, len(data) if end < 0 else end + len(first)
        if end < 0:
            raise MeshError("has no end_header line: not a PLY file, or truncated")
        found.append(line)
        at = end + len(first)


def _property(words: list[str]) -> Property:
    known = [word.lower() for word in words]
    if len(words) == 3 and known[1] in TYPES:
        return Property(known[2], TYPES[known[1]])
    if len(words) == 5 and known[1] == "list" and known[2] in TYPES and known[3] in TYPES:
        if TYPES[known[2]].startswith("f"):
            raise MeshError(f"a list is counted in {words[2]}; wanted an integer type")
        return Property(known[4], TYPES[known[3]], TYPES[known[2]])
    raise MeshError(f"header line {' '.join(words)[:60]!r} is not understood; {_AGAIN}")


def read_rows(header: Header, data: bytes) -> int:
    """Fill the columns of all elements; return how many bytes or rows follow them.

    Raises:
        MeshError: truncated.
    """
    body = data[header.start :]
    if header.format == "ascii":
        rows = [line for line in lines(decode(body)) if line.strip()]
        at = 0
        for element in header.elements:
            have = rows[at : at + element.rows]
            _check_rows(element, len(have))
            _read_text(element, have)
            at += element.rows
        return len(rows) - at
    order = "<" if header.format == "binary_little_endian" else ">"
    at = 0
    for element in header.elements:
        at = _read_binary(element, body, at, order)
    return len(body) - at


def _check_rows(element: Element, have: int) -> None:
    if have < element.rows:
        raise MeshError(f"truncated, {have} of {element.rows} rows of element {element.name!r}; {_AGAIN}")


def _read_text(element: Element, rows: list[str]) -> None:
    what = f"element {element.name!r}"
    words = [row.split() for row in rows]
    plain = all(p.count is None for p in element.properties)
    width = len(element.properties)
    if plain:
        wrong = next((i for i, row in enumerate(words) if len(row) != width), None)
        if wrong is not None:
            raise MeshError(f"row {wrong} of {what} holds {len(words[wrong])} numbers; wanted {width}; {_AGAIN}")
        table = floats([word for row in words for word in row], what).reshape(len(rows), width)
        for i, p in enumerate(element.properties):
            element.columns[p.name] = _typed(table[:, i], p.dtype, p.name, what)
        return
    values: list[list[str]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    for i, row in enumerate(words):
        at = 0
        for k, p in enumerate(element.properties):
            n = 1
            if p.count is not None:
                n = int(row[at]) if at < len(row) and row[at].isdigit() else -1
                at += 1
            if n < 0 or at + n > len(row):
                raise MeshError(f"row {i} of {what} ends early, or its count is no number; {_AGAIN}")
            values[k] += row[at : at + n]
            sizes[k].append(n)
            at += n
        if at != len(row):
            raise MeshError(f"row {i} of {what} holds {len(row)} numbers; wanted {at}; {_AGAIN}")
    for p, numbers, lengths in zip(element.properties, values, sizes, strict=True):
        column = _typed(floats(numbers, what), p.dtype, p.name, what)
        element.columns[p.name] = column if p.count is None else ListColumn(column, np.array(lengths, np.int64))


def _typed(values: NDArray[np.float64], dtype: str, name: str, what: str) -> NDArray[Any]:
    kind = np.dtype(dtype)
    if kind.kind == "f":
        with np.errstate(over="ignore"):
            return values.astype(kind)
    info = np.iinfo(kind)
    fits = (values >= info.min) & (values <= info.max) & (values == np.rint(values))
    if not fits.all():
        raise MeshError(f"{what}: {name} is {values[~fits][0]:g}, which does not fit its type; {_AGAIN}")
    return values.astype(kind)


def _read_binary(element: Element, body: bytes, at: int, order: str) -> int:
    """Fill an element's columns from ``body`` at a place; return the place behind it."""
    sizes = _first_sizes(element, body, at, order)
    if sizes is not None:
        fields: list[Any] = []
        for i, p in enumerate(element.properties):
            if p.count is not None:
                fields.append((f"n{i}", order + p.count))
            fields.append((f"v{i}", order + p.dtype, (sizes[i],)) if p.count else (f"v{i}", order + p.dtype))
        dtype = np.dtype(fields)
        end = at + element.rows * dtype.itemsize
        if end <= len(body):
            table = np.frombuffer(body, dtype, element.rows, at)
            lists = [i for i, p in enumerate(element.properties) if p.count]
            if all((table[f"n{i}"] == sizes[i]).all() for i in lists):
                for i, p in enumerate(element.properties):
                    column = table[f"v{i}"].astype(p.dtype)
                    full = np.full(element.rows, sizes[i], np.int64)
                    element.columns[p.name] = ListColumn(column.ravel(), full) if p.count else column
                return end
        elif not any(p.count for p in element.properties):
            _check_rows(element, (len(body) - at) // max(dtype.itemsize, 1))
    return _read_uneven(element, body, at, order)


def _first_sizes(element: Element, body: bytes, at: int, order: str) -> list[int] | None:
    """Return the lengths of the lists of the first row, 1 for a single number; None if they are not there."""
    sizes = []
    for p in element.properties:
        n = 1
        if p.count is not None:
            width = np.dtype(p.count).itemsize
            if at + width > len(body) or element.rows == 0:
                return None
            n = int(np.frombuffer(body, order + p.count, 1, at)[0])
            at += width
        if n < 0 or n * np.dtype(p.dtype).itemsize > len(body):
            return None
        sizes.append(n)
        at += n * np.dtype(p.dtype).itemsize
    return sizes


def _read_uneven(element: Element, body: bytes, at: int, order: str) -> int:
    """Read rows whose lists differ in length, one by one."""
    counts = [None if p.count is None else struct.Struct(order + _code(p.count)) for p in element.properties]
    chunks: list[list[bytes]] = [[] for _ in element.properties]
    sizes: list[list[int]] = [[] for _ in element.properties]
    if any(p.count for p in element.properties) and element.rows > len(body):
        _check_rows(element, 0)
    for row in range(element.rows):
        for k, p in enumerate(element.properties):
            n, count = 1, counts[k]
            if count is not None:
                if at + count.size > len(body):
                    _check_rows(element, row)
                n = count.unpack_from(body, at)[0]
                at += count.size
            end = at + n * int(p.dtype[1])
            if n < 0 or end > len(body):
                _check_rows(element, row)
                raise MeshError(f"row {row} of element {element.name!r} has {n} entries; the file is damaged")
            chunks[k].append(body[at:end])
            sizes[k].append(n)
            at = end
    for k, p in enumerate(element.properties):
        column = np.frombuffer(b"".join(chunks[k]), order + p.dtype).astype(p.dtype)
        element.columns[p.name] = column if p.count is None else ListColumn(column, np.array(sizes[k], np.int64))
    return at


def _code(dtype: str) -> str:
    return {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I"}[dtype]
