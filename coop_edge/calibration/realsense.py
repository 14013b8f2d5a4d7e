"""Reads RealSense intrinsics (librealsense's ``rs2_intrinsics`` as JSON), whose lens models are partly its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.calibration.values import Calibration, numbers, one_of, pinhole, positive
from coop_edge.errors import InputError

Array = NDArray[np.float64]

WORST = 0.1
"""Pixels by which OpenCV's model may differ from one of librealsense's own, at most."""
_KEYS = ("fx", "fy", "ppx", "ppy")
_MODELS = ("none", "modified_brown_conrady", "inverse_brown_conrady", "ftheta", "brown_conrady", "kannala_brandt4")
"""Of librealsense's ``rs2_distortion``, by its numbers from 0 on."""


def is_realsense(data: Mapping[str, Any]) -> bool:
    """Tell whether a file holds intrinsics of librealsense, of one stream or several."""
    return _is_stream(data) or any(_is_stream(value) for value in data.values())


def read_realsense(data: Mapping[str, Any], *, name: str | None) -> Calibration:
    """Read intrinsics.

    Args:
        data: what the file holds.
        name: of the stream ("color"), where there are several.

    Raises:
        InputError: a value that cannot be meant, or a model of distortion that is not known.
    """
    if not _is_stream(data):
        data = one_of({key: value for key, value in data.items() if _is_stream(value)}, name, "stream")
    width, height = (positive(data.get(key), key) for key in ("width", "height"))
    K = pinhole(*(data[key] for key in _KEYS))
    model = str(data.get("model", data.get("distortion_model", "none"))).lower().removeprefix("distortion.")
    model = model.removeprefix("rs2_distortion_").replace(" ", "_").replace("-", "_")
    if model.isdecimal() and int(model) < len(_MODELS):
        model = _MODELS[int(model)]
    coefficients = numbers(data.get("coeffs", data.get("distortion_coeffs")), "coeffs")
    if model == "kannala_brandt4":
        return Calibration(K, width, height, coefficients[:4], True)
    if not any(coefficients) or model == "none":
        return Calibration(K, width, height)
    if model == "brown_conrady":
        return Calibration(K, width, height, coefficients)
    if model in ("inverse_brown_conrady", "modified_brown_conrady"):
        return Calibration(K, width, height, _fitted(model, coefficients, K, width, height))
    raise InputError(
        f"model: {model!r} is not known (known: none, brown_conrady, inverse_brown_conrady, "
        "modified_brown_conrady, kannala_brandt4, or their numbers 0, 4, 2, 1, 5 in librealsense)"
    )


def _is_stream(value: Any) -> bool:
    return isinstance(value, Mapping) and all(key in value for key in _KEYS)


def _fitted(model: str, k: list[float], K: Any, width: int, height: int) -> list[float]:
    """Return the five coefficients of OpenCV's model that say the same. Raises InputError where none do."""
    if len(k) != 5:
        raise InputError(f"coeffs: wanted 5, got {len(k)}")
    fx, fy, cx, cy = K[0][0], K[1][1], K[0][2], K[1][2]
    u, v = np.meshgrid(np.linspace(0, width - 1, 41), np.linspace(0, height - 1, 31))
    grid = np.stack([(u.ravel() - cx) / fx, (v.ravel() - cy) / fy])
    if model == "inverse_brown_conrady":  # from image to ray
        ray, seen = _polynomial(grid, k, scaled=False), grid
    else:  # from ray to image, the tangential part after the radial one
        ray, seen = grid, _polynomial(grid, k, scaled=True)
    x, y = ray
    r2 = x * x + y * y
    zero = np.zeros_like(x)
    columns = [(x * r2, y * r2), (x * r2**2, y * r2**2), (2 * x * y, r2 + 2 * y * y), (r2 + 2 * x * x, 2 * x * y)]
    columns += [(x * r2**3, y * r2**3), (zero, zero)][:1]
    A = np.stack([np.concatenate(column) for column in columns], axis=1)
    wanted = np.concatenate(seen - ray)
    found = np.linalg.lstsq(A, wanted, rcond=None)[0]
    worst = float(np.abs(A @ found - wanted).max() * max(fx, fy))
    if worst > WORST:
        raise InputError(f"coeffs: OpenCV's model is up to {worst:.2f} px from librealsense's {model} with {k}")
    return found.tolist()


def _polynomial(xy: Array, k: list[float], *, scaled: bool) -> Array:
    """Return librealsense's polynomial at xy [2,N]; scaled: its tangential part takes the radially moved point."""
    x, y = xy
    r2 = x * x + y * y
    f = 1 + r2 * (k[0] + r2 * (k[1] + r2 * k[4]))
    a, b = (x * f, y * f) if scaled else (x, y)
    return np.stack(
        [x * f + 2 * k[2] * a * b + k[3] * (r2 + 2 * a * a), y * f + 2 * k[3] * a * b + k[2] * (r2 + 2 * b * b)]
    )
