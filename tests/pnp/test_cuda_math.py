"""The .cuh functions of the solvers against NumPy, and FP32 against FP64."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.pnp_problems import make_problems, project
from coop_edge.geometry import se3
from coop_edge.pnp.sampling import draw_sample
from tests.kernels.devices import device  # noqa: F401
from tests.oracles import pnp_lm, pnp_ransac
from tests.pnp.cuda_support import MathKernels

DTYPES = {"f32": np.float32, "f64": np.float64}


@pytest.fixture(scope="module")
def math(device):  # noqa: F811
    return MathKernels(device)


@pytest.mark.parametrize(
    ("seed", "problem", "n", "m"),
    [(0, 0, 4, 4), (0, 3, 5, 3), (7, 41, 196, 3), (7, 41, 196, 6), ((1 << 63) - 1, 9, 65536, 6), (1 << 40, 2, 6, 6)],
)
def test_samples_are_the_cpus_bit_for_bit(math, seed, problem, n, m):
    count = 300
    out = np.zeros((count, m), np.int32)
    math("samples", 3, 128, np.uint64(seed), np.uint32(problem), np.int32(n), np.int32(m), np.int32(count), out)
    cpu, scratch = np.zeros((count, 6), np.int64), np.zeros(6, np.int64)
    for h in range(count):
        draw_sample(seed, problem, h, n, m, cpu[h], scratch)
    np.testing.assert_array_equal(out, cpu[:, :m])
    for h in (0, 1, count - 1):
        assert out[h].tolist() == pnp_ransac.sample(seed, problem, h, n, m)


def _samples(problems, points, seed=0):
    """One sample per problem: X [B,n,3] from the first point, normalised m [B,n,2], the pixels' scale [B]."""
    rng = np.random.default_rng(seed)
    chosen = np.array([rng.permutation(problems.points_object.shape[1])[:points] for _ in range(len(problems))])
    rows = np.arange(len(problems))[:, None]
    X, u = problems.points_object[rows, chosen], problems.points_image[rows, chosen]
    rays = np.concatenate([u, np.ones((*u.shape[:2], 1))], 2) @ np.linalg.inv(problems.K).transpose(0, 2, 1)
    return X - problems.points_object[:, :1], rays[..., :2], problems.K[:, 0, 0]


def _image(problems, pose, i):
    """Normalised projections of all points of problem i, relative to its first."""
    X = problems.points_object[i] - problems.points_object[i, 0]
    p = X @ pose[:9].reshape(3, 3).T + pose[9:]
    return p[:, :2] / p[:, 2:]


