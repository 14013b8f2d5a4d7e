"""Compares the faces of an OBJ file with the numbers that its comments announce, for the file or group by group."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.source import Source

_KINDS = {  # the last: what is counted beside faces, and tells on which side of the words the numbers stand
    "faces": "faces?|facets?|elements?",
    "polygons": "polygons?|polys?|quads",
    "triangles": "triangles?|tris?",
    "": "vertices|vertex|verts?|normals?|points|edges|materials|groups|objects|parts|coord(?:inate)?s|uvs|texcoords",
}
_NOUN = re.compile(
    "(?:num|nb|n|total)?(?:" + "|".join(f"(?P<k{i}>{words})" for i, words in enumerate(_KINDS.values())) + ")(?:count)?"
)
_SINGLE = ("face", "facet", "element", "polygon", "poly", "triangle", "tri")
_COUNTED = ("count", "counts", "number", "num", "nb", "nr", "total")
_FILLERS = (
    *_COUNTED,
    "numbers", "no", "of", "the", "in", "is", "are", "has", "have", "with", "and", "contains", "holds", "this",
    "file", "mesh", "model", "group", "object", "triangular", "triangulated", "texture", "s",
)  # fmt: skip
_ELSEWHERE = re.compile(  # such a number is of another mesh, or a bound
    r"from|scan(?:ned)?|original(?:ly)?|before|after|reduced?|simplif\w+|decimat\w+|was|were|had|source|max(?:imum)?|"
    r"limit\w*|target|up|over|under|above|below|than|about|approx\w*|per|every|without|lod|half|dropped|removed|"
    r"deleted|degenerate|skipped|duplicates?|merged|cache|if|when|should|%"
)
_TOKEN = re.compile(
    r"(?<!\w)(?<!\w\.)(?:\d{1,3}(?:[,.']\d{3})+|\d+)(?![.,']?\d)|[A-Z]?[a-z]+|[A-Z]+(?![a-z])|\.\.+|[^\w\s]"
)


class Announcement(NamedTuple):
    """What a comment says of faces; None where it does not.

    Attributes:
        line: number of its line.
        sure: it says nothing else; what another comment says may be of something else.
    """

    line: int
    faces: int | None
    polygons: int | None
    triangles: int | None
    sure: bool


class _Held(NamedTuple):
    """How many polygons, triangles when they are cut, and polygons of three corners stand before a place."""

    polygons: int
    triangles: int
    three: int


def read_announcement(line: int, text: str) -> Announcement | None:
    """Return what a comment announces, None if it gives no number of faces.

    Numbers stand before the words ("8 vertices, 4 faces") or behind them ("vertices: 8, faces: 4").
    """
    tokens = _TOKEN.findall(text)
    words = [token.lower() for token in tokens]
    if any(_ELSEWHERE.fullmatch(word) for word in words):
        return None
    kinds = [_kind(word) for word in words]
    nouns = [i for i, kind in enumerate(kinds) if kind is not None]
    side = next((step for i in nouns for step in (-1, 1) if _beside(words, kinds, i, step) is not None), 0)
    found: dict[str, int] = {}
    for i in nouns:
        value = _beside(words, kinds, i, side) if side else None
        label = side > 0 and words[i] in _SINGLE and not any(word in _COUNTED for word in words)  # "face 4": its name
        if kinds[i] and value and not label:
            found.setdefault(str(kinds[i]), value)
    if not found:
        return None
    sure = all(
        kind is not None or not word[0].isalpha() or word in _FILLERS for word, kind in zip(words, kinds, strict=True)
    )
    return Announcement(line, found.get("faces"), found.get("polygons"), found.get("triangles"), sure)


def _kind(word: str) -> str | None:
    match = _NOUN.fullmatch(word)
    return None if match is None else next(kind for i, kind in enumerate(_KINDS) if match[f"k{i}"])


def _beside(words: Sequence[str], kinds: Sequence[str | None], at: int, step: int) -> int | None:
    """Return the number beside a word, None if there is none, or it begins or ends a range."""
    i = at + step
    while (
        0 <= i < len(words) and kinds[i] is None and (words[i] in _FILLERS or (step > 0 and not words[i][0].isalnum()))
    ):
        i += step
    if not 0 <= i < len(words) or not words[i][0].isdigit():
        return None
    more = words[i + 1 : i + 3]
    if len(more) == 2 and (more[0] in ("-", "to") or more[0].startswith("..")) and more[1][0].isdigit() and step > 0:
        return None
    return int(re.sub(r"\D", "", words[i]))


def check_counts(
    source: Source,
    announced: Sequence[Announcement],
    lines: NDArray[np.int64],
    sizes: NDArray[np.int64],
    borders: NDArray[np.int64],
) -> None:
    """Compare faces with what comments announce: of all of them, or of those between a comment and a border.

    Args:
        lines: of the faces, in order [F].
        sizes: their corners [F].
        borders: lines where a group, object or material begins.

    Raises:
        MeshError: fewer are there; the file was cut off.
    """
    steps = np.stack([np.ones_like(sizes), sizes - 2, sizes == 3], axis=1)
    total = np.concatenate([np.zeros((1, 3), np.int64), np.cumsum(steps, axis=0)])
    at = {each.line: int(np.searchsorted(lines, each.line)) for each in announced}
    places = np.unique([0, len(lines), *at.values(), *np.searchsorted(lines, borders).tolist()])
    known = _by_count([_Held(*row) for row in total[places].tolist()])
    end, covered, explained = _Held(*total[-1].tolist()), 0, False
    first = [each for each in announced if not at[each.line]]
    ahead = bool(first)
    whole = any(_fits(each, end) for each in first)
    for each in announced:
        here = _Held(*total[at[each.line]].tolist())
        # Of groups that are announced one by one ahead of them none is announced behind it.
        signs = (-1, 1) if not ahead or whole or here == end else (1,)
        upto = _covers(each, here, known, signs, ahead=ahead)
        if upto is not None:
            covered, explained = max(covered, upto), explained or each.sure
            continue
        count, noun = _most(each)
        column = 1 if noun == "triangles" else 0
        before, held = here[column], end[column] - here[column]
        if held >= count and not each.sure:
            continue
        text = f"announce {before + count} {noun}"
        if held < count and each.sure:
            raise MeshError(f"cut off: its comments {text}, it holds {before + held}; export it again")
        source.note(f"comments {text}, the file holds {before + held}: it may be cut off")
    if explained and covered < end.polygons:
        source.note(f"comments announce {covered} faces, the file holds {end.polygons}: it may be cut off")


def _most(each: Announcement) -> tuple[int, str]:
    if each.faces is not None:
        return each.faces, "faces"
    if each.triangles is not None and each.triangles >= (each.polygons or 0):
        return each.triangles, "triangles"
    return each.polygons or 0, "faces"


def _by_count(known: Sequence[_Held]) -> dict[tuple[int, int], list[_Held]]:
    """Return places by what stands before them: by column and number, at most the first and the last."""
    found: dict[tuple[int, int], list[_Held]] = {}
    for held in known:
        for key in enumerate(held):
            found[key] = [*found.get(key, [])[:1], held]
    return found


def _covers(
    each: Announcement, here: _Held, known: dict[tuple[int, int], list[_Held]], signs: tuple[int, ...], *, ahead: bool
) -> int | None:
    """Return how far what is announced reaches, in polygons, if some border makes it right; None if none does.

    Args:
        signs: -1: faces before the comment count, 1: those behind it.
        ahead: comments stand before the faces that they count, else behind them; where either is right, this counts.
    """
    amounts = {n for n in (each.faces, each.polygons, each.triangles) if n is not None}
    amounts.add((each.polygons or 0) + (each.triangles or 0))
    keys = {(column, here[column] + sign * n) for n in amounts for column in range(3) for sign in signs}
    reached = {
        max(here.polygons, other.polygons)
        for key in keys
        for other in known.get(key, ())
        if _fits(each, _Held(*(abs(b - a) for a, b in zip(here, other, strict=True))))
    }
    return (max(reached) if ahead else min(reached)) if reached else None


def _fits(each: Announcement, held: _Held) -> bool:
    p, t, three = held
    if each.faces is not None:
        return each.faces in (p, t)
    if each.triangles is None:
        return each.polygons in (p, t)
    if each.polygons is None:
        return each.triangles in (t, three, p)
    return p in (each.polygons, each.polygons + each.triangles) and (
        each.triangles in (t, three) or p == each.polygons + each.triangles
    )
