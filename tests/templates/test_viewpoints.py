from __future__ import annotations

import hashlib

import numpy as np
import pytest
import trimesh

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.templates import viewpoints
from coop_edge.templates.viewpoints import VIEWPOINTS, template_poses


def test_the_set_is_that_of_the_subdivided_icosahedron():
    reference = np.asarray(trimesh.creation.icosphere(subdivisions=1).vertices)
    distance = np.linalg.norm(VIEWPOINTS[:, None] - reference[None], axis=-1)
    assert VIEWPOINTS.shape == (42, 3)
    assert distance.min(axis=1).max() < 1e-7
    assert sorted(distance.argmin(axis=1)) == list(range(42))
    np.testing.assert_allclose(np.linalg.norm(VIEWPOINTS, axis=1), 1, atol=1e-15)


def test_order_is_as_documented_and_pinned():
    z = np.round(VIEWPOINTS[:, 2], 9)
    azimuth = np.round(np.degrees(np.arctan2(VIEWPOINTS[:, 1], VIEWPOINTS[:, 0])), 6) % 360
    assert (np.diff(z) <= 0).all()
    assert all(a < b for a, b, same in zip(azimuth[:-1], azimuth[1:], np.diff(z) == 0, strict=True) if same)
    np.testing.assert_array_equal(VIEWPOINTS[[0, 41]], [[0, 0, 1], [0, 0, -1]])
    digest = hashlib.sha256((np.round(VIEWPOINTS, 9) + 0.0).astype("<f8").tobytes()).hexdigest()
    pinned = "af4aada29539a8fd8ef8be88619abde9d00aac3bb1ca1d97a5eb3121fa368a87"
    assert digest == pinned, "the order of the viewpoints changed: templates and trained networks depend on it"
    assert viewpoints.VERSION == 1
    with pytest.raises(ValueError, match="read-only"):
        VIEWPOINTS[0, 0] = 1


def test_neighbours_are_as_far_apart_as_documented():
    angle = np.degrees(np.arccos(np.clip(VIEWPOINTS @ VIEWPOINTS.T, -1, 1))) + 360 * np.eye(42)
    np.testing.assert_allclose(np.unique(angle.min(axis=1).round(1)), [31.7])
    assert np.isclose(angle, 36.0, atol=1e-3).sum() == 2 * 60


@pytest.mark.parametrize("centre", [(0, 0, 0), (0.3, -0.1, 2.0)])
def test_poses_look_at_the_centre_upright(centre):
    T = se3.check_transform(template_poses(0.5, centre), tolerance=1e-12)
    np.testing.assert_allclose(se3.transform(T, np.array([centre]))[:, 0], np.tile((0, 0, 0.5), (42, 1)), atol=1e-12)
    cameras = se3.invert(T)[:, :3, 3]
    np.testing.assert_allclose(cameras, np.asarray(centre) + 0.5 * VIEWPOINTS, atol=1e-12)
    above = se3.transform(T, np.array([centre]) + (0, 0, 0.01))[:, 0]
    inner = slice(1, 41)
    np.testing.assert_allclose(above[inner, 0], 0, atol=1e-12)  # the object's z axis stands upright in the picture
    assert (above[inner, 1] < 0).all()  # image y runs down
    beside = se3.transform(T, np.array([centre]) + (0, 0.01, 0))[:, 0]
    for pole in (0, 41):
        np.testing.assert_allclose(beside[pole, :2], (0, -0.01), atol=1e-12)  # there the object's y is up


@pytest.mark.parametrize(
    ("distance", "centre"), [(0, (0, 0, 0)), (np.nan, (0, 0, 0)), (1, (0, 0)), (1, (0, 0, np.inf))]
)
def test_bad_arguments(distance, centre):
    with pytest.raises(InputError):
        template_poses(distance, centre)
