"""What callers give: images and depth images, checked and where the stages compute."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from coop_edge.backend import Backend
from coop_edge.config import EstimatorConfig
from coop_edge.errors import ConfigError, InputError
from coop_edge.ops.base import Array, Operations
from coop_edge.types import Camera

UNITS = {"m": 1.0, "mm": 1e-3, "cm": 1e-2}
"""Metres per unit of length."""
NEAREST, FARTHEST = 0.02, 20.0
"""Median depths, metres, beyond which the unit must be wrong."""
_SAMPLED = 40_000
"""Pixels of which the median is taken, about: more would not change it and take longer."""


def read_image(image: Any, camera: Camera, backend: Backend, ops: Operations) -> Array:
    """Return an image uint8 [height,width,3], contiguous, on the device of ``ops``, those of ``backend``.

    Raises:
        InputError: ``camera`` is not a Camera, the image is not RGB uint8 of its size, or lies on another device.
    """
    _check_place(image, camera, backend, "image")
    camera.check_image(image)
    return ops.upload(image, "image")


def read_options(config: EstimatorConfig | Mapping[str, Any] | None) -> EstimatorConfig:
    """Return the options that are given, the defaults for None.

    Raises:
        ConfigError: an option with an unknown name or a value out of range.
    """
    if config is None:
        return EstimatorConfig()
    if isinstance(config, EstimatorConfig):
        return config
    if isinstance(config, Mapping):
        return EstimatorConfig.from_dict(config)
    raise ConfigError(f"config: wanted an EstimatorConfig or a mapping of its options, got {type(config).__name__}")


def as_sequence(values: Any, kind: type, name: str) -> list[Any]:
    """Return a sequence as a list of ``kind``.

    Raises:
        InputError: it is not a sequence, or holds something else; the message says what.
    """
    if isinstance(values, kind):
        raise InputError(f"{name}: wanted a sequence of {kind.__name__}, got a single one; put it into a list")
    try:
        items = list(values)
    except TypeError:
        raise InputError(f"{name}: wanted a sequence of {kind.__name__}, got {type(values).__name__}") from None
    for i, item in enumerate(items):
        if not isinstance(item, kind):
            raise InputError(f"{name}[{i}]: wanted a {kind.__name__}, got {type(item).__name__}")
    return items


def metres_per_step(unit: str | float | None, dtype: Any = np.float32) -> float:
    """Return how many metres a depth image's values count in.

    Args:
        unit: "m", "cm" or "mm", or the metres that one step of the values stands for (BOP's ``depth_scale`` / 1000).
            None: metres for floating-point values; integers need a unit.
        dtype: of the values.

    Raises:
        InputError: an unknown unit, or none for integers.
    """
    if unit is None:
        if np.dtype(dtype).kind != "f":
            raise InputError(
                f"depth_unit: wanted for depth of dtype {np.dtype(dtype)}, got None; most cameras give uint16 "
                'millimetres: depth_unit="mm"'
            )
        return 1.0
    if isinstance(unit, str):
        if unit in UNITS:
            return UNITS[unit]
    elif isinstance(unit, (int, float, np.number)) and not isinstance(unit, bool) and math.isfinite(unit) and unit > 0:
        return float(unit)
    raise InputError(f"depth_unit: wanted 'm', 'cm', 'mm', or a positive number of metres per step, got {unit!r}")


def read_depth(depth: Any, camera: Camera, unit: str | float | None, backend: Backend, ops: Operations) -> Array | None:
    """Return a depth image as float32 [height,width] metres on the device of ``ops``; 0 = unknown. None stays None.

    Args:
        depth: float32, float64 or float16, or uint16 [height,width] along the optical axis, registered to the colour
            image; 0, NaN and infinity are unknown. On a GPU also an array there.
        camera: of the colour image.
        unit: see ``metres_per_step``.
        backend, ops: of the device.

    Raises:
        InputError: another shape or dtype, a negative value, nothing known, or a median beyond 0.02 to 20 m.
    """
    if depth is None:
        if unit is not None:
            raise InputError(f"depth_unit: got {unit!r} without depth; give both or neither")
        return None
    _check_place(depth, camera, backend, "depth")
    _check_kind(depth, camera)
    scale = metres_per_step(unit, str(depth.dtype).removeprefix("torch."))
    xp, given = ops.xp, ops.upload(depth, "depth")
    metres = given.astype(np.float32)
    if scale != 1.0:
        metres = metres * np.float32(scale)
    finite = xp.isfinite(metres)
    metres = xp.where(finite, metres, np.float32(0.0))
    low, high = (float(value) for value in ops.to_host(xp.stack([metres.min(), metres.max()])))
    if low < 0.0:
        raise InputError(f"depth: wanted values of at least 0 (0, NaN and infinity are unknown), got {low:g} m")
    if high <= 0.0:
        raise InputError("depth: no pixel of it is known; call without depth where the camera has none")
    _check_median(metres, unit, ops)
    return metres


def _check_place(array: Any, camera: Camera, backend: Backend, name: str) -> None:
    if not isinstance(camera, Camera):
        raise InputError(f"camera: wanted a coop_edge Camera, got {type(camera).__name__}")
    if backend.name == "cpu" and hasattr(array, "__cuda_array_interface__"):
        raise InputError(
            f"{name}: lies on a GPU, this Estimator runs on the CPU ({backend.reason}); copy it to NumPy first"
        )


def _check_kind(depth: Any, camera: Camera) -> None:
    wanted = f"float32 or uint16 [{camera.height},{camera.width}]"
    shape, dtype = getattr(depth, "shape", None), getattr(depth, "dtype", None)
    if shape is None or dtype is None:
        raise InputError(f"depth: wanted an array {wanted}, got {type(depth).__name__}")
    name = str(dtype).removeprefix("torch.")
    if name not in ("float32", "float64", "float16", "uint16"):
        hint = "; int16 of positive values becomes uint16 with .astype('uint16')" if "int" in name else ""
        raise InputError(f"depth: wanted dtype float32 or uint16, got {dtype}{hint}")
    if tuple(shape) != (camera.height, camera.width):
        hint = "; depth must be registered to the colour image, pixel by pixel"
        if tuple(shape) == (camera.height, camera.width, 1):
            hint = "; leave out the last axis: depth[..., 0]"
        elif tuple(shape) == (camera.width, camera.height):
            hint = "; width and height look swapped"
        raise InputError(f"depth: wanted [{camera.height},{camera.width}] as the image, got {list(shape)}{hint}")


def _check_median(metres: Array, unit: str | float | None, ops: Operations) -> None:
    """Raise InputError where the unit looks wrong by the median of the known pixels."""
    step = max(1, math.isqrt(metres.size // _SAMPLED))
    sample = ops.to_host(metres[::step, ::step])
    if not (sample > 0).any():
        sample = ops.to_host(metres)
    median = float(np.median(sample[sample > 0]))
    if not NEAREST <= median <= FARTHEST:
        asked = "metres" if unit is None else f"depth_unit={unit!r}"
        likely = next((f"; {name!r} would make it {median / _scale(unit) * size:g} m"
                       for name, size in UNITS.items()
                       if name != unit and 0.1 <= median / _scale(unit) * size <= 10.0), "")  # fmt: skip
        raise InputError(
            f"depth: the median of its known pixels is {median:g} m with {asked}, wanted {NEAREST:g} to "
            f"{FARTHEST:g} m; is the unit right?{likely}"
        )


def _scale(unit: str | float | None) -> float:
    return metres_per_step(unit)
