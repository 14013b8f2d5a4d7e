"""Matching with views found, with a network that knows the truth: the turned crop's pose is the object's."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.geometry import se3
from coop_edge.pnp.base import PnpStatus
from coop_edge.stages.coarse import CoarseHypotheses
from coop_edge.stages.crop import crop_detections
from coop_edge.stages.match_views import match_views
from coop_edge.stages.retrieve import Retrieved
from coop_edge.stages.views import TURNS, turned
from tests.stages.chain import OPS, Chain, templates_of
from tests.stages.oracles import PATCH, Faults, watching
from tests.stages.scene import reprojection_px


def crops_of(chain, detections):
    scene, size = chain.scene, chain.oracle.size
    return crop_detections(scene.image, scene.camera, detections, size, ops=OPS, margin=1.2, patch=PATCH)


def best_views(crops, scene, index, k, scale=1.0) -> Retrieved:
    """The k views whose rotation is nearest to the truth's, by brute force."""
    view = []
    for d, placed in enumerate(index):
        R = crops.camera.R_crop_camera[d] @ scene.placed[placed].T[:3, :3]
        each = turned(templates_of(scene.meshes[scene.placed[placed].mesh]).T_camera_object)
        angles = [se3.rotation_angle(T[:3, :3], R) for T in each]
        view.append(np.argsort(angles)[:k])
    n = len(index)
    view = np.array(view, np.int64).reshape(n, k)
    return Retrieved(view, np.ones((n, k)), np.full((n, k), scale), np.full((n, k, 4, 4), np.nan))


def matched(chain, detections, found, crops, index, count, depth=None) -> CoarseHypotheses:
    with watching(chain.oracle) as oracle:
        return match_views(
            chain.scene.image,
            crops,
            chain.models,
            np.array([chain.scene.placed[i].mesh for i in index], int),
            found,
            ops=OPS,
            encoder=oracle.encoder,
            decoder=oracle.decoder,
            solver=chain.solver,
            config=chain.config,
            patch=PATCH,
            count=count,
            depth=depth,
        )


def run(scene, index=(0, 1), *, k=3, count=2, scale=1.0, faults=None, masks=None, config=None, depth=None):
    chain = Chain.of(scene, faults=faults, config=config)
    detections = [scene.detections()[i] for i in index]
    if masks:
        detections = [type(d)(d.object, bbox=d.bbox, mask=m) for d, m in zip(detections, masks, strict=True)]
    crops = crops_of(chain, detections)
    found = best_views(crops, scene, index, k, scale)
    return matched(chain, detections, found, crops, index, count, depth), found


