"""The objects of a data set in BOP layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from benchmarks.accuracy.files import bop_object_file, numbers, read_json
from coop_edge import Mesh, Symmetries
from coop_edge.errors import InputError, MeshError, quoted

SYMMETRY_STEP = 0.01
"""Of continuous symmetries: no point moves by more than this share of the diameter between two (BOP's default)."""
_MM = 1e-3
GREY = 190
"""Grey level of an object without its colours."""


@dataclass(frozen=True, eq=False)
class Model:
    """One object. ``path`` is for onboarding, ``eval_path`` for the metrics: BOP measures on meshes of its own
    (models_eval) where a data set has them; both are in ``unit``."""

    obj_id: int
    path: Path
    eval_path: Path
    diameter: float  # metres, as models_info.json has it: the metrics' yardstick
    symmetries: Symmetries
    unit: str = "mm"

    @property
    def name(self) -> str:
        """Return what the object is called in an Estimator."""
        return self.path.stem

    @cached_property
    def vertices(self) -> np.ndarray:
        """Return the vertices of the evaluation mesh as the file has them, float64 [V,3], metres.

        Raises:
            MeshError: there is no such mesh, trimesh does not read it, or it has no vertices.
        """
        import trimesh

        if not self.eval_path.is_file():
            raise MeshError(f"{self.eval_path}: no such mesh")
        try:
            loaded = trimesh.load(self.eval_path, process=False, force="mesh")
        except (ValueError, IndexError, KeyError, TypeError, OSError) as error:
            raise MeshError(f"{self.eval_path}: trimesh does not read it: {quoted(error)}") from None
        points = np.unique(np.asarray(loaded.vertices, np.float64), axis=0) * _MM  # seams repeat vertices
        if len(points) == 0:
            raise MeshError(f"{self.eval_path}: has no vertices")
        points.setflags(write=False)
        return points

    @cached_property
    def T_symmetries(self) -> np.ndarray:
        """Return the symmetries as BOP discretises them, float64 [S,4,4], the identity first."""
        return self.symmetries.transforms(SYMMETRY_STEP)

    @property
    def symmetric(self) -> bool:
        """Tell whether ADD-S takes the place of ADD."""
        return not self.symmetries.trivial

    def load_mesh(self, *, evaluation: bool = False, untextured: bool = False) -> Mesh:
        """Load a mesh for rendering: that of onboarding, or that of the metrics; untextured: in plain grey."""
        mesh = Mesh.load(self.eval_path if evaluation else self.path, unit=self.unit)
        return without_colours(mesh) if untextured else mesh


def without_colours(mesh: Mesh) -> Mesh:
    """Return a mesh in plain grey, as CAD without textures is."""
    return replace(
        mesh,
        corner_colors=np.full_like(mesh.corner_colors, GREY),
        face_texture=np.full_like(mesh.face_texture, -1),
    )


def read_models(root: Path) -> dict[int, Model]:
    """Return the models of a data set by object id.

    Raises:
        InputError: the folder is missing, or models_info.json is missing or damaged.
    """
    folders = [root / name for name in ("models", "models_cad", "models_eval") if (root / name).is_dir()]
    if not folders:
        raise InputError(f"{root / 'models'}: no such folder; wanted the meshes and models_info.json of the data set")
    onboarding, evaluation = folders[0], folders[-1] if folders[-1].name == "models_eval" else folders[0]
    info_file = evaluation / "models_info.json"
    infos = read_json(info_file, dict, "it holds the diameters and symmetries that the metrics need")
    models = {}
    for key, info in infos.items():
        where = f"{info_file}: object {key}"
        if not key.isdigit() or not isinstance(info, dict):
            raise InputError(f"{where}: wanted a number as the name and an object with its diameter, got {info!r:.80}")
        diameter = float(numbers(info.get("diameter"), 1, f"{where}: diameter")[0])
        if diameter <= 0:
            raise InputError(f"{where}: wanted a diameter above 0 mm, got {diameter:g}")
        try:
            symmetries = Symmetries.from_bop(info, unit="mm")
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        file = bop_object_file(int(key))
        models[int(key)] = Model(int(key), onboarding / file, evaluation / file, diameter * _MM, symmetries)
    return dict(sorted(models.items()))
