"""EPnP inside RANSAC on the GPU, against the CPU solver and the oracle. Without a GPU: on the host shim.

Integers are compared exactly: samples, hypotheses drawn, inliers. FP32 can turn a tie: a point within
some 1e-4 px of the threshold, or two hypotheses whose scores differ by 1e-5. It is rare (none in the problems here).
"""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, pose_errors
from coop_edge.config import RansacConfig, RansacSearchConfig
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from tests.cuda_host.host_device import HostDevice
from tests.kernels.devices import device  # noqa: F401
from tests.oracles import pnp_ransac
from tests.pnp.cuda_support import arrays_of, assert_same_bits, pose_difference, to_host


@pytest.fixture(scope="module")
def solver(device):  # noqa: F811
    return CudaPnpSolver(device)


def solve(solver, X, u, valid, K, dtype=np.float64, **options):
    put = solver.device.xp.asarray
    result = solver.ransac_epnp(put(X.astype(dtype)), put(u.astype(dtype)), put(valid), put(K), **options)
    return to_host(solver.device, result)


def solve_problems(solver, p, dtype=np.float64, **options):
    return solve(solver, p.points_object, p.points_image, p.valid, p.K, dtype, **options)


def assert_agrees(gpu, cpu, p, floor=2e-6, score=2e-5):
    """Integers equal; poses within ``floor`` (radians, share of the distance) and 2 % of a standard deviation."""
    for name in ("status", "hypotheses", "n_inliers"):
        np.testing.assert_array_equal(getattr(gpu.statistics, name), getattr(cpu.statistics, name), err_msg=name)
    np.testing.assert_array_equal(gpu.inliers, cpu.inliers)
    ok = cpu.statistics.status == PnpStatus.SOLVED
    lm = CpuPnpSolver(1).weighted_lm(
        p.points_object[ok], p.points_image[ok], cpu.inliers[ok].astype(float), p.K[ok], cpu.T_camera_object[ok]
    )
    sigma = np.sqrt(np.diagonal(lm.covariance, axis1=1, axis2=2))
    turned, moved = pose_difference(gpu.T_camera_object[ok], cpu.T_camera_object[ok])
    distance = np.linalg.norm(cpu.T_camera_object[ok, :3, 3], axis=1)
    assert (turned < floor + 0.02 * np.linalg.norm(sigma[:, 3:], axis=1)).all()
    assert (moved < floor + 0.02 * np.linalg.norm(sigma[:, :3], axis=1) / distance).all()
    np.testing.assert_allclose(gpu.statistics.score[ok], cpu.statistics.score[ok], rtol=score, atol=1e-4)
    rms = gpu.statistics.reprojection_rms_px[ok]
    np.testing.assert_allclose(rms, cpu.statistics.reprojection_rms_px[ok], rtol=max(1e-4, 5 * score), atol=1e-3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
def test_agrees_with_the_cpu(solver, shape, dtype):
    p = make_problems(20, 196, shape=shape, noise_px=(0, 4), outliers=(0, 0.8), skew=0.01, padding=9, seed=1)
    X, u = p.points_object.astype(dtype), p.points_image.astype(dtype)
    assert_agrees(solve(solver, X, u, p.valid, p.K, dtype=dtype), CpuPnpSolver(1).ransac_epnp(X, u, p.valid, p.K), p)


# Unrefined poses are FP32 through and through: P3P near a double root, and EPnP, are good to about 1e-4 px.
@pytest.mark.parametrize(
    ("options", "tolerance"),
    [
        ({"search": RansacSearchConfig(refine=False)}, 2e-5),
        ({"search": RansacSearchConfig(minimal="epnp", sample_size=6)}, 2e-6),
        ({"search": RansacSearchConfig(minimal="epnp", sample_size=6, refine=False)}, 2e-4),
        ({"search": RansacSearchConfig(hypotheses=1)}, 2e-6),
        ({"search": RansacSearchConfig(hypotheses=45, confidence=1.0)}, 2e-6),
        (
            {"config": RansacConfig(seed=(1 << 62) + 5), "search": RansacSearchConfig(hypotheses=300, confidence=1)},
            2e-6,
        ),
        ({"search": RansacSearchConfig(confidence=0.0)}, 2e-6),
        ({"config": RansacConfig(threshold_px=1.5), "search": RansacSearchConfig(min_inliers=90)}, 2e-6),
    ],
    ids=lambda value: str(value)[:60],
)
def test_options_mean_what_they_mean_on_the_cpu(solver, options, tolerance):
    p = make_problems(12, 120, shape="mixed", noise_px=1.0, outliers=(0, 0.5), padding=4, seed=2)
    cpu = CpuPnpSolver(1).ransac_epnp(p.points_object, p.points_image, p.valid, p.K, **options)
    assert_agrees(solve_problems(solver, p, **options), cpu, p, tolerance, max(2e-5, 10 * tolerance))


def test_draws_the_oracles_samples_and_finds_its_pose(solver):
    p = make_problems(3, 80, shape="mixed", noise_px=1.0, outliers=0.4, seed=3)
    gpu = solve_problems(solver, p)
    for i in range(3):
        R, t, inliers, drawn, score = pnp_ransac.ransac(
            p.points_object[i], p.points_image[i], p.K[i], RansacConfig(), RansacSearchConfig(), problem=i
        )
        assert gpu.statistics.hypotheses[i] == drawn
        np.testing.assert_array_equal(gpu.inliers[i], inliers)
        np.testing.assert_allclose(gpu.statistics.score[i], score, rtol=2e-5)
        np.testing.assert_allclose(gpu.T_camera_object[i, :3, :3], R, atol=5e-6)
        np.testing.assert_allclose(gpu.T_camera_object[i, :3, 3], t, rtol=1e-5, atol=5e-6 * np.linalg.norm(t))


@pytest.mark.parametrize("minimal", ["p3p", "epnp"])
@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
def test_finds_the_truth_of_exact_points(solver, shape, minimal):
    p = make_problems(8, 100, shape=shape, noise_px=0.0, outliers=0.5, seed=4)
    gpu = solve_problems(solver, p, config=RansacConfig(threshold_px=4.0), search=RansacSearchConfig(minimal=minimal))
    angle, moved = pose_difference(gpu.T_camera_object, p.T_camera_object)
    # An outlier that happens to fit within 4 px bends the pose a little; most problems have none.
    assert np.median(angle) < 1e-6
    assert np.median(moved) < 1e-6
    assert (gpu.inliers | ~p.inliers).all()
    assert np.nanmax(pose_errors(gpu.T_camera_object, p.T_camera_object)[0]) < 1.0


def test_survives_noise_and_outliers(solver):
    p = make_problems(30, 196, shape="mixed", noise_px=(0, 2), outliers=(0.2, 0.7), seed=5)
    rotation, translation = pose_errors(solve_problems(solver, p).T_camera_object, p.T_camera_object)
    assert np.mean(rotation < 5.0) > 0.9
    assert np.mean(translation < 0.05) > 0.9


def test_a_far_off_origin_does_not_matter(solver):
    """Points are taken relative to one of them before they become FP32."""
    p = make_problems(6, 100, noise_px=1.0, outliers=0.3, seed=6)
    offset = np.array([300.0, -200.0, 100.0])
    X = p.points_object + offset
    gpu = solve(solver, X, p.points_image, p.valid, p.K)
    cpu = CpuPnpSolver(1).ransac_epnp(X, p.points_image, p.valid, p.K)
    np.testing.assert_array_equal(gpu.inliers, cpu.inliers)
    turned, moved = pose_difference(gpu.T_camera_object, cpu.T_camera_object)
    assert turned.max() < 5e-6
    assert moved.max() < 5e-6


def _failures():
    p = make_problems(9, 40, noise_px=0.5, seed=7)
    X, u, valid, K = (a.copy() for a in (p.points_object, p.points_image, p.valid, p.K))
    rng = np.random.default_rng(7)
    u[1, 11, 0] = np.inf
    valid[2, 3:] = False
    X[3] = X[3, :1]
    X[4] = X[4, :1] + rng.uniform(-0.1, 0.1, (40, 1)) * [1.0, 0.5, -2.0]
    u[5] = rng.uniform(0, 400, (40, 2))
    K[6, 1, 1] = np.nan
    u[7] = u[7, 0]
    wanted = np.full(9, PnpStatus.SOLVED)
    wanted[1:8] = [
        PnpStatus.NON_FINITE,
        PnpStatus.TOO_FEW_POINTS,
        PnpStatus.DEGENERATE,
        PnpStatus.DEGENERATE,
        PnpStatus.TOO_FEW_INLIERS,
        PnpStatus.NON_FINITE,
        PnpStatus.NO_HYPOTHESIS,
    ]
    return (X, u, valid, K), wanted


SEARCH = RansacSearchConfig(min_inliers=20)


def test_failures_come_back_with_their_reason_and_leave_the_others_alone(solver):
    inputs, wanted = _failures()
    gpu = solve(solver, *inputs, search=SEARCH)
    np.testing.assert_array_equal(gpu.statistics.status, wanted)
    cpu = CpuPnpSolver(1).ransac_epnp(*inputs, search=SEARCH)
    np.testing.assert_array_equal(cpu.statistics.status, wanted)
    np.testing.assert_array_equal(gpu.statistics.hypotheses, cpu.statistics.hypotheses)
    failed = wanted != PnpStatus.SOLVED
    assert np.isnan(gpu.T_camera_object[failed]).all()
    assert np.isnan(gpu.statistics.reprojection_rms_px[failed]).all()
    assert np.isinf(gpu.statistics.score[failed]).all()
    assert not gpu.inliers[failed].any()
    assert np.isfinite(gpu.T_camera_object[~failed]).all()
    good = [a.copy() for a in inputs]
    p = make_problems(9, 40, noise_px=0.5, seed=7)
    for array, healthy in zip(good, (p.points_object, p.points_image, p.valid, p.K), strict=True):
        array[1:8] = healthy[1:8]
    other = solve(solver, *good, search=SEARCH)
    for name, value in arrays_of(gpu).items():
        np.testing.assert_array_equal(value[[0, 8]], arrays_of(other)[name][[0, 8]], err_msg=name)


@pytest.mark.parametrize(("B", "N"), [(0, 0), (0, 5), (3, 0), (3, 3)])
def test_nothing_to_solve(solver, B, N):
    gpu = solve(solver, np.zeros((B, N, 3)), np.zeros((B, N, 2)), np.ones((B, N), bool), np.eye(3))
    assert gpu.T_camera_object.shape == (B, 4, 4)
    assert gpu.inliers.shape == (B, N)
    assert (gpu.statistics.status == PnpStatus.TOO_FEW_POINTS).all()


def test_invalid_entries_may_hold_anything(solver):
    p = make_problems(4, 60, noise_px=1.0, outliers=0.3, padding=30, seed=8)
    finite = [np.where(p.valid[..., None], a, 1e30) for a in (p.points_object, p.points_image)]
    assert_same_bits(solve_problems(solver, p), solve(solver, *finite, p.valid, p.K))


@pytest.mark.parametrize("points", [4, 5, 31, 33, 127, 129, 1024])
def test_any_number_of_points(solver, points):
    p = make_problems(2, points, noise_px=0.5, seed=9)
    cpu = CpuPnpSolver(1).ransac_epnp(p.points_object, p.points_image, p.valid, p.K)
    gpu = solve_problems(solver, p)
    np.testing.assert_array_equal(gpu.inliers, cpu.inliers)
    np.testing.assert_array_equal(gpu.statistics.hypotheses, cpu.statistics.hypotheses)


def test_equal_inputs_give_equal_bits(solver):
    p = make_problems(4, 100, shape="mixed", noise_px=1.0, outliers=0.4, seed=10)
    assert_same_bits(solve_problems(solver, p), solve_problems(solver, p))


def test_the_order_of_blocks_and_threads_does_not_matter():
    p = make_problems(4, 100, shape="mixed", noise_px=1.0, outliers=0.5, seed=11)
    assert_same_bits(*(solve_problems(CudaPnpSolver(HostDevice(reverse=r)), p) for r in (False, True)))
