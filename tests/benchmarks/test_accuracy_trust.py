"""Score and covariance against errors that are known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from benchmarks.accuracy import trust
from benchmarks.accuracy.methods import OursMethod
from benchmarks.accuracy.trust import Poses, Truthfulness, distance, error_of, far_off
from coop_edge import PoseEstimate
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from tests.benchmarks.bop import scene_of, write_dataset
from tests.benchmarks.poses import drawn
from tests.runtime.networks import tiny_bundle


def test_distances_are_those_of_the_inverse():
    errors = drawn(5)
    wanted = [e @ np.linalg.inv(C) @ e for e, C in zip(errors.error, errors.covariance, strict=True)]
    np.testing.assert_allclose(distance(errors.error, errors.covariance), wanted, rtol=1e-9)


def test_an_error_is_to_the_nearest_pose_that_looks_the_same():
    rng = np.random.default_rng(3)
    points = rng.normal(size=(30, 3))
    half = np.eye(4)
    half[:2, :2] *= -1
    T = se3.from_rt(se3.random_rotation(rng, (1,)), np.array([[0.1, 0.2, 1.0]]))[0]
    xi = np.array([0.01, -0.02, 0.03, 0.02, 0.01, -0.03])
    truth = np.eye(4)
    truth[:3, :3], truth[:3, 3] = se3.so3_exp(xi[3:]) @ T[:3, :3], T[:3, 3] + xi[:3]
    for symmetry in (np.eye(4), half):
        found = error_of(T, truth @ symmetry, np.stack([np.eye(4), half]), points)
        np.testing.assert_allclose(found, xi, atol=1e-9)


def test_too_few_poses_are_refused():
    with pytest.raises(InputError, match="at least 3 right poses, got 2"):
        Truthfulness.of(drawn(2), drawn(2).covariance)


def test_what_is_far_off_at_high_scores():
    poses = Poses(np.array([0.95, 0.92, 0.8, 0.7, 0.2]), np.array([0.01, 0.3, 0.26, 9.0, 9.0]), drawn(3))
    assert far_off(poses) == [(0.7, 3, pytest.approx(2 / 3)), (0.9, 2, 0.5)]
    assert far_off(Poses(np.array([0.1]), np.array([0.5]), drawn(3))) == [(0.7, 0, 0.0), (0.9, 0, 0.0)]


def test_of_a_data_set(tmp_path, monkeypatch, capsys):
    """Poses beside the truth by what their covariance says, and every fourth one far away: the figures follow."""
    images = {(1, i): scene_of(i, count=2) for i in range(20)}
    root = write_dataset(tmp_path / "boxes", images)
    one = np.diag([1e-3, 1e-3, 2e-3, 1e-2, 1e-2, 1e-2]) ** 2
    rng = np.random.default_rng(0)
    truths = iter([T for key in sorted(images) for _, T in images[key]])
    count = [0]

    def estimate(self, image, camera, boxes, depth=None):
        out = []
        for _ in boxes:
            covariance = one * rng.uniform(0.1, 2.0)
            T, error = next(truths), rng.multivariate_normal(np.zeros(6), covariance)
            wrong = count[0] % 4 == 0
            count[0] += 1
            T = T.copy()
            T[:3, :3] = se3.so3_exp(error[3:]) @ T[:3, :3]
            T[:3, 3] += error[:3] + [0.0, 0.0, 0.2 * wrong]
            out.append(PoseEstimate(True, "", T, 0.25 if wrong else 0.95, covariance=covariance))
        return out

    monkeypatch.setattr(OursMethod, "estimate", estimate)
    out, png, tiny = tmp_path / "trust.json", tmp_path / "curve.png", str(tiny_bundle(tmp_path / "tiny"))
    assert trust.main([str(root), "--engines", tiny, "--threads", "1", "--json", str(out), "--png", str(png)]) == 0
    said = json.loads(out.read_text())
    assert (said["score"]["count"], said["score"]["right"], said["score"]["auroc"]) == (60, 45, 1.0)
    assert said["far_off"] == [[0.7, 45, 0.0], [0.9, 45, 0.0]]
    assert said["covariance"]["count"] == 45
    assert 0.85 < said["covariance"]["inside"] <= 1.0
    assert 0.2 < said["covariance"]["rank_correlation"] < 1.0
    assert png.stat().st_size > 1000
    assert "Covariances of right poses" in capsys.readouterr().out


def test_a_data_set_without_a_right_pose(tmp_path, capsys):
    root = write_dataset(tmp_path / "boxes", {(1, 0): scene_of(0)})
    assert trust.main([str(root), "--engines", str(tiny_bundle(tmp_path / "tiny")), "--threads", "1"]) == 2
    assert capsys.readouterr().err.strip().endswith("no right pose: nothing to compare covariances with")
