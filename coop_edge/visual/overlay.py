"""Draws poses over an image: outline of the rendered silhouette, axes, 3-D box, name and score."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.mesh.mesh import Mesh
from coop_edge.render.base import Renderer
from coop_edge.types import Camera, Detection, PoseEstimate
from coop_edge.visual.canvas import Array, Canvas, Color, Image, clip_segments
from coop_edge.visual.draw import write_image
from coop_edge.visual.labels import Extent, Labels
from coop_edge.visual.silhouette import silhouette

COLORS: tuple[Color, ...] = (
    (255, 196, 0),
    (0, 214, 255),
    (255, 92, 214),
    (124, 255, 78),
    (255, 128, 64),
    (170, 150, 255),
)
"""Of the items, in turn."""
AXES: tuple[Color, ...] = ((255, 64, 56), (64, 220, 70), (70, 120, 255))
"""Of the x, y and z axis."""
FAILED: Color = (255, 70, 70)

_DIMMED = 0.35
# The corners of a box are numbered by bits: x + 2 y + 4 z. An edge, and the (axis, side) of the two faces it bounds.
_EDGES = tuple(
    (low, low | 1 << axis, tuple((other, low >> other & 1) for other in range(3) if other != axis))
    for axis in range(3)
    for low in range(8)
    if not low >> axis & 1
)


@dataclass(frozen=True, eq=False)
class OverlayItem:
    """One pose to draw.

    Attributes:
        mesh: needed if the estimate is a success.
        detection: its box is drawn if it is not.
    """

    estimate: PoseEstimate
    mesh: Mesh | None = None
    detection: Detection | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.estimate, PoseEstimate):
            raise InputError(f"OverlayItem.estimate: wanted a PoseEstimate, got {type(self.estimate).__name__}")
        if self.estimate.success and not isinstance(self.mesh, Mesh):
            raise InputError(f"OverlayItem {self.name!r}: a successful estimate wants its mesh (Mesh.load)")

    @property
    def name(self) -> str:
        """Return the object's name: of the estimate, else of the detection, else of the mesh."""
        named = self.estimate.object or (self.detection.object if self.detection else "")
        return named or (self.mesh.name if self.mesh else "") or "object"


def draw_overlay(
    image: ArrayLike, camera: Camera, items: Sequence[OverlayItem], *, renderer: Callable[[Mesh], Renderer]
) -> Image:
    """Return a copy of the image, RGB uint8 [height,width,3], with the items drawn over it.

    A success shows the outline of the rendered silhouette, the bounding box (edges that it hides itself dimmed), the
    object's axes (x red, y green, z blue; half a diameter long) and its score. A failure shows the box of its
    detection, broken, and the reason.

    Args:
        image: RGB uint8 [height,width,3] of ``camera``.
        items: any number, none included; later ones are drawn on top.
        renderer: makes the renderer of a mesh: ``Backend.pick(...).renderer``, or a Renderer class.

    Raises:
        InputError: the image is not RGB uint8 of the camera's size.
    """
    picture = np.array(image, order="C")
    camera.check_image(picture)
    unit = math.sqrt(camera.width * camera.height / (640.0 * 480.0))  # 1 at VGA
    canvas = Canvas(picture, camera.K, unit, camera.lens)
    labels = Labels(camera.width, camera.height, unit)
    for i, item in enumerate(items):
        if item.estimate.success:
            assert item.mesh is not None
            color = COLORS[i % len(COLORS)]
            extent = _draw_success(canvas, camera, item.estimate, item.mesh, renderer(item.mesh), color)
            labels.add(f"{item.name}  {item.estimate.score:.2f}", extent, color)
        else:
            box = _draw_failure(canvas, item.detection)
            labels.add(f"{item.name}: {item.estimate.reason}", box, FAILED)
    labels.draw(canvas.image)
    return canvas.image


@dataclass(frozen=True, eq=False)
class ResultPainter:
    """Draws a result over images of the camera it was found with: what is behind ``PoseEstimate.draw``.

    Attributes:
        detection: where it was looked for, drawn if it was not found.
        renderer: makes the renderer of a mesh.
        image: the one it was found in, None if it was on a GPU.
    """

    camera: Camera
    mesh: Mesh
    detection: Detection | None
    renderer: Callable[[Mesh], Renderer]
    image: NDArray[np.uint8] | None = None

    def write(self, path: str | os.PathLike[str], drawn: Image) -> None:
        """Write what was drawn as a picture; see ``draw.write_image``."""
        write_image(path, drawn)

    def __call__(self, image: ArrayLike, result: PoseEstimate) -> Image:
        """Return a copy of ``image``, RGB uint8 [height,width,3], with the result drawn over it. Raises InputError."""
        item = OverlayItem(result, self.mesh, self.detection)
        return draw_overlay(image, self.camera, [item], renderer=self.renderer)


