"""Weighted Levenberg-Marquardt on the GPU, against the CPU solver and the oracle. Without a GPU: on the host shim."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, perturbed, pose_errors
from coop_edge.config import LmConfig
from coop_edge.geometry import se3
from coop_edge.pnp.base import LmStop, PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from tests.cuda_host.host_device import HostDevice
from tests.kernels.devices import device  # noqa: F401
from tests.oracles import pnp_lm
from tests.pnp.cuda_support import arrays_of, assert_same_bits, pose_difference, to_host

# FP32 against FP64: the pose is good to 6e-8 of the object's size per rounding, or to a small part of its own standard
# deviation where noise makes the minimum flat (COST_NOISE in lm_step.cuh bounds that part by sqrt(1e-6 * 2 n / 6)).
FLOOR = 1e-6
SIGMAS = 0.02


@pytest.fixture(scope="module")
def solver(device):  # noqa: F811
    return CudaPnpSolver(device)


def solve(solver, X, u, w, K, T, config=None, dtype=np.float64):
    put = solver.device.xp.asarray
    result = solver.weighted_lm(
        put(X.astype(dtype)), put(u.astype(dtype)), put(w.astype(dtype)), put(K), put(T), config
    )
    return to_host(solver.device, result)


def solve_problems(solver, p, T, config=None, dtype=np.float64):
    return solve(solver, p.points_object, p.points_image, p.weights, p.K, T, config, dtype)


def assert_agrees(gpu, cpu):
    """Same statuses; poses within FLOOR or SIGMAS; costs and covariances to FP32."""
    np.testing.assert_array_equal(gpu.statistics.status, cpu.statistics.status)
    ok = cpu.statistics.status == PnpStatus.SOLVED
    for name in ("T_camera_object", "covariance"):
        np.testing.assert_array_equal(np.isnan(getattr(gpu, name)), np.isnan(getattr(cpu, name)))
    T, wanted = gpu.T_camera_object[ok], cpu.T_camera_object[ok]
    sigma = np.sqrt(np.nan_to_num(np.diagonal(cpu.covariance[ok], axis1=1, axis2=2)))
    moved = np.abs(T[:, :3, 3] - wanted[:, :3, 3])
    turned = np.abs(se3.so3_log(T[:, :3, :3] @ wanted[:, :3, :3].transpose(0, 2, 1)))
    distance = np.linalg.norm(wanted[:, :3, 3], axis=1)[:, None]
    assert (moved < FLOOR * distance + SIGMAS * sigma[:, :3]).all()
    assert (turned < FLOOR + SIGMAS * sigma[:, 3:]).all()
    for name in ("initial_cost", "final_cost"):
        # 1e-4 px per residual is FP32's share where the cost itself vanishes.
        np.testing.assert_allclose(getattr(gpu.statistics, name), getattr(cpu.statistics, name), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("weights", ["known", "unknown"])
@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
def test_agrees_with_the_cpu(solver, shape, weights, dtype):
    outliers = (0, 0.8) if weights == "known" else (0, 0.3)
    p = make_problems(4, 150, shape=shape, weights=weights, noise_px=(0.5, 4), outliers=outliers, skew=0.01, padding=11)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    # The same numbers in both: float32 inputs are data, not rounding.
    X, u, w = (a.astype(dtype) for a in (p.points_object, p.points_image, p.weights))
    config = LmConfig(iterations=30)
    gpu = solve(solver, X, u, w, p.K, T, config, dtype)
    cpu = CpuPnpSolver(1).weighted_lm(X, u, w, p.K, T, config)
    assert_agrees(gpu, cpu)
    sigma = np.sqrt(np.diagonal(cpu.covariance, axis1=1, axis2=2))
    scale = sigma[:, :, None] * sigma[:, None]
    np.testing.assert_allclose(gpu.covariance / scale, cpu.covariance / scale, atol=2e-3)


def test_least_squares_over_outliers_agrees_in_cost(solver):
    """Residuals of 100 px make Gauss-Newton converge linearly: FP32 stops earlier on a floor that is nearly flat."""
    p = make_problems(4, 150, weights="unknown", noise_px=1.0, outliers=0.8)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    config = LmConfig(iterations=60)
    gpu = solve_problems(solver, p, T, config).statistics
    cpu = CpuPnpSolver(1).weighted_lm(p.points_object, p.points_image, p.weights, p.K, T, config).statistics
    np.testing.assert_array_equal(gpu.status, cpu.status)
    np.testing.assert_allclose(gpu.final_cost, cpu.final_cost, rtol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "cauchy"])
def test_robust_losses_agree_with_the_cpu(solver, loss):
    p = make_problems(4, 200, weights="unknown", noise_px=1.0, outliers=0.2, seed=1)
    T = perturbed(p.T_camera_object, 0.05, 0.02)
    config = LmConfig(iterations=40, loss=loss, loss_scale_px=2.0)
    gpu = solve_problems(solver, p, T, config)
    assert_agrees(gpu, CpuPnpSolver(1).weighted_lm(p.points_object, p.points_image, p.weights, p.K, T, config))
    assert np.median(pose_errors(gpu.T_camera_object, p.T_camera_object)[0]) < 0.5


def test_agrees_with_the_oracle(solver):
    p = make_problems(3, 120, noise_px=1.0, outliers=0.3, seed=2, padding=5)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    gpu = solve_problems(solver, p, T)
    for i in range(3):
        T_wanted, covariance, initial, cost, *_ = pnp_lm.weighted_lm(
            p.points_object[i], p.points_image[i], p.weights[i], p.K[i], T[i]
        )
        angle, moved = pose_difference(gpu.T_camera_object[i : i + 1], T_wanted[None])
        assert angle[0] < 1e-5
        assert moved[0] < 1e-5
        np.testing.assert_allclose(gpu.statistics.initial_cost[i], initial, rtol=1e-5)
        np.testing.assert_allclose(gpu.statistics.final_cost[i], cost, rtol=1e-5)
        sigma = np.sqrt(np.diag(covariance))
        np.testing.assert_allclose(
            gpu.covariance[i] / np.outer(sigma, sigma), covariance / np.outer(sigma, sigma), atol=1e-3
        )


@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
def test_finds_the_truth_of_exact_points(solver, shape):
    p = make_problems(6, 100, shape=shape, noise_px=0.0)
    gpu = solve_problems(solver, p, perturbed(p.T_camera_object, 0.2, 0.05), LmConfig(iterations=20))
    angle, moved = pose_difference(gpu.T_camera_object, p.T_camera_object)
    assert angle.max() < FLOOR
    assert moved.max() < FLOOR
    # A residual is rounded by about 6e-8 of the object's size in the image, some 1e-5 px.
    assert np.sqrt(gpu.statistics.final_cost / 100).max() < 1e-4


def test_a_far_off_origin_costs_float32_points_nothing_more_than_their_own_rounding(solver):
    """Centring is done before rounding: object coordinates of 100 m, image points far from the principal point."""
    p = make_problems(3, 200, noise_px=1.0, seed=3)
    offset = np.array([100.0, -50.0, 30.0])
    X = (p.points_object + offset).astype(np.float32)
    T = p.T_camera_object.copy()
    T[:, :3, 3] -= T[:, :3, :3] @ offset
    start = perturbed(p.T_camera_object, 0.05, 0.02)
    start[:, :3, 3] -= start[:, :3, :3] @ offset
    u, w = p.points_image.astype(np.float32), p.weights.astype(np.float32)
    gpu = solve(solver, X, u, w, p.K, start, dtype=np.float32)
    cpu = CpuPnpSolver(1).weighted_lm(X, u, w, p.K, start)
    # Compared at the object: at its origin, 100 m off, a rotation of 1e-8 moves by 1e-6 m.
    moved = se3.transform(gpu.T_camera_object, offset[None]) - se3.transform(cpu.T_camera_object, offset[None])
    sigma = np.sqrt(np.diagonal(cpu.covariance, axis1=1, axis2=2))
    assert (
        se3.rotation_angle(gpu.T_camera_object[:, :3, :3], cpu.T_camera_object[:, :3, :3]) < 0.02 * sigma[:, 3:].max(1)
    ).all()
    assert np.abs(moved).max() < 1e-5
    np.testing.assert_allclose(gpu.statistics.final_cost, cpu.statistics.final_cost, rtol=1e-5)


def test_many_points_over_many_blocks(solver):
    p = make_problems(1, 50176, shape="sphere", noise_px=1.0, outliers=0.1, seed=4)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    gpu = solve_problems(solver, p, T, LmConfig(iterations=6), np.float32)
    X, u, w = (a.astype(np.float32) for a in (p.points_object, p.points_image, p.weights))
    assert_agrees(gpu, CpuPnpSolver(1).weighted_lm(X, u, w, p.K, T, LmConfig(iterations=6)))


def _failures():
    """Nine problems, one per way to fail and a good one first and last; and the statuses."""
    p = make_problems(9, 30, noise_px=1.0, seed=5)
    X, u, w, K, T = (
        a.copy() for a in (p.points_object, p.points_image, p.weights, p.K, perturbed(p.T_camera_object, 0.05, 0.02))
    )
    X[1, 4, 2] = np.nan
    w[2, 2:] = 0
    X[3] = X[3, :1] + np.linspace(-0.1, 0.1, 30)[:, None] * [1.0, 2.0, -1.0]
    T[4, 2, 3] = -3.0
    w[5, 7] = -1.0
    K[6, 0, 0] = np.inf
    T[7, 0, 0] = np.nan
    wanted = np.full(9, PnpStatus.SOLVED)
    wanted[1:8] = [
        PnpStatus.NON_FINITE,
        PnpStatus.TOO_FEW_POINTS,
        PnpStatus.DEGENERATE,
        PnpStatus.BEHIND_CAMERA,
        PnpStatus.NON_FINITE,
        PnpStatus.NON_FINITE,
        PnpStatus.NON_FINITE,
    ]
    return (X, u, w, K, T), wanted


def test_failures_come_back_with_their_reason_and_leave_the_others_alone(solver):
    inputs, wanted = _failures()
    gpu = solve(solver, *inputs)
    np.testing.assert_array_equal(gpu.statistics.status, wanted)
    failed = wanted != PnpStatus.SOLVED
    for values in (gpu.T_camera_object, gpu.covariance, gpu.statistics.initial_cost, gpu.statistics.final_damping):
        assert np.isnan(values[failed]).all()
        assert np.isfinite(values[~failed]).all()
    assert (gpu.statistics.stop[failed] == LmStop.UNSOLVED).all()
    alone = solve(solver, *(a[[0, 8]] for a in inputs))
    for name, value in arrays_of(alone).items():
        np.testing.assert_array_equal(value, arrays_of(gpu)[name][[0, 8]], err_msg=name)


@pytest.mark.parametrize(("B", "P"), [(0, 0), (0, 5), (3, 0), (3, 2)])
def test_nothing_to_solve(solver, B, P):
    gpu = solve(
        solver, np.zeros((B, P, 3)), np.zeros((B, P, 2)), np.ones((B, P)), np.eye(3), np.tile(np.eye(4), (B, 1, 1))
    )
    assert gpu.T_camera_object.shape == (B, 4, 4)
    assert gpu.covariance.shape == (B, 6, 6)
    assert (gpu.statistics.status == PnpStatus.TOO_FEW_POINTS).all()


def test_weight_zero_is_not_looked_at_and_points_behind_take_no_part(solver):
    p = make_problems(2, 60, noise_px=1.0, outliers=0.2, seed=6)
    T = perturbed(p.T_camera_object, 0.05, 0.02)
    few = [a.copy() for a in (p.points_object, p.points_image, p.weights)]
    out = p.weights == 0
    assert out.any()
    few[0][out], few[1][out] = np.nan, np.inf
    camera = -np.linalg.inv(T[:, :3, :3]) @ (T[:, :3, 3, None] + [[0.0], [0.0], [1.0]])
    few[0][:, 0], few[1][:, 0], few[2][:, 0] = camera[..., 0], 0.0, 1.0  # 1 m behind the camera
    kept = p.weights.copy()
    kept[:, 0] = 0.0
    with_them = solve(solver, *few, p.K, T)
    without = solve(solver, p.points_object, p.points_image, kept, p.K, T)
    assert_same_bits(with_them, without)


def test_the_covariance_is_the_scatter_of_the_estimates(solver):
    """60 noisy copies of one problem: Mahalanobis distances of the errors average 6."""
    p = make_problems(1, 60, noise_px=0.0, focal_px=(600, 600), extent_px=(300, 300), seed=7)
    rng = np.random.default_rng(7)
    B = 60
    u = p.points_image + rng.normal(size=(B, 60, 2))
    X, w, K, T = (np.repeat(a, B, 0) for a in (p.points_object, p.weights, p.K, p.T_camera_object))
    gpu = solve(solver, X, u, np.ones_like(w), K, T)
    xi = np.concatenate(
        [
            gpu.T_camera_object[:, :3, 3] - T[:, :3, 3],
            se3.so3_log(gpu.T_camera_object[:, :3, :3] @ T[:, :3, :3].transpose(0, 2, 1)),
        ],
        axis=1,
    )
    squared = np.einsum("bi,bij,bj->b", xi, np.linalg.inv(gpu.covariance), xi)
    assert 4.5 < squared.mean() < 7.5  # 6 +- 3.4 standard errors


def test_three_points_have_no_variance(solver):
    p = make_problems(1, 3, noise_px=1.0, seed=8)
    gpu = solve_problems(solver, p, perturbed(p.T_camera_object, 0.01, 0.01), LmConfig(iterations=40))
    assert gpu.statistics.status[0] == PnpStatus.SOLVED
    assert np.isfinite(gpu.T_camera_object).all()
    assert np.isnan(gpu.covariance).all()


def test_zero_iterations_evaluate_the_start(solver):
    p = make_problems(2, 50, noise_px=1.0, seed=9)
    T = perturbed(p.T_camera_object, 0.05, 0.02)
    gpu = solve_problems(solver, p, T, LmConfig(iterations=0))
    cpu = CpuPnpSolver(1).weighted_lm(p.points_object, p.points_image, p.weights, p.K, T, LmConfig(iterations=0))
    np.testing.assert_allclose(gpu.T_camera_object, T, atol=1e-12)
    np.testing.assert_allclose(gpu.statistics.final_cost, cpu.statistics.final_cost, rtol=1e-6)
    assert (gpu.statistics.stop == LmStop.ITERATIONS).all()
    assert (gpu.statistics.iterations == 0).all()


@pytest.mark.parametrize(
    ("config", "stop"),
    [
        (LmConfig(iterations=1), LmStop.ITERATIONS),
        (LmConfig(step_tolerance=1.0), LmStop.STEP),
        (LmConfig(iterations=50), LmStop.COST),
        (LmConfig(damping=1e12, damping_up=1e6, iterations=50, cost_tolerance=0.0), LmStop.DAMPING),
    ],
)
def test_says_why_it_stopped(solver, config, stop):
    p = make_problems(1, 80, noise_px=1.0, seed=10)
    T = p.T_camera_object if stop == LmStop.STEP else perturbed(p.T_camera_object, 0.1, 0.03)
    if stop == LmStop.DAMPING:
        # At the minimum of another weighting no step of this tiny size can be seen to lower the cost.
        T = solve_problems(solver, p, T, LmConfig(iterations=50)).T_camera_object
    gpu = solve_problems(solver, p, T, config)
    assert gpu.statistics.stop[0] in ((stop, LmStop.COST, LmStop.STEP) if stop == LmStop.DAMPING else (stop,))


def test_equal_inputs_give_equal_bits(solver):
    p = make_problems(3, 3000, noise_px=1.0, seed=11)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    first = solve_problems(solver, p, T, dtype=np.float32)
    assert_same_bits(first, solve_problems(solver, p, T, dtype=np.float32))
    shared = dataclasses.replace(p, K=p.K[:1].repeat(3, 0))
    one_K = solve(solver, p.points_object, p.points_image, p.weights, p.K[0], T)
    assert_same_bits(one_K, solve_problems(solver, shared, T))


def test_the_order_of_blocks_and_threads_does_not_matter():
    p = make_problems(2, 5000, noise_px=1.0, seed=12)
    T = perturbed(p.T_camera_object, 0.1, 0.03)
    results = [
        solve_problems(CudaPnpSolver(HostDevice(reverse=r)), p, T, LmConfig(iterations=3)) for r in (False, True)
    ]
    assert_same_bits(*results)
