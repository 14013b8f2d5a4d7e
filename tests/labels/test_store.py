"""Labels on the disk: what BOP and COCO readers find, and what stays after a change, a restart, a wrong folder."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.masks import decode_rle
from coop_edge.labels.instances import instances
from coop_edge.labels.records import pose_of
from coop_edge.labels.store import LabelStore, object_ids
from coop_edge.render import CpuRenderer
from coop_edge.types import Camera
from tests.stages.scene import at, colored_box

CAMERA = Camera([[300.0, 0.0, 159.5], [0.0, 310.0, 119.5], [0.0, 0.0, 1.0]], 320, 240)
MESHES = {"cube": colored_box((0.1, 0.1, 0.1), centre=(0.01, 0.02, 0.03)), "bar": colored_box((0.2, 0.05, 0.05))}
FRONT, BACK = at(0.0, 0.0, 0.6, (0.3, 0.2, 0.1)), at(0.05, 0.0, 0.9, (0.1, 0.5, 0.0))
IMAGE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8)


def renderer(name):
    return CpuRenderer(MESHES[name], threads=1)


def store(root, names=("cube", "bar")):
    return LabelStore(root, names, renderer=renderer)


def read(path):
    return json.loads(path.read_text())


def brute_force(camera, mesh, T, K=None, size=None):
    """Depth seen by each pixel, by the renderer of a pinhole."""
    return (
        CpuRenderer(mesh, threads=1)
        .render(T[None], K if K is not None else camera.K, size or camera.size[::-1])
        .depth[0]
    )


class TestInstances:
    def test_nothing(self):
        assert instances(CAMERA, [], []) == []

    def test_masks_boxes_and_what_hides_what(self):
        found = instances(CAMERA, [BACK, FRONT], [renderer("cube"), renderer("bar")])
        back, front = brute_force(CAMERA, MESHES["cube"], BACK), brute_force(CAMERA, MESHES["bar"], FRONT)
        np.testing.assert_array_equal(found[0].mask, back > 0)
        np.testing.assert_array_equal(found[1].mask, front > 0)
        hidden = (front > 0) & (back > 0)
        assert hidden.any()
        np.testing.assert_array_equal(found[0].visible, (back > 0) & ~hidden)
        np.testing.assert_array_equal(found[1].visible, front > 0)
        info = found[0].info
        assert info["px_count_all"] == (back > 0).sum()
        assert info["px_count_visib"] == ((back > 0) & ~hidden).sum()
        assert info["visib_fract"] == pytest.approx(info["px_count_visib"] / info["px_count_all"])
        v, u = np.nonzero(back > 0)
        assert info["bbox_obj"] == [u.min(), v.min(), np.ptp(u) + 1, np.ptp(v) + 1]
        assert info["px_count_valid"] == 0  # no depth

    def test_what_leaves_the_image_counts_in_full(self):
        """BOP counts pixels beyond the border, and its box of the whole object goes there too."""
        T = at(-0.35, 0.0, 0.6)
        (one,) = instances(CAMERA, [T], [renderer("cube")], np.ones((240, 320), np.float32))
        wide = CAMERA.K + np.array([[0, 0, 320.0], [0, 0, 240], [0, 0, 0]])
        whole = brute_force(CAMERA, MESHES["cube"], T, wide, (720, 960)) > 0
        assert one.info["px_count_all"] == whole.sum() > one.mask.sum() > 0
        assert one.info["bbox_obj"][0] < 0
        assert one.info["px_count_valid"] == one.mask.sum()
        (gone,) = instances(CAMERA, [at(-3.0, 0.0, 0.6)], [renderer("cube")])
        assert gone.info["bbox_visib"] == [-1, -1, -1, -1]
        assert gone.info["visib_fract"] == 0.0

    def test_through_a_lens(self):
        camera = Camera(CAMERA.K, 320, 240, [-0.3, 0.1, 0, 0])
        (one,) = instances(camera, [at(-0.15, 0.05, 0.6)], [renderer("cube")])
        (pinhole,) = instances(CAMERA, [at(-0.15, 0.05, 0.6)], [renderer("cube")])
        corners = np.array([one.info["bbox_visib"][:2], pinhole.info["bbox_visib"][:2]], float)
        np.testing.assert_allclose(camera.rays(corners[:1])[0, :2], CAMERA.rays(corners[1:])[0, :2], atol=0.01)


class TestStore:
    def test_bop_readers_read_it(self, tmp_path):
        made = store(tmp_path / "out")
        made.write(3, "a.png", IMAGE, CAMERA, [("bar", FRONT), ("cube", BACK)])
        scene = tmp_path / "out/train/000000"
        gt = read(scene / "scene_gt.json")["3"]
        assert [entry["obj_id"] for entry in gt] == [2, 1]
        np.testing.assert_allclose(pose_of(gt[0]), FRONT, atol=1e-12)
        np.testing.assert_allclose(gt[0]["cam_t_m2c"], 1000 * FRONT[:3, 3])
        assert read(scene / "scene_camera.json")["3"] == {"cam_K": CAMERA.K.ravel().tolist(), "depth_scale": 1.0}
        np.testing.assert_array_equal(cv2.imread(str(scene / "rgb/000003.png"))[..., ::-1], IMAGE)
        seen = instances(CAMERA, [FRONT, BACK], [renderer("bar"), renderer("cube")])
        for k, one in enumerate(seen):
            assert read(scene / "scene_gt_info.json")["3"][k] == one.info
            for kind, wanted in (("mask", one.mask), ("mask_visib", one.visible)):
                np.testing.assert_array_equal(cv2.imread(str(scene / kind / f"000003_{k:06d}.png"), 0) > 0, wanted)
        assert read(tmp_path / "out/images.json") == {"3": "a.png"}

    def test_coco_readers_read_it(self, tmp_path):
        made = store(tmp_path / "out")
        made.write(3, "a.png", IMAGE, CAMERA, [("bar", FRONT), ("cube", BACK)])
        made.write(1, "b.png", IMAGE, CAMERA, [("cube", BACK)])
        coco = read(tmp_path / "out/coco.json")
        assert [(c["id"], c["name"]) for c in coco["categories"]] == [(1, "cube"), (2, "bar")]
        assert [(i["id"], i["width"], i["height"], i["source"]) for i in coco["images"]] == [
            (1, 320, 240, "b.png"),
            (3, 320, 240, "a.png"),
        ]
        assert (tmp_path / "out" / coco["images"][0]["file_name"]).is_file()
        assert len({a["id"] for a in coco["annotations"]}) == 3
        bar = next(a for a in coco["annotations"] if a["category_id"] == 2)
        visible = brute_force(CAMERA, MESHES["bar"], FRONT) > 0
        np.testing.assert_array_equal(decode_rle(bar["segmentation"]), visible)
        assert bar["area"] == visible.sum()

    def test_again_in_place_of_what_was_there(self, tmp_path):
        made = store(tmp_path)
        made.write(0, "a.png", IMAGE, CAMERA, [("bar", FRONT), ("cube", BACK)])
        made.write(0, "a.png", IMAGE, CAMERA, [("cube", FRONT)])
        assert [name for name, _ in made.labels(0)] == ["cube"]
        assert not (tmp_path / "train/000000/mask/000000_000001.png").exists()
        assert len(read(tmp_path / "coco.json")["annotations"]) == 1
        made.write(0, "a.png", IMAGE, CAMERA, [])
        assert made.labels(0) == []
        assert made.labelled() == {0}
        made.forget(0)
        assert made.labelled() == set()
        assert read(tmp_path / "coco.json")["images"] == []

    def test_another_run_goes_on(self, tmp_path):
        store(tmp_path).write(5, "a.png", IMAGE, CAMERA, [("bar", FRONT)])
        again = store(tmp_path, ["bar", "cube", "new"][:2][::-1])
        assert again.labelled() == {5}
        ((name, T),) = again.labels(5)
        assert name == "bar"
        np.testing.assert_allclose(T, FRONT, atol=1e-12)

    def test_wrong_folders(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(InputError, match="holds files, but no labels of this kind"):
            store(tmp_path)
        store(tmp_path / "a").write(0, "a.png", IMAGE, CAMERA, [])
        with pytest.raises(
            InputError, match="its object 'bar' has id 2, this one 1; use the same objects, or another folder"
        ):
            store(tmp_path / "a", ["bar", "cube"])
        with pytest.raises(InputError, match=r"share an id: .* as before, or give another folder \(-o\)"):
            store(tmp_path / "a", ["mug"])
        (tmp_path / "a/objects.json").write_text("{")
        with pytest.raises(InputError, match=r"objects\.json: not JSON"):
            store(tmp_path / "a")

    def test_distortion_stands_beside_the_intrinsics(self, tmp_path):
        camera = Camera(CAMERA.K, 320, 240, [0.05, 0, 0, 0], fisheye=True)
        store(tmp_path).write(0, "a.png", IMAGE, camera, [("cube", FRONT)])
        entry = read(tmp_path / "train/000000/scene_camera.json")["0"]
        assert (entry["distortion"], entry["fisheye"]) == ([0.05, 0.0, 0.0, 0.0], True)

    def test_a_kill_while_writing_leaves_the_image_out(self, tmp_path, monkeypatch):
        made = store(tmp_path)
        made.write(0, "a.png", IMAGE, CAMERA, [("cube", FRONT)])
        extend = LabelStore._extend

        def killed(self, path, image_id, value):
            if path.name == "scene_gt_info.json":
                raise KeyboardInterrupt
            extend(self, path, image_id, value)

        monkeypatch.setattr(LabelStore, "_extend", killed)
        with pytest.raises(KeyboardInterrupt):
            made.write(1, "b.png", IMAGE, CAMERA, [("cube", FRONT)])
        monkeypatch.undo()
        assert store(tmp_path).labelled() == {0}
        json.loads((tmp_path / "train/000000/scene_gt.json").read_text())  # whole

    def test_what_is_labelled_is_in_every_file_whenever_it_is_killed(self, tmp_path, monkeypatch):
        """Killed at each file in turn, while an image is added and while its labels are replaced."""
        real, left = LabelStore._write_json, [0]

        def killed(self, path, content):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            real(self, path, content)

        monkeypatch.setattr(LabelStore, "_write_json", killed)
        for labels in ([("cube", FRONT)], [("bar", FRONT), ("cube", BACK)], [("cube", BACK)]):
            for count in range(20):
                left[0] = count
                made = LabelStore(tmp_path, ["cube", "bar"], renderer=renderer)
                try:
                    made.write(0, "a.png", IMAGE, CAMERA, labels)
                except KeyboardInterrupt:
                    done = False
                else:
                    done = True
                if made.labelled():
                    scene = tmp_path / "train/000000"
                    poses = [entry["cam_t_m2c"] for entry in read(scene / "scene_gt.json")["0"]]
                    coco = read(tmp_path / "coco.json")
                    assert [image["id"] for image in coco["images"]] == [0]
                    assert [entry["pose"]["cam_t_m2c"] for entry in coco["annotations"]] == poses
                    assert len(read(scene / "scene_gt_info.json")["0"]) == len(poses)
                if done:
                    assert made.labelled() == {0}
                    break
            else:
                pytest.fail("it was never done")


@pytest.mark.parametrize(
    ("names", "ids"),
    [([], {}), (["a", "b"], {"a": 1, "b": 2}), (["5", "a"], {"5": 5, "a": 1}), (["a", "1"], {"a": 2, "1": 1})],
)
def test_ids(names, ids):
    assert object_ids(names) == ids


def test_poses_that_are_none():
    with pytest.raises(InputError, match="wanted cam_R_m2c and cam_t_m2c"):
        pose_of({"cam_R_m2c": [1, 2]})
    T = se3.exp([0.1, 0.2, 0.9, 0.1, 0.2, 0.3])
    np.testing.assert_allclose(pose_of({"cam_R_m2c": T[:3, :3].tolist(), "cam_t_m2c": (1000 * T[:3, 3]).tolist()}), T)
