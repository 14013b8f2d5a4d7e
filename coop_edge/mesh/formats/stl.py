"""Reads STL files, text and binary, with the colours that some programs keep in a triangle's spare bytes.

Two conventions: VisCAM and SolidView set bit 15 where a triangle has a colour, blue in the lowest five bits;
Materialise Magics writes "COLOR=" with a colour for all into the header, clears bit 15 where a triangle has its own,
and puts red into the lowest five bits.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.parts import Part
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import decode, floats, lines

_ROW = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("spare", "<u2")])
_AGAIN = "copy or export it again"


def read_stl(source: Source) -> list[Part]:
    """Read an STL file.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    data = source.data
    wanted = 84 + 50 * int.from_bytes(data[80:84], "little")  # if binary: a header, a count, 50 bytes a triangle
    if len(data) != wanted and decode(data[:512].removeprefix(b"\xef\xbb\xbf")).lstrip()[:5].lower() == "solid":
        text = decode(data)
        if "facet" in text.lower():
            return [_part(_read_text(source, text), None)]
    if len(data) < wanted or len(data) < 84:
        raise MeshError(f"truncated, or not an STL file: {len(data)} of {wanted} bytes; {_AGAIN}")
    if len(data) > wanted:
        source.note(f"{len(data) - wanted} bytes behind the last triangle are not read")
    rows = np.frombuffer(data, _ROW, (wanted - 84) // 50, 84)
    colors = None if source.ignore_colors else _colors(data[:80], rows["spare"], source)
    return [_part(rows["corners"].astype(np.float64), colors)]


def _part(corners: NDArray[np.float64], colors: NDArray[np.float64] | None) -> Part:
    n = len(corners)
    faces = np.arange(3 * n).reshape(n, 3)
    return Part(corners.reshape(-1, 3), faces, None if colors is None else np.repeat(colors[:, None], 3, axis=1))


def _colors(header: bytes, spare: NDArray[np.uint16], source: Source) -> NDArray[np.float64] | None:
    """Return colours [F,3] in 0..1, NaN where a triangle has none; None if the file has none at all."""
    fives = np.stack([spare & 31, (spare >> 5) & 31, (spare >> 10) & 31], axis=1) / 31.0
    flag = (spare >> 15).astype(bool)
    at = header.find(b"COLOR=")
    if 0 <= at <= 80 - 10:
        common = np.frombuffer(header, np.uint8, 3, at + 6) / 255.0
        if not spare.any():  # by the letter each triangle would have a colour of its own, and all of them be black
            return np.broadcast_to(common, fives.shape)
        return np.where(flag[:, None], common, fives)
    if not flag.any():
        if spare.any():
            source.note("the spare bytes of its triangles are not colours: not read")
        return None
    return np.where(flag[:, None], fives[:, ::-1], np.nan)


def _read_text(source: Source, text: str) -> NDArray[np.float64]:
    """Return the corners of the triangles [F,3,3] of all solids of a text file."""
    numbers: list[str] = []
    facets, corners, inside, solids = 0, 0, False, 0  # facets: those that still lack their loop
    for i, line in enumerate(lines(text), 1):
        words = line.split()
        key = words[0].lower() if words else ""
        if key == "vertex":
            if len(words) != 4 or not inside:
                raise MeshError(f"line {i}: wanted 'vertex' and three numbers in a loop, found {line.strip()[:60]!r}")
            numbers += words[1:]
            corners += 1
        elif key == "outer":
            if inside or facets != 1:
                raise MeshError(f"line {i}: a loop that is not the only one of a facet; {_AGAIN}")
            inside, facets = True, 0
        elif key == "facet":
            if facets:
                raise MeshError(f"line {i}: the facet before has no loop; {_AGAIN}")
            facets = 1
        elif key == "endloop":
            if corners != 3:
                raise MeshError(f"line {i}: a facet has {corners} corners; wanted 3; {_AGAIN}")
            inside, corners = False, 0
        elif key == "solid":
            solids += 1
        elif key == "endsolid":
            solids -= 1
        elif key == "color":
            source.note("colours of a text STL are not read; export it as PLY or OBJ")
        elif key and key != "endfacet":
            raise MeshError(f"line {i}: {line.strip()[:60]!r} is not understood; {_AGAIN}")
    if inside or facets or solids > 0:
        raise MeshError(f"truncated, it has no endsolid line; {_AGAIN}")
    return floats(numbers, "vertices").reshape(-1, 3, 3)
