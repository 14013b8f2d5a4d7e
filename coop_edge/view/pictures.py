"""Pictures beside the scene: templates, the views an object was recognised by, where image and render agree."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from coop_edge.estimator import Estimator
from coop_edge.mesh import Mesh
from coop_edge.render.base import Renderer, on_host
from coop_edge.stages.crop import pose_crop
from coop_edge.templates.viewpoints import template_camera
from coop_edge.types import Camera, Detection
from coop_edge.visual.draw import contact_sheet

Image = NDArray[np.uint8]
Floats = NDArray[np.float64]

_SIZE = 96  # of a view in a sheet, pixels
_CROP = 224


def templates_picture(mesh: Mesh, renderer: Callable[[Mesh], Renderer]) -> Image:
    """Return a sheet of the mesh's 42 templates."""
    poses, K = template_camera(mesh, _SIZE)
    seen = renderer(mesh).render(poses, K, _SIZE)
    return contact_sheet(on_host(seen.rgb), columns=7)


def views_picture(
    estimator: Estimator, image: Image, camera: Camera, detection: Detection, count: int = 8
) -> Image | None:
    """Return a sheet of the views that look most like a detection, with their similarity; None without features."""
    found = estimator.similar_views(image, camera, detection, count)
    if found is None:
        return None
    mesh = estimator.objects[detection.object]
    centre, diameter = np.tile(mesh.centre, (len(found), 1)), np.full(len(found), mesh.diameter)
    poses = np.array([T for _, T in found])
    crop = pose_crop(camera, poses, centre, diameter, _SIZE, 1.2)
    seen = estimator.backend.renderer(mesh).render(crop.to_crop(poses), crop.K, _SIZE)
    return contact_sheet(on_host(seen.rgb), columns=4, labels=[f"{similarity:.2f}" for similarity, _ in found])


def agreement_picture(estimator: Estimator, image: Image, camera: Camera, name: str, T_camera_object: Floats) -> Image:
    """Return three pictures in a row: the image about the object, its render there, and where their edges differ.

    In the third the image's edges are red and the render's green; where both have one it is white.
    """
    mesh, T = estimator.objects[name], np.asarray(T_camera_object)[None]
    crop = pose_crop(camera, T, mesh.centre[None], np.array([mesh.diameter]), _CROP, 1.3)
    ops = estimator.backend.operations()
    seen = ops.to_host(ops.warp(ops.upload(image), crop.H, _CROP, crop.lens))[0]
    shown = np.rint(255.0 * seen.transpose(1, 2, 0)).astype(np.uint8)
    rendered = estimator.backend.renderer(mesh).render(crop.to_crop(T), crop.K, _CROP)
    render, covered = on_host(rendered.rgb)[0], on_host(rendered.depth)[0] > 0
    near = cv2.dilate(covered.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    edges = [cv2.Canny(cv2.cvtColor(part, cv2.COLOR_RGB2GRAY), 60, 150) for part in (shown, render)]
    wide = [cv2.dilate(edge, np.ones((2, 2), np.uint8)) * near for edge in edges]
    both = np.minimum(cv2.dilate(wide[0], np.ones((3, 3), np.uint8)), cv2.dilate(wide[1], np.ones((3, 3), np.uint8)))
    together = np.stack([np.maximum(wide[0], both), np.maximum(wide[1], both), both], axis=-1)
    return contact_sheet(
        np.stack([shown, render, together.astype(np.uint8)]), columns=3, labels=["image", "render", "edges"]
    )
