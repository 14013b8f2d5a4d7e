"""Stage 1 with a network that knows the truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from coop_edge.config import EstimatorConfig
from coop_edge.geometry.camera import reprojection_error
from coop_edge.pnp.base import PnpStatus
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from coop_edge.stages.coarse import least_inliers
from coop_edge.templates.viewpoints import VIEWPOINTS
from coop_edge.types import Detection
from tests.cuda_host.host_device import HostDevice
from tests.stages.chain import Chain
from tests.stages.oracles import Faults
from tests.stages.scene import reprojection_px


def with_coarse(ransac=None, advanced=None, **options):
    """advanced: options of ``advanced.coarse``."""
    more = {"coarse": options, "ransac": ransac or {}, "advanced": {"coarse": advanced or {}}}
    return EstimatorConfig.from_dict(more)


def test_no_detections(two):
    coarse = Chain.of(two).coarse([], [])
    assert len(coarse) == 0
    assert coarse.T_camera_object.shape == (0, 4, 4)
    assert coarse.solved.shape == (0,)


def test_right_matches_give_the_pose_and_the_nearest_templates_lead(two):
    chain = Chain.of(two, config=with_coarse(hypotheses=3))
    coarse = chain.coarse(two.detections(), [0, 1])
    assert coarse.detection.tolist() == [0, 0, 0, 1, 1, 1]
    assert coarse.object_index.tolist() == [0, 0, 0, 1, 1, 1]
    for i, placed in enumerate(two.placed):
        rows = slice(3 * i, 3 * i + 3)
        first = coarse.T_camera_object[3 * i]
        # Templates are read at whole pixels, and cover less of the crop than the query does.
        assert reprojection_px(first, placed.T, two.meshes[i], two.camera.K) < 3.0
        R, t = placed.T[:3, :3], placed.T[:3, :3] @ two.meshes[i].centre + placed.T[:3, 3]
        seen_from = -R.T @ t / np.linalg.norm(t)
        assert (VIEWPOINTS[coarse.template[rows]] @ seen_from).min() > np.cos(np.radians(50))
        assert (np.diff(coarse.support[rows]) <= 0).all()
        np.testing.assert_allclose(coarse.template_score[3 * i], 0.9 * coarse.n_matches[3 * i], rtol=0.2)
    assert coarse.solved.all()
    # A quarter of the 64 patches is full evidence; all matches are inliers, each of probability 0.9.
    np.testing.assert_allclose(coarse.support, 0.9 * coarse.n_matches, rtol=1e-6)
    np.testing.assert_allclose(coarse.evidence, np.minimum(coarse.support / 16, 1.0))
    assert [coarse.reason(i) for i in range(6)] == [""] * 6


def test_hypotheses_beyond_the_first_do_not_change_the_first(two):
    one, five = (Chain.of(two, config=with_coarse(hypotheses=k)).coarse(two.detections(), [0, 1]) for k in (1, 5))
    np.testing.assert_array_equal(one.T_camera_object, five.T_camera_object[::5])
    np.testing.assert_array_equal(one.template, five.template[::5])


def test_the_poses_with_the_most_inlying_probability_are_kept(two):
    """Of all candidates' poses; where candidates are as many as hypotheses it is the order alone that changes."""
    faults = Faults(match_outliers=0.4, match_noise=0.1)
    every = Chain.of(two, faults=faults, config=with_coarse({}, {"candidates": 12}, hypotheses=12))
    three = Chain.of(two, faults=faults, config=with_coarse({}, {"candidates": 12}, hypotheses=3))
    alone = Chain.of(two, faults=faults, config=with_coarse({}, {"candidates": 1}, hypotheses=12))
    all_of_them, kept, same = (chain.coarse(two.detections(), [0, 1]) for chain in (every, three, alone))
    np.testing.assert_array_equal(all_of_them.template, same.template)  # never fewer candidates than hypotheses
    for i in range(2):
        rows, chosen = slice(12 * i, 12 * i + 12), slice(3 * i, 3 * i + 3)
        leaders = np.argsort(-all_of_them.support[rows], kind="stable")[:3]
        np.testing.assert_array_equal(kept.template[chosen], all_of_them.template[rows][leaders])
        np.testing.assert_array_equal(kept.T_camera_object[chosen], all_of_them.T_camera_object[rows][leaders])
        by_score = np.argsort(-all_of_them.template_score[rows], kind="stable")
        assert by_score.tolist() != list(range(12))  # another order than the templates' own
        unsolved = ~all_of_them.solved[rows]
        assert (all_of_them.support[rows][unsolved] == 0).all()
        assert not (np.diff(unsolved.astype(int)) < 0).any()  # what has no pose comes last


def test_outliers_and_noise_lower_the_evidence_and_not_the_pose(two):
    clean = Chain.of(two).coarse(two.detections(), [0, 1])
    noisy = Chain.of(two, faults=Faults(match_outliers=0.5, match_noise=0.05)).coarse(two.detections(), [0, 1])
    assert noisy.solved.all()
    assert (noisy.evidence < clean.evidence - 0.1).all()
    for i, placed in enumerate(two.placed):
        assert reprojection_px(noisy.T_camera_object[i], placed.T, two.meshes[i], two.camera.K) < 15.0


