"""A camera: its intrinsics and the size of its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError
from coop_edge.types.checks import count, floats, frozen

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
        K = floats(self.K, "K")
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
            object.__setattr__(self, name, count(getattr(self, name), name, low=1))
        if self.distortion is not None:
            distortion = floats(self.distortion, "distortion")
            if not np.isfinite(distortion).all() or np.any(distortion != 0.0):
                raise InputError(f"distortion: {distortion.ravel().tolist()} is not zero; {_UNDISTORT}")
            object.__setattr__(self, "distortion", None)
        object.__setattr__(self, "K", frozen(K))

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