def drawable(
    results: Sequence[PoseEstimate],
    camera: Camera,
    detections: Sequence[Detection | None],
    meshes: Mapping[str, Mesh],
    *,
    renderer: Callable[[Mesh], Renderer],
    image: NDArray[np.uint8] | None = None,
) -> list[PoseEstimate]:
    """Return the results, each with a ``ResultPainter``; detections and meshes as there, renderer and image too."""
    pairs = zip(results, detections, strict=True)
    return [replace(r, painter=ResultPainter(camera, meshes[r.object], d, renderer, image)) for r, d in pairs]


def box_corners(mesh: Mesh) -> Array:
    """Return the corners [8,3] of the mesh's bounding box, metres in the object's frame, numbered x + 2 y + 4 z."""
    low = mesh.vertices.min(axis=0) + mesh.centre
    high = mesh.vertices.max(axis=0) + mesh.centre
    bits = (np.arange(8)[:, None] >> np.arange(3)) & 1
    return np.where(bits == 1, high, low)


def visible_faces(corners: Array, T_camera_object: Array) -> NDArray[np.bool_]:
    """Say which faces of the box [axis, side] turn to the camera, bool [3,2]; none if the camera is inside."""
    eye = se3.transform(se3.invert(T_camera_object), np.zeros((1, 3)))[0]
    return np.stack([eye < corners[0], eye > corners[7]], axis=1)


def _draw_success(
    canvas: Canvas, camera: Camera, estimate: PoseEstimate, mesh: Mesh, renderer: Renderer, color: Color
) -> Extent | None:
    """Draw one pose. Returns the extent of its silhouette in the image, or None if nothing of it is there."""
    T = np.asarray(estimate.T_camera_object, np.float64)
    mask = silhouette(T, camera, renderer)
    corners = box_corners(mesh)
    seen = visible_faces(corners, T)
    points = se3.transform(T, corners)
    edges = [(points[i], points[j], any(seen[axis, side] for axis, side in faces)) for i, j, faces in _EDGES]
    for start, end, _ in (e for e in edges if not e[2]):
        canvas.segment(start, end, color, 1.0, opacity=_DIMMED)
    canvas.outline(mask, (0, 0, 0), 3.4)
    canvas.outline(mask, color, 1.8)
    for start, end, _ in (e for e in edges if e[2]):
        canvas.segment(start, end, color, 1.0, opacity=0.8)
    for start, end, axis_color in axis_segments(T, mesh.diameter / 2.0):
        canvas.segment(start, end, (0, 0, 0), 4.2, opacity=0.6)
        canvas.segment(start, end, axis_color, 2.6)
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    return float(columns[0]), float(rows[0]), float(columns[-1]), float(rows[-1])


def axis_segments(T_camera_object: ArrayLike, length: float) -> Iterable[tuple[Array, Array, Color]]:
    """Yield the object's axes as camera points (start [3], end [3]) and colour; those that point away come first."""
    T = np.asarray(T_camera_object, np.float64)
    for k in np.argsort(-T[2, :3], kind="stable"):
        yield T[:3, 3], T[:3, 3] + length * T[:3, k], AXES[k]


def _draw_failure(canvas: Canvas, detection: Detection | None) -> Extent | None:
    """Draw the detection's box in broken lines. Returns its extent, or None without one."""
    if detection is None or detection.bbox is None:
        return None
    x, y, w, h = detection.bbox
    left, top, right, bottom = x, y, x + w - 1.0, y + h - 1.0
    ring = np.array([(left, top), (right, top), (right, bottom), (left, bottom), (left, top)])
    dash = 9.0 * canvas.unit
    # Of a side only what is in the image is cut into dashes: boxes may be as large as they like.
    for start, end in clip_segments(ring, canvas.image.shape[1::-1], margin=4.0 * canvas.width(3.0)):
        n = max(1, round(float(np.linalg.norm(end - start)) / dash)) | 1  # odd: both ends of a side are drawn
        for k in range(0, n, 2):
            piece = np.stack([start + (end - start) * (k + s) / n for s in (0, 1)])
            canvas.polyline(piece, (0, 0, 0), 3.0, opacity=0.6)
            canvas.polyline(piece, FAILED, 1.8)
    return left, top, right, bottom
