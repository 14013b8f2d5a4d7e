"""Defines a camera: its intrinsics and the size of its images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.base.plain import floats
from coop_edge.calibration.files import read_calibration
from coop_edge.errors import InputError
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry.lens import Lens
from coop_edge.types.checks import count, frozen
from coop_edge.types.fit import check_fit, check_lens

MOST_DISTORTION = 1e6
"""Absolute value from which a number is no coefficient of a lens."""


@dataclass(frozen=True, eq=False, repr=False)
class Camera:
    """A camera: pinhole, with or without the distortion of a lens.

    Attributes:
        K: [3,3] intrinsics in pixels, upper triangular (focal lengths positive; skew allowed where nothing distorts).
        width: pixels.
        height: pixels.
        distortion: OpenCV's coefficients, 4, 5, 8, 12 or 14 of them (k1, k2, p1, p2, k3, ...), or the 4 of
            ``cv2.fisheye`` with ``fisheye=True``; None without. Images are taken as they are: crops are made through
            the distortion, and poses are those of the ideal camera. ``load`` reads calibration files.

    Raises:
        InputError: K is not upper triangular with positive focal lengths, is not in pixels of this image, a size is not
            a positive integer, or the coefficients are of no model of OpenCV's.

    Warns:
        UserWarning: K is unlikely for an image of this size.
    """

    K: NDArray[np.float64]
    width: int
    height: int
    distortion: ArrayLike | None = None
    fisheye: bool = False

    if TYPE_CHECKING:  # what is taken is more than what is kept

        @overload  # a list of integers and numbers mixed is no ArrayLike to type checkers
        def __init__(
            self,
            K: Sequence[Sequence[float]],
            width: int,
            height: int,
            distortion: ArrayLike | None = None,
            fisheye: bool = False,
        ) -> None: ...
        @overload
        def __init__(
            self, K: ArrayLike, width: int, height: int, distortion: ArrayLike | None = None, fisheye: bool = False
        ) -> None: ...
        def __init__(self, *arguments: Any, **options: Any) -> None: ...

    def __post_init__(self) -> None:
        K = floats(self.K, "K")
        if K.shape != (3, 3):
            form = "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
            raise InputError(f"K: wanted a 3x3 matrix {form}, got shape {list(K.shape)}{_as_matrix(K)}")
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
            object.__setattr__(self, name, count(getattr(self, name), name, low=1))
        check_fit(K, self.width, self.height, fisheye=bool(self.fisheye))
        object.__setattr__(self, "K", frozen(K))
        object.__setattr__(self, "fisheye", bool(self.fisheye))
        self._check_distortion()

    def __repr__(self) -> str:
        """Return one line: size, focal lengths, principal point, distortion."""
        K = self.K
        skew = f", skew={K[0, 1]:g}" if K[0, 1] else ""
        kind = "fisheye" if self.fisheye else "distortion"
        lens = "" if self.distortion is None else f", {kind}={np.asarray(self.distortion).tolist()}"
        size = f"{self.width}x{self.height}"
        return f"Camera({size}, fx={K[0, 0]:g}, fy={K[1, 1]:g}, cx={K[0, 2]:g}, cy={K[1, 2]:g}{skew}{lens})"

    def _check_distortion(self) -> None:
        if self.distortion is None:
            if self.fisheye:
                raise InputError("Camera: fisheye=True wants distortion=(k1, k2, k3, k4); all may be zero")
            return
        distortion = floats(self.distortion, "distortion").ravel()
        if np.abs(distortion).max(initial=0.0) > MOST_DISTORTION:
            raise InputError(
                f"distortion: {distortion.tolist()} are not a lens's coefficients; wanted OpenCV's: k1, k2, p1, p2, ..."
            )
        Lens.make(self.K, distortion, fisheye=self.fisheye)
        none = not self.fisheye and not distortion.any()
        object.__setattr__(self, "distortion", None if none else frozen(distortion))
        if self.lens is not None and not self.fisheye:
            check_lens(self.lens, self.width, self.height)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        size: tuple[int, int] | None = None,
        name: str | int | None = None,
        rectified: bool = False,
    ) -> Camera:
        """Read a camera from a calibration file, whichever of these it is.

        JSON: ours (K or fx, fy, cx, cy; width, height, distortion, fisheye), BOP's camera.json and scene_camera.json,
        MegaPose's camera_data.json, Open3D's and RealSense's intrinsics. YAML: ROS' camera_info, Kalibr's camchain.
        OpenCV's FileStorage as YAML, XML or JSON.

        Args:
            path: the file.
            size: (width, height) of the images, pixels: needed where the file does not say it (BOP's
                scene_camera.json), compared where it does.
            name: which one of several: a camera of Kalibr's ("cam0"), a stream of RealSense's ("color"), an image of
                BOP's (17), a matrix of OpenCV's ("M1").
            rectified: the images are rectified: of a ROS camera_info, P is read, and no distortion is left.

        Raises:
            InputError: the file cannot be read, is of an unknown format, or its values contradict each other or
                ``size``.
        """
        found = read_calibration(Path(path), name=None if name is None else str(name), rectified=rectified)
        given = (found.width, found.height)
        if None in given and size is None:
            raise InputError(f"{path}: does not say how large its images are; pass size=(width, height)")
        if size is not None and any(side not in (None, wanted) for side, wanted in zip(given, size, strict=True)):
            raise InputError(
                f"{path}: its camera has {given[0]}x{given[1]} pixels, the image {size[0]}x{size[1]}; wanted the "
                "calibration of this image's size"
            )
        width, height = size if size is not None else given
        try:
            return cls(found.K, width, height, found.distortion, found.fisheye)  # type: ignore[arg-type]
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

    @cached_property
    def lens(self) -> Lens | None:
        """Return the distortion as a mapping of pixels; None without."""
        if self.distortion is None:
            return None
        return Lens.make(self.K, self.distortion, fisheye=self.fisheye)

    def project(self, points_camera: ArrayLike) -> NDArray[np.float64]:
        """Project camera points [...,N,3], metres, to image pixels [...,N,2]; NaN for what the camera does not see."""
        ideal = pinhole.project(self.K, points_camera)
        return ideal if self.lens is None else np.asarray(self.lens.distort(ideal))

    def rays(self, pixels: ArrayLike) -> NDArray[np.float64]:
        """Return the camera points [...,N,3] at z = 1 that are seen at image pixels [...,N,2]; NaN where none is."""
        if self.lens is None:
            return pinhole.rays(self.K, pixels)
        rays = pinhole.rays(self.K, self.lens.undistort(pixels))
        return np.where(np.isfinite(rays[..., :1]), rays, np.nan)

    @property
    def size(self) -> tuple[int, int]:
        """Return (width, height), pixels."""
        return self.width, self.height

    def check_image(self, image: Any) -> None:
        """Raise InputError unless ``image`` is uint8 [height,width,3] as this camera makes it.

        That it is RGB cannot be seen: OpenCV reads and grabs BGR, which ``image[..., ::-1]`` turns into RGB.
        """
        shape, dtype = getattr(image, "shape", None), getattr(image, "dtype", None)
        if shape is None or dtype is None:
            raise InputError(f"image: wanted an array uint8 [{self.height},{self.width},3], got {_no_image(image)}")
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
            raise InputError(
                f"image: wanted RGB [{self.height},{self.width},3], got {list(shape)}{hint} (what OpenCV reads is BGR: "
                "pass image[..., ::-1])"
            )


def _as_matrix(K: NDArray[np.float64]) -> str:
    """Return how an array of another shape becomes a 3x3 matrix; "" if it does not."""
    if K.shape == (4,):
        fx, fy, cx, cy = K
        return f"; as fx, fy, cx, cy these numbers are [[{fx:g}, 0, {cx:g}], [0, {fy:g}, {cy:g}], [0, 0, 1]]"
    return "; nine numbers row by row become one with np.reshape(K, (3, 3))" if K.shape == (9,) else ""


def _no_image(image: Any) -> str:
    """Return what was given in place of an array, and what to do."""
    if image is None:
        return "None; OpenCV's imread gives None for a file that is missing or that it cannot read"
    hint = "; read the file first: cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)"
    return type(image).__name__ + (hint if isinstance(image, (str, os.PathLike)) else "")
