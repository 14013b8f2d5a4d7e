"""What goes into an Estimator and what comes out: frozen, validated on construction, free of any backend.

Pixels: the centre of the top-left pixel is (0, 0). Lengths are metres. ``T_camera_object`` maps object points to camera
points (x right, y down, z forward).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.geometry import se3

_UNDISTORT = (
    "undistort the image first and pass zero distortion: "
    "K_new, _ = cv2.getOptimalNewCameraMatrix(K, distortion, (width, height), 0); "
    "image = cv2.undistort(image, K, distortion, None, K_new); Camera(K_new, width, height)"
)


@dataclass(frozen=True, eq=False)
class Camera:
    """A pinhole camera.

    K: [3,3] intrinsics in pixels, upper triangular (focal lengths positive; skew allowed). width, height: pixels.
    distortion: None, or coefficients that are all zero; anything else is refused with the call that undistorts.
    Raises InputError.
    """

    K: NDArray[np.float64]
    width: int
    height: int
    distortion: ArrayLike | None = None

    def __post_init__(self) -> None:
        K = _floats(self.K, "K")
        if K.shape != (3, 3):
            raise InputError(f"K: wanted a 3x3 matrix, got shape {list(K.shape)}")
        if not np.isfinite(K).all():
            raise InputError("K: holds NaN or infinity")
        if (K[2] != (0.0, 0.0, 1.0)).any() or K[1, 0] != 0.0:
            raise InputError(f"K: wanted [[fx, s, cx], [0, fy, cy], [0, 0, 1]], got {K.tolist()}; is it transposed?")
        if K[0, 0] <= 0 or K[1, 1] <= 0:
            raise InputError(
                f"K: focal lengths are fx = {K[0, 0]:g}, fy = {K[1, 1]:g}; wanted both positive (x right, y down, "
                "z forward). A negative one is a left-handed or OpenGL camera: flip that axis of image and pose instead"
            )
        for name in ("width", "height"):
            object.__setattr__(self, name, _count(getattr(self, name), name, low=1))
        if self.distortion is not None:
            distortion = _floats(self.distortion, "distortion")
            if not np.isfinite(distortion).all() or np.any(distortion != 0.0):
                raise InputError(f"distortion: {distortion.ravel().tolist()} is not zero; {_UNDISTORT}")
            object.__setattr__(self, "distortion", None)
        object.__setattr__(self, "K", _frozen(K))

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) pixels."""
        return self.width, self.height

    def check_image(self, image: Any) -> None:
        """Raise InputError unless ``image`` is RGB uint8 [height,width,3] as this camera makes it."""
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
        if shape is None or dtype is None:
            raise InputError(f"image: wanted an array uint8 [{self.height},{self.width},3], got {type(image).__name__}")
        if str(dtype).removeprefix("torch.") != "uint8":  # a PyTorch tensor is an image too: its memory is what counts
            hint = "; multiply a float image by 255 and convert" if "float" in str(dtype) else ""
            raise InputError(f"image: wanted dtype uint8, got {dtype}{hint}")
        if tuple(shape) != (self.height, self.width, 3):
            wanted, hint = (self.height, self.width), ""
            if tuple(shape[:2]) == wanted[::-1]:
                hint = "; width and height look swapped"
            elif tuple(shape) in (wanted, (*wanted, 1)):
                hint = "; a grey image becomes RGB with cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)"
            elif tuple(shape) == (*wanted, 4):
                hint = "; leave out the fourth channel: image[..., :3]"
            elif tuple(shape) == (3, *wanted):
                hint = "; move the channels to the end: image.transpose(1, 2, 0)"
            raise InputError(f"image: wanted RGB [{self.height},{self.width},3], got {list(shape)}{hint}")


