"""Crops of the image as virtual cameras see them (``geometry.crop``): round boxes, and round objects at given poses.

Sampling. Where a crop pixel spans 1.5 image pixels or more, it is the mean of m x m bilinear samples, m being its span
in image pixels, rounded; otherwise it is one bilinear sample. So samples are at most 1.5 image pixels apart, and what a
crop cannot resolve is averaged instead of aliased, as in the training pairs. What lies outside the image or behind the
camera is black.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry.crop import CropCamera, crop_camera
from coop_edge.kernels.device import device_of
from coop_edge.stages.arrays import Array, array_module
from coop_edge.types import Camera, Detection

Floats = NDArray[np.float64]
Warp = Callable[[Array, Floats, int], Array]
"""(image uint8 [h,w,3], H [N,3,3] image pixels -> crop pixels, S) -> float32 [N,3,S,S] in [0, 1]."""

MOST_SAMPLES = 16
"""Upper bound of m: beyond it a crop spans more pixels than images have."""
NEAREST = 0.6
"""Least depth of an object's centre, in diameters: nearer than that the camera is inside or beside the object."""
WIDEST = 5.0
"""Largest distance of an object's centre from the optical axis, in depths (79 degrees)."""


@dataclass(frozen=True, eq=False)
class Crops:
    """N crops of one image and the virtual cameras that see them."""

    images: Array  # float32 [N,3,S,S] RGB in [0, 1]
    camera: CropCamera
    trusted: NDArray[np.bool_]  # [N,T] patches that may show the object: those that its mask touches, all without one


