"""Reads mesh files into ``Mesh`` (metres, one colour source per face), and describes symmetries.

Cheap to import: file readers, SciPy and Pillow are loaded by the first ``Mesh.load``.
"""

from __future__ import annotations

from coop_edge.mesh.limits import LoadLimits
from coop_edge.mesh.mesh import DEFAULT_ALBEDO, Mesh
from coop_edge.mesh.models_info import load_symmetries
from coop_edge.mesh.symmetry import Symmetries, nearest_symmetric

__all__ = ["DEFAULT_ALBEDO", "LoadLimits", "Mesh", "Symmetries", "load_symmetries", "nearest_symmetric"]
