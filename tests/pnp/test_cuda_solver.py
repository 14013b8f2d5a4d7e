"""``CudaPnpSolver``: what it refuses, what it allocates, and, on a GPU, that a call can be captured in a CUDA graph."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.gpu import solvers as gpu_solvers
from benchmarks.pnp_problems import make_problems, perturbed, pose_errors
from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from coop_edge.pnp.cuda_arrays import Scratch
from tests.cuda_host.host_device import HostDevice
from tests.kernels.devices import device  # noqa: F401
from tests.pnp.cuda_support import arrays_of, assert_same_bits, pose_difference, to_host


@pytest.fixture
def solver(device):  # noqa: F811
    return CudaPnpSolver(device)


def _lm_inputs(solver, B=2, P=20, dtype=np.float32, seed=0):
    p = make_problems(B, P, noise_px=1.0, seed=seed)
    T = perturbed(p.T_camera_object, 0.05, 0.02)
    put = solver.device.xp.asarray
    return [put(a.astype(dtype)) for a in (p.points_object, p.points_image, p.weights)] + [put(p.K), put(T)]


def _ransac_inputs(solver, B=2, N=20, dtype=np.float32, seed=0):
    p = make_problems(B, N, noise_px=1.0, seed=seed)
    put = solver.device.xp.asarray
    return [put(p.points_object.astype(dtype)), put(p.points_image.astype(dtype)), put(p.valid), put(p.K)]


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (0, lambda a: a[:, :, :2], r"points_object: wanted an array \[B,N,3\], got shape"),
        (1, lambda a: a[:, :5], r"points_image: wanted \[2,20,2\]"),
        (2, lambda a: a[:, :, None], r"weights: wanted \[2,20\], got"),
        (3, lambda a: a[:1], r"K: wanted \[3,3\] or \[2,3,3\]"),
        (4, lambda a: a[:1], r"T_init: wanted \[2,4,4\]"),
        (4, lambda a: a.astype(np.complex128), r"T_init: wanted real numbers"),
        (0, lambda a: [[[0.0, 0.0, 0.0]]], r"points_object: the CUDA solver takes .* got builtins.list; upload it"),
    ],
)
def test_lm_refuses_what_cannot_be_meant(solver, place, change, message):
    inputs = _lm_inputs(solver)
    inputs[place] = change(inputs[place])
    with pytest.raises(InputError, match=message):
        solver.weighted_lm(*inputs)


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        (2, lambda a: a.astype(np.float32), r"valid: wanted dtype bool, got float32"),
        (2, lambda a: a[:1], r"valid: wanted \[2,20\]"),
        (1, lambda a: a[:, :, :1], r"points_image: wanted an array \[B,N,2\]"),
        (3, lambda a: (1, 2, 3), r"K: the CUDA solver takes .* got builtins.tuple"),
    ],
)
def test_ransac_refuses_what_cannot_be_meant(solver, place, change, message):
    inputs = _ransac_inputs(solver)
    inputs[place] = change(inputs[place])
    with pytest.raises(InputError, match=message):
        solver.ransac_epnp(*inputs)


def test_outputs_of_another_shape_are_refused(solver):
    inputs = _lm_inputs(solver)
    out = solver.weighted_lm(*_lm_inputs(solver, B=3))
    with pytest.raises(
        InputError, match=r"out: T_camera_object wanted C-contiguous float64 \[2, 4, 4\], got float64 \[3, 4, 4\]"
    ):
        solver.weighted_lm(*inputs, out=out)
    result = solver.ransac_epnp(*_ransac_inputs(solver))
    wrong = dataclasses.replace(result, inliers=result.inliers.astype(np.uint8))
    with pytest.raises(InputError, match=r"out: inliers wanted C-contiguous bool \[2, 20\], got uint8"):
        solver.ransac_epnp(*_ransac_inputs(solver), out=wrong)


@pytest.mark.parametrize("operation", ["weighted_lm", "ransac_epnp"])
def test_out_is_written_and_returned(solver, operation):
    make, solve = (
        (_lm_inputs, solver.weighted_lm) if operation == "weighted_lm" else (_ransac_inputs, solver.ransac_epnp)
    )
    out = solve(*make(solver, seed=1))
    wanted = to_host(solver.device, solve(*make(solver, seed=2)))
    assert solve(*make(solver, seed=2), out=out) is out
    assert_same_bits(to_host(solver.device, out), wanted)


def test_other_layouts_and_dtypes_are_converted():
    solver = CudaPnpSolver(HostDevice())
    X, u, w, K, T = _lm_inputs(solver)
    wanted = solver.weighted_lm(X, u, w, K, T)
    assert_same_bits(solver.weighted_lm(np.asfortranarray(X), u[:, ::-1][:, ::-1], w, K, T), wanted)
    half = X.astype(np.float16)
    doubles = [a.astype(np.float64) for a in (half, u, w)]
    assert_same_bits(solver.weighted_lm(half, u, w, K, T), solver.weighted_lm(*doubles, K, T))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("unit", [1e-3, 100.0])
def test_the_unit_of_length_does_not_matter(solver, unit, dtype):
    """FP32 has the range: lengths in thousands (millimetres) and in hundredths give the CPU solver's poses."""
    p = make_problems(6, 60, shape="mixed", noise_px=1.0, outliers=0.3, skew=0.02, seed=9)
    X, T_init = p.points_object / unit, perturbed(p.T_camera_object, 0.05, 0.02)
    T_init[:, :3, 3] /= unit
    put = solver.device.xp.asarray
    X, u, w, valid, K, T_init = X.astype(dtype), p.points_image.astype(dtype), p.weights, p.valid, p.K, T_init
    for operation, rest in (("ransac_epnp", (valid, K)), ("weighted_lm", (w.astype(dtype), K, T_init))):
        wanted = getattr(CpuPnpSolver(1), operation)(X, u, *rest)
        result = to_host(solver.device, getattr(solver, operation)(put(X), put(u), *map(put, rest)))
        np.testing.assert_array_equal(result.statistics.status, wanted.statistics.status)
        turned, moved = pose_difference(result.T_camera_object, wanted.T_camera_object)
        assert turned.max() < 5e-5, operation
        assert moved.max() < 5e-5, operation


