"""Defines options of the commands that read one mesh file, and how they read it."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from coop_edge.errors import InputError

if TYPE_CHECKING:
    from coop_edge.mesh import Mesh


class Unit(str, Enum):
    """Length units of a mesh file."""

    m = "m"
    cm = "cm"
    mm = "mm"
    inch = "in"


class RendererName(str, Enum):
    """Renderers that a user may choose."""

    open3d = "open3d"
    cpu = "cpu"
    cuda = "cuda"


MeshFile = Annotated[Path, typer.Argument(help="OBJ, PLY, GLB, GLTF, STL, DAE or OFF file.")]
UnitOption = Annotated[Unit, typer.Option("--unit", help="Length unit of the mesh file (no default).")]
Supersample = Annotated[int, typer.Option(help="Samples per pixel side: 1, 3 or 5.")]
Albedo = Annotated[
    str | None, typer.Option(help="R,G,B (0..255) of faces without a colour of their own; default 200,200,200.")
]
MaxFaces = Annotated[int, typer.Option(min=4, help="Simplify a mesh that has more triangles than this.")]


def load_mesh(
    mesh: Path, unit: Unit, albedo: str | None, ignore_colors: bool, max_faces: int, allow_outside: bool
) -> Mesh:
    """Load a mesh as the options say.

    Raises:
        InputError: a colour that is not R,G,B.
        MeshError: damaged, or it holds what is not read.
    """
    from coop_edge.mesh import Mesh

    color = None
    if albedo is not None:
        try:
            r, g, b = (int(part) for part in albedo.split(","))
        except ValueError:
            raise InputError(f"--albedo: wanted R,G,B with values in 0..255, got {albedo!r}") from None
        color = (r, g, b)
    return Mesh.load(
        mesh,
        unit=unit.value,
        albedo=color,
        ignore_colors=ignore_colors,
        max_faces=max_faces,
        allow_outside=allow_outside,
    )


def describe(mesh: Mesh) -> dict[str, Any]:
    """Return what reports say of a mesh, as plain data."""
    return {
        "mesh": mesh.name,
        "faces": len(mesh.faces),
        "diameter_m": round(mesh.diameter, 6),
        "colours": mesh.color_summary,
        "textures": len(mesh.textures),
        "notes": list(mesh.notes),
    }