@dataclass(frozen=True, eq=False)
class Detection:
    """Where an object may be: a box, a mask, or both (the box is then what is cropped, the mask what is trusted).

    object: name given to ``add_object``. bbox: (x, y, width, height) pixels as in BOP: column and row of the top-left
    pixel, then how many columns and rows; fractions allowed. mask: bool [H,W], any True. score: in [0, 1].
    Raises InputError.
    """

    object: str
    bbox: tuple[float, float, float, float] | None = None
    mask: NDArray[np.bool_] | None = None
    score: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.object, str) or not self.object:
            raise InputError(f"Detection.object: wanted a non-empty name, got {self.object!r}")
        if self.bbox is None and self.mask is None:
            raise InputError(f"Detection {self.object!r}: wanted bbox=(x, y, width, height) or a bool mask [H,W]")
        mask_box = self._check_mask() if self.mask is not None else None
        object.__setattr__(self, "bbox", mask_box if self.bbox is None else self._checked_box())
        object.__setattr__(self, "score", _unit(self.score, "Detection.score"))

    def _checked_box(self) -> tuple[float, float, float, float]:
        box = _floats(self.bbox, "bbox")
        if box.shape != (4,):
            raise InputError(f"bbox: wanted (x, y, width, height), got shape {list(box.shape)}")
        if not np.isfinite(box).all():
            raise InputError(f"bbox: holds NaN or infinity: {box.tolist()}")
        if box[2] <= 0 or box[3] <= 0:
            raise InputError(f"bbox: width and height must be positive, got {box.tolist()}; is it (x0, y0, x1, y1)?")
        x, y, w, h = box.tolist()
        if self.mask is not None:
            height, width = self.mask.shape
            _check_overlap((x, y, w, h), width, height)
        return x, y, w, h

    def _check_mask(self) -> tuple[float, float, float, float]:
        mask = self.mask
        if not isinstance(mask, np.ndarray) or mask.ndim != 2:
            given = f"shape {list(mask.shape)}" if isinstance(mask, np.ndarray) else type(mask).__name__
            raise InputError(f"mask: wanted a bool array [H,W], got {given}")
        if mask.dtype != np.bool_:
            raise InputError(f"mask: wanted dtype bool, got {mask.dtype}; convert with mask > 0")
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if rows.size == 0:
            raise InputError(f"mask: no pixel is True in {list(mask.shape)}; drop the detection instead")
        object.__setattr__(self, "mask", _frozen(mask))
        x, y = float(columns[0]), float(rows[0])
        return x, y, float(columns[-1]) - x + 1.0, float(rows[-1]) - y + 1.0

    def check_camera(self, camera: Camera) -> None:
        """Raise InputError unless the box overlaps the camera's image and the mask has its size."""
        if self.mask is not None and self.mask.shape != (camera.height, camera.width):
            raise InputError(
                f"mask: wanted [{camera.height},{camera.width}] (the image's), got {list(self.mask.shape)}"
            )
        assert self.bbox is not None
        _check_overlap(self.bbox, camera.width, camera.height)


@dataclass(frozen=True)
class StageTimes:
    """Wall time per stage, milliseconds. Stages run as one batch: the times are those of the whole call."""

    crop_ms: float = 0.0
    coarse_ms: float = 0.0
    refine_ms: float = 0.0
    outline_ms: float = 0.0
    select_ms: float = 0.0

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if not (_real(value) and math.isfinite(value) and value >= 0.0):
                raise InputError(f"StageTimes.{f.name}: wanted milliseconds >= 0, got {value!r}")

    @property
    def total_ms(self) -> float:
        return self.crop_ms + self.coarse_ms + self.refine_ms + self.outline_ms + self.select_ms


