"""Overlays: everything at the pixels where the pose puts it."""

from __future__ import annotations

import pickle

import cv2
import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box
from coop_edge.demo import load_scene
from coop_edge.errors import InputError
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh
from coop_edge.render import NEAR, CpuRenderer
from coop_edge.types import Camera, Detection, PoseEstimate
from coop_edge.visual import canvas, overlay
from coop_edge.visual.labels import Labels
from coop_edge.visual.overlay import OverlayItem, draw_overlay

K = np.array([[600.0, 0.0, 318.0], [0.0, 600.0, 243.0], [0.0, 0.0, 1.0]])
CAMERA = Camera(K, 640, 480)
T = se3.from_rt(se3.so3_exp([0.9, -0.5, 0.3]), [0.02, -0.01, 0.5])


def blank(camera: Camera = CAMERA, value: int = 90) -> np.ndarray:
    return np.full((camera.height, camera.width, 3), value, np.uint8)


def found(pose=T, score: float = 0.9, name: str = "box") -> PoseEstimate:
    return PoseEstimate(True, T_camera_object=pose, score=score, object=name)


def changed(image: np.ndarray, value: int = 90) -> np.ndarray:
    return (image != value).any(axis=2)


def nearest_to(image: np.ndarray, color, tolerance: int = 40) -> np.ndarray:
    """Where the image shows about this colour, [h,w]."""
    return np.abs(image.astype(int) - color).max(axis=2) <= tolerance


@pytest.mark.parametrize("n", [0, 1, 3])
def test_shapes_and_the_input_stays(n):
    image = blank()
    drawn = draw_overlay(image, CAMERA, [OverlayItem(found(), grey_box())] * n, renderer=CpuRenderer)
    assert drawn.shape == image.shape
    assert drawn.dtype == np.uint8
    assert (image == 90).all()
    assert changed(drawn).any() == (n > 0)
    assert not np.shares_memory(image, drawn)


def test_axes_end_at_the_projected_pixels():
    mesh = colored_torus()  # its own frame's origin is not its middle
    length = mesh.diameter / 2
    drawn = draw_overlay(blank(), CAMERA, [OverlayItem(found(), mesh)], renderer=CpuRenderer)
    origin, *tips = pinhole.project(K, se3.transform(T, np.vstack([np.zeros(3), length * np.eye(3)])))
    for tip, color in zip(tips, overlay.AXES, strict=True):
        v, u = np.nonzero(nearest_to(drawn, color))
        along = (tip - origin) / np.linalg.norm(tip - origin)
        offset = np.stack([u, v], axis=1) - origin
        across = np.abs(offset @ (-along[1], along[0]))
        own = across < 4  # the label's bar and antialiased mixtures may come near the colour elsewhere
        assert own.sum() > 40
        assert abs((offset[own] @ along).max() - np.linalg.norm(tip - origin)) < 2.5
        middle = offset[own][np.abs(offset[own] @ along - np.linalg.norm(tip - origin) / 2) < 20]
        assert abs(np.mean(middle @ (-along[1], along[0]))) < 0.6


@pytest.mark.parametrize("mesh", [grey_box(), colored_torus()], ids=["box", "torus with a hole"])
def test_the_contour_is_the_boundary_of_the_silhouette(mesh, monkeypatch):
    for hidden in ("axis_segments", "_EDGES"):  # the contour alone
        monkeypatch.setattr(overlay, hidden, () if hidden == "_EDGES" else lambda *_: ())
    monkeypatch.setattr(Labels, "draw", lambda *_: None)
    drawn = changed(draw_overlay(blank(), CAMERA, [OverlayItem(found(), mesh)], renderer=CpuRenderer))
    mask = CpuRenderer(mesh).render(T[None], K, (480, 640)).mask[0].astype(np.uint8)
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    boundary = mask.astype(bool) & ~cv2.erode(mask, cross).astype(bool)
    assert drawn[boundary].all()
    away = cv2.distanceTransform((~boundary).astype(np.uint8), cv2.DIST_L2, 5)
    assert away[drawn].max() < 4


