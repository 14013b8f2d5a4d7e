"""What the tests of the CUDA solvers share: the kernels of cuda_math.cu, results on the host, pose differences."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from coop_edge.geometry import se3
from coop_edge.kernels.device import COMPILE_OPTIONS, SOURCE_DIR
from tests.cuda_host.host_device import HostDevice

FOLDER = Path(__file__).parent


class MathKernels:
    """The kernels of ``cuda_math.cu`` on a device: NumPy arrays in, the outputs copied back into them."""

    def __init__(self, device) -> None:
        self._device = device
        if isinstance(device, HostDevice):
            host = HostDevice(FOLDER)
            self._kernel = lambda name: host.kernel("cuda_math.cu", name)
        else:
            module = device.xp.RawModule(
                code=(FOLDER / "cuda_math.cu").read_text(), options=(*COMPILE_OPTIONS, f"-I{FOLDER}", f"-I{SOURCE_DIR}")
            )
            self._kernel = module.get_function

    def __call__(self, name, grid, block, *arguments):
        there = [self._device.xp.asarray(a) if isinstance(a, np.ndarray) else a for a in arguments]
        self._kernel(name)((grid,), (block,), tuple(there))
        for given, used in zip(arguments, there, strict=True):
            if isinstance(given, np.ndarray):
                given[...] = self._device.to_numpy(used)


def to_host(device, result):
    """A result with all arrays, statistics included, as NumPy arrays."""
    fields = {f.name: getattr(result, f.name) for f in dataclasses.fields(result)}
    return dataclasses.replace(
        result,
        **{k: to_host(device, v) if dataclasses.is_dataclass(v) else device.to_numpy(v) for k, v in fields.items()},
    )


def arrays_of(result):
    """All arrays of a result on the host, by name."""
    found = {}
    for field in dataclasses.fields(result):
        value = getattr(result, field.name)
        found |= arrays_of(value) if dataclasses.is_dataclass(value) else {field.name: value}
    return found


def assert_same_bits(a, b):
    """Two results on the host are equal, NaN included."""
    for name, value in arrays_of(a).items():
        np.testing.assert_array_equal(value, arrays_of(b)[name], err_msg=name)


def pose_difference(T_a, T_b):
    """Angles in radians and distances relative to the object's, [B] each."""
    angle = se3.rotation_angle(T_a[:, :3, :3], T_b[:, :3, :3])
    moved = np.linalg.norm(T_a[:, :3, 3] - T_b[:, :3, 3], axis=1)
    return angle, moved / np.linalg.norm(T_b[:, :3, 3], axis=1)