@dataclass(frozen=True, eq=False)
class PoseEstimate:
    """The answer for one detection. A failure has a reason and no pose: never a made-up one, never an identity.

    success: whether there is a pose. reason: "" on success, else one readable line. T_camera_object: float64 [4,4],
    metres, or None. score: in [0, 1]. n_inliers: correspondences that agree. reprojection_rms_px: over those, or None.
    covariance: float64 [6,6] of (translation m, rotation rad) in camera axes (the order of ROS's PoseWithCovariance;
    ``pnp.base`` gives the equation), or None. Raises InputError.
    """

    success: bool
    reason: str = ""
    T_camera_object: NDArray[np.float64] | None = None
    score: float = 0.0
    n_inliers: int = 0
    reprojection_rms_px: float | None = None
    covariance: NDArray[np.float64] | None = None
    times: StageTimes | None = None
    object: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.success, (bool, np.bool_)):
            raise InputError(f"PoseEstimate.success: wanted True or False, got {self.success!r}")
        object.__setattr__(self, "success", bool(self.success))
        object.__setattr__(self, "score", _unit(self.score, "PoseEstimate.score"))
        object.__setattr__(self, "n_inliers", _count(self.n_inliers, "n_inliers", low=0))
        if not isinstance(self.reason, str):
            raise InputError(f"PoseEstimate.reason: wanted text, got {type(self.reason).__name__}")
        if self.times is not None and not isinstance(self.times, StageTimes):
            raise InputError(f"PoseEstimate.times: wanted StageTimes or None, got {type(self.times).__name__}")
        if self.success:
            self._check_success()
        elif not self.reason:
            raise InputError("PoseEstimate: success=False wants a reason")
        elif self.T_camera_object is not None or self.covariance is not None:
            raise InputError("PoseEstimate: success=False must not carry a pose or a covariance")
        rms = self.reprojection_rms_px
        if rms is not None:
            if not (_real(rms) and math.isfinite(rms) and rms >= 0.0):
                raise InputError(f"reprojection_rms_px: wanted a number >= 0 or None, got {rms!r}")
            object.__setattr__(self, "reprojection_rms_px", float(rms))

    def _check_success(self) -> None:
        if self.reason:
            raise InputError(f"PoseEstimate: success=True must not carry a reason, got {self.reason!r}")
        if self.T_camera_object is None:
            raise InputError("PoseEstimate: success=True wants T_camera_object [4,4]")
        T = se3.check_transform(self.T_camera_object)
        if T.shape != (4, 4):
            raise InputError(f"T_camera_object: wanted [4,4], got {list(T.shape)}")
        object.__setattr__(self, "T_camera_object", _frozen(T))
        if self.covariance is None:
            return
        covariance = _floats(self.covariance, "covariance")
        if covariance.shape != (6, 6) or not np.isfinite(covariance).all():
            raise InputError(f"covariance: wanted a finite [6,6], got shape {list(covariance.shape)}")
        # Rotation and translation variances differ by orders of magnitude: compare as a correlation.
        scale = np.sqrt(np.clip(np.diag(covariance), 0.0, None))
        unit = covariance / np.maximum(np.outer(scale, scale), 1e-300)
        if (np.abs(unit - unit.T) > 1e-6).any() or (np.diag(covariance) < 0).any():
            raise InputError("covariance: wanted a symmetric matrix with a non-negative diagonal")
        if np.linalg.eigvalsh((unit + unit.T) / 2).min() < -1e-6:
            raise InputError("covariance: wanted a positive semi-definite matrix")
        object.__setattr__(self, "covariance", _frozen(covariance))

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON: arrays as nested lists."""
        out: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                value = value.tolist()
            elif isinstance(value, StageTimes):
                value = {g.name: getattr(value, g.name) for g in fields(value)} | {"total_ms": value.total_ms}
            out[f.name] = value
        return out


def _check_overlap(bbox: tuple[float, float, float, float], width: int, height: int) -> None:
    x, y, w, h = bbox
    if x + w <= 0 or y + h <= 0 or x >= width or y >= height:
        raise InputError(f"bbox: {list(bbox)} (x, y, width, height) lies outside the {width}x{height} image")


def _floats(value: Any, name: str) -> NDArray[np.float64]:
    try:
        array = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name}: wanted numbers, got {type(value).__name__}: {value!r:.80}") from None
    return array


def _frozen(array: NDArray[Any]) -> NDArray[Any]:
    array = np.array(array, order="C")
    array.setflags(write=False)
    return array


def _count(value: Any, name: str, low: int) -> int:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)) or value < low:
        raise InputError(f"{name}: wanted an integer >= {low}, got {value!r}")
    return int(value)


def _unit(value: Any, name: str) -> float:
    if not _real(value) or not 0.0 <= float(value) <= 1.0:
        raise InputError(f"{name}: wanted a number in [0, 1], got {value!r}")
    return float(value)


def _real(value: Any) -> bool:
    """Whether ``value`` is a real number, NumPy's included; True and False are none."""
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
