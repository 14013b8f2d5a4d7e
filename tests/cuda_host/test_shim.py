"""The shim itself: what CUDA defines gives exact results, what CUDA leaves undefined raises."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from tests.cuda_host.build import kernel_names
from tests.cuda_host.host_device import HostDevice, KernelError

SOURCES = Path(__file__).parent
KERNELS = "shim_kernels.cu"


@pytest.fixture(scope="module", params=[False, True], ids=["forward", "reverse"])
def device(request):
    return HostDevice(SOURCES, reverse=request.param)


def run(device, name, block, *arguments, grid=(1,)):
    device.kernel(KERNELS, name)(grid, (block,) if isinstance(block, int) else block, arguments)


def test_no_arguments(device):
    assert run(device, "nothing", 64) is None
    with pytest.raises(KernelError, match="takes 0 arguments, got 1"):
        run(device, "nothing", 64, np.int32(1))


def test_names_and_unknown_kernel(device):
    names = kernel_names(SOURCES / KERNELS)
    assert "not_a_kernel" not in names
    assert {"nothing", "block_sum", "trap"} <= set(names)
    with pytest.raises(KernelError, match="no kernel 'typo'; it has nothing, indices"):
        device.kernel(KERNELS, "typo")


def test_indices_and_include(device):
    out = np.full(100, -1, np.int32)
    run(device, "indices", 32, out, np.int32(90), grid=(3,))
    np.testing.assert_array_equal(out[:90], 2 * np.arange(90) + 3000)
    assert (out[90:] == -1).all()


def test_three_axes(device):
    out = np.empty((4, 6, 8), np.int32)
    run(device, "three_axes", (4, 3, 2), out, grid=(2, 2, 2))
    z, y, x = np.mgrid[:4, :6, :8]
    np.testing.assert_array_equal(out, x + 10 * y + 100 * z)


@pytest.mark.parametrize("threads", [1, 32, 64, 256])
@pytest.mark.parametrize("n", [0, 1, 1000])
def test_block_sum(device, threads, n):
    x = np.arange(n, dtype=np.float32)
    out = np.empty(3, np.float32)
    run(device, "block_sum", threads, x, out, np.int32(n), grid=(3,))
    np.testing.assert_array_equal(out, x.sum())


def test_shuffles(device):
    n = 64
    v = np.random.default_rng(0).normal(size=n)
    out = np.empty((6, n))
    run(device, "shuffles", n, v, out)
    t = np.arange(n)
    warp, lane = t & ~31, t & 31
    np.testing.assert_array_equal(out[0], v[warp + 5])
    np.testing.assert_array_equal(out[1], v[np.where(lane >= 3, t - 3, t)])
    np.testing.assert_array_equal(out[2], v[np.where(t % 16 < 13, t + 3, t)])
    np.testing.assert_array_equal(out[3], v[t ^ 9])
    np.testing.assert_array_equal(out[4], ((t & ~7) + (t + 1) % 8).astype(float) * 2**33)
    np.testing.assert_array_equal(out[5], v.astype(np.float32)[warp + 31 - lane])


def test_votes(device):
    n = 64
    out = np.empty((4, n), np.uint32)
    run(device, "votes", n, out)
    t = np.arange(n)
    ballot = [sum(1 << k for k in range(32) if (w + k) % 3 == 0) for w in (0, 32)]
    np.testing.assert_array_equal(out[0], np.array(ballot)[t // 32])
    np.testing.assert_array_equal(out[1], np.where(t % 32 < 16, 0x0000AAAA, 0xAAAA0000))
    np.testing.assert_array_equal(out[2], ((t >= 32) & (t < 48)) * 1 + (t >= 32) * 2)
    np.testing.assert_array_equal(out[3], 1 + 2 + 11 * 4)


def test_atomics(device):
    i = np.array([0, 0, 0, 0, 0], np.int32)
    u, ull = np.array([0, 99, 0, 0], np.uint32), np.array([0, 2**63, 0, 0, 0], np.uint64)
    f, d, ll = np.zeros(1, np.float32), np.zeros(1), np.zeros(2, np.int64)
    run(device, "atomics", 64, i, u, ull, f, d, ll)
    assert i[:3].tolist() == [64 * 63 // 2, -63, 63]
    assert i[3] in (1, 64)  # ascending order counts up, descending changes it once
    assert u.tolist() == [192, 2, 63, 2**32 - 1]
    assert ull.tolist() == [64 << 40, 5 << 32, 1 << 63, 9, 77]
    assert (f[0], d[0]) == (32.0, 16.0)
    assert ll.tolist() == [-63 << 33, 63 << 33]


def test_bits_and_arithmetic(device):
    out, f = np.empty(19, np.uint64), np.zeros(8, np.float32)
    run(device, "bits", 1, out, f)
    expected = [4, 64, 31, 32, 4, 0, 0xFFFFFFFE, 2**64 - 2, 0x3F800000, 1 << 31, 2, 2**31 - 1, 2, 0, 2]
    assert out.tolist() == [*expected, int(np.float64(1).view(np.uint64)), 63, 3, 0]
    np.testing.assert_allclose(f, [0.5, np.sin(0.5), np.cos(0.5), 10, 1, 1, 2, 10], rtol=1e-6)


def test_vectors_and_guarded_views(device):
    x = np.random.default_rng(1).normal(size=(3, 64, 4)).astype(np.float32)
    out = np.empty_like(x)
    run(device, "swap_pairs", 64, x[:2], out[1:], grid=(2,))
    np.testing.assert_array_equal(out[1:], x[:2][:, np.arange(64) ^ 1])
    run(device, "swap_pairs", 64, x, x, grid=(3,))  # in place: the two arguments share memory


def test_last_block_pattern_and_constants(device):
    x = np.arange(7, dtype=np.int32)
    total = np.zeros(1, np.int32)
    run(device, "last_block", 32, x, np.empty_like(x), np.zeros(1, np.uint32), total, grid=(7,))
    assert total[0] == x.sum()
    out = np.empty(3, np.int32)
    run(device, "constants", 3, out)
    assert out.tolist() == [4, 5, 6]


def test_null_pointer_argument(device):
    out = np.zeros(1, np.int32)
    run(device, "maybe", 1, out, None)
    assert out[0] == 1
    run(device, "maybe", 1, out, np.zeros(1, np.float32))
    assert out[0] == 0


class Inner(NamedTuple):
    pointer: np.ndarray | None
    flag: np.bool_


class Outer(NamedTuple):
    count: np.int32
    factor: np.float64
    inner: Inner
    out: np.ndarray
    last: np.uint8


def outer(**changes):
    x = np.arange(8, dtype=np.float32)
    made = Outer(np.int32(8), np.float64(3), Inner(x, np.bool_(False)), np.zeros(10, np.float32), np.uint8(1))
    return made._replace(**changes)


def test_structures_by_value(device):
    s = outer()
    run(device, "structures", 32, s, Inner(None, np.bool_(True)), np.int32(8))
    np.testing.assert_array_equal(s.out, [*(3 * np.arange(8) + 1), 2.5, 0])
    run(device, "structures", 32, s, Inner(s.out, np.bool_(True)), np.int32(9))  # shares memory with the first
    assert s.out[9] == 3.0


INT = np.zeros(64, np.int32)
NOT_GIVEN = Inner(None, np.bool_(True))
WRONG = [
    (
        "early_return",
        32,
        (INT,),
        r"12 of 32 threads have returned; 20 wait .* in __syncthreads at .*shim_kernels\.cu:\d+",
    ),
    ("two_barriers", 32, (INT,), "meet at different barriers"),
    ("barrier_against_shuffle", 32, (INT,), r"mask 0xffffffff; 1 wait .* in __syncthreads at"),
    ("masks_differ", 32, (INT,), r"16 wait .*mask 0xffffffff"),
    ("not_in_mask", 32, (INT,), "lane (16|31) calls it, but is not in its mask 0x0000ffff"),
    ("reads_idle_lane", 32, (INT,), "reads from lane 16, which takes no part"),
    ("lane_left", 32, (INT,), r"1 of 32 threads have returned; 31 wait .* in __syncwarp"),
    ("beyond_shared", 32, (INT, np.int32(1)), r"shim_kernels\.cu:\d+:\d+: index outside the array"),
    ("beyond_global", 1, (INT, np.int32(64)), "wrote outside the array of argument 0"),
    ("beyond_global", 1, (INT, np.int32(-1)), "wrote outside the array of argument 0"),
    ("overflow", 1, (INT, np.int32(1)), "signed addition overflows"),
    ("cast", 1, (INT, np.float32(3e9)), "the integer cannot hold the float"),
    ("misaligned", 1, (np.zeros(8, np.float32),), "misaligned"),
    ("null_write", 1, (None,), "null or misaligned pointer"),
    ("far_read", 1, (INT, np.int64(1 << 44)), "memory access outside all arrays"),
    ("stack_overflow", 1, (INT, np.int32(1 << 20)), "stack overflow"),
    ("trap", 1, (), r"__trap\(\) was called"),
    ("nothing", 1025, (), r"block \(1025,1,1\): wanted 1 to 1024 threads"),
    ("nothing", 0, (), r"block \(0,1,1\)"),
    ("nothing", (1, 1, 65), (), "at most 64 along z"),
    ("indices", 1, (INT,), "takes 2 arguments, got 1"),
    ("indices", 1, (INT, 5), r"argument 1: wanted the NumPy scalar int32, got builtins\.int 5"),
    ("indices", 1, (INT, np.int64(5)), "wanted the NumPy scalar int32"),
    (
        "indices",
        1,
        (INT.astype(np.int64), np.int32(5)),
        r"argument 0: wanted an array of int32, got array int64 \[64\]",
    ),
    ("indices", 1, (INT[::2], np.int32(5)), "wanted a C-contiguous array"),
    ("indices", 1, (np.broadcast_to(np.int32(0), (1,)), np.int32(0)), "read-only"),
    ("swap_pairs", 1, (np.zeros(6, np.float32), np.zeros(8, np.float32)), "24 bytes are no multiple"),
    ("structures", 32, (outer(), NOT_GIVEN, np.int32(10)), r"wrote outside the array of argument 0\.3"),
    ("structures", 1, (INT, NOT_GIVEN, np.int32(0)), "argument 0: wanted a NamedTuple of 5, got array int32"),
    ("structures", 1, (outer()[:4], NOT_GIVEN, np.int32(0)), "argument 0: wanted a NamedTuple of 5"),
    (
        "structures",
        1,
        (outer(count=np.int64(1)), NOT_GIVEN, np.int32(0)),
        r"argument 0\.0: wanted the NumPy scalar int32",
    ),
    (
        "structures",
        1,
        (outer(inner=Inner(INT, np.bool_(0))), NOT_GIVEN, np.int32(0)),
        r"argument 0\.2\.0: wanted an array of",
    ),
    ("structures", 1, (outer(), Inner(None, np.uint8(1)), np.int32(0)), r"argument 1\.1: wanted the NumPy scalar bool"),
]


@pytest.mark.parametrize(
    ("name", "block", "arguments", "message"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)]
)
def test_wrong_use_is_reported(device, name, block, arguments, message):
    with pytest.raises(KernelError, match=message):
        run(device, name, block, *arguments)
    test_block_sum(device, 64, 100)  # the next launch is unharmed


def test_grid_of_zero_is_refused(device):
    with pytest.raises(KernelError, match=r"grid \(0,1,1\)"):
        run(device, "nothing", 32, grid=(0,))


def test_shared_memory_and_empty_arrays_start_as_garbage(device):
    out = device.xp.empty(32, np.uint32)
    assert (out == 0xCDCDCDCD).all()
    run(device, "unset_shared", 32, out, grid=(2,))
    assert (out == 0xCDCDCDCD).all()


def test_reverse_order_shows_a_missing_barrier():
    out = {reverse: np.zeros(32, np.int32) for reverse in (False, True)}
    for reverse, array in out.items():
        run(HostDevice(SOURCES, reverse=reverse), "race", 32, array)
    assert (out[False] == 42).all()
    assert (out[True] != 42).any()


def test_without_sanitizer_and_guard():
    out = np.zeros(3, np.int32)
    run(HostDevice(SOURCES, sanitize=False, guard=False), "constants", 3, out)
    assert out.tolist() == [4, 5, 6]


def test_compile_errors_carry_the_message(tmp_path):
    (tmp_path / "bad.cu").write_text('extern "C" __global__ void k(int* x) { x[0] = undeclared; }')
    with pytest.raises(RuntimeError, match="undeclared"):
        HostDevice(tmp_path).kernel("bad.cu", "k")
    (tmp_path / "missing.cu").write_text('#include "no.cuh"\nextern "C" __global__ void k() {}')
    with pytest.raises(FileNotFoundError, match=r"no\.cuh"):
        HostDevice(tmp_path).kernel("missing.cu", "k")