def test_no_match_is_a_failure_with_its_reason(two):
    coarse = Chain.of(two, faults=Faults(no_match=True)).coarse(two.detections(), [0, 1])
    assert not coarse.solved.any()
    assert np.isnan(coarse.T_camera_object).all()
    assert (coarse.evidence == 0).all()
    assert coarse.reason(0) == "coarse: too few valid correspondences (0 inliers of 0 matches)"


def test_matches_that_are_all_wrong_seldom_pass(two, cube):
    """Every match goes to a random patch: what RANSAC still finds must stay below the least number of inliers."""
    statuses = []
    for seed in range(20):
        config = with_coarse(hypotheses=5, ransac={"seed": seed})
        chain = Chain.of(two, faults=Faults(match_outliers=1.0, match_noise=0.3), config=config)
        boxes = [Detection("cube", bbox=(x, y, w, h)) for x, y, w, h in [two.box(0), two.box(0)]]
        boxes[1] = Detection("cube", bbox=(boxes[1].bbox[0] - 5 - seed, *boxes[1].bbox[1:]))
        statuses.append(chain.coarse(boxes, [0, 0]).status)
    statuses = np.concatenate(statuses)
    assert (statuses == PnpStatus.SOLVED).mean() <= 0.03
    assert (statuses == PnpStatus.TOO_FEW_INLIERS).mean() > 0.9


def test_the_least_number_of_inliers_goes_with_the_matches_and_the_area_of_the_threshold():
    matches = np.array([0.0, 6.0, 7.0, 64.0, 196.0])
    assert least_inliers(matches, 6, 10.0).tolist() == [6, 6, 7, 15, 34]
    assert least_inliers(matches, 6, 5.0).tolist() == [6, 6, 6, 8, 13]
    assert least_inliers(matches, 4, 60.0).tolist() == [4, 4, 5, 13, 32]


def test_the_least_number_of_inliers_is_an_option(two):
    faults = Faults(match_outliers=1.0, match_noise=0.3)
    lenient = Chain.of(two, faults=faults, config=with_coarse(hypotheses=5, advanced={"min_inliers": 4}))
    assert lenient.coarse(two.detections(), [0, 1]).solved.any()
    strict = Chain.of(two, config=with_coarse(advanced={"min_inliers": 4096}))
    assert not strict.coarse(two.detections(), [0, 1]).solved.any()
    assert "too few inliers" in Chain.of(two, config=with_coarse(advanced={"min_inliers": 99})).coarse(
        two.detections(), [0, 1]
    ).reason(0)


def test_improbable_matches_take_no_part(two):
    coarse = Chain.of(two, config=with_coarse(advanced={"min_probability": 0.95})).coarse(two.detections(), [0, 1])
    assert (coarse.n_matches == 0).all()


def test_a_mask_keeps_matches_to_what_it_covers(two):
    x, _, w, _ = two.box(0)
    mask = np.zeros((480, 640), bool)
    mask[:, : int(x + 0.45 * w)] = True
    whole, half = (Chain.of(two).coarse([Detection("cube", bbox=two.box(0), mask=m)], [0]) for m in (None, mask))
    assert 0.3 < half.n_matches[0] / whole.n_matches[0] < 0.8


def test_poses_are_in_the_cameras_frame_and_inliers_fit_the_image(two):
    """The reported pose, in the image, against the correspondences worked out anew."""
    chain = Chain.of(two)
    coarse = chain.coarse(two.detections(), [0, 1])
    for i, placed in enumerate(two.placed):
        points = (two.meshes[i].vertices + two.meshes[i].centre)[None]
        seen = points @ placed.T[:3, :3].T + placed.T[:3, 3]
        pixels = seen[..., :2] / seen[..., 2:] * 600.0 + (319.5, 239.5)
        assert reprojection_error(coarse.T_camera_object[i][None], two.camera.K, points, pixels).max() < 3.0


@pytest.mark.parametrize("micro_batch", [5, 42, 100])
def test_a_detection_alone_and_among_others_gets_the_same_hypotheses(two, micro_batch):
    faults = Faults(match_outliers=0.3, match_noise=0.1)
    config = with_coarse(hypotheses=2, advanced={"micro_batch": micro_batch})
    boxes = two.detections()
    others = [boxes[1], Detection("cube", bbox=(10, 10, 90, 90)), boxes[0], boxes[1]]
    chain = Chain.of(two, faults=faults, config=config)
    alone, among = chain.coarse([boxes[0]], [0]), chain.coarse(others, [1, 0, 0, 1])
    for name in ("T_camera_object", "status", "template", "evidence", "n_inliers", "template_score"):
        np.testing.assert_array_equal(getattr(among, name)[4:6], getattr(alone, name), err_msg=name)