def test_scratch_is_reused_and_outgrown_arrays_stay_alive():
    scratch = Scratch(HostDevice())
    small = scratch.take("a", (4, 2), np.float32)
    assert scratch.take("a", (2, 2), np.float32).ctypes.data == small.ctypes.data
    large = scratch.take("a", (3, 3), np.float32)
    assert large.ctypes.data != small.ctypes.data
    assert scratch.take("a", (4, 4), np.float32).ctypes.data == large.ctypes.data  # twice the first size at once
    assert (scratch.take_zeroed("b", 5, np.uint32) == 0).all()


def test_a_second_call_allocates_no_scratch(solver):
    calls = {"lm": (_lm_inputs, solver.weighted_lm), "ransac": (_ransac_inputs, solver.ransac_epnp)}
    for make, solve in calls.values():
        inputs = make(solver, B=3, P=50) if make is _lm_inputs else make(solver, B=3, N=50)
        out = solve(*inputs)
        before = {name: id(array) for name, array in solver._scratch._arrays.items()}
        solve(*inputs, out=out)
        solve(*make(solver, 1), out=None)
        assert {name: id(array) for name, array in solver._scratch._arrays.items()} == before


def test_closing_gives_the_scratch_back_and_a_later_call_allocates_anew(solver):
    solver.close()
    before = to_host(solver.device, solver.weighted_lm(*_lm_inputs(solver)))
    assert solver._scratch._arrays
    solver.close()
    assert not solver._scratch._arrays
    assert_same_bits(to_host(solver.device, solver.weighted_lm(*_lm_inputs(solver))), before)
    solver.close()


def test_a_smaller_batch_after_a_larger_one_is_not_disturbed_by_what_it_left(solver):
    fresh = CudaPnpSolver(solver.device)
    solver.weighted_lm(*_lm_inputs(solver, B=5, P=3000))
    solver.ransac_epnp(*_ransac_inputs(solver, B=5, N=100))
    for make, name in ((_lm_inputs, "weighted_lm"), (_ransac_inputs, "ransac_epnp")):
        used, unused = (to_host(s.device, getattr(s, name)(*make(s, seed=3))) for s in (solver, fresh))
        assert_same_bits(used, unused)


@pytest.mark.gpu
@pytest.mark.parametrize("operation", ["weighted_lm", "ransac_epnp"])
def test_a_call_can_be_captured_in_a_cuda_graph_and_replayed_on_new_contents(operation):
    import cupy

    solver = CudaPnpSolver()
    make = _lm_inputs if operation == "weighted_lm" else _ransac_inputs
    solve = getattr(solver, operation)
    inputs, others = make(solver, 3, 5000, seed=4), make(solver, 3, 5000, seed=5)
    out = solve(*inputs)
    wanted = to_host(solver.device, solve(*others))
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        solve(*inputs, out=out)
        graph = stream.end_capture()
    for array, other in zip(inputs, others, strict=True):
        array[...] = other
    cupy.cuda.Device().synchronize()
    graph.launch(stream)
    stream.synchronize()
    assert_same_bits(to_host(solver.device, out), wanted)
    assert all(np.isfinite(v).all() for v in arrays_of(wanted).values())


def test_the_benchmark_says_why_it_cannot_run(monkeypatch, capsys):
    def unavailable():
        raise BackendUnavailable("no GPU in this test")

    monkeypatch.setattr("benchmarks.gpu.command.CupyDevice", unavailable)
    monkeypatch.setattr("sys.argv", ["solvers"])
    assert gpu_solvers.main() == 2
    assert "no GPU in this test" in capsys.readouterr().err


def test_the_benchmarks_pytorch_peer_is_a_fair_one():
    """It converges as far as FP32 without centring can: a peer that does not solve the problem would be no peer."""
    torch = pytest.importorskip("torch")
    from benchmarks.gpu.torch_lm import weighted_lm

    p = make_problems(3, 500, shape="sphere", noise_px=1.0, outliers=0.2, seed=6)
    T = perturbed(p.T_camera_object, 0.08, 0.02)
    inputs = [torch.as_tensor(a.astype(np.float32)) for a in (p.points_object, p.points_image, p.weights, p.K, T)]
    found = weighted_lm(*inputs, 10).double().numpy()
    wanted = CpuPnpSolver(1).weighted_lm(p.points_object, p.points_image, p.weights, p.K, T).T_camera_object
    assert pose_errors(found, wanted)[0].max() < 0.05


@pytest.mark.gpu
def test_the_benchmark_runs():
    figures = gpu_solvers.measure_lm(CudaPnpSolver(), 3)
    assert figures["cuda_ms"] > 0
    assert figures["median_rotation_error_deg"] < 0.1
    assert gpu_solvers.measure_ransac(CudaPnpSolver(), 3)["solved"] == 1.0
