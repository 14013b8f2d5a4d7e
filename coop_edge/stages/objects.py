"""Holds what the stages know of a registered object: ``ObjectModel``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import BundleError, InputError
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.ops.base import Array, Operations
from coop_edge.runtime.base import Runner
from coop_edge.stages.batches import run_batched
from coop_edge.stages.views import Views
from coop_edge.templates.template_set import TemplateSet


@dataclass(frozen=True, eq=False)
class ObjectModel:
    """One object; make it with ``describe``. In the stages an object is its index in a sequence of these, which is also
    its mesh's index in the renderer.

    ``object_points`` and ``descriptors`` are on the device.
    """

    name: str
    centre: NDArray[np.float64]  # [3] metres, object's frame: what virtual cameras look at
    diameter: float  # metres
    symmetries: Symmetries
    object_points: Array  # float32 [V,S,S,3] metres, object's frame; NaN off the object
    descriptors: Array  # float32 [V,T,D]
    views: Views | None = None  # what frozen features see of it; None without them
    plain_grey: bool = False  # whether the mesh tells nothing of the object's colours

    @classmethod
    def describe(
        cls,
        name: str,
        mesh: Mesh,
        templates: TemplateSet,
        encoder: Runner,
        ops: Operations,
        *,
        micro_batch: int = 42,
        views: Views | None = None,
    ) -> ObjectModel:
        """Encode the templates of ``mesh`` with the open ``coarse_encoder``, which runs where ``ops`` works.

        Raises:
            BundleError: the templates are another mesh's, or of another size than the encoder takes.
        """
        templates.check_mesh(mesh)
        wanted = encoder.inputs["image"].shape[-1]
        if templates.size != wanted:
            raise BundleError(
                f"templates of {name!r} are {templates.size} pixels wide, {encoder.label} takes {wanted}; "
                f"render them again at size {wanted}"
            )
        rgb, points = ops.upload(templates.rgb), ops.upload(templates.object_points)
        tokens = run_batched(ops, encoder, {"image": ops.as_network_image(rgb)}, micro_batch)["tokens"]
        measures = mesh.centre, mesh.diameter, templates.symmetries
        return cls(name, *measures, points, tokens, views, mesh.is_plain_grey)


def centres_and_diameters(
    objects: Sequence[ObjectModel], index: NDArray[np.integer]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return centres [M,3] and diameters [M] of the objects at ``index`` [M].

    Raises:
        InputError: no such index.
    """
    if index.size and not (index.min() >= 0 and index.max() < len(objects)):
        raise InputError(f"object index: wanted values in [0, {len(objects)}), got {index.min()}..{index.max()}")
    centres = np.array([model.centre for model in objects], np.float64).reshape(-1, 3)
    diameters = np.array([model.diameter for model in objects], np.float64)
    return centres[index], diameters[index]
