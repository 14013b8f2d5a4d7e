"""The synthetic set: which objects, how they are written and lie, what is stated of them, what a killed run leaves."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
import trimesh

from benchmarks.make_dataset import arrange as arranging
from benchmarks.make_dataset import assets
from benchmarks.make_dataset.__main__ import main, mitsuba, parse
from benchmarks.make_dataset.bop import BopWriter
from benchmarks.make_dataset.models import model_info, model_path, write_models, write_ply
from benchmarks.make_dataset.readme import write_readme
from benchmarks.make_dataset.symmetry import find_symmetries
from benchmarks.make_dataset.truth import Truth, bounding_box, check, gt_info
from coop_edge.errors import InputError
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh, Symmetries
from export.training.packs import PackWriter
from export.training.textures import is_held_out
from tests.benchmarks.solids import SIDES, box, colored, textured_box


@pytest.fixture
def pack(tmp_path):
    """Forty boxes: some held out, every third textured."""
    path = tmp_path / "pack.zip"
    with PackWriter(path, texture=64) as writer:
        for k in range(150):
            shape = textured_box() if k % 3 == 0 else box((0.5, 0.3 + 0.001 * k, 0.3))
            writer.add(shape, f"box {k}", f"source{k % 2}/part", "CC0")
    return path


def test_objects_of_a_pack_are_held_out_and_sources_take_turns(pack):
    chosen = assets.choose(pack, 6, seed=0)
    assert len({a.mesh.name for a in chosen}) == 6
    assert all(is_held_out(a.mesh.name) and a.licence == "CC0" for a in chosen)
    assert len({a.source for a in chosen}) == 2
    assert any(a.mesh.textures for a in chosen)
    assert not all(a.mesh.textures for a in chosen)
    for asset in chosen:
        assert asset.mesh.diameter * 1.000001 >= assets.SMALLEST
        assert asset.mesh.diameter <= assets.LARGEST * 1.000001
    again = assets.choose(pack, 6, seed=0)
    assert [a.mesh.hash for a in again] == [a.mesh.hash for a in chosen]
    assert [a.mesh.hash for a in assets.choose(pack, 6, seed=1)] != [a.mesh.hash for a in chosen]


def test_too_few_objects_are_refused_with_the_option_that_helps(pack):
    with pytest.raises(InputError, match="--objects"):
        assets.choose(pack, 140, seed=0)


def test_without_a_pack_the_objects_are_procedural():
    chosen = assets.choose(None, 3, seed=0)
    assert [a.licence for a in chosen] == ["Apache-2.0"] * 3
    assert len({a.mesh.hash for a in chosen}) == 3


@pytest.mark.parametrize(
    ("mesh", "fit"),
    [
        (box(), True),
        (textured_box(), True),
        (box((0.1, 0.08, 0.004)), False),  # a sheet
        (box((0.012, 0.1, 0.012)), False),  # a stick
        (textured_box(repeats=9.0), False),
    ],
    ids=["box", "textured", "sheet", "stick", "texture that repeats nine times"],
)
def test_what_cannot_be_seen_or_written_is_left_out(mesh, fit):
    assert assets.fits(mesh) == fit


@pytest.mark.parametrize("mesh", [box(), textured_box(), textured_box(3.0)], ids=["plain", "textured", "repeated"])
def test_a_model_comes_back_as_it_was(mesh, tmp_path):
    mesh = colored(
        trimesh.Trimesh(mesh.vertices, mesh.faces, process=False),
        corner_colors=mesh.corner_colors, corner_uv=mesh.corner_uv, face_texture=mesh.face_texture,
        textures=mesh.textures, centre=np.array([0.3, -0.1, 0.02]),
    )  # fmt: skip
    path = tmp_path / "obj_000001.ply"
    write_ply(path, mesh)
    back = Mesh.load(path, unit="mm")
    assert back.notes == ()
    assert path.with_suffix(".png").exists() == bool(mesh.textures)
    assert back.diameter == pytest.approx(mesh.diameter, rel=1e-5)
    np.testing.assert_allclose(back.centre, mesh.centre, atol=1e-7)
    corners, found = (m.vertices[m.faces] for m in (mesh, back))
    np.testing.assert_allclose(found, corners, atol=1e-7)  # faces stay in their order
    rng = np.random.default_rng(0)
    face, weights = rng.integers(0, len(mesh.faces), 400), rng.dirichlet((1, 1, 1), 400)
    difference = np.abs(back.surface_color(face, weights) - mesh.surface_color(face, weights))
    assert np.quantile(difference.max(axis=1), 0.98) < 1.0  # a repeated texture's own border is bilinear in ours alone


def test_models_info_is_of_the_file_in_millimetres(tmp_path):
    asset = assets.Asset(box(), "drawn", "CC0", 0.5)
    write_models(tmp_path, [asset, asset])
    info = json.loads((tmp_path / "models" / "models_info.json").read_text())
    assert list(info) == ["1", "2"]
    for k, axis in enumerate("xyz"):
        assert info["1"][f"size_{axis}"] == pytest.approx(1000 * SIDES[k], rel=1e-5)
        assert info["1"][f"min_{axis}"] == pytest.approx(-500 * SIDES[k], rel=1e-5)
    assert info["1"]["diameter"] == pytest.approx(1000 * np.linalg.norm(SIDES), rel=1e-5)
    assert len(Symmetries.from_bop(info["2"]).group) == 4
    write_readme(tmp_path, [asset], "3")
    assert "| 1 |  | drawn | CC0 |" in (tmp_path / "README.md").read_text()


def _cylinder(cap: int = 150):
    shape = trimesh.creation.cylinder(0.03, 0.1, sections=64)
    tint = np.full((len(shape.faces), 3), 150)
    tint[np.asarray(shape.triangles_center)[:, 2] > 0.049] = cap
    return colored(shape, tint)


def _cube(face: int):
    shape = trimesh.creation.box((0.06, 0.06, 0.06))
    tint = np.full((12, 3), 150)
    tint[np.asarray(shape.face_normals)[:, 2] > 0.9] = face
    return colored(shape, tint)


def _wedge():
    corners = np.array([(0, 0, 0), (0.1, 0, 0), (0, 0.06, 0), (0, 0, 0.03)], float)
    return colored(trimesh.Trimesh(corners - corners.mean(axis=0), [(0, 2, 1), (0, 1, 3), (0, 3, 2), (1, 2, 3)]))


@pytest.mark.parametrize(
    ("mesh", "order", "axes"),
    [
        (_wedge(), 1, 0),
        (box(), 4, 0),
        (_cube(150), 24, 0),
        (_cube(20), 4, 0),  # a black face
        (_cylinder(), 2, 1),
        (_cylinder(20), 1, 1),
        (colored(trimesh.creation.icosphere(3, 0.05)), 1, 2),
    ],
    ids=["wedge", "box", "cube", "cube with a black face", "can", "can with a black lid", "ball"],
)
def test_symmetries_are_found_with_their_colours(mesh, order, axes):
    found = find_symmetries(mesh)
    assert len(found.group) == order
    assert len(found.continuous) == axes
    # and they survive the way through models_info.json, about an origin that is not the middle
    moved = colored(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False), mesh.corner_colors[:, 0],
                    centre=np.array([0.05, 0.0, -0.02]))  # fmt: skip
    again = Symmetries.from_bop(model_info(moved))
    assert len(again.group) == order
    if axes == 1:
        axis, offset = again.continuous[0]
        off = np.cross(offset - moved.centre, axis)
        np.testing.assert_allclose(off, 0.0, atol=1e-3)


def test_hands_are_dealt_evenly():
    hands = arranging.deal(15, 30, np.random.default_rng(0))
    assert all(arranging.FEWEST <= len(h) <= arranging.MOST and len(set(h)) == len(h) for h in hands)
    count = np.bincount(np.concatenate(hands), minlength=15)
    assert np.ptp(count) <= 1
    assert arranging.deal(2, 1, np.random.default_rng(0))[0].__len__() == 2
    assert arranging.deal(15, 0, np.random.default_rng(0)) == []


def test_cameras_see_every_target_at_the_sizes_that_are_said():
    rng = np.random.default_rng(1)
    meshes = [box((0.1, 0.08, 0.06)), box((0.14, 0.06, 0.05))]
    placed = [arranging.Placed(k % 2, se3.from_rt(np.eye(3), [0.08 * k, 0.03 * k, 0.03]), True) for k in range(3)]
    found, _ = arranging.views(placed, meshes, 5, (640, 480), rng)
    assert len(found) == 5
    for view in found:
        assert view.T_world_camera[2, 3] > 0.05
        for p in placed:
            T = view.camera_object(p.T_world_object)
            u, v = pinhole.project(view.K, T[None, :3, 3])[0]
            assert 0 < u < 639
            assert 0 < v < 479
            size = view.K[0, 0] * meshes[p.index].diameter / T[2, 3]
            assert arranging.SMALLEST_PX <= size <= arranging.LARGEST_PX
    far = [*placed, arranging.Placed(0, se3.from_rt(np.eye(3), [9.0, 0.0, 0.0]), True)]
    with pytest.raises(RuntimeError, match="cameras"):
        arranging.views(far, meshes, 1, (640, 480), rng)


def test_gt_info_counts_as_bop_does():
    whole = np.zeros((30, 60), bool)  # of a picture 20 wide and 10 high
    whole[8:15, 15:30] = True  # reaches over the left and the upper edge
    visible = whole[10:20, 20:40].copy()
    visible[:2] = False
    depth = np.ones((10, 20))
    depth[4, 0] = 0.0
    info = gt_info(whole, visible, depth, (20, 10))
    assert info == {
        "bbox_obj": [-5, -2, 15, 7],
        "bbox_visib": [0, 2, 10, 3],
        "px_count_all": 105,
        "px_count_valid": 49,
        "px_count_visib": 30,
        "visib_fract": pytest.approx(30 / 105),
    }
    nothing = gt_info(np.zeros((30, 60), bool), np.zeros((10, 20), bool), depth, (20, 10))
    assert nothing["bbox_obj"] == nothing["bbox_visib"] == [-1, -1, -1, -1]
    assert nothing["visib_fract"] == 0.0
    assert bounding_box(np.eye(3, dtype=bool)) == [0, 0, 3, 3]


def test_the_check_sees_a_mask_that_is_off():
    y, x = np.mgrid[:80, :90]
    mask = (x - 45) ** 2 + (y - 40) ** 2 < 20**2
    same = check(mask, mask)
    assert same.iou == 1.0
    assert same.edge_px == 0.0
    off = check(mask, np.roll(mask, 1, axis=1))
    assert off.iou < 0.96
    assert off.shift_px[0] == pytest.approx(1.0, abs=0.1)
    assert abs(off.shift_px[1]) < 0.05
    assert check(mask, mask & (x < 27)) is None  # too little to judge by


def _entry(share: float, size=(64, 48)):
    mask = np.zeros(size[::-1], bool)
    mask[10:20, 10:30] = True
    info = {"bbox_obj": [10, 10, 20, 10], "bbox_visib": [10, 10, 20, 10], "px_count_all": 200,
            "px_count_valid": 200, "px_count_visib": int(200 * share), "visib_fract": share}  # fmt: skip
    return Truth(mask, mask, info, None)


def _view(size=(64, 48)):
    return arranging.View(np.array([[80.0, 0, 31.0], [0, 80.0, 24.0], [0, 0, 1]]), size, np.eye(4))


def _write(writer, scene, image, shares=(1.0, 0.05)):
    T = se3.from_rt(np.eye(3), [0.1, 0.2, 0.7])
    objects = [(k + 3, T, _entry(s)) for k, s in enumerate(shares)]
    depth = np.full((48, 64), 0.7)
    depth[0, 0] = 99.0  # farther than 16 bits reach
    writer.write(scene, image, np.full((48, 64, 3), 90, np.uint8), depth, _view(), objects, 90, {"light": "lamp"})


def test_the_folder_is_bop(tmp_path):
    writer = BopWriter(tmp_path / "set", {"seed": 0})
    _write(writer, 1, 0)
    _write(writer, 2, 1, shares=())
    assert writer.finish([1, 2]) == 1
    targets = json.loads((tmp_path / "set" / "test_targets_bop19.json").read_text())
    assert targets == [{"im_id": 0, "inst_count": 1, "obj_id": 3, "scene_id": 1}]  # 0.05 is too little
    camera = json.loads((tmp_path / "set" / "camera.json").read_text())
    assert (camera["fx"], camera["cx"], camera["width"], camera["height"]) == (80.0, 31.0, 64, 48)
    scene = tmp_path / "set" / "test" / "000001"
    depth = cv2.imread(str(scene / "depth" / "000000.png"), cv2.IMREAD_UNCHANGED)
    assert depth.dtype == np.uint16
    scale = json.loads((scene / "scene_camera.json").read_text())["0"]["depth_scale"]
    assert depth[5, 5] * scale == pytest.approx(700.0)  # mm
    assert depth[0, 0] == 0
    truth = json.loads((scene / "scene_gt.json").read_text())["0"]
    assert [t["obj_id"] for t in truth] == [3, 4]
    np.testing.assert_allclose(truth[0]["cam_t_m2c"], [100.0, 200.0, 700.0])
    assert cv2.imread(str(scene / "rgb" / "000000.jpg")).shape == (48, 64, 3)
    mask = cv2.imread(str(scene / "mask_visib" / "000000_000001.png"), cv2.IMREAD_GRAYSCALE)
    assert set(np.unique(mask)) == {0, 255}
    assert BopWriter(tmp_path / "empty", {}).finish([]) == 0


def test_a_run_that_was_killed_goes_on_where_it_was(tmp_path, monkeypatch):
    writer = BopWriter(tmp_path / "set", {"seed": 0})
    assert writer.done(1) == set()
    _write(writer, 1, 0)
    extend = BopWriter._extend

    def killed(self, scene, name, image, entry):
        if name == "scene_gt_info.json":
            raise KeyboardInterrupt
        extend(self, scene, name, image, entry)

    monkeypatch.setattr(BopWriter, "_extend", killed)
    with pytest.raises(KeyboardInterrupt):
        _write(writer, 1, 1)
    monkeypatch.undo()
    writer = BopWriter(tmp_path / "set", {"seed": 0})
    assert writer.done(1) == {0}
    assert writer.finish([1]) == 1  # what is half there is no target
    _write(writer, 1, 1)
    assert writer.done(1) == {0, 1}
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    BopWriter(tmp_path / "set", {"seed": 0})
    with pytest.raises(InputError, match="other options"):
        BopWriter(tmp_path / "set", {"seed": 1})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="empty folder"):
        BopWriter(tmp_path / "mine", {"seed": 0})
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("wrong", [["--size", "640"], ["--size", "8x8"], ["--images", "0"], ["--objects", "-1"]])
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(["out", *wrong])
    assert "wanted" in capsys.readouterr().err


def test_defaults():
    options = parse(["out"])
    assert (options.images, options.objects, options.size, options.pack) == (60, 15, (640, 480), None)


def test_without_mitsuba_the_error_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "mitsuba", None)
    with pytest.raises(SystemExit, match="pip install"):
        mitsuba("scalar_rgb", None)


def test_a_tiny_set_is_whole_and_true(tmp_path, capsys):
    """Two pictures of 96 x 72 pixels, from the command to what a reader of BOP sets meets."""
    pytest.importorskip("mitsuba", reason='mitsuba is not installed (pip install "mitsuba==3.9.1")')
    out = tmp_path / "set"
    command = [str(out), "--images", "2", "--objects", "4", "--samples", "4", "--size", "96x72", "--threads", "1"]
    main(command)
    said = capsys.readouterr().out
    assert "2 pictures" in said
    scene = out / "test" / "000001"
    info = json.loads((scene / "scene_gt_info.json").read_text())
    truth = json.loads((scene / "scene_gt.json").read_text())
    assert list(info) == ["0", "1"]
    assert all(len(truth[k]) == len(info[k]) >= 3 for k in info)
    checks = [c for v in json.loads((scene / "checks.json").read_text()).values() for c in v["agreement"] if c]
    assert checks
    for found in checks:
        assert found["iou"] > 0.99
        assert np.hypot(*found["shift_px"]) < 0.02
    for k in range(4):
        Mesh.load(model_path(out, k + 1), unit="mm")
    picture = cv2.imread(str(scene / "rgb" / "000000.jpg"))
    assert picture.shape == (72, 96, 3)
    assert picture.std() > 10
    _depth_lies_on_the_models(scene, out, "0")
    stamp = (scene / "rgb" / "000000.jpg").stat().st_mtime_ns
    (scene / "scene_gt_info.json").write_text(json.dumps({"0": info["0"]}))  # as if killed before the second
    (out / "test_targets_bop19.json").unlink()
    main(command)
    assert (scene / "rgb" / "000000.jpg").stat().st_mtime_ns == stamp
    assert json.loads((scene / "scene_gt_info.json").read_text()) == info
    assert json.loads((out / "test_targets_bop19.json").read_text())


def _depth_lies_on_the_models(scene, out, image):
    """Mitsuba's depth, taken into the object by the stated pose, lies on the surface of the PLY."""
    from scipy.spatial import cKDTree

    K = np.reshape(json.loads((scene / "scene_camera.json").read_text())[image]["cam_K"], (3, 3))
    depth = cv2.imread(str(scene / "depth" / f"{int(image):06d}.png"), cv2.IMREAD_UNCHANGED) * 1e-4
    for k, pose in enumerate(json.loads((scene / "scene_gt.json").read_text())[image]):
        mask = cv2.imread(str(scene / "mask_visib" / f"{int(image):06d}_{k:06d}.png"), cv2.IMREAD_GRAYSCALE) > 0
        v, u = np.nonzero(mask)
        if not len(v):
            continue
        points = (np.linalg.inv(K) @ np.stack([u, v, np.ones(len(u))])).T * depth[v, u, None]
        local = (points - np.array(pose["cam_t_m2c"]) / 1000.0) @ np.reshape(pose["cam_R_m2c"], (3, 3))
        mesh = Mesh.load(model_path(out, pose["obj_id"]), unit="mm")
        shape = trimesh.Trimesh(mesh.vertices + mesh.centre, mesh.faces, process=False)
        dense = trimesh.sample.sample_surface(shape, 40_000, seed=0)[0]
        distance = cKDTree(dense).query(local)[0]
        assert np.quantile(distance, 0.99) < 0.02 * mesh.diameter