def test_box_edges_are_the_projected_ones_and_hidden_ones_are_dimmed(monkeypatch):
    mesh = grey_box()
    corners = overlay.box_corners(mesh)
    np.testing.assert_allclose(np.ptp(corners, axis=0), (0.1, 0.06, 0.04), atol=1e-7)
    np.testing.assert_allclose(corners[1] - corners[0], (0.1, 0, 0), atol=1e-7)
    np.testing.assert_allclose(corners[4] - corners[0], (0, 0, 0.04), atol=1e-7)
    seen = overlay.visible_faces(corners, T)
    assert seen.sum() == 3
    middles = (corners.min(axis=0) + corners.max(axis=0)) / 2
    for axis in range(3):
        for side in range(2):
            normal = (2 * side - 1) * np.eye(3)[axis]
            point = middles + normal * np.ptp(corners, axis=0) / 2
            facing = -(T[:3, :3] @ normal) @ se3.transform(T, point[None])[0] > 0
            assert seen[axis, side] == facing
    assert len(overlay._EDGES) == len({frozenset(e[:2]) for e in overlay._EDGES}) == 12
    for i, j, faces in overlay._EDGES:
        for axis, side in faces:
            assert corners[i, axis] == corners[j, axis] == (corners[7] if side else corners[0])[axis]
    monkeypatch.setattr(overlay, "axis_segments", lambda *_: ())  # they cross the hidden edges
    hidden = [e for e in overlay._EDGES if not any(seen[f] for f in e[2])]
    assert len(hidden) == 3
    drawn = draw_overlay(blank(), CAMERA, [OverlayItem(found(), mesh)], renderer=CpuRenderer).astype(int)
    pixels = pinhole.project(K, se3.transform(T, corners))
    (hidden_corner,) = set.intersection(*({*e[:2]} for e in hidden))
    strength = []
    for i, j, _ in hidden:  # near the hidden corner, inside the silhouette, nothing else is drawn over it
        other = j if i == hidden_corner else i
        u, v = np.rint(pixels[hidden_corner] + 0.3 * (pixels[other] - pixels[hidden_corner])).astype(int)
        strength.append(np.abs(drawn[v - 1 : v + 2, u - 1 : u + 2] - 90).max())
    assert max(strength) < 90  # a full line would differ by 165
    assert min(strength) > 15


def test_no_face_of_a_box_is_seen_from_inside():
    inside = se3.from_rt(np.eye(3), np.zeros(3))
    assert not overlay.visible_faces(overlay.box_corners(grey_box()), inside).any()


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        ((0, 0, 1.0), (0.1, 0, 2.0), (0, 0, 1.0, 0.1, 0, 2.0)),
        ((0, 0, 1.0), (0.2, 0, -1.0), (0, 0, 1.0, 0.1 * (1 - NEAR), 0, NEAR)),
        ((0.2, 0.1, -1.0), (0, 0, 1.0), (0.1 * (1 - NEAR), 0.05 * (1 - NEAR), NEAR, 0, 0, 1.0)),
        ((0, 0, -1.0), (1, 0, -0.1), None),
    ],
)
def test_segments_are_cut_at_the_near_plane(start, end, wanted):
    pixels = canvas.project_segment(K, np.array(start, float), np.array(end, float))
    if wanted is None:
        assert pixels is None
    else:
        np.testing.assert_allclose(pixels, pinhole.project(K, np.reshape(wanted, (2, 3))), rtol=1e-9, atol=1e-6)


@pytest.mark.parametrize(
    ("segment", "wanted"),
    [
        ([(10, 10), (50, 40)], [(10, 10), (50, 40)]),
        ([(-1e9, 20), (1e9, 20)], [(0, 20), (99, 20)]),
        ([(50, -50), (50, 500)], [(50, 0), (50, 79)]),
        ([(-100, 10), (-50, 60)], None),
        ([(200, 10), (210, 10)], None),
        ([(-10, -10), (1e6, 1e6)], [(0, 0), (79, 79)]),
        ([(30, 30), (30, 30)], [(30, 30), (30, 30)]),
    ],
)
def test_lines_are_clipped_to_the_image(segment, wanted):
    kept = canvas.clip_segments(np.array(segment, float), (100, 80), margin=0.0)
    assert len(kept) == (wanted is not None)
    if wanted is not None:
        np.testing.assert_allclose(kept[0], wanted, atol=1e-3)


