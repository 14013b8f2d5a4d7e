"""The CuPy stand-in is as strict as CuPy, and has nothing that CuPy has not."""

from __future__ import annotations

import numpy as np
import pytest

from tests.runtime.fake_arrays import DOWNLOAD, FUNCTIONS, METHODS
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


def test_a_mask_as_an_index_makes_the_host_wait_as_with_cupy():
    """CuPy counts what is in a mask before it reads or writes there, and fetches the number."""
    cupy = FakeCupy()
    array = cupy.put(np.arange(6.0))
    array[array > 3] = 0.0
    assert array[array > 1].get().tolist() == [2.0, 3.0]
    assert [way for way, _ in cupy.transfers] == [DOWNLOAD] * 3
    cupy.transfers.clear()
    array[cupy.put(np.array([1, 2]))] = 7.0
    assert cupy.transfers == []


def test_products_of_matrices_need_a_library_that_may_not_be_there():
    """CuPy 14 imports, and passes every probe, without cuBLAS; ``@`` then fails."""
    cupy = FakeCupy()
    with pytest.raises(ImportError, match="libcublas"):
        cupy.put(np.eye(3)) @ cupy.put(np.eye(3))
