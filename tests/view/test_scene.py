"""The 3-D side of the page, on a server that only writes down what it is given."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from coop_edge.geometry import se3
from coop_edge.view.scene import PoseScene
from tests.stages.scene import at, colored_box

viser = pytest.importorskip("viser", reason="viser is not installed (extra view)")


def ellipsoid(mesh, T, covariance) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Centre [3], axes as columns [3,3] and radii [3] of the ellipsoid that is shown."""
    given = {}

    def add_icosphere(name, radius, color, **more):
        assert radius == 1.0
        given.update(more)

    scene = SimpleNamespace(set_up_direction=lambda way: None, add_icosphere=add_icosphere)
    PoseScene(SimpleNamespace(scene=scene), None, print)._ellipsoid("e", T, mesh, covariance)
    axes = viser.transforms.SO3(np.asarray(given["wxyz"])).as_matrix()
    return np.asarray(given["position"]), axes, np.asarray(given["scale"])


def test_the_ellipsoid_has_its_axes_where_the_position_is_unsure():
    """Standard deviations of 1, 2 and 8 mm along known axes, of an object whose centre is its origin."""
    mesh, T = colored_box((0.1, 0.1, 0.1)), at(0.1, -0.05, 0.7, (0.3, 0.2, 0.1))
    R = se3.so3_exp(np.array([0.4, -0.7, 0.2]))
    covariance = np.zeros((6, 6))
    covariance[:3, :3] = R @ np.diag([1e-3, 2e-3, 8e-3]) ** 2 @ R.T
    centre, axes, radii = ellipsoid(mesh, T, covariance)
    np.testing.assert_allclose(centre, T[:3, 3], atol=1e-6)
    assert np.linalg.det(axes) == pytest.approx(1.0)
    order = np.argsort(radii)
    np.testing.assert_allclose(radii[order], [0.01, 0.02, 0.08], rtol=1e-6)  # ten standard deviations
    np.testing.assert_allclose(np.abs(np.sum(axes[:, order] * R, axis=0)), 1.0, rtol=1e-9)


def test_the_ellipsoid_is_that_of_the_centre():
    """An object far from its own origin: the spread of its centre over poses drawn from the covariance."""
    mesh = colored_box((0.1, 0.06, 0.04), centre=(0.2, -0.1, 0.3))
    T = at(0.0, 0.1, 0.9, (0.7, -0.2, 0.5))
    rng = np.random.default_rng(0)
    half = rng.normal(size=(6, 6)) * np.array([1e-3, 1e-3, 3e-3, 5e-3, 5e-3, 5e-3])[:, None]
    xi = rng.normal(size=(100_000, 6)) @ half.T
    centres = (se3.so3_exp(xi[:, 3:]) @ T[:3, :3]) @ mesh.centre + T[:3, 3] + xi[:, :3]
    centre, axes, radii = ellipsoid(mesh, T, half @ half.T)
    np.testing.assert_allclose(centre, centres.mean(axis=0), atol=1e-4)
    shown = axes @ np.diag(radii**2) @ axes.T / 100.0
    np.testing.assert_allclose(shown, np.cov(centres.T), atol=0.02 * np.abs(shown).max())


def test_a_pose_that_is_sure_has_an_ellipsoid_too():
    _, axes, radii = ellipsoid(colored_box((0.1, 0.1, 0.1)), at(0.0, 0.0, 0.7), np.zeros((6, 6)))
    assert np.isfinite(axes).all()
    assert (radii > 0).all()
