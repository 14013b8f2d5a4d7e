"""Makes crops as virtual cameras: at the real one's centre, turned to look at a box, with a square image of their own.

Because both cameras share their centre, image and crop are related by a homography and poses transfer exactly:
``T_crop_object = [R_crop_camera 0; 0 1] T_camera_object``. There is no perspective error as there is when an image is
merely cut out and its principal point moved. Where the real camera's lens distorts, the homography is that of its ideal
image, and ``Lens`` leads from there to the pixels: one mapping, undone in the same resampling.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry import se3
from coop_edge.geometry.lens import Lens

Array = NDArray[np.float64]

REFERENCE_SIZE = 128
"""Side of the crop whose pixels options and constants count; they grow with the crop."""
_GRID = np.stack(np.meshgrid(*[np.linspace(0.0, 1.0, 9)] * 2), axis=-1).reshape(-1, 2)
# Places in a box [81,2], in shares of its sides: under distortion its corners do not say how much it covers.


@dataclass(frozen=True, eq=False)
class CropCamera:
    """Holds N virtual cameras with S x S images.

    Attributes:
        K: [N,3,3], pixels.
        R_crop_camera: [N,3,3], turns camera axes into crop axes.
        H: [N,3,3], maps ideal image pixels to crop pixels.
        size: S, pixels.
        lens: leads from ideal pixels to those of the image; None where they are the same (then
            ``cv2.warpPerspective(image, H[i], (S, S))`` makes the crop).
    """

    K: Array
    R_crop_camera: Array
    H: Array
    size: int
    lens: Lens | None = None

    def __len__(self) -> int:
        return len(self.K)

    def take(self, rows: NDArray[np.integer]) -> CropCamera:
        """Return the cameras at ``rows``."""
        return CropCamera(self.K[rows], self.R_crop_camera[rows], self.H[rows], self.size, self.lens)

    def zoomed(self, factor: ArrayLike) -> CropCamera:
        """Return cameras that look the same way and show everything ``factor`` (a number or [N]) times as large."""
        zoom = np.zeros((len(self), 3, 3))
        zoom[:, 0, 0] = zoom[:, 1, 1] = factor
        zoom[:, :2, 2] = ((1.0 - zoom[:, 0, 0]) * (self.size - 1) / 2.0)[:, None]
        zoom[:, 2, 2] = 1.0
        return CropCamera(zoom @ self.K, self.R_crop_camera, zoom @ self.H, self.size, self.lens)

    def rolled(self, angle: ArrayLike) -> CropCamera:
        """Return cameras turned about their optical axes by ``angle`` [N], radians: what they show turns the other way,
        clockwise in the image if the angle is negative."""
        turn = np.zeros((len(self), 3))
        turn[:, 2] = -np.asarray(angle, np.float64)
        R = se3.so3_exp(turn) @ self.R_crop_camera
        H = self.K @ R @ np.swapaxes(self.R_crop_camera, 1, 2) @ np.linalg.inv(self.K) @ self.H
        return CropCamera(self.K, R, H, self.size, self.lens)

    def to_crop(self, T_camera_object: ArrayLike) -> Array:
        """Turn poses in the real camera [N,4,4] into poses in the virtual cameras [N,4,4]."""
        return se3.compose(se3.from_rt(self.R_crop_camera, np.zeros(3)), T_camera_object)

    def to_camera(self, T_crop_object: ArrayLike) -> Array:
        """Turn poses in the virtual cameras [N,4,4] into poses in the real camera [N,4,4]; inverse of ``to_crop``."""
        R = np.swapaxes(self.R_crop_camera, -1, -2)
        return se3.compose(se3.from_rt(R, np.zeros(3)), T_crop_object)

    def pixels_to_crop(self, pixels: ArrayLike) -> Array:
        """Map image pixels [N,P,2] to crop pixels [N,P,2]; NaN for what lies behind the virtual camera."""
        return _apply_homography(self.H, pixels if self.lens is None else self.lens.undistort(pixels))

    def pixels_to_image(self, pixels: ArrayLike) -> Array:
        """Map crop pixels [N,P,2] to image pixels [N,P,2]; NaN for what no lens shows."""
        H_inverse: Array = np.linalg.inv(self.H).astype(np.float64)
        ideal = _apply_homography(H_inverse, pixels)
        return ideal if self.lens is None else np.asarray(self.lens.distort(ideal))


def crop_camera(K: ArrayLike, bbox: ArrayLike, size: int, margin: float = 1.2, lens: Lens | None = None) -> CropCamera:
    """Make N virtual cameras that look at boxes; N = 0 is legal.

    The whole box is inside the crop and its centre projects to the crop's centre. The rotation is the smallest one that
    turns the optical axis to the box's centre, so that the crop has no roll of its own.

    Args:
        K: [3,3] or [N,3,3], pixels, of the real camera.
        bbox: [N,4] (x, y, width, height), pixels; x and y of the top-left pixel.
        size: side S of the crop, at least 2 pixels.
        margin: side of the crop over the largest extent of the box as the virtual camera sees it, at least 1.
        lens: of the real camera; None without distortion.

    Raises:
        InputError: a box, intrinsics or a number that cannot be meant, or a box where the lens shows nothing.
    """
    try:
        bbox = np.asarray(bbox, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"bbox: wanted numbers [N,4] (x, y, width, height): {error}") from None
    if bbox.ndim != 2 or bbox.shape[1] != 4:
        raise InputError(f"bbox: wanted [N,4] (x, y, width, height), got {list(bbox.shape)}")
    if not np.isfinite(bbox).all() or (bbox[:, 2:] <= 0).any():
        raise InputError("bbox: wanted finite numbers and positive width and height")
    n = len(bbox)
    K = pinhole.check_intrinsics(K, n)
    if not isinstance(size, (int, np.integer)) or size < 2:
        raise InputError(f"size: wanted an integer >= 2, got {size!r}")
    if not (np.isfinite(margin) and margin >= 1.0):
        raise InputError(f"margin: wanted a number >= 1, got {margin!r}")

    # A box of w pixels from column x covers [x - 0.5, x + w - 0.5]: pixel centres are at integers.
    low = bbox[:, :2] - 0.5
    high = low + bbox[:, 2:]
    centre = ((low + high) / 2)[:, None]
    # Straight sides stay straight without distortion: then the corners are all there is to see of a box.
    corners = np.stack([low, np.stack([high[:, 0], low[:, 1]], 1), high, np.stack([low[:, 0], high[:, 1]], 1)], axis=1)
    if lens is not None:
        centre = lens.undistort(centre)
        if np.isnan(centre).any():
            worst = bbox[int(np.flatnonzero(np.isnan(centre).any(axis=(1, 2)))[0])].tolist()
            raise InputError(
                f"bbox: the centre of {worst} lies where the lens images nothing, by its distortion coefficients"
            )
        corners = lens.undistort(low[:, None] + _GRID * (high - low)[:, None])
    axis = pinhole.rays(K, centre)[:, 0]
    R = se3.smallest_rotation_to_z(axis)

    seen = pinhole.rays(K, corners) @ np.swapaxes(R, 1, 2)
    if lens is not None:  # where nothing is seen, the box's centre stands for it
        seen = np.where(np.isfinite(seen), seen, (0.0, 0.0, 1.0))
    if n and seen[..., 2].min() <= 1e-6:
        raise InputError("bbox: a corner lies 90 degrees or more off the box's centre; wanted a smaller box")
    half_extent = np.abs(seen[..., :2] / seen[..., 2:]).max(axis=(1, 2))
    focal = size / (2.0 * margin * half_extent)
    K_crop = np.zeros((n, 3, 3))
    K_crop[:, 0, 0] = K_crop[:, 1, 1] = focal
    K_crop[:, 0, 2] = K_crop[:, 1, 2] = (size - 1) / 2.0
    K_crop[:, 2, 2] = 1.0
    H = K_crop @ R @ np.linalg.inv(K)
    return CropCamera(K_crop, R, H, int(size), lens)


def _apply_homography(H: Array, pixels: ArrayLike) -> Array:
    pixels = np.asarray(pixels, np.float64)
    homogeneous = np.concatenate([pixels, np.ones_like(pixels[..., :1])], axis=-1) @ np.swapaxes(H, -1, -2)
    w = homogeneous[..., 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(w > 0, homogeneous[..., :2] / w, np.nan)