def _run_p3p(math, suffix, X, m):
    dtype, B = DTYPES[suffix], len(X)
    poses, roots = np.zeros((B, 4, 12), dtype), np.zeros(B, np.int32)
    math(
        f"p3p_{suffix}",
        -(-B // 64),
        64,
        X.reshape(B, 9).astype(dtype),
        m.reshape(B, 6).astype(dtype),
        np.int32(B),
        poses,
        roots,
    )
    return poses.astype(float), roots


@pytest.mark.parametrize("outliers", [0.0, 0.6])
def test_p3p_in_fp64_finds_the_oracles_poses(math, outliers):
    problems = make_problems(200, 12, shape="mixed", noise_px=1.0, outliers=outliers, seed=1)
    X, m, focal = _samples(problems, 3)
    poses, roots = _run_p3p(math, "f64", X, m)
    assert roots.sum() > 200
    errors = []
    for i in range(200):
        wanted = [np.r_[R.ravel(), t] for R, t in pnp_ransac.p3p(X[i], np.c_[m[i], np.ones(3)])]
        assert len(wanted) == roots[i]
        for pose in wanted:
            images = [_image(problems, p, i) - _image(problems, pose, i) for p in poses[i, : roots[i]]]
            errors.append(min(np.median(np.abs(d)) * focal[i] for d in images))
    # Near-double roots are ill-conditioned in the oracle's quartic, too.
    assert np.median(errors) < 1e-7
    assert np.quantile(errors, 0.99) < 1e-3


@pytest.mark.parametrize("noise_px", [0.0, 2.0])
def test_p3p_in_fp32_finds_the_same_poses_as_in_fp64(math, noise_px):
    problems = make_problems(1000, 12, shape="mixed", noise_px=noise_px, outliers=(0, 0.8), seed=2)
    X, m, focal = _samples(problems, 3)
    poses, roots = _run_p3p(math, "f64", X, m)
    single, single_roots = _run_p3p(math, "f32", X, m)
    assert (roots != single_roots).mean() <= 0.002  # double roots, which rounding may lose or make
    errors = []
    for i in range(1000):
        for pose in poses[i, : roots[i]]:
            images = [_image(problems, p, i) - _image(problems, pose, i) for p in single[i, : single_roots[i]]]
            errors.append(min((np.median(np.abs(d)) * focal[i] for d in images), default=np.inf))
    median, most, nearly_all = np.quantile(errors, [0.5, 0.9, 0.99])
    assert median < 5e-5
    assert most < 5e-4
    assert nearly_all < 5e-3


def test_p3p_of_a_flat_triangle_gives_nothing(math):
    X = np.array([[[0, 0, 0], [1, 1, 1], [2, 2, 2]], [[0, 0, 0], [0, 0, 0], [1, 0, 0]], [[0, 0, 0]] * 3], float)
    m = np.array([[[0, 0], [0.1, 0.1], [0.2, 0.2]]] * 3)
    for suffix in DTYPES:
        assert (_run_p3p(math, suffix, X, m)[1] == 0).all()


def _run_epnp(math, suffix, X, m, focal):
    dtype, (B, n) = DTYPES[suffix], X.shape[:2]
    poses, found = np.zeros((B, 12), dtype), np.zeros(B, np.int32)
    inputs = [a.astype(dtype) for a in (X, m, focal)]
    math(f"epnp_{suffix}", -(-B // 32), 32, *inputs, np.int32(n), np.int32(B), poses, found)
    return poses.astype(float), found.astype(bool)


def _epnp_errors(problems, poses, found, focal):
    """RMS distance in pixels of each problem's points from where the truth puts them."""
    truth = project(problems.points_object, problems.T_camera_object, problems.K)
    rays = np.concatenate([truth, np.ones((*truth.shape[:2], 1))], 2) @ np.linalg.inv(problems.K).transpose(0, 2, 1)
    errors = [
        focal[i] * np.sqrt(np.mean((_image(problems, poses[i], i) - rays[i, :, :2]) ** 2)) for i in range(len(found))
    ]
    return np.where(found, errors, np.inf)


@pytest.mark.parametrize("shape", ["box", "plane"])
@pytest.mark.parametrize("points", [4, 5, 6])
@pytest.mark.parametrize(("suffix", "tolerance"), [("f32", 0.02), ("f64", 1e-5)])
def test_epnp_of_exact_samples(math, suffix, tolerance, points, shape):
    problems = make_problems(60, 12, shape=shape, noise_px=0.0, seed=3)
    X, m, focal = _samples(problems, points)
    errors = _epnp_errors(problems, *_run_epnp(math, suffix, X, m, focal), focal)
    # Four points off a plane have several poses that fit; EPnP's Gauss-Newton takes one of them.
    assert (errors < tolerance).mean() >= (0.7 if points == 4 and shape == "box" else 0.95)


@pytest.mark.parametrize("shape", ["box", "plane"])
def test_epnp_of_noisy_samples_is_as_good_in_fp32(math, shape):
    problems = make_problems(150, 12, shape=shape, noise_px=1.0, seed=4)
    X, m, focal = _samples(problems, 6)
    single = _epnp_errors(problems, *_run_epnp(math, "f32", X, m, focal), focal)
    double = _epnp_errors(problems, *_run_epnp(math, "f64", X, m, focal), focal)
    oracle = []
    for i in range(150):
        pose = pnp_ransac.epnp(X[i], m[i] * focal[i], np.diag([focal[i], focal[i], 1]))
        oracle.append(np.r_[pose[0].ravel(), pose[1]])
    reference = _epnp_errors(problems, np.array(oracle), np.ones(150, bool), focal)
    assert np.median(np.abs(double - reference)) < 1e-3
    assert np.median(np.abs(single - double)) < 1e-3
    np.testing.assert_allclose(
        np.quantile(single, [0.25, 0.5, 0.75]), np.quantile(double, [0.25, 0.5, 0.75]), rtol=0.01
    )


@pytest.mark.parametrize("shape", ["box", "plane", "sphere"])
def test_epnp_of_all_points_by_a_block(math, shape):
    problems = make_problems(6, 196, shape=shape, noise_px=1.0, seed=5)
    X, m, focal = _samples(problems, 196)
    rng = np.random.default_rng(5)
    used = rng.random((6, 196)) < 0.5
    points = np.ascontiguousarray(np.concatenate([X, m], 2).transpose(0, 2, 1), np.float32)
    poses, found = np.zeros((6, 12), np.float32), np.zeros(6, np.int32)
    math("epnp_points", 6, 128, points, used.astype(np.uint8), focal.astype(np.float32), np.int32(196), poses, found)
    assert found.all()
    for i in range(6):
        R, t = pnp_ransac.epnp(X[i, used[i]], m[i, used[i]] * focal[i], np.diag([focal[i], focal[i], 1.0]))
        distance = _image(problems, poses[i].astype(float), i) - _image(problems, np.r_[R.ravel(), t], i)
        assert np.sqrt(np.mean(distance**2)) * focal[i] < 0.01


def _residual_inputs(points=40):
    problems = make_problems(points, 1, noise_px=3.0, skew=0.02, seed=6)
    K = problems.K[0]
    T, X = problems.T_camera_object, problems.points_object[:, 0]
    u = project(X[:, None], T, K)[:, 0] + np.random.default_rng(6).normal(size=(points, 2)) * 3
    pose = np.concatenate([T[:, :3, :3].reshape(-1, 9), T[:, :3, 3]], 1)
    return T, X, u, K, pose, T[:, :2, 3] / T[:, 2:3, 3]


def _residuals(math, suffix, pose, xi, m0, K, X, u):
    n, dtype = len(X), DTYPES[suffix]
    r, J = np.zeros((n, 2), dtype), np.zeros((n, 2, 6), dtype)
    five = np.array([K[0, 0], K[0, 1], K[0, 2], K[1, 1], K[1, 2]])
    math(f"residual_{suffix}", -(-n // 32), 32, pose, xi, m0, five, X, u, np.int32(n), r, J)
    return r, J


def test_jacobian_by_central_differences_through_the_retraction(math):
    _, X, u, K, pose, m0 = _residual_inputs()
    n, h = len(X), 1e-6
    _, J = _residuals(math, "f64", pose, np.zeros((n, 6)), m0, K, X, u)
    numeric = np.empty_like(J)
    for k in range(6):
        xi = np.zeros((n, 6))
        xi[:, k] = h
        ahead, behind = (_residuals(math, "f64", pose, sign * xi, m0, K, X, u)[0] for sign in (1, -1))
        numeric[:, :, k] = (ahead - behind) / (2 * h)
    scale = np.abs(numeric).max(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(J / scale, numeric / scale, atol=1e-7)


@pytest.mark.parametrize(("suffix", "pixels", "relative"), [("f64", 1e-9, 1e-12), ("f32", 1e-3, 1e-5)])
def test_residual_and_jacobian_against_the_oracle(math, suffix, pixels, relative):
    T, X, u, K, pose, m0 = _residual_inputs()
    xi = np.random.default_rng(8).normal(size=(len(X), 6)) * 0.01
    r, J = _residuals(math, suffix, pose, xi, m0, K, X, u)
    for i in range(len(X)):
        moved = pnp_lm.step(T[i], xi[i])
        np.testing.assert_allclose(r[i], pnp_lm.residuals(moved, X[i : i + 1], u[i : i + 1], K)[0][0], atol=pixels)
        wanted = pnp_lm.jacobian(moved, X[i : i + 1], K)[0]
        np.testing.assert_allclose(J[i] / np.abs(wanted).max(), wanted / np.abs(wanted).max(), atol=relative)


@pytest.mark.parametrize("loss", ["none", "huber", "cauchy"])
def test_robust_losses(math, loss):
    s = np.r_[0.0, np.geomspace(1e-6, 1e6, 60)]
    cost, slope = np.zeros_like(s), np.zeros_like(s)
    index = np.int32(("none", "huber", "cauchy").index(loss))
    math("robust", 1, 64, s, index, np.float64(1.7), np.int32(len(s)), cost, slope)
    wanted, wanted_slope = pnp_lm.robust(s, loss, 1.7)
    np.testing.assert_allclose(cost, wanted, rtol=1e-12)
    np.testing.assert_allclose(slope, wanted_slope, rtol=1e-12)


@pytest.mark.parametrize("size", [10, 12])
def test_eigenvectors_by_a_warp(math, size):
    rng = np.random.default_rng(9)
    B = rng.normal(size=(5, size, size - 3)) * np.geomspace(1, 1e-2, size - 3)
    A = (B @ B.transpose(0, 2, 1)).astype(np.float32)
    diagonal, V = A.copy(), np.zeros_like(A)
    math(f"eigen_{size}", 5, 32, diagonal, V)
    values = np.diagonal(diagonal, axis1=1, axis2=2)
    largest = np.linalg.eigvalsh(A.astype(float))[:, -1:]
    # Some 6 sweeps of 11 rotations each touch an entry twice: 100 roundings of 6e-8, at worst in one direction.
    tolerance = 100 * 6e-8
    np.testing.assert_allclose(
        np.sort(values, 1) / largest, np.linalg.eigvalsh(A.astype(float)) / largest, atol=tolerance
    )
    np.testing.assert_allclose(V.transpose(0, 2, 1) @ V, np.broadcast_to(np.eye(size), A.shape), atol=2 * tolerance)
    np.testing.assert_allclose((A @ V - V * values[:, None]) / largest[..., None], 0, atol=tolerance)


@pytest.mark.parametrize("width", [4, 32])
def test_sums_over_a_block(math, width):
    v = np.random.default_rng(10).normal(size=(128, width)).astype(np.float32)
    out = np.zeros(width)
    math(f"sums_{width}", 1, 128, v.copy(), out)
    np.testing.assert_allclose(out, v.sum(0, dtype=float), atol=1e-5)


def test_retraction_keeps_rotations(math):
    """Exp(phi) R stays orthonormal over many steps: what drifts shows in the poses of a long track."""
    _, X, u, K, pose, m0 = _residual_inputs(4)
    xi = np.zeros((4, 6))
    xi[:, 3:] = [[np.pi, 0, 0], [1e-9, 0, 0], [3, 1, 2], [0, 0, 0]]
    r, _ = _residuals(math, "f64", pose, xi, m0, K, X, u)
    for i in range(4):
        T = pnp_lm.step(se3.from_rt(pose[i, :9].reshape(3, 3), pose[i, 9:]), xi[i])
        wanted, depth = pnp_lm.residuals(T, X[i : i + 1], u[i : i + 1], K)
        if depth[0] > 1e-6:
            np.testing.assert_allclose(r[i], wanted[0], rtol=1e-9, atol=1e-9)