def crop_detections(
    image: Array,
    camera: Camera,
    detections: Sequence[Detection],
    size: int,
    *,
    margin: float,
    patch: int,
    warp: Warp | None = None,
) -> Crops:
    """Crop the detections' boxes, S x S pixels each. N = 0 is legal.

    image: uint8 [height,width,3]. margin: side of the crop over the longer side of the box. patch: pixels. warp: see
    ``Warp``; ``warp_for(image)`` if None. Raises InputError: image, boxes or masks that do not fit the camera.
    """
    camera.check_image(image)
    for i, detection in enumerate(detections):
        try:
            detection.check_camera(camera)
        except InputError as error:
            raise InputError(f"detections[{i}] ({detection.object!r}): {error}") from None
    boxes = np.array([d.bbox for d in detections], np.float64).reshape(-1, 4)
    virtual = crop_camera(camera.K, boxes, size, margin)
    trusted = np.ones((len(boxes), (size // patch) ** 2), np.bool_)
    for i, detection in enumerate(detections):
        if detection.mask is not None:
            trusted[i] = _patches_touched(detection.mask, virtual.H[i], size, patch)
    return Crops((warp or warp_for(image))(image, virtual.H, size), virtual, trusted)


def pose_crop(
    camera: Camera, T_camera_object: ArrayLike, centre: ArrayLike, diameter: ArrayLike, size: int, margin: float
) -> CropCamera:
    """Virtual cameras that look at objects' centres.

    T_camera_object [M,4,4]; centre [M,3] and diameter [M] of the objects, metres; margin: side of the crop over the
    diameter's image. The poses must be in sight (``in_sight``). M = 0 is legal. Raises InputError.
    """
    T, centre, diameter = (np.asarray(a, np.float64) for a in (T_camera_object, centre, diameter))
    seen = (T[:, :3, :3] @ centre[..., None])[..., 0] + T[:, :3, 3]
    # A box in the image of a camera with focal length 1: what is seen does not depend on the real camera's pixels.
    side = (diameter / seen[:, 2])[:, None]
    corner = seen[:, :2] / seen[:, 2:] - side / 2 + 0.5
    virtual = crop_camera(np.eye(3), np.concatenate([corner, side, side], axis=1), size, margin)
    H = virtual.K @ virtual.R_crop_camera @ np.linalg.inv(camera.K)
    return CropCamera(virtual.K, virtual.R_crop_camera, H, size)


def in_sight(T_camera_object: ArrayLike, centre: ArrayLike, diameter: ArrayLike) -> NDArray[np.bool_]:
    """Whether a camera can be aimed at objects at these poses, bool [M]: finite, and the centre is in front of the
    camera, ``NEAREST`` diameters deep at least and not farther than ``WIDEST`` depths off the axis."""
    T, centre, diameter = (np.asarray(a, np.float64) for a in (T_camera_object, centre, diameter))
    seen = (T[:, :3, :3] @ centre[..., None])[..., 0] + T[:, :3, 3]
    finite = np.isfinite(T).all(axis=(1, 2))
    with np.errstate(invalid="ignore"):
        deep = seen[:, 2] > NEAREST * diameter
        near_axis = np.hypot(seen[:, 0], seen[:, 1]) < WIDEST * seen[:, 2]
    return np.asarray(finite & deep & near_axis)


def warp_for(image: Array) -> Warp:
    """The ``Warp`` of where an image is: ``warp_cpu``, or ``crop_cuda.CudaWarp`` on the GPU that holds it."""
    if isinstance(image, np.ndarray):
        return warp_cpu
    from coop_edge.stages.crop_cuda import CudaWarp

    return CudaWarp(device_of(image))


def warp_cpu(image: NDArray[np.uint8], H: Floats, size: int) -> NDArray[np.float32]:
    """``Warp`` with OpenCV; crops are rounded to 8 bits, as those of the training pairs are."""
    import cv2

    out = np.empty((len(H), size, size, 3), np.uint8)
    image = np.ascontiguousarray(image)  # once, and not in every call to OpenCV
    for i, matrix in enumerate(H):
        m, fine = _finer(matrix, size)
        crop = cv2.warpPerspective(image, fine, (m * size, m * size), flags=cv2.INTER_LINEAR)
        out[i] = crop if m == 1 else cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
        _blacken_behind(out[i], matrix)
    return as_network_image(out)


def samples_per_side(H: Floats, size: int) -> NDArray[np.integer]:
    """m of the module's docstring for homographies [...,3,3], integers [...]: from how long a crop pixel is at the
    crop's centre."""
    middle = (size - 1) / 2
    ends = np.linalg.inv(H) @ np.array([[middle, middle + 1, middle], [middle, middle, middle + 1], [1.0, 1.0, 1.0]])
    pixels = ends[..., :2, :] / ends[..., 2:, :]
    span = np.linalg.norm(pixels[..., 1:] - pixels[..., :1], axis=-2).max(axis=-1)
    return np.asarray(np.clip(np.rint(span), 1, MOST_SAMPLES).astype(np.int64))


def _finer(H: Floats, size: int) -> tuple[int, Floats]:
    """m, and the homography to a crop of m x m pixels in the place of each."""
    m = int(samples_per_side(H, size))
    return m, np.array([[m, 0.0, (m - 1) / 2], [0.0, m, (m - 1) / 2], [0.0, 0.0, 1.0]]) @ H


def as_network_image(rgb: Array) -> Array:
    """uint8 [N,S,S,3] -> float32 [N,3,S,S] in [0, 1], contiguous; NumPy or CuPy."""
    xp = array_module(rgb)
    return xp.ascontiguousarray(xp.moveaxis(rgb, -1, 1)).astype(np.float32) / np.float32(255.0)


def _blacken_behind(crop: NDArray[np.uint8], H: Floats) -> None:
    """Blacken the pixels whose rays look backwards: the homography mirrors them into the image."""
    size = len(crop)
    a, b, c = np.linalg.inv(H)[2]  # of the third homogeneous coordinate, positive in front
    far = size - 1
    if min(c, a * far + c, b * far + c, a * far + b * far + c) <= 0.0:
        u = np.arange(size)
        crop[(a * u + b * u[:, None] + c) <= 0.0] = 0


def _patches_touched(mask: NDArray[np.bool_], H: Floats, size: int, patch: int) -> NDArray[np.bool_]:
    """Which patches [T] of a crop hold any of the mask [h,w]."""
    import cv2

    m, fine = _finer(H, size)  # as finely as the image is sampled: a cable is narrower than a pixel of its crop
    inside: Any = cv2.warpPerspective(mask.view(np.uint8), fine, (m * size, m * size), flags=cv2.INTER_NEAREST)
    _blacken_behind(inside, fine)
    side = size // patch
    return np.asarray(inside.reshape(side, m * patch, side, m * patch).any(axis=(1, 3)).ravel())