@pytest.mark.parametrize("scale", [1.0, 1.35])
def test_right_matches_give_the_pose_in_the_real_camera(two, scale):
    coarse, found = run(two, scale=scale)
    assert coarse.detection.tolist() == [0, 0, 1, 1]
    assert coarse.object_index.tolist() == [0, 0, 1, 1]
    assert coarse.solved.all()
    assert any(found.view[:, 0] % TURNS)  # crops were turned
    np.testing.assert_array_equal(coarse.template, found.view[:, :2].reshape(-1) // TURNS)
    for row, d in enumerate(coarse.detection):
        assert reprojection_px(coarse.T_camera_object[row], two.placed[d].T, two.meshes[d], two.camera.K) < 3.0
    # Of 64 patches a quarter is full evidence; right matches have the probability 0.9.
    np.testing.assert_allclose(coarse.support, 0.9 * coarse.n_inliers, rtol=1e-6)
    np.testing.assert_allclose(coarse.evidence, np.minimum(coarse.support / 16, 1.0))


def test_a_crop_turned_upright_matches_as_the_template_is(two):
    """A turn that is not the view's would show the decoder the object lying on its side: the oracle does not mind, a
    network does. So the camera that is matched must see the object as the view's viewpoint has it, within a step."""
    chain = Chain.of(two)
    crops = crops_of(chain, two.detections())
    found = best_views(crops, two, (0, 1), 1)
    angle = 2 * np.pi * (found.view[:, 0] % TURNS) / TURNS
    upright = crops.camera.rolled(angle).to_crop(np.array([p.T for p in two.placed]))
    for d in range(2):
        template = templates_of(two.meshes[d]).T_camera_object[found.view[d, 0] // TURNS]
        lying = crops.camera.to_crop(np.array([p.T for p in two.placed]))[d]
        straight = se3.rotation_angle(upright[d, :3, :3], template[:3, :3])
        assert straight < np.radians(35)
        assert straight <= se3.rotation_angle(lying[:3, :3], template[:3, :3]) + 1e-9


def test_no_match_is_a_failure_with_its_reason(two):
    coarse, _ = run(two, faults=Faults(no_match=True))
    assert (coarse.status != PnpStatus.SOLVED).all()
    assert np.isnan(coarse.T_camera_object).all()
    assert (coarse.evidence == 0).all()
    assert [coarse.reason(i) for i in range(4)] == [
        "coarse: too few valid correspondences (0 inliers of 0 matches)"
    ] * 4


def test_what_lies_off_the_mask_is_not_matched(two):
    none = np.zeros((480, 640), bool)
    left = none.copy()
    x, y, w, h = two.box(0)
    none[int(y) + 1, int(x) + 1] = True
    left[int(y) : int(y + h), int(x) : int(x + 0.6 * w)] = True
    free, _ = run(two, (0, 0), count=1)
    some, _ = run(two, (0, 0), count=1, masks=[left, none])
    assert 0 < some.n_matches[0] < free.n_matches[0]
    assert some.n_matches[1] == 0
    assert not some.solved[1]
    assert some.template_score[1] == 0


def test_a_detection_is_the_same_whatever_else_is_in_the_batch(two):
    faults = Faults(match_outliers=0.3, match_noise=0.05)
    whole, _ = run(two, (0, 1, 0), faults=faults)
    for d, i in enumerate((0, 1)):
        alone, _ = run(two, (i,), faults=faults)
        np.testing.assert_array_equal(alone.T_camera_object, whole.T_camera_object[2 * d : 2 * d + 2])
        np.testing.assert_array_equal(alone.n_inliers, whole.n_inliers[2 * d : 2 * d + 2])
        np.testing.assert_array_equal(alone.template, whole.template[2 * d : 2 * d + 2])


def test_nothing_to_match(two):
    coarse, _ = run(two, ())
    assert len(coarse) == 0
    assert coarse.T_camera_object.shape == (0, 4, 4)
    coarse, _ = run(two, count=0)
    assert len(coarse) == 0


def test_too_few_inliers_are_no_pose(two):
    config = EstimatorConfig.from_dict({"advanced": {"coarse": {"min_inliers": 64}}})
    coarse, _ = run(two, config=config)
    assert (coarse.status == PnpStatus.TOO_FEW_INLIERS).all()
    assert np.isnan(coarse.T_camera_object).all()
    assert (coarse.support == 0).all()


def test_measured_depth_makes_the_distance_right_and_unknown_depth_changes_no_bit(two):
    """Matches off by a sixth of a patch, in crops that are turned: the depth read is along the turned crop's axis."""
    faults = Faults(match_noise=0.15)
    width, height = two.camera.size
    seen, who, _ = two.depths(np.eye(3), two.camera.K, (height, width))
    depth = np.where(who >= 0, seen, 2.0).astype(np.float32)
    blind, seeing, unknown = (
        run(two, faults=faults, scale=1.2, depth=d)[0] for d in (None, depth, np.zeros_like(depth))
    )
    assert seeing.solved.all()
    off = [
        [abs((T - two.placed[d].T)[2, 3]) for T, d in zip(c.T_camera_object, c.detection, strict=True)]
        for c in (blind, seeing)
    ]
    assert np.median(off[1]) < 0.5 * np.median(off[0])
    np.testing.assert_array_equal(unknown.T_camera_object, blind.T_camera_object)
    np.testing.assert_array_equal(unknown.support, blind.support)
