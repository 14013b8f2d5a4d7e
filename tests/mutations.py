"""Random damage to files and to plain data, for tests that ask for an error with a name and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 10**400, -(10**400), 1e308, -1e-308, 0.5, "", "x", "\0", "../../etc/passwd", [], {},
    [[[]]], {"x": {"y": []}}, [None], 2**63, "9" * 400,
)  # fmt: skip
"""What may stand in JSON in the place of anything."""


def damaged_bytes(data: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Yield ``count`` damaged copies: cut off, bits flipped, bytes overwritten, inserted, removed, blanked, swapped."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        out = bytearray(data)
        at = int(rng.integers(len(out)))
        length = int(min(rng.integers(1, 65), len(out) - at))
        match i % 7:
            case 0:
                out = out[:at]
            case 1:
                out[at] ^= 1 << int(rng.integers(8))
            case 2:
                out[at : at + length] = rng.bytes(length)
            case 3:
                out[at:at] = rng.bytes(length)
            case 4:
                del out[at : at + length]
            case 5:
                out[at : at + length] = bytes(length)
            case _:
                other = int(rng.integers(len(out)))
                out[at], out[other] = out[other], out[at]
        yield bytes(out)


def damaged_data(data: Any) -> Iterator[Any]:
    """Yield copies of nested plain data, each with one place replaced, removed or doubled."""
    for path in _paths(data):
        for odd in ODD:
            out = copy.deepcopy(data)
            if not path:
                yield odd
                continue
            _holder(out, path)[path[-1]] = odd
            yield out
        if path:
            out = copy.deepcopy(data)
            del _holder(out, path)[path[-1]]
            yield out
            if isinstance(_holder(data, path), dict):
                out = copy.deepcopy(data)
                _holder(out, path)["unknown"] = 1
                yield out


def _paths(data: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in inside:
        yield from _paths(value, (*path, key))


def _holder(data: Any, path: tuple[Any, ...]) -> Any:
    for key in path[:-1]:
        data = data[key]
    return data
