"""What every implementation of ``Operations`` refuses, and what it does alike: on NumPy, on the host shim, on CuPy."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.kernels.device import CupyDevice
from coop_edge.ops.base import Decoded, Operations
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from tests.cuda_host.host_device import HostDevice
from tests.runtime.fake_arrays import DOWNLOAD
from tests.runtime.fake_cuda import FakeCupy

VIEWS, COUNT, PATCH, SIZE = 3, 16, 8, 32


@pytest.fixture
def cupy(monkeypatch) -> FakeCupy:
    monkeypatch.setitem(sys.modules, "cupy", fake := FakeCupy())
    return fake


@pytest.fixture(params=["cpu", "shim", "stand-in", pytest.param("gpu", marks=pytest.mark.gpu)])
def ops(request) -> Operations:
    if request.param == "cpu":
        return CpuOperations()
    if request.param == "stand-in":
        request.getfixturevalue("cupy")
    return CudaOperations(HostDevice() if request.param == "shim" else CupyDevice())


@pytest.fixture(params=["cpu", "shim"])
def numpys(request) -> Operations:
    """Those on NumPy arrays, which take what a test makes without a device."""
    return CpuOperations() if request.param == "cpu" else CudaOperations(HostDevice())


def decoded(n: int = 1) -> Decoded:
    shape = n, VIEWS, COUNT
    return Decoded(np.full(shape, 0.5, np.float32), np.zeros(shape, np.int32), np.zeros((*shape, 2), np.float32))


def lift(ops, matches=None, templates=((0,),), points=None):
    matches = decoded() if matches is None else matches
    points = np.ones((VIEWS, SIZE, SIZE, 3), np.float32) if points is None else points
    return ops.lift(matches, np.array(templates), [points], PATCH, 0.2)


@pytest.mark.parametrize(
    ("image", "says"),
    [
        (np.zeros((4, 5), np.uint8), r"numpy.ndarray uint8 \[4, 5\]"),
        (np.zeros((4, 5, 4), np.uint8), r"numpy.ndarray uint8 \[4, 5, 4\]"),
        (np.zeros((4, 5, 3), np.float32), r"numpy.ndarray float32 \[4, 5, 3\]"),
        ([[1]], "builtins.list"),
    ],
)
def test_refuses_what_is_no_image(numpys, image, says):
    with pytest.raises(InputError, match=rf"image: wanted a numpy.ndarray uint8 \[height,width,3\], got a {says}$"):
        numpys.warp(image, np.eye(3)[None], 8)


@pytest.mark.parametrize("template", [-1, 3])
def test_refuses_a_template_that_there_is_not(numpys, template):
    with pytest.raises(InputError, match=rf"templates: wanted values in \[0, 3\), got {template}\.\.{template}"):
        lift(numpys, templates=((template,),))


@pytest.mark.parametrize(
    ("points", "says"),
    [
        (np.zeros((2, 32, 32, 3), np.float32), r"wanted a .* float32 \[3,S,S,3\].*, got a .* float32 \[2, 32, 32, 3\]"),
        (np.zeros((3, 32, 16, 3), np.float32), r"got a .* float32 \[3, 32, 16, 3\]"),
        (np.zeros((3, 32, 32, 3)), r"got a .* float64"),
        (np.zeros((3, 32, 32, 4), np.float32)[..., :3], "wanted a .*, C-contiguous, got a .*, not contiguous"),
    ],
)
def test_refuses_a_map_that_it_would_misread(numpys, points, says):
    with pytest.raises(InputError, match=rf"maps\[0\]: .*{says}"):
        lift(numpys, points=points)


@pytest.mark.parametrize(
    ("field", "wrong", "says"),
    [
        ("index", np.zeros((1, VIEWS, COUNT), np.int64), r"wanted a .* int32 \[1,3,16\], got a .* int64"),
        ("offset", np.zeros((1, VIEWS, COUNT, 3), np.float32), r"wanted a .* float32 \[1,3,16,2\], got a .*16, 3\]"),
        (
            "probability",
            np.zeros((2, VIEWS, COUNT), np.float32),
            r"wanted a .*\[1,3,16\], got a .*\[2, 3, 16\]",
        ),
    ],
)
def test_refuses_matches_that_do_not_fit_together(numpys, field, wrong, says):
    with pytest.raises(InputError, match=f"{field}: {says}"):
        lift(numpys, decoded()._replace(**{field: wrong}))


def test_refuses_more_or_fewer_maps_than_queries(numpys):
    with pytest.raises(InputError, match="maps: wanted 2, one for each query, got 1"):
        lift(numpys, decoded(2), templates=((0,), (1,)))


def test_refuses_arrays_on_the_host(cupy):
    """Their addresses mean nothing to a GPU."""
    ops = CudaOperations(CupyDevice())
    with pytest.raises(InputError, match=r"maps\[0\]: wanted a .*FakeArray .* got a numpy\.ndarray"):
        lift(ops, Decoded(*map(cupy.put, decoded())))
    with pytest.raises(InputError, match=r"probability: wanted a .*FakeArray .* got a numpy\.ndarray"):
        lift(ops)
    with pytest.raises(InputError, match=r"image: wanted a .*FakeArray .* got a numpy\.ndarray"):
        ops.warp(np.zeros((4, 5, 3), np.uint8), np.eye(3)[None], 8)


def test_nothing_to_do(ops):
    image, none = ops.upload(np.zeros((4, 5, 3), np.uint8)), np.zeros((0, 3, 3))
    assert ops.warp(image, none, 8).shape == (0, 3, 8, 8)
    matches = Decoded(*map(ops.upload, decoded(0)))
    results = ops.lift(matches, np.zeros((0, 2), int), [], PATCH, 0.2)
    kinds = [(result.shape, result.dtype) for result in results]
    assert kinds == [((0, 2, COUNT, 3), np.float32), ((0, 2, COUNT), np.bool_), ((0, 2, COUNT), np.float32)]
    assert ops.to_host_together() == []
    assert ops.as_network_image(ops.upload(np.zeros((0, 8, 8, 3), np.uint8))).shape == (0, 3, 8, 8)


def test_several_arrays_come_back_as_they_were(ops, request):
    rng = np.random.default_rng(0)
    arrays = [
        rng.random((5, 4, 4)),
        rng.random((5, 7)).astype(np.float32),
        rng.integers(-9, 9, 5, np.int32),
        rng.random(5) < 0.5,
        rng.random((5, 0)),
    ]
    there = [ops.upload(array) for array in arrays]
    transfers = getattr(ops.xp, "transfers", [])
    transfers.clear()
    for found, wanted in zip(ops.to_host_together(*there), arrays, strict=True):
        assert (type(found), found.dtype) == (np.ndarray, wanted.dtype)
        np.testing.assert_array_equal(found, wanted)
    if transfers:
        assert [way for way, _ in transfers] == [DOWNLOAD]
    np.testing.assert_array_equal(ops.to_host(there[1]), arrays[1])


@pytest.mark.parametrize("shape", [(4, 6, 3), (6, 3), (0, 3)])
def test_linear_is_the_matrix_vector_product(ops, shape):
    rng = np.random.default_rng(0)
    n = shape[0] if len(shape) == 3 else 4
    matrices, vectors = rng.normal(size=(n, 2, 3)), rng.normal(size=shape)
    found = ops.to_host(ops.linear(ops.upload(matrices), ops.upload(vectors)))
    wanted = np.einsum("mjk,mpk->mpj", matrices, np.broadcast_to(vectors, (n, *shape[-2:])))
    np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14)


def test_network_images_are_shares_of_255_channel_by_channel(ops):
    rgb = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    found = ops.as_network_image(ops.upload(rgb))
    assert found.flags.c_contiguous
    np.testing.assert_array_equal(ops.to_host(found), rgb.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    "shape", [(27, 21, 1, 130), (33, 8, 3, 64), (1, 1, 1, 1), (0, 9, 2, 5), (5, 0, 2, 7), (2, 3, 2, 0), (2, 3, 0, 4)]
)
def test_inner_products_are_those_of_plain_loops(ops, shape):
    p, v, groups, length = shape
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=(rows, groups, length)).astype(np.float32) for rows in (p, v))
    wanted = [
        [[sum(float(x) * float(y) for x, y in zip(one[g], other[g], strict=True)) for other in b] for one in a]
        for g in range(groups)
    ]
    found = ops.to_host(ops.inner_products(ops.upload(a), ops.upload(b)))
    assert (found.shape, found.dtype) == ((groups, p, v), np.float32)
    np.testing.assert_allclose(found, np.reshape(wanted, (groups, p, v)), atol=3e-5)


def test_an_inner_product_on_a_gpu_does_not_depend_on_the_others():
    ops, rng = CudaOperations(HostDevice()), np.random.default_rng(0)
    a, b = (rng.normal(size=(40, 2, 200)).astype(np.float32) for _ in range(2))
    whole = ops.inner_products(a, b)
    np.testing.assert_array_equal(ops.inner_products(a[35:], b[3:4]), whole[:, 35:, 3:4])


@pytest.mark.parametrize(
    ("a", "b", "says"),
    [
        (np.zeros((2, 1, 3)), np.zeros((4, 1, 3), np.float32), r"a: wanted .* float32 \[P,G,K\], got a .* float64"),
        (np.zeros(3, np.float32), np.zeros((4, 3), np.float32), r"a: .* got a .* float32 \[3\]"),
        (np.zeros((2, 1, 3), np.float32), np.zeros((4, 1, 5), np.float32), r"b: wanted a .*\[V,1,3\].*\[4, 1, 5\]"),
    ],
)
def test_refuses_rows_that_have_no_inner_product(numpys, a, b, says):
    with pytest.raises(InputError, match=says):
        numpys.inner_products(a, b)
