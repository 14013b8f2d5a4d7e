"""Maps pixels of an ideal pinhole camera to pixels of an image with lens distortion, and back: OpenCV's models.

An ideal pixel is K (x, y, 1), with (x, y) the ray at z = 1; the image shows that ray at K (x + dx, y + dy, 1). The
displacement (dx, dy) is what the coefficients give: rational radial, tangential, thin prism and tilt
(``cv2.projectPoints``), or the equidistant model of fisheye lenses (``cv2.fisheye.projectPoints``).

``displacement`` is written for numbers and arrays alike: NumPy and CuPy run it as it is, Numba compiles it, and
``kernels/lens.cuh`` repeats it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from coop_edge.errors import InputError

Array = NDArray[np.float64]

COUNTS = (4, 5, 8, 12, 14)
"""Numbers of coefficients that OpenCV's model takes: k1, k2, p1, p2, then k3, then k4, k5, k6, then s1 .. s4, then the
tilt's two."""
NONE, OPENCV, FISHEYE = 0, 1, 2
"""Values of the first of a lens' numbers: no distortion, and the two models."""
LENS_NUMBERS = 27
"""Of a lens: model, limit^2, fx, fy, cx, cy, then k1 k2 p1 p2 k3 k4 k5 k6 s1 s2 s3 s4, then the tilt row by row."""
WIDEST = math.tan(math.radians(89.0))
"""Largest tangent of a ray's angle off the axis: a pose in front of the camera has no ray at 90 degrees or more."""

_TABLE = 4096  # radii at which the radial profile is tabulated
_STEPS = 12  # of Newton's method, from a start that is right to a thousandth


