"""The synthetic set: where things and cameras stand, what is stated of a picture, the folder, what a kill leaves."""

from __future__ import annotations

import json
import sys

import cv2
import numpy as np
import pytest
import trimesh

from benchmarks.datasets.make_dataset import __main__ as command
from benchmarks.datasets.make_dataset import arrange as arranging
from benchmarks.datasets.make_dataset.__main__ import main, mitsuba, parse
from benchmarks.datasets.make_dataset.bop import BopWriter
from benchmarks.datasets.make_dataset.models import model_path
from benchmarks.datasets.make_dataset.truth import Truth, check, gt_info
from coop_edge.errors import InputError
from coop_edge.geometry import camera as pinhole
from coop_edge.geometry import se3
from coop_edge.labels.instances import bounding_box
from coop_edge.mesh import Mesh
from tests.benchmarks.solids import box


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
    assert not (tmp_path / "set").exists()  # nothing yet that would stand in the way of other options
    writer.claim()
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
    (tmp_path / "set" / "test" / "000001" / ".checks.json.17-0.tmp").write_text(
        "{"
    )  # of one that had no time to tidy up
    writer = BopWriter(tmp_path / "set", {"seed": 0})
    writer.claim()
    assert writer.done(1) == {0}
    assert writer.finish([1]) == 1  # what is half there is no target
    _write(writer, 1, 1)
    assert writer.done(1) == {0, 1}
    assert not list((tmp_path / "set").rglob("*.tmp"))


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    BopWriter(tmp_path / "set", {"seed": 0}).claim()
    with pytest.raises(InputError, match="other options"):
        BopWriter(tmp_path / "set", {"seed": 1})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="empty folder"):
        BopWriter(tmp_path / "mine", {"seed": 0})
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "wrong", [["--size", "640"], ["--size", "8x8"], ["--images", "0"], ["--objects", "-1"], ["--seed", "-1"]]
)
def test_wrong_options_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        parse(["out", *wrong])
    assert "wanted" in capsys.readouterr().err


def test_help_says_what_the_set_is(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse(["--help"])
    said = capsys.readouterr().out
    assert "held-out objects in cluttered, path-traced scenes" in said
    assert "default 640x480" in said


def test_a_pack_that_is_not_there_leaves_no_set_behind(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "mitsuba", lambda variant, threads: None)
    with pytest.raises(SystemExit, match=r"none.zip: not an asset pack"):
        main([str(tmp_path / "set"), "--pack", str(tmp_path / "none.zip")])
    assert not (tmp_path / "set").exists()


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
    content = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    stamp = (scene / "rgb" / "000000.jpg").stat().st_mtime_ns
    (scene / "scene_gt_info.json").write_text(json.dumps({"0": info["0"]}))  # as if killed before the second
    (out / "test_targets_bop19.json").unlink()
    main(command)
    assert (scene / "rgb" / "000000.jpg").stat().st_mtime_ns == stamp
    assert json.loads((scene / "scene_gt_info.json").read_text()) == info
    assert {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()} == content


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
