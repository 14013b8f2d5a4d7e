"""The CuPy stand-in is as strict as CuPy, and has nothing that CuPy has not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.fake_arrays import FUNCTIONS, METHODS
from tests.runtime.fake_cuda import FakeCupy


def test_the_stand_in_has_nothing_that_cupy_has_not():
    real = pytest.importorskip("cupy")
    assert [name for name in FUNCTIONS if not hasattr(real, name)] == []
    assert [name for name in METHODS if not hasattr(real.ndarray, name)] == []


def test_the_stand_in_refuses_what_cupy_refuses():
    cupy = FakeCupy()
    array, host = cupy.put(np.arange(6.0)), np.arange(6.0)
    attempts = (
        lambda: array + host,
        lambda: host * array,
        lambda: np.asarray(array),
        lambda: np.concatenate([array, array]),
        lambda: array[[0, 1]],
        lambda: array[np.array([0, 1])],
        lambda: array.__setitem__(slice(None), host),
        lambda: cupy.where(array > 1, host, array),
    )
    for attempt in attempts:
        with pytest.raises(TypeError):
            attempt()
    np.testing.assert_array_equal((np.float32(2.0) * array[1:3]).get(), [2.0, 4.0])
