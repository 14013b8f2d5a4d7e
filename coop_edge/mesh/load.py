"""Loads meshes from files and trimesh objects: units, checks, centre, simplification."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError, MeshError
from coop_edge.mesh import measure
from coop_edge.mesh.files import read_file
from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.parts import Part
from coop_edge.mesh.simplify import simplify
from coop_edge.mesh.soup import (
    Soup,
    assemble,
    check_finite,
    compact,
    drop_degenerate,
    drop_repeated,
    drop_unused_textures,
)
from coop_edge.mesh.units import METRES, metres_per

MIN_DIAMETER, MAX_DIAMETER = 0.005, 5.0
"""Metres; a mesh outside is refused as one whose unit was mistaken."""
_TYPICAL_DIAMETER = 0.15  # of two units that fit, the one nearer to a thing for a hand looks right

logger = logging.getLogger(__name__)


def load_mesh(
    source: Any,
    *,
    unit: str,
    albedo: ArrayLike,
    ignore_colors: bool,
    max_faces: int,
    name: str | None,
    allow_outside: bool,
    limits: LoadLimits | None,
) -> dict[str, Any]:
    """Load the fields of a Mesh, by name; see ``Mesh.load``.

    Raises:
        InputError: an option is out of its range, or the unit is unknown.
        MeshError: the file cannot be used.
    """
    metres = metres_per(unit)
    if isinstance(max_faces, bool) or not isinstance(max_faces, (int, np.integer)) or max_faces < 4:
        raise InputError(f"max_faces: wanted an integer of at least 4, got {max_faces!r}")
    color = _albedo(albedo)
    notes: list[str] = []
    bounds = LoadLimits() if limits is None else limits
    if not isinstance(bounds, LoadLimits):
        raise InputError(f"limits: wanted LoadLimits or None, got {type(limits).__name__}")
    if isinstance(source, (str, os.PathLike)):
        path = Path(source).expanduser()
        parts = read_file(path, ignore_colors=ignore_colors, allow_outside=allow_outside, limits=bounds, notes=notes)
        label = str(path)
        name = path.stem if name is None else name
    else:
        from coop_edge.mesh.from_trimesh import TrimeshReader  # trimesh itself is not needed for files

        parts = TrimeshReader(ignore_colors=ignore_colors, limits=bounds, notes=notes).read(source)
        label = f"this {type(source).__name__}"
    try:
        fields = _build(parts, color, bounds, metres, unit, int(max_faces), name or "", notes)
    except MeshError as error:
        raise MeshError(f"{label}: {error}") from error
    for note in fields["notes"]:
        logger.warning("%s: %s", label, note)
    return fields


def _build(
    parts: list[Part],
    color: NDArray[np.uint8],
    bounds: LoadLimits,
    metres: float,
    unit: str,
    max_faces: int,
    name: str,
    notes: list[str],
) -> dict[str, Any]:
    """Return the fields of the mesh; empties ``parts``, since a large mesh should not be in memory twice."""
    soup, colored = assemble(parts, color, bounds, notes)
    parts.clear()
    if len(soup.faces) == 0:
        raise MeshError("has no triangles (a point cloud, lines, or an empty file); wanted a triangle mesh")
    check_finite(soup)
    given = len(soup.faces)
    soup = replace(soup, vertices=soup.vertices * metres)
    soup = compact(drop_degenerate(soup))
    if len(soup.faces) == 0:
        raise MeshError(f"all of its {given} triangles are degenerate (zero area); wanted a surface")
    _check_diameter(measure.diameter(soup.vertices), metres, unit)
    centre = _box_centre(soup.vertices)
    soup = _about(soup, centre)
    if dropped := given - len(soup.faces):
        notes.append(f"{dropped} of {given} triangles have zero area and were dropped")
    if len(soup.faces) > max_faces:  # parts that lie on each other would make the search for colours slow without end
        before = len(soup.faces)
        soup = drop_repeated(soup)
        if repeated := before - len(soup.faces):
            notes.append(f"{repeated} of {before} triangles lie exactly on others and were dropped")
    if len(soup.faces) > max_faces:
        before = len(soup.faces)
        textured = (soup.face_texture >= 0).mean()
        soup = compact(drop_degenerate(simplify(soup, max_faces)))
        kept = (soup.face_texture >= 0).mean()
        seams = f", textured ones {textured:.1%} before and {kept:.1%} after" if textured else ""
        notes.append(f"simplified from {before} to {len(soup.faces)} triangles{seams} (max_faces={max_faces})")
        shift = _box_centre(soup.vertices)
        centre, soup = centre + shift, _about(soup, shift)
    soup = drop_unused_textures(soup)
    return {
        "vertices": soup.vertices.astype(np.float32),
        "faces": soup.faces.astype(np.int32),
        "centre": centre,
        "corner_colors": soup.corner_colors,
        "corner_uv": soup.corner_uv,
        "face_texture": soup.face_texture,
        "textures": soup.textures,
        "name": name,
        "notes": tuple(dict.fromkeys(notes)),
        "colored": colored,
    }


def _about(soup: Soup, centre: NDArray[np.float64]) -> Soup:
    """Put the vertices relative to ``centre``, rounded to float32; drop the triangles that collapse in rounding."""
    rounded = (soup.vertices - centre).astype(np.float32).astype(np.float64)
    return compact(drop_degenerate(replace(soup, vertices=rounded)))


def _box_centre(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(0.5 * (vertices.min(axis=0) + vertices.max(axis=0)), np.float64)


def _albedo(albedo: ArrayLike) -> NDArray[np.uint8]:
    try:
        color = np.asarray(albedo, np.float64)
    except (TypeError, ValueError):
        raise InputError(f"albedo: wanted three numbers (R, G, B) in 0..255, got {albedo!r}") from None
    if color.shape != (3,) or not ((color >= 0) & (color <= 255)).all():
        raise InputError(f"albedo: wanted three numbers (R, G, B) in 0..255, got {albedo!r}")
    return np.rint(color).astype(np.uint8)


def _check_diameter(diameter: float, metres: float, unit: str) -> None:
    if MIN_DIAMETER <= diameter <= MAX_DIAMETER:
        return
    sizes = {u: diameter / metres * m for u, m in METRES.items()}
    fitting = {u: d for u, d in sizes.items() if MIN_DIAMETER <= d <= MAX_DIAMETER}
    if fitting:
        best = min(fitting, key=lambda u: abs(math.log(fitting[u] / _TYPICAL_DIAMETER)))
        hint = f"with unit={best!r} it would be {fitting[best]:.4g} m"
    else:
        hint = f"no unit of {', '.join(METRES)} brings it there: scale the mesh"
    raise MeshError(
        f"diameter {diameter:.4g} m with unit={unit!r}; {hint} (wanted {MIN_DIAMETER:g} m to {MAX_DIAMETER:g} m)"
    )