@dataclass(frozen=True, eq=False)
class Lens:
    """The distortion of one camera.

    Attributes:
        K: [3,3] without skew, which OpenCV's models do not have.
        coefficients: in OpenCV's order, as many as ``COUNTS`` says, 4 for a fisheye.
        numbers: float64 [27], what ``displacement`` reads.
        limit: tangent of the largest angle off the axis that the model is good for; beyond it radii would shrink again,
            and nothing is seen there.
    """

    K: Array
    coefficients: Array
    fisheye: bool
    numbers: Array
    limit: float

    @classmethod
    def make(cls, K: ArrayLike, coefficients: ArrayLike, *, fisheye: bool = False) -> Lens:
        """Make a lens.

        Raises:
            InputError: a number of coefficients that no model has, a skew, NaN.
        """
        K, given = np.asarray(K, np.float64), np.asarray(coefficients, np.float64).ravel()
        counts = (4,) if fisheye else COUNTS
        if given.size not in counts:
            wanted = "4 (k1, k2, k3, k4)" if fisheye else "4, 5, 8, 12 or 14 (k1, k2, p1, p2, k3, ... as OpenCV)"
            raise InputError(
                f"distortion: wanted {wanted} coefficients for {'a fisheye' if fisheye else 'a lens'}, got {given.size}"
            )
        if not np.isfinite(given).all():
            raise InputError(f"distortion: holds NaN or infinity: {given.tolist()}")
        if K[0, 1] != 0.0:
            raise InputError(
                f"K: has skew {K[0, 1]:g}, which OpenCV's distortion models do not know; wanted K[0,1] = 0"
            )
        limit = _limit(given, fisheye)
        model = FISHEYE if fisheye else OPENCV
        head = model, limit * limit, K[0, 0], K[1, 1], K[0, 2], K[1, 2]
        tilt = _tilt(*given[12:]) if given.size == 14 else np.eye(3)
        numbers = np.concatenate([head, np.pad(given[:12], (0, 12 - min(given.size, 12))), tilt.ravel()])
        return cls(K, given, fisheye, numbers, limit)

    def distort(self, pixels: Any, xp: Any = np) -> Any:
        """Return the image pixels [...,2] of ideal pixels [...,2], arrays of ``xp``; NaN beyond the limit."""
        n = self.numbers
        x, y = (pixels[..., 0] - n[4]) / n[2], (pixels[..., 1] - n[5]) / n[3]
        dx, dy = displacement(x, y, n)
        seen = xp.where(x * x + y * y <= n[1], 1.0, np.nan)
        return xp.stack([(pixels[..., 0] + n[2] * dx) * seen, (pixels[..., 1] + n[3] * dy) * seen], axis=-1)

    def undistort(self, pixels: ArrayLike) -> Array:
        """Return the ideal pixels [...,2] of image pixels [...,2]; NaN where no ray within the limit is seen."""
        pixels, n = np.asarray(pixels, np.float64), self.numbers
        focal, centre = n[2:4], n[4:6]
        wanted = (pixels - centre) / focal
        point = self._start(wanted)
        step, active = 1e-6, np.ones((*wanted.shape[:-1], 1), np.bool_)
        with np.errstate(all="ignore"):
            for _ in range(_STEPS):
                residual = _moved(point, n) - wanted
                columns = [
                    (_moved(point + shift, n) - _moved(point - shift, n)) / (2 * step)
                    for shift in (np.array([step, 0.0]), np.array([0.0, step]))
                ]
                J = np.stack(columns, axis=-1)
                determinant = J[..., 0, 0] * J[..., 1, 1] - J[..., 0, 1] * J[..., 1, 0]
                move_x = (J[..., 1, 1] * residual[..., 0] - J[..., 0, 1] * residual[..., 1]) / determinant
                move_y = (J[..., 0, 0] * residual[..., 1] - J[..., 1, 0] * residual[..., 0]) / determinant
                better = self._within(point - np.stack([move_x, move_y], axis=-1))
                step_taken = np.abs(better - point).max(axis=-1, keepdims=True, initial=0.0)
                point = np.where(active, better, point)
                active = active & (step_taken > 1e-13)  # each by itself: none depends on its batch
                if not active.any():
                    break
            off = np.abs(_moved(point, n) - wanted).max(axis=-1) * max(focal)
        return np.where((off < 1e-6)[..., None], point * focal + centre, np.nan)

    def _start(self, wanted: Array) -> Array:
        """Return rays whose radius the radial part puts where ``wanted`` [...,2] is."""
        a, b, c = np.linalg.inv(self.numbers[18:].reshape(3, 3))
        x, y = wanted[..., 0], wanted[..., 1]
        w = c[0] * x + c[1] * y + c[2]
        flat = np.stack([(a[0] * x + a[1] * y + a[2]) / w, (b[0] * x + b[1] * y + b[2]) / w], axis=-1)
        radii = np.tan(np.linspace(0.0, math.atan(self.limit), _TABLE))
        radial = self.numbers.copy()
        radial[[8, 9, 14, 15, 16, 17]] = 0.0
        radial[18:] = np.eye(3).ravel()
        profile = np.maximum.accumulate(radii + displacement(radii, np.zeros(_TABLE), radial)[0])
        distance = np.linalg.norm(flat, axis=-1)
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = np.where(distance > 0, np.interp(distance, profile, radii) / distance, 1.0)
        return np.asarray(flat * ratio[..., None])

    def _within(self, point: Array) -> Array:
        radius = np.linalg.norm(point, axis=-1, keepdims=True)
        return point * np.minimum(1.0, self.limit / np.maximum(radius, 1e-12))