@pytest.mark.parametrize(
    "position",
    [(0.0, 0.0, 0.02), (0.0, 0.0, 0.0), (0.03, 0.0, 1.5e-3), (0.0, 0.0, -0.5), (5.0, 0.0, 0.3), (0.0, 0.0, 500.0)],
    ids=["around the camera", "at the camera", "through the near plane", "behind", "beside the image", "a point"],
)
def test_objects_anywhere_are_drawn_without_an_error(position):
    pose = se3.from_rt(se3.so3_exp([0.4, 0.2, 0.1]), np.array(position))
    drawn = draw_overlay(blank(), CAMERA, [OverlayItem(found(pose), grey_box())], renderer=CpuRenderer)
    assert changed(drawn).any()  # the label at least: a success is never passed over in silence


def test_of_a_box_beyond_all_bounds_only_what_is_in_the_image_is_drawn(monkeypatch):
    drawn, polyline = [], canvas.Canvas.polyline

    def counted(self, pixels, *args, **options):
        drawn.append(pixels)
        polyline(self, pixels, *args, **options)

    monkeypatch.setattr(canvas.Canvas, "polyline", counted)
    failed = PoseEstimate(False, "coarse: too few inliers", object="mug")
    item = OverlayItem(failed, detection=Detection("mug", bbox=(-1e7, 100, 2e7, 1e7)))
    picture = draw_overlay(blank(), CAMERA, [item], renderer=CpuRenderer)
    assert changed(picture)[100].any()  # its upper side
    assert 10 < len(drawn) < 1000


def test_a_failure_shows_its_detection_and_the_reason():
    failed = PoseEstimate(False, reason="too few correspondences", object="mug")
    item = OverlayItem(failed, detection=Detection("mug", bbox=(100, 120, 200, 150)))
    drawn = draw_overlay(blank(), CAMERA, [item], renderer=CpuRenderer)
    lines = nearest_to(drawn, overlay.FAILED, 60)
    sides = [lines[119:122, 100:300], lines[268:271, 100:300], lines[120:270, 99:102].T, lines[120:270, 298:301].T]
    for side in sides:
        share = side.any(axis=0).mean()
        assert 0.4 < share < 0.95  # broken
    assert not changed(drawn)[125:265, 105:295].any()
    assert changed(drawn)[95:119, 100:200].mean() > 0.5  # the label above it
    bare = draw_overlay(blank(), CAMERA, [OverlayItem(failed)], renderer=CpuRenderer)
    assert changed(bare)[-30:].any()
    assert not changed(bare)[:-30].any()


def test_names_come_from_whoever_knows_them():
    mesh = grey_box()
    nameless = PoseEstimate(True, T_camera_object=T, score=0.5)
    assert OverlayItem(found(name="cup"), mesh).name == "cup"
    assert OverlayItem(nameless, mesh).name == "grey_box"
    assert OverlayItem(nameless, mesh, Detection("jar", bbox=(0, 0, 9, 9))).name == "jar"
    assert OverlayItem(PoseEstimate(False, reason="lost")).name == "object"


@pytest.mark.parametrize("value", [0, 128, 255])
def test_labels_can_be_read_on_any_background(value):
    image = blank(value=value)
    labels = Labels(640, 480, 1.0)
    labels.add("mug  0.93", (200.0, 200.0, 300.0, 300.0), (0, 214, 255))
    labels.draw(image)
    ((x, y, w, h),) = labels.plates
    plate = image[y : y + h, x + 8 : x + w].astype(int).mean(axis=2)
    assert plate.max() > 240
    assert np.median(plate) < 90
    outside = np.ones(image.shape[:2], bool)
    outside[y : y + h, x : x + w] = False
    assert (image[outside] == value).all()


def test_labels_stay_inside_and_off_one_another():
    labels = Labels(320, 240, 0.5)
    extents = [(0, 0, 50, 50), (300, 200, 500, 400), (-90, -90, -50, -50), None, None, (10, 0, 300, 239)]
    for i, extent in enumerate(extents * 2):
        labels.add(f"object {i}", extent, (255, 0, 0))
    assert len(labels.plates) == 12
    for i, (x, y, w, h) in enumerate(labels.plates):
        assert x >= 0
        assert y >= 0
        assert x + w <= 320
        assert y + h <= 240
        for a, b, c, d in labels.plates[:i]:
            assert x >= a + c or a >= x + w or y >= b + d or b >= y + h


