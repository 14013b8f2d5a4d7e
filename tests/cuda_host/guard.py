"""Guard bytes around the arrays of a launch, so that writes outside them are noticed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

_MARGIN = 4096
_ALIGNMENT = 256  # what CUDA's allocator promises
_GUARD = 0xCD


class _Region:
    """Memory that one or several (overlapping) arrays share, and its guarded copy."""

    def __init__(self, start: int, stop: int) -> None:
        self.start, self.stop = start, stop

    def copy(self) -> None:
        size = self.stop - self.start
        self._buffer = np.full(size + 2 * _MARGIN + 2 * _ALIGNMENT, _GUARD, np.uint8)
        # Same offset from the alignment as the original: a view into an array may start anywhere.
        base = self._buffer.ctypes.data
        self._offset = -(base + _MARGIN) % _ALIGNMENT + self.start % _ALIGNMENT + _MARGIN
        self.address = base + self._offset
        self._inside = slice(self._offset, self._offset + size)

    def inside(self, start: int, size: int) -> np.ndarray:
        return self._buffer[self._offset + start - self.start :][:size]

    def damaged(self) -> bool:
        before, after = self._buffer[: self._inside.start], self._buffer[self._inside.stop :]
        return bool((before != _GUARD).any() or (after != _GUARD).any())


class GuardedArrays:
    """Guarded copies of C-contiguous arrays, by place among the arguments; arrays that share memory still share it."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self._arrays = arrays
        self._region: dict[str, _Region] = {}
        last: _Region | None = None
        for i in sorted(arrays, key=lambda i: arrays[i].ctypes.data):
            start, size = arrays[i].ctypes.data, arrays[i].nbytes
            if last is None or start >= last.stop:
                last = _Region(start, start + size)
            last.stop = max(last.stop, start + size)
            self._region[i] = last
        for region in set(self._region.values()):
            region.copy()
        for i, array in arrays.items():
            self._inside(i)[:] = array.reshape(-1).view(np.uint8)

    @property
    def addresses(self) -> dict[str, int]:
        """Where the kernel finds each array."""
        return {i: r.address + self._arrays[i].ctypes.data - r.start for i, r in self._region.items()}

    def damaged(self) -> list[str]:
        """Arguments around which the guard bytes have changed."""
        return sorted(i for i, region in self._region.items() if region.damaged())

    def copy_back(self, written: Iterable[str]) -> None:
        """Bring the results of these arguments into the arrays that were given."""
        for i in written:
            self._arrays[i].reshape(-1).view(np.uint8)[:] = self._inside(i)

    def _inside(self, i: str) -> np.ndarray:
        return self._region[i].inside(self._arrays[i].ctypes.data, self._arrays[i].nbytes)
