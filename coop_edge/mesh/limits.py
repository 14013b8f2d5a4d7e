"""Bounds what a mesh file may unpack to."""

from __future__ import annotations

from dataclasses import dataclass, fields

from coop_edge.errors import InputError, MeshError


@dataclass(frozen=True)
class LoadLimits:
    """Bounds on the size of what a mesh file holds, checked before it is unpacked; beyond them is a MeshError.

    A small file can unpack to gigabytes: a picture of one colour, or parts that are placed again and again.
    """

    texture_pixels: int = 8192 * 8192  # of one picture
    all_texture_pixels: int = 4 * 8192 * 8192  # of all pictures of a mesh together
    triangles: int = 10_000_000  # of all parts, before simplification
    instances: int = 10_000  # parts placed by a scene, each as often as it is placed
    file_bytes: int = 2 << 30  # of one file: the mesh, a buffer, a material library or a picture

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"LoadLimits.{each.name}: wanted a positive integer, got {value!r}")

    def check(self, name: str, value: int, what: str) -> None:
        """Raise MeshError that says ``what`` is too large, if ``value`` exceeds the limit ``name``."""
        bound = getattr(self, name)
        if value > bound:
            raise MeshError(
                f"{what}, more than the limit of {bound}; if you trust the file, load it with "
                f"Mesh.load(..., limits=LoadLimits({name}={value}))"
            )
