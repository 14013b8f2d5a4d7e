"""The demo's scene: whole, as its script makes it, and showing what it says it shows."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.datasets.demo_scene import layout, sensor
from benchmarks.datasets.demo_scene.__main__ import description
from benchmarks.datasets.demo_scene.agreement import agreement, our_coverage
from benchmarks.datasets.demo_scene.files import MESHES, write_meshes
from coop_edge.demo import load_scene
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh

SIZE = (layout.HEIGHT, layout.WIDTH)
COVERAGE = Path(__file__).parent / "data" / "demo_scene" / "coverage.png"


@pytest.fixture(scope="module")
def scene():
    return load_scene()


@pytest.fixture(scope="module")
def meshes(scene):
    return {name: Mesh.load(path, unit=unit, name=name) for name, (path, unit) in scene.meshes.items()}


@pytest.fixture(scope="module")
def theirs():
    """Mitsuba's: the share of each pixel that shows each object, [3,h,w]."""
    return np.moveaxis(cv2.imread(str(COVERAGE))[..., ::-1] / 255.0, -1, 0)


@pytest.fixture(scope="module")
def ours(scene, meshes):
    poses = [scene.truth[name] for name in meshes]
    return our_coverage(list(meshes.values()), poses, scene.camera.K, SIZE)