def displacement(x: Any, y: Any, n: Any) -> tuple[Any, Any]:
    """Return how far a lens moves the rays (x, y, 1): (dx, dy) at z = 1.

    Args:
        n: its numbers, of a lens with distortion.
    """
    r2 = x * x + y * y
    if n[0] == FISHEYE:
        r = np.sqrt(r2 + 1e-18)
        angle = np.arctan(r)
        t2 = angle * angle
        scale = angle * (1.0 + t2 * (n[6] + t2 * (n[7] + t2 * (n[8] + t2 * n[9])))) / r - 1.0
        return x * scale, y * scale
    over = r2 * (n[6] + r2 * (n[7] + r2 * n[10]))
    under = r2 * (n[11] + r2 * (n[12] + r2 * n[13]))
    scale = (over - under) / (1.0 + under)
    dx = x * scale + 2.0 * n[8] * x * y + n[9] * (r2 + 2.0 * x * x) + r2 * (n[14] + n[15] * r2)
    dy = y * scale + n[8] * (r2 + 2.0 * y * y) + 2.0 * n[9] * x * y + r2 * (n[16] + n[17] * r2)
    # The tilt as a displacement too, of (a, b): (T (a, b, 1))_xy / w - (a, b), with nothing subtracted from itself.
    a, b = x + dx, y + dy
    w = n[24] * a + n[25] * b + n[26]
    dx = dx + ((n[18] - w) * a + n[19] * b + n[20]) / w
    dy = dy + (n[21] * a + (n[22] - w) * b + n[23]) / w
    return dx, dy


def _moved(point: Array, n: Array) -> Array:
    dx, dy = displacement(point[..., 0], point[..., 1], n)
    return point + np.stack([dx, dy], axis=-1)


def _tilt(tau_x: float, tau_y: float) -> Array:
    """Return the matrix of a tilted sensor, as OpenCV's ``computeTiltProjectionMatrix``."""
    cx, sx, cy, sy = math.cos(tau_x), math.sin(tau_x), math.cos(tau_y), math.sin(tau_y)
    R = np.array([[cy, 0.0, -sy], [0.0, 1.0, 0.0], [sy, 0.0, cy]]) @ np.array(
        [[1.0, 0.0, 0.0], [0.0, cx, sx], [0.0, -sx, cx]]
    )
    if R[2, 2] <= 1e-6:
        given = f"{math.degrees(tau_x):.0f} and {math.degrees(tau_y):.0f} degrees"
        raise InputError(
            f"distortion: its last two coefficients tilt the sensor by {given}; wanted less than 90, in rad"
        )
    z = R[2, 2]
    return np.array([[z, 0.0, -R[0, 2]], [0.0, z, -R[1, 2]], [0.0, 0.0, 1.0]]) @ R / z


def _limit(k: Array, fisheye: bool) -> float:
    """Return the tangent of the largest angle up to which the radial part grows with the angle."""
    if fisheye:  # d/dt of t (1 + k1 t^2 + k2 t^4 + ...), in s = t^2
        turning = _smallest_root([1.0, *((2 * i + 3) * c for i, c in enumerate(k))])
        return min(WIDEST, math.tan(math.sqrt(turning)) if turning < math.atan(WIDEST) ** 2 else WIDEST)
    k = np.pad(k, (0, 14 - k.size))
    N = np.polynomial.Polynomial([1.0, k[0], k[1], k[4]])
    D = np.polynomial.Polynomial([1.0, k[5], k[6], k[7]])
    # d/dr of r N(s) / D(s), s = r^2, has the sign of N D + 2 s (N' D - N D'); D itself must not vanish either.
    growth = N * D + np.polynomial.Polynomial([0.0, 2.0]) * (N.deriv() * D - N * D.deriv())
    return min(WIDEST, math.sqrt(min(_smallest_root(np.real(growth.coef)), _smallest_root(np.real(D.coef)))))


def _smallest_root(coefficients: Sequence[float] | Array) -> float:
    """Return the smallest positive real root, infinity without one. coefficients: from the constant one on."""
    trimmed = np.trim_zeros(np.asarray(coefficients, np.float64), "b")
    roots = np.polynomial.polynomial.polyroots(trimmed) if trimmed.size > 1 else np.zeros(0)
    real = roots.real[(np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots.real))) & (roots.real > 0)]
    return float(real.min(initial=math.inf))
