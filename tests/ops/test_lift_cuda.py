"""The gather kernel against the CPU's lift, number by number; on the host shim, and on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.geometry.patches import patch_centres
from coop_edge.kernels.device import address
from coop_edge.ops.base import Decoded
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from tests.cuda_host.host_device import HostDevice
from tests.kernels.devices import device  # noqa: F401

PATCH = 8


def models(count: int, views: int, size: int) -> list[np.ndarray]:
    """Maps of objects that hold each pixel's own numbers, off a round silhouette NaN."""
    v, u = np.mgrid[:size, :size]
    off = np.hypot(u - size / 2, v - size / 2) > 0.45 * size
    out = []
    for k in range(count):
        points = np.stack(
            [np.stack([u + 0.25 * k, v + 0.0, np.full(u.shape, 100.0 * k + j)], -1) for j in range(views)]
        )
        points[:, off] = np.nan
        out.append(points.astype(np.float32))
    return out


def answers(n: int, views: int, count: int, seed=0) -> Decoded:
    """Any matches at all: offsets beyond the patch, half-way between pixels, NaN and infinite, and wild indices."""
    rng = np.random.default_rng(seed)
    shape = n, views, count
    offset = rng.uniform(-0.8, 0.8, (*shape, 2)).astype(np.float32)
    halves = rng.random((*shape, 2)) < 0.3  # of a pixel: patch (c + 1/2 + offset) - 1/2 is then a half-integer
    offset[halves] = np.rint(offset[halves] * PATCH) / PATCH
    offset[rng.random((*shape, 2)) < 0.05] = np.nan
    offset[rng.random((*shape, 2)) < 0.05] = np.inf
    offset[rng.random((*shape, 2)) < 0.02] = -3e38
    index = rng.integers(0, count, shape).astype(np.int32)
    index[rng.random(shape) < 0.02] = -3
    index[rng.random(shape) < 0.02] = count + 5
    for end in (-(2**31), 2**31 - 1):
        index[rng.random(shape) < 0.01] = end
    probability = rng.random(shape).astype(np.float32)
    probability[rng.random(shape) < 0.05] = np.nan
    probability[rng.random(shape) < 0.05] = 0.2
    return Decoded(probability, index, offset)


def on(device, decoded: Decoded, objects):  # noqa: F811
    """The same on a device."""
    put = device.xp.asarray
    return Decoded(*map(put, decoded)), [put(points) for points in objects]


def assert_is_the_cpus(device, decoded, chosen, objects, object_index, patch=PATCH, least=0.2):  # noqa: F811
    wanted = CpuOperations().lift(decoded, chosen, [objects[i] for i in object_index], patch, least)
    there, moved = on(device, decoded, objects)
    found = CudaOperations(device).lift(there, chosen, [moved[i] for i in object_index], patch, least)
    for name, a, b in zip(("points", "valid", "probability"), found, wanted, strict=True):
        host = device.to_numpy(a)
        assert (host.shape, host.dtype) == (b.shape, b.dtype), name
        np.testing.assert_array_equal(host, b, err_msg=name)
    return wanted


@pytest.mark.parametrize(("n", "k"), [(0, 1), (0, 5), (1, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize(("size", "views"), [(32, 5), (56, 3), (40, 1)])
def test_is_the_cpus_lift_to_the_bit(device, n, k, size, views):  # noqa: F811
    rng = np.random.default_rng(n + k)
    objects, count = models(3, views, size), (size // PATCH) ** 2
    chosen = rng.integers(0, views, (n, k))
    points, valid, _ = assert_is_the_cpus(device, answers(n, views, count), chosen, objects, rng.integers(0, 3, n))
    if n:
        assert valid.any()
        assert not valid.all()
        assert np.isfinite(points).any()


def test_a_patch_that_is_no_power_of_two(device):  # noqa: F811
    """Products are rounded then, and the kernel must round as the CPU does."""
    size, patch, views = 56, 14, 4
    count = (size // patch) ** 2
    assert patch_centres(size, patch).shape == (count, 2)
    decoded = answers(3, views, count, seed=1)
    halves = np.random.default_rng(2).integers(-patch, patch, decoded.offset.shape) / (2 * patch)
    decoded.offset[...] = np.where(np.abs(decoded.offset) < 1, halves, decoded.offset)
    chosen = np.array([[0, 3], [2, 2], [1, 0]])
    assert_is_the_cpus(device, decoded, chosen, models(1, views, size), np.zeros(3, int), patch)


def test_objects_may_have_maps_of_different_sizes(device):  # noqa: F811
    objects = [models(1, 3, 32)[0], models(2, 3, 64)[1]]
    assert_is_the_cpus(device, answers(2, 3, 16), np.array([[0, 1], [2, 0]]), objects, np.array([1, 0]))


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_match_that_is_not_finite_is_none(device, wrong):  # noqa: F811
    objects = models(1, 2, 32)
    objects[0][...] = 1.0
    offset = np.zeros((1, 2, 16, 2), np.float32)
    offset[0, 1, 3, 0], offset[0, 1, 7, 1] = wrong, wrong
    decoded = Decoded(np.full((1, 2, 16), 0.5, np.float32), np.zeros((1, 2, 16), np.int32), offset)
    points, valid, share = assert_is_the_cpus(device, decoded, np.array([[1]]), objects, np.array([0]))
    assert np.flatnonzero(~valid[0, 0]).tolist() == [3, 7]
    assert np.isnan(points[0, 0, [3, 7]]).all()
    assert (share[0, 0, [3, 7]] == 0).all()


def test_a_query_does_not_depend_on_its_batch(device):  # noqa: F811
    objects, decoded, index = models(2, 3, 32), answers(4, 3, 16, seed=3), np.array([0, 1, 1, 0])
    chosen = np.array([[0, 2], [1, 1], [2, 0], [0, 1]])
    there, moved = on(device, decoded, objects)
    maps = [moved[i] for i in index]
    together = [device.to_numpy(a) for a in CudaOperations(device).lift(there, chosen, maps, PATCH, 0.2)]
    for i in range(4):
        one = Decoded(*(a[i : i + 1] for a in there))
        alone = CudaOperations(device).lift(one, chosen[i : i + 1], maps[i : i + 1], PATCH, 0.2)
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(device.to_numpy(a)[0], b[i])


def test_the_order_of_threads_does_not_matter():
    (first, second), decoded = models(2, 3, 32), answers(3, 3, 16)
    results = [
        CudaOperations(HostDevice(reverse=r)).lift(
            decoded, np.array([[0], [2], [1]]), [first, second, first], PATCH, 0.1
        )
        for r in (False, True)
    ]
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_address(device):  # noqa: F811
    array = device.xp.zeros((4, 3), np.float32)
    assert address(array[2:]) == address(array) + 24