def test_the_scene_is_whole_and_small(scene, meshes):
    assert scene.image.shape == (480, 640, 3)
    assert scene.image.dtype == np.uint8
    assert scene.image.flags.c_contiguous
    scene.camera.check_image(scene.image)
    names = set(scene.meshes)
    assert names == set(scene.truth) == {d.object for d in scene.detections} == set(MESHES)
    assert len({unit for _, unit in scene.meshes.values()}) == len({p.suffix for p, _ in scene.meshes.values()}) == 3
    files = [p for p in next(iter(scene.meshes.values()))[0].parent.iterdir() if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 2_000_000


def test_objects_have_the_size_and_the_distance_that_are_said(scene, meshes):
    for name, mesh in meshes.items():
        assert mesh.notes == ()
        assert len(mesh.faces) <= 10_000
        assert 0.08 < mesh.diameter < 0.20
        distance = np.linalg.norm(se3.transform(scene.truth[name], mesh.centre[None])[0])
        assert 0.5 < distance < 1.0


def test_the_picture_is_a_picture(scene):
    grey = scene.image.mean(axis=2)
    assert 70 < grey.mean() < 190
    assert grey.std() > 35
    assert (scene.image == 255).all(axis=2).mean() < 0.02  # not burnt out
    wall = scene.image[5:25, 20:120].astype(float)  # a plain, smoothly lit wall: what varies here is noise
    noise = (wall[:, 1:] - wall[:, :-1]).std() / np.sqrt(2)
    assert 0.5 < noise < 8.0


@pytest.mark.parametrize("index", range(3), ids=list(MESHES))
def test_our_silhouettes_at_the_truth_match_those_of_mitsuba(index, ours, theirs):
    found = agreement(ours[index], theirs[index])
    assert found.iou > 0.995
    assert found.edge_px < 0.06  # 4 x 4 samples a pixel against 256 random ones: 0.04 is what sampling alone leaves
    assert found.worst_edge_px < 0.15
    assert np.hypot(*found.shift_px) < 0.02


@pytest.mark.parametrize(
    ("move", "shift"), [((0.0, 0.0), (0.0, 0.0)), ((0.5, 0.5), (-0.5, -0.5)), ((-0.3, 0.0), (0.3, 0))]
)
def test_agreement_notices_a_wrong_pixel_convention(move, shift, scene, meshes, ours):
    K = scene.camera.K.copy()
    K[:2, 2] += move
    moved = our_coverage([meshes["mug"]], [scene.truth["mug"]], K, SIZE)
    alone = our_coverage([meshes["mug"]], [scene.truth["mug"]], scene.camera.K, SIZE)
    found = agreement(moved[0], alone[0])
    np.testing.assert_allclose(found.shift_px, shift, atol=0.03)
    assert (found.edge_px > 0.1) == (move != (0.0, 0.0))


@pytest.mark.parametrize("name", list(MESHES))
def test_edges_in_the_picture_lie_where_the_truth_puts_them(name, scene, ours):
    """The picture itself, not only the mask: its gradient across the outline peaks at the outline."""
    grey = cv2.GaussianBlur(scene.image.astype(np.float64).mean(axis=2), (0, 0), 0.7)
    share = cv2.GaussianBlur(ours[list(MESHES).index(name)], (0, 0), 1.0)
    gy, gx = np.gradient(share)
    strength = np.hypot(gx, gy)
    v, u = np.nonzero(strength > 0.8 * strength.max())
    normal = np.stack([gx[v, u], gy[v, u]], axis=1) / strength[v, u, None]
    offsets = np.arange(-4.0, 4.01, 0.25)
    maps = [(p[:, None] + offsets * n[:, None]).astype(np.float32) for p, n in ((u, normal[:, 0]), (v, normal[:, 1]))]
    steps = np.abs(np.gradient(cv2.remap(grey, maps[0], maps[1], cv2.INTER_CUBIC), axis=1))
    inside = cv2.remap(share, maps[0], maps[1], cv2.INTER_LINEAR)
    clear = steps.max(axis=1) > 4.0 * np.median(steps, axis=1)  # where the object stands out from what is behind it
    assert clear.sum() > 60
    edge = offsets[np.abs(inside[clear] - 0.5).argmin(axis=1)]
    seen = offsets[steps[clear].argmax(axis=1)]
    assert abs(np.median(seen - edge)) < 0.5


def test_objects_hide_each_other_partly(scene, meshes, ours):
    shown = {}
    for i, (name, mesh) in enumerate(meshes.items()):
        alone = our_coverage([mesh], [scene.truth[name]], scene.camera.K, SIZE)[0].sum()
        shown[name] = ours[i].sum() / alone
    assert 0.5 < shown["carton"] < 0.9
    assert min(shown.values()) > 0.5


def test_detections_are_the_visible_extent_a_little_padded(scene, theirs):
    for detection in scene.detections:
        seen = theirs[list(MESHES).index(detection.object)] > 0.5
        rows, columns = np.nonzero(seen.any(axis=1))[0], np.nonzero(seen.any(axis=0))[0]
        extent = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
        x, y, w, h = detection.bbox
        off = np.array([extent[0] - x, extent[1] - y, x + w - extent[2], y + h - extent[3]])
        size = np.tile(extent[2:] - extent[:2], 2)
        assert (off > -0.02 * size - 0.1).all()
        assert (off < 0.05 * size + 0.1).all()
        detection.check_camera(scene.camera)


def test_committed_files_are_what_the_script_writes(scene, meshes, theirs, tmp_path):
    write_meshes(tmp_path)
    for name, (file, unit) in MESHES.items():
        made = Mesh.load(tmp_path / file, unit=unit)
        kept = meshes[name]
        np.testing.assert_array_equal(made.faces, kept.faces)
        np.testing.assert_allclose(made.vertices, kept.vertices, atol=1e-6)
        np.testing.assert_array_equal(made.corner_colors, kept.corner_colors)
        for a, b in zip(made.textures, kept.textures, strict=True):
            assert np.abs(a.astype(int) - b).mean() < 2.0  # fonts and JPEG differ a little between versions of Pillow
    kept_scene = json.loads((scene.meshes["mug"][0].parent / "scene.json").read_text())
    made_scene = description(np.moveaxis(theirs, 0, -1), kept_scene["made_by"])
    for key in ("camera", "detections", "image"):
        assert made_scene[key] == kept_scene[key]
    for name, entry in made_scene["objects"].items():
        np.testing.assert_allclose(entry["T_camera_object"], kept_scene["objects"][name]["T_camera_object"], atol=1e-12)


def test_colors_survive_every_format(meshes):
    """Red of the cap by Kd (OBJ), yellow of a window by vertex (PLY), red of the handle by linear factor (glTF)."""
    for name, color in (("carton", (196, 34, 40)), ("house", (250, 214, 110)), ("mug", (190, 44, 48))):
        plain = meshes[name].corner_colors[meshes[name].face_texture < 0].reshape(-1, 3).astype(int)
        assert np.abs(plain - color).max(axis=1).min() <= 3


def test_the_sensor_shifts_nothing_and_adds_noise():
    y, x = np.mgrid[:120, :160]
    blob = np.exp(-((x - 83.5) ** 2 + (y - 55.5) ** 2) / (2 * 12.0**2))  # centred between sensor pixels 83 and 84
    picture = sensor.expose(np.repeat(blob[..., None], 3, axis=2).astype(np.float32), seed=3)
    assert picture.shape == (60, 80, 3)
    weight = np.clip(picture.astype(float) - 60.0, 0, None)
    rows, columns = np.mgrid[:60, :80]
    for c in range(3):  # binned pixel k covers sensor pixels 2k and 2k + 1
        total = weight[..., c].sum()
        assert abs((weight[..., c] * columns).sum() / total - (83.5 - 0.5) / 2) < 0.1
        assert abs((weight[..., c] * rows).sum() / total - (55.5 - 0.5) / 2) < 0.1
    again = sensor.expose(np.repeat(blob[..., None], 3, axis=2).astype(np.float32), seed=4)
    assert 0.3 < np.abs(picture.astype(int) - again).mean() < 8


def test_projected_vertices_stay_within_the_silhouette(scene, meshes):
    for name, mesh in meshes.items():
        alone = our_coverage([mesh], [scene.truth[name]], scene.camera.K, SIZE)[0]
        rows, columns = np.nonzero((alone > 0).any(axis=1))[0], np.nonzero((alone > 0).any(axis=0))[0]
        points = mesh.vertices.astype(np.float64) + mesh.centre
        pixels = pinhole.project(scene.camera.K, se3.transform(scene.truth[name], points))
        low, high = pixels.min(axis=0), pixels.max(axis=0)
        np.testing.assert_allclose(low, (columns[0], rows[0]), atol=0.75)
        np.testing.assert_allclose(high, (columns[-1], rows[-1]), atol=0.75)


def test_a_pixel_that_the_path_tracer_left_undefined_takes_its_neighbours_light():
    flat = np.full((32, 32, 3), 0.5, np.float32)
    holed = flat.copy()
    holed[10, 11], holed[20, 5, 1] = np.nan, np.inf
    np.testing.assert_array_equal(sensor.expose(holed, seed=1), sensor.expose(flat, seed=1))