class Watched:
    """A solver that notes its calls: how many problems, and the options."""

    def __init__(self, solver):
        self.solver, self.calls = solver, []

    def ransac_epnp(self, *arguments, **options):
        self.calls.append((len(arguments[0]), arguments[-1]))
        return self.solver.ransac_epnp(*arguments, **options)


SOLVERS = {"cpu": lambda: CpuPnpSolver(threads=1), "cuda": lambda: CudaPnpSolver(HostDevice())}


@pytest.mark.parametrize("backend", SOLVERS)
def test_eight_detections_are_one_call_and_each_is_as_it_is_alone(two, backend):
    """Bit for bit, and whatever their order. Matches are poor, so that the samples decide what comes out."""
    config = with_coarse({}, {"candidates": 9}, hypotheses=5).updated(["advanced.ransac.hypotheses=64"])
    chain = Chain.of(two, faults=Faults(match_outliers=0.5, match_noise=0.2), config=config)
    chain.solver = solver = Watched(SOLVERS[backend]())
    (x0, y0, w0, h0), (x1, y1, w1, h1) = two.box(0), two.box(1)
    boxes = [(x0 - 2 * i, y0 + i, w0 + i, h0) for i in range(4)] + [(x1 + i, y1 - 2 * i, w1, h1 + i) for i in range(4)]
    detections = [Detection(("cube", "bar")[i // 4], bbox=box) for i, box in enumerate(boxes)]
    order = np.array([5, 0, 7, 2, 1, 6, 4, 3])
    together = chain.coarse([detections[i] for i in order], order // 4)
    assert [call[0] for call in solver.calls] == [72]  # 8 detections of 9 candidates
    assert together.solved.any()
    seen = set()
    for at, i in enumerate(order):
        alone = chain.coarse([detections[i]], [i // 4])
        rows = slice(5 * at, 5 * at + 5)
        for field in dataclasses.fields(alone):
            if field.name != "detection":
                here = getattr(together, field.name)[rows]
                np.testing.assert_array_equal(here, getattr(alone, field.name), err_msg=field.name)
        seen |= {tuple(T.ravel()) for T in alone.T_camera_object[alone.solved]}
    assert len(seen) == together.solved.sum()  # no two alike, so that a mixed-up order would show


def test_the_seed_reaches_the_solver(two):
    """Raw samples of poor matches: another seed, other poses."""
    T = []
    for seed in (0, 1):
        config = with_coarse(hypotheses=3, ransac={"seed": seed})
        config = config.updated(["advanced.ransac.hypotheses=32", "advanced.ransac.refine=false"])
        chain = Chain.of(two, faults=Faults(match_outliers=0.3, match_noise=0.2), config=config)
        T.append(chain.coarse(two.detections(), [0, 1]).T_camera_object)
    both = np.isfinite(T).all(axis=(0, 2, 3))
    assert both.any()
    assert (T[0] != T[1])[both].any(axis=(1, 2)).all()


@pytest.mark.parametrize("size", [64, 128])
def test_the_threshold_grows_with_the_crop(two, size):
    chain = Chain.of(two, size=size, config=with_coarse(ransac={"threshold_px": 3.0}))
    chain.solver = Watched(CpuPnpSolver(threads=1))
    chain.coarse(two.detections()[:1], [0])
    assert [config.threshold_px for _, config in chain.solver.calls] == [3.0 * size / 128]


def measured(scene):
    """What a perfect sensor measures of the objects, before a wall."""
    width, height = scene.camera.size
    seen, who, _ = scene.depths(np.eye(3), scene.camera.K, (height, width))
    return np.where(who >= 0, seen, 2.0).astype(np.float32)


def test_measured_depth_makes_the_distance_right(two):
    """Of matches off by a sixth of a patch; a detection alone has the same pose, and what is unknown says nothing."""
    faults, depth = Faults(match_noise=0.15), measured(two)
    chain = Chain.of(two, faults=faults, config=with_coarse(hypotheses=5))
    blind, seeing = chain.coarse(two.detections(), [0, 1]), chain.coarse(two.detections(), [0, 1], depth)
    assert seeing.solved.all()
    off = [
        [abs((T - two.placed[d].T)[2, 3]) for T, d in zip(c.T_camera_object, c.detection, strict=True)]
        for c in (blind, seeing)
    ]
    assert np.median(off[1]) < 0.5 * np.median(off[0])
    alone = chain.coarse(two.detections()[1:], [1], depth)
    np.testing.assert_array_equal(alone.T_camera_object, seeing.T_camera_object[5:])
    unknown = chain.coarse(two.detections(), [0, 1], np.zeros_like(depth))
    for field in dataclasses.fields(blind):
        np.testing.assert_array_equal(getattr(unknown, field.name), getattr(blind, field.name), err_msg=field.name)


def test_matches_at_another_depth_are_no_inliers(two):
    """A sensor that is a metre off, or an occluder there: the matches of the image alone do not carry a pose."""
    depth = measured(two)
    far = np.where(depth > 0, depth + 1.0, 0.0).astype(np.float32)
    assert not Chain.of(two).coarse(two.detections(), [0, 1], far).solved.any()
