"""RANSAC with measured depth: agreement with the oracle, CPU and CUDA alike, what depth decides, and bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, pose_errors
from coop_edge.config import RansacConfig, RansacSearchConfig
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.pnp.base import MeasuredDepths, PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from tests.cuda_host.host_device import HostDevice
from tests.oracles import pnp_ransac as oracle
from tests.pnp.cuda_support import arrays_of, assert_same_bits, to_host


def on_cpu(X, u, valid, K, measured=None, **options):
    return CpuPnpSolver(threads=1).ransac_epnp(X, u, valid, K, measured=measured, **options)


def on_shim(X, u, valid, K, measured=None, **options):
    solver = CudaPnpSolver(HostDevice())
    put = solver.device.xp.asarray
    if measured is not None:
        measured = MeasuredDepths(*map(put, measured))
    return to_host(solver.device, solver.ransac_epnp(*map(put, (X, u, valid, K)), measured=measured, **options))


@pytest.fixture(params=[on_cpu, on_shim])
def solve(request):
    return request.param


def problems_with_depth(batch=6, points=60, *, noise=0.002, unknown=0.3, seed=0, **options):
    """Problems, and depths of their points: unknown at some, wrong at the outliers."""
    p = make_problems(batch, points, shape="mixed", seed=seed, **options)
    rng = np.random.default_rng([7, seed])
    z = (np.einsum("bi,bni->bn", p.T_camera_object[:, 2, :3], p.points_object)) + p.T_camera_object[:, 2, 3, None]
    ends = [f(np.where(p.valid[..., None], p.points_object, np.nan), axis=1) for f in (np.nanmin, np.nanmax)]
    size = np.linalg.norm(ends[1] - ends[0], axis=1)[:, None]
    z = z + noise * size * rng.normal(size=z.shape)
    z = np.where(p.inliers | ~p.valid, z, z + size * rng.uniform(-1, 1, z.shape))
    gate = 4.0 / (3.0 * noise * size + 0.05 * size)
    known = rng.uniform(size=z.shape) > unknown
    return p, MeasuredDepths(np.where(known, z, np.nan), np.where(known, gate, 0.0))


def given(p):
    return p.points_object, p.points_image, p.valid, p.K


@pytest.mark.parametrize("minimal", ["p3p", "epnp"])
@pytest.mark.parametrize("refine", [False, True])
def test_agrees_with_the_oracle(solve, minimal, refine):
    """Integers exactly, floats to rounding."""
    p, measured = problems_with_depth(noise_px=1.0, outliers=0.4, padding=4, seed=3)
    config = RansacConfig(seed=2**35 + 1, threshold_px=4.0)
    search = RansacSearchConfig(minimal=minimal, sample_size=6, hypotheses=100, refine=refine)
    result = solve(*given(p), measured, config=config, search=search)
    exact = solve is on_cpu
    for i, v in enumerate(p.valid):
        X, u, depths = p.points_object[i, v], p.points_image[i, v], (measured.depth[i, v], measured.weights[i, v])
        R, t, inliers, drawn, score = oracle.ransac(X, u, p.K[i], config, search, i, depths)
        np.testing.assert_allclose(result.T_camera_object[i], se3.from_rt(R, t), atol=1e-7 if exact else 3e-4)
        np.testing.assert_array_equal(result.inliers[i, v], inliers)
        assert result.statistics.hypotheses[i] == drawn
        np.testing.assert_allclose(result.statistics.score[i], score, rtol=1e-7 if exact else 2e-3)
        r = se3.transform(result.T_camera_object[i], X) @ p.K[i].T
        squares = ((r[:, :2] / r[:, 2:] - u) ** 2).sum(axis=1)[inliers]
        rms = result.statistics.reprojection_rms_px[i]
        np.testing.assert_allclose(rms, np.sqrt(squares.mean()), rtol=1e-9 if exact else 2e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cuda_agrees_with_the_cpu(dtype):
    p, measured = problems_with_depth(16, 120, noise_px=(0, 3), outliers=(0, 0.7), padding=9, seed=5)
    X, u, depths = p.points_object.astype(dtype), p.points_image.astype(dtype), (a.astype(dtype) for a in measured)
    measured = MeasuredDepths(*depths)
    cpu, cuda = (
        each(X, u, p.valid, p.K, measured, config=RansacConfig(threshold_px=6.0)) for each in (on_cpu, on_shim)
    )
    for name in ("status", "hypotheses", "n_inliers"):
        np.testing.assert_array_equal(getattr(cuda.statistics, name), getattr(cpu.statistics, name), err_msg=name)
    np.testing.assert_array_equal(cuda.inliers, cpu.inliers)
    np.testing.assert_allclose(cuda.T_camera_object, cpu.T_camera_object, atol=2e-5)
    np.testing.assert_allclose(cuda.statistics.score, cpu.statistics.score, rtol=5e-5)
    np.testing.assert_allclose(cuda.statistics.reprojection_rms_px, cpu.statistics.reprojection_rms_px, rtol=5e-4)


def test_depth_makes_the_distance_right():
    p, measured = problems_with_depth(60, 40, noise_px=3.0, outliers=0.3, seed=6)
    config = RansacConfig(threshold_px=8.0)
    errors = [
        pose_errors(on_cpu(*given(p), m, config=config).T_camera_object, p.T_camera_object)[1] for m in (None, measured)
    ]
    assert np.median(errors[1]) < 0.35 * np.median(errors[0])


def test_three_right_matches_of_known_depth_are_enough_for_the_pose(solve):
    """Of pixels alone the pose of a plane seen from afar is one of two; as a motion in space there is only one."""
    rng = np.random.default_rng(8)
    B, n = 12, 8
    X = np.concatenate([rng.uniform(-0.05, 0.05, (B, n, 2)), np.zeros((B, n, 1))], axis=2)
    axis = rng.normal(size=(B, 3)) * [1, 1, 0]
    T = se3.from_rt(
        se3.so3_exp(0.7 * axis / np.linalg.norm(axis, axis=1, keepdims=True)), np.tile([0.0, 0, 3.0], (B, 1))
    )
    K = np.tile(np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), (B, 1, 1))
    P = np.einsum("bij,bnj->bni", T[:, :3, :3], X) + T[:, None, :3, 3]
    u = P[..., :2] / P[..., 2:] * 600 + [320, 240] + rng.normal(size=(B, n, 2)) * 0.3
    measured = MeasuredDepths(P[..., 2], np.full((B, n), 2000.0))
    options = {"config": RansacConfig(threshold_px=3.0), "search": RansacSearchConfig(hypotheses=32, refine=False)}
    with_depth, without = (
        pose_errors(solve(X, u, np.ones((B, n), bool), K, m, **options).T_camera_object, T)[0] for m in (measured, None)
    )
    assert with_depth.max() < 10.0
    assert (without > 20.0).any()


def test_a_match_of_wrong_depth_is_no_inlier_and_one_of_unknown_depth_may_be(solve):
    p, measured = problems_with_depth(4, 40, noise_px=0.5, unknown=0.0, seed=9)
    depth, weights = (a.copy() for a in measured)
    depth[:, :5] += 1.0
    weights[:, 5:10] = 0.0
    result = solve(*given(p), MeasuredDepths(depth, weights), config=RansacConfig(threshold_px=4.0))
    assert not result.inliers[:, :5].any()
    assert result.inliers[:, 5:].all()
    assert (result.statistics.n_inliers == 35).all()


def test_weights_of_0_change_nothing(solve):
    """On the CPU not a bit; the GPU sums in the same order too."""
    p, measured = problems_with_depth(5, 50, noise_px=1.0, outliers=0.3, padding=3, seed=10)
    none = MeasuredDepths(np.full_like(measured.depth, np.nan), np.zeros_like(measured.weights))
    assert_same_bits(solve(*given(p)), solve(*given(p), none))


def test_a_problem_does_not_depend_on_its_batch(solve):
    p, measured = problems_with_depth(5, 50, noise_px=1.0, outliers=0.3, seed=11)
    streams = np.arange(5, dtype=np.uint32)
    if solve is on_shim:
        streams = HostDevice().xp.asarray(streams)
    whole = arrays_of(solve(*given(p), measured, substreams=streams))
    rows = slice(2, 4)
    some = solve(*(a[rows] for a in given(p)), MeasuredDepths(*(a[rows] for a in measured)), substreams=streams[rows])
    for name, value in arrays_of(some).items():
        np.testing.assert_array_equal(value, whole[name][rows], err_msg=name)


@pytest.mark.parametrize("batch", [0, 2])
def test_nothing_to_solve(solve, batch):
    measured = MeasuredDepths(np.zeros((batch, 0)), np.zeros((batch, 0)))
    result = solve(np.zeros((batch, 0, 3)), np.zeros((batch, 0, 2)), np.zeros((batch, 0), bool), np.eye(3), measured)
    assert (result.statistics.status == PnpStatus.TOO_FEW_POINTS).all()


@pytest.mark.parametrize(
    ("depth", "weight", "status"),
    [
        (np.nan, 1.0, PnpStatus.NON_FINITE),
        (np.inf, 1.0, PnpStatus.NON_FINITE),
        (1.0, -1.0, PnpStatus.NON_FINITE),
        (1.0, np.nan, PnpStatus.NON_FINITE),
        (1.0, np.inf, PnpStatus.NON_FINITE),
        (np.nan, 0.0, PnpStatus.SOLVED),
    ],
)
def test_a_depth_that_cannot_be_meant_says_so_and_disturbs_no_other(solve, depth, weight, status):
    p, measured = problems_with_depth(3, 30, noise_px=0.5, seed=12)
    wanted = solve(*given(p), measured)
    measured.depth[1, 4], measured.weights[1, 4] = depth, weight
    result = solve(*given(p), measured)
    assert result.statistics.status.tolist() == [PnpStatus.SOLVED, status, PnpStatus.SOLVED]
    for i in (0, 2):
        np.testing.assert_array_equal(result.T_camera_object[i], wanted.T_camera_object[i])
    p = replace(p, valid=np.where(np.arange(30) == 4, False, p.valid))
    assert solve(*given(p), measured).statistics.status[1] == PnpStatus.SOLVED  # what is not valid is not read


def test_other_shapes_are_refused(solve):
    p, measured = problems_with_depth(2, 8)
    with pytest.raises(InputError, match=r"measured\.weights: wanted an array \[B,8\], got shape \(2, 7\)"):
        solve(*given(p), MeasuredDepths(measured.depth, measured.weights[:, :7]))
    with pytest.raises(InputError, match="measured: wanted MeasuredDepths or None, got tuple"):
        CpuPnpSolver(1).ransac_epnp(*given(p), measured=(measured.depth, measured.weights))
