"""Crops of the image as virtual cameras see them (``geometry.crop``): of boxes, and of objects at given poses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry.crop import CropCamera, crop_camera
from coop_edge.ops.base import Array, Operations
from coop_edge.ops.sampling import blacken_behind, finer
from coop_edge.types import Camera, Detection

Floats = NDArray[np.float64]

NEAREST = 0.6
"""Least depth of an object's centre, in diameters: nearer than that the camera is inside or beside the object."""
WIDEST = 5.0
"""Largest distance of an object's centre from the optical axis, in depths (79 degrees)."""


@dataclass(frozen=True, eq=False)
class Crops:
    """N crops of one image and the virtual cameras that see them."""

    images: Array  # float32 [N,3,S,S] RGB in [0, 1], on the device
    camera: CropCamera
    trusted: NDArray[np.bool_]  # [N,T] patches that may show the object: those that its mask touches, all without one
    masks: tuple[NDArray[np.bool_] | None, ...]  # N, of the detections: [height,width] of the image, None = no mask
    sides: Floats  # [N,2] width and height of the boxes, pixels of the crops


def crop_detections(
    image: Array,
    camera: Camera,
    detections: Sequence[Detection],
    size: int,
    *,
    ops: Operations,
    margin: float,
    patch: int,
) -> Crops:
    """Crop the detections' boxes, S x S pixels each. N = 0 is legal.

    Args:
        image: uint8 [height,width,3] on the device of ``ops``.
        margin: side of the crop over the longer side of the box.
        patch: pixels.

    Raises:
        InputError: image, boxes or masks that do not fit the camera.
    """
    camera.check_image(image)
    for i, detection in enumerate(detections):
        try:
            detection.check_camera(camera)
        except InputError as error:
            raise InputError(f"detections[{i}] ({detection.object!r}): {error}") from None
    boxes = np.array([d.bbox for d in detections], np.float64).reshape(-1, 4)
    virtual = crop_camera(camera.K, boxes, size, margin, camera.lens)
    masks = tuple(detection.mask for detection in detections)
    images = ops.warp(image, virtual.H, size, virtual.lens)
    return Crops(images, virtual, patches_touched(masks, virtual, patch), masks, _sides(boxes, virtual, margin))


def _sides(boxes: Floats, camera: CropCamera, margin: float) -> Floats:
    """Return width and height [N,2] of boxes as their crops show them, between the middles of opposite sides."""
    low, middle, high = (boxes[:, :2] - 0.5 + share * boxes[:, 2:] for share in (0.0, 0.5, 1.0))
    ends = [
        [low[:, 0], middle[:, 1]],
        [high[:, 0], middle[:, 1]],
        [middle[:, 0], low[:, 1]],
        [middle[:, 0], high[:, 1]],
    ]
    left, right, top, bottom = np.moveaxis(camera.pixels_to_crop(np.moveaxis(np.array(ends), 2, 0)), 1, 0)
    seen = np.stack([right[:, 0] - left[:, 0], bottom[:, 1] - top[:, 1]], axis=1)
    return np.where(np.isfinite(seen), seen, camera.size / margin)  # a lens may show nothing there


def pose_crop(
    camera: Camera, T_camera_object: ArrayLike, centre: ArrayLike, diameter: ArrayLike, size: int, margin: float
) -> CropCamera:
    """Make virtual cameras that look at objects' centres.

    The poses must be in sight (``in_sight``). M = 0 is legal.

    Args:
        T_camera_object: [M,4,4], metres.
        centre: [M,3] of the objects, metres, object's frame.
        diameter: [M] of the objects, metres.
        margin: side of the crop over the diameter's image.

    Raises:
        InputError: the margin is less than 1, or arrays have other shapes.
    """
    T, centre, diameter = (np.asarray(a, np.float64) for a in (T_camera_object, centre, diameter))
    seen = (T[:, :3, :3] @ centre[..., None])[..., 0] + T[:, :3, 3]
    # A box in the image of a camera with focal length 1: what is seen does not depend on the real camera's pixels.
    side = (diameter / seen[:, 2])[:, None]
    corner = seen[:, :2] / seen[:, 2:] - side / 2 + 0.5
    virtual = crop_camera(np.eye(3), np.concatenate([corner, side, side], axis=1), size, margin)
    H = virtual.K @ virtual.R_crop_camera @ np.linalg.inv(camera.K)
    return CropCamera(virtual.K, virtual.R_crop_camera, H, size, camera.lens)


def in_sight(T_camera_object: ArrayLike, centre: ArrayLike, diameter: ArrayLike) -> NDArray[np.bool_]:
    """Tell whether a camera can be aimed at objects at these poses, bool [M].

    A pose must be finite, and put the centre at least ``NEAREST`` diameters in front of the camera and at most
    ``WIDEST`` depths off its axis.
    """
    T, centre, diameter = (np.asarray(a, np.float64) for a in (T_camera_object, centre, diameter))
    seen = (T[:, :3, :3] @ centre[..., None])[..., 0] + T[:, :3, 3]
    finite = np.isfinite(T).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        deep = seen[:, 2] > NEAREST * diameter
        near_axis = np.hypot(seen[:, 0], seen[:, 1]) < WIDEST * seen[:, 2]
    return np.asarray(finite & deep & near_axis)


def patches_touched(masks: Sequence[NDArray[np.bool_] | None], camera: CropCamera, patch: int) -> NDArray[np.bool_]:
    """Tell which patches of N crops hold any of their masks, bool [N,T]; all of them where there is no mask.

    Args:
        masks: N, each [height,width] of the image.
        camera: of the crops.
        patch: pixels.
    """
    size, side = camera.size, camera.size // patch
    touched = np.ones((len(masks), side * side), np.bool_)
    for i, mask in enumerate(masks):
        if mask is None:
            continue
        # As finely as the image is sampled: a cable is narrower than a crop's pixel.
        m, fine = finer(camera.H[i], size, camera.lens)
        one = replace(camera.take(np.array([i])), H=fine[None], size=m * size)
        inside = _mask_crop(mask, one)
        touched[i] = inside.reshape(side, m * patch, side, m * patch).any(axis=(1, 3)).ravel()
    return touched


def _mask_crop(mask: NDArray[np.bool_], camera: CropCamera) -> NDArray[np.uint8]:
    """Return the crop of a mask by one camera, uint8 [S,S]: the nearest pixel, 0 where nothing is seen."""
    size = camera.size
    if camera.lens is None:
        inside: Any = cv2.warpPerspective(mask.view(np.uint8), camera.H[0], (size, size), flags=cv2.INTER_NEAREST)
        blacken_behind(inside, camera.H[0])
        return np.asarray(inside)
    grid = np.stack(np.meshgrid(*[np.arange(size, dtype=np.float64)] * 2), axis=-1)
    place = camera.pixels_to_image(grid.reshape(1, -1, 2))[0]
    seen = (np.isfinite(place) & (np.rint(place) >= 0) & (np.rint(place) < mask.shape[::-1])).all(axis=1)
    pixel = np.rint(np.where(seen[:, None], place, 0.0)).astype(np.int64)
    return np.asarray((mask[pixel[:, 1], pixel[:, 0]] & seen).reshape(size, size), np.uint8)