@pytest.mark.parametrize("size", [(1, 1), (16, 12), (33, 400), (2000, 1500)])
def test_images_of_any_size(size):
    width, height = size
    camera = Camera([[width, 0, width / 2], [0, width, height / 2], [0, 0, 1]], width, height)
    long = PoseEstimate(False, reason="a reason that is far too long for this image " * 8)
    items = [
        OverlayItem(found(), grey_box()),
        OverlayItem(long, detection=Detection("box", bbox=(0, 0, width, height))),
    ]
    drawn = draw_overlay(blank(camera), camera, items, renderer=CpuRenderer)
    assert drawn.shape == (height, width, 3)


def test_lines_grow_with_the_image():
    canvases = [canvas.Canvas(blank(), K, unit) for unit in (0.2, 1.0, 3.0)]
    assert [c.width(1.8) for c in canvases] == [1, 2, 5]


def test_text_of_any_kind_is_one_line_of_ascii():
    labels = Labels(640, 480, 1.0)
    labels.add("Tasse\nß 茶", (10.0, 100.0, 90.0, 200.0), (9, 9, 9))
    assert labels._placed[0][1] == "Tasse ? ?"


def test_wrong_use_is_said():
    with pytest.raises(InputError, match="wants its mesh"):
        OverlayItem(found())
    with pytest.raises(InputError, match="wanted a PoseEstimate"):
        OverlayItem(T)
    with pytest.raises(InputError, match="swapped"):
        draw_overlay(np.zeros((640, 480, 3), np.uint8), CAMERA, [], renderer=CpuRenderer)
    with pytest.raises(InputError, match="uint8"):
        draw_overlay(np.zeros((480, 640, 3)), CAMERA, [], renderer=CpuRenderer)


def test_arrays_of_another_device_are_fetched():
    class OnDevice:
        def __init__(self, array):
            self._array = array

        def get(self):
            return self._array

    class Elsewhere(CpuRenderer):
        def render(self, *arguments, **options):
            result = super().render(*arguments, **options)

            class Result:
                mask = OnDevice(result.mask)
                depth = OnDevice(result.depth)

            return Result

    item = [OverlayItem(found(), grey_box())]
    np.testing.assert_array_equal(
        draw_overlay(blank(), CAMERA, item, renderer=Elsewhere),
        draw_overlay(blank(), CAMERA, item, renderer=CpuRenderer),
    )


def test_the_demo_scene_under_its_true_poses():
    scene = load_scene()
    meshes = {name: Mesh.load(path, unit=unit, name=name) for name, (path, unit) in scene.meshes.items()}
    items = [
        OverlayItem(PoseEstimate(True, T_camera_object=scene.truth[d.object], score=d.score, object=d.object),
                    meshes[d.object], d)
        for d in scene.detections
    ]  # fmt: skip
    drawn = draw_overlay(scene.image, scene.camera, items, renderer=CpuRenderer)
    touched = (drawn != scene.image).any(axis=2)
    assert 0.02 < touched.mean() < 0.2
    for i, detection in enumerate(scene.detections):
        x, y, w, h = (round(v) for v in detection.bbox)
        assert nearest_to(drawn[y : y + h, x : x + w], overlay.COLORS[i], 10).sum() > 100


class TestResults:
    """``PoseEstimate.draw``: the overlay of one result, by what its Estimator knew."""

    def test_draws_itself(self):
        box = Detection("box", bbox=(10, 20, 30, 40))
        lost = PoseEstimate(False, "not there", object="box")
        results = overlay.drawable([found(), lost], CAMERA, [None, box], {"box": grey_box()}, renderer=CpuRenderer)
        for result, detection in zip(results, (None, box), strict=True):
            item = OverlayItem(result, grey_box(), detection)
            wanted = draw_overlay(blank(), CAMERA, [item], renderer=CpuRenderer)
            np.testing.assert_array_equal(result.draw(blank()), wanted)
            assert "painter" not in result.to_dict()
        with pytest.raises(InputError, match="wanted RGB"):
            results[0].draw(np.zeros((10, 10, 3), np.uint8))
        assert overlay.drawable([], CAMERA, [], {}, renderer=CpuRenderer) == []

    def test_of_no_estimator(self):
        with pytest.raises(InputError, match="only the results of an Estimator know their camera and mesh; use draw"):
            found().draw(blank())

    def test_pickle_leaves_the_painter_behind(self):
        (result,) = overlay.drawable([found()], CAMERA, [None], {"box": grey_box()}, renderer=lambda mesh: None)
        copy = pickle.loads(pickle.dumps(result))
        assert copy.painter is None
        assert copy.to_dict() == result.to_dict()
