"""Reading data sets in BOP layout: what is in them, and what is said of what is not."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import trimesh

from benchmarks.accuracy.boxes import read_boxes
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.masks import decode_mask
from benchmarks.accuracy.records import Target
from coop_edge import CoopEdgeError, InputError, MeshError
from tests.benchmarks.bop import DIAMETERS, read, scene_of, write, write_dataset

IMAGES = {(1, 3): scene_of(0), (1, 0): scene_of(1, count=2), (7, 2): scene_of(2)}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dataset(tmp_path_factory.mktemp("bop") / "boxes", IMAGES, depth=True)


@pytest.fixture
def broken(root, tmp_path):
    """A copy to be spoilt."""
    return shutil.copytree(root, tmp_path / "boxes")


def test_what_is_in_it(root):
    dataset = BopDataset(root)
    assert (dataset.name, dataset.images, dataset.object_ids) == ("boxes", [(1, 0), (1, 3), (7, 2)], [1, 2])
    assert dataset.targets_of(1, 0) == [Target(1, 0, 1, 2), Target(1, 0, 2, 1)]
    assert dataset.targets_of(1, 1) == []
    image, camera, depth = dataset.image(7, 2), dataset.camera(7, 2), dataset.depth(7, 2)
    assert image.shape == (48, 64, 3)
    assert image.dtype == np.uint8
    assert camera.size == (64, 48)
    assert camera.K[0].tolist() == [60.0, 0.0, 31.5]
    assert depth.dtype == np.float32
    assert 0.5 < depth[depth > 0].min() < depth.max() < 0.7  # objects stand at 0.6 m


def test_poses_are_metres_and_rotations(root):
    for (scene, im), placed in IMAGES.items():
        for truth, (obj_id, T) in zip(BopDataset(root).truth(scene, im), placed, strict=True):
            assert truth.obj_id == obj_id
            assert truth.T_camera_object == pytest.approx(T, abs=1e-12)
            assert 0 < truth.visib_fract <= 1


def test_rotations_rounded_in_the_file_are_made_exact(broken):
    gt = read(broken / "test" / "000007" / "scene_gt.json")
    gt["2"][0]["cam_R_m2c"] = np.round(gt["2"][0]["cam_R_m2c"], 4).tolist()
    write(broken / "test" / "000007" / "scene_gt.json", gt)
    R, exact = BopDataset(broken).truth(7, 2)[0].T_camera_object[:3, :3], IMAGES[7, 2][0][1][:3, :3]
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(R, exact, atol=2e-4)


def test_models(root):
    models = BopDataset(root).models
    assert [models[i].diameter for i in (1, 2)] == pytest.approx([DIAMETERS[i] / 1e3 for i in (1, 2)])
    assert np.ptp(models[1].vertices, axis=0) == pytest.approx([0.1, 0.08, 0.06])
    assert (models[1].symmetric, models[2].symmetric) == (False, True)
    assert models[2].T_symmetries.shape == (2, 4, 4)
    assert models[1].load_mesh().diameter == pytest.approx(models[1].diameter, rel=1e-6)


def test_metrics_take_the_meshes_made_for_them(broken):
    shutil.copytree(broken / "models", broken / "models_eval")
    trimesh.creation.box(extents=(50, 80, 60)).export(broken / "models_eval" / "obj_000001.ply")
    model = BopDataset(broken).models[1]
    assert np.ptp(model.vertices, axis=0) == pytest.approx([0.05, 0.08, 0.06])
    assert np.ptp(model.load_mesh(evaluation=True).vertices, axis=0) == pytest.approx([0.05, 0.08, 0.06])
    assert np.ptp(model.load_mesh().vertices, axis=0) == pytest.approx([0.1, 0.08, 0.06])


@pytest.mark.parametrize(("limit", "images"), [(0, []), (1, [(1, 0)]), (2, [(1, 0), (1, 3)]), (None, sorted(IMAGES))])
def test_limit(root, limit, images):
    dataset = BopDataset(root, limit=limit)
    assert dataset.images == images
    assert {t.image for t in dataset.targets} == set(images)


def test_a_split_with_a_kind(broken):
    (broken / "test").rename(broken / "test_camera")
    assert BopDataset(broken, "test_camera").images == sorted(IMAGES)


def test_depth_counts_only_if_all_images_have_it(broken):
    assert BopDataset(broken).has_depth
    (broken / "test" / "000007" / "depth" / "000002.png").unlink()
    dataset = BopDataset(broken)
    assert not dataset.has_depth
    assert dataset.depth(7, 2) is None
    assert BopDataset(broken, limit=2).has_depth
    assert not BopDataset(broken, limit=0).has_depth


def test_the_most_visible_instances_are_sought(broken):
    targets = read(broken / "test_targets_bop19.json")
    targets[0]["inst_count"] = 1
    write(broken / "test_targets_bop19.json", targets)
    info = read(broken / "test" / "000001" / "scene_gt_info.json")
    for truth, fraction in zip(info["0"], (0.4, 0.7, 0.9), strict=True):
        truth["visib_fract"] = fraction
    write(broken / "test" / "000001" / "scene_gt_info.json", info)
    dataset = BopDataset(broken)
    assert [t.index for t in dataset.sought(dataset.targets_of(1, 0)[0])] == [1]


def test_boxes_of_the_truth(root):
    dataset = BopDataset(root)
    for kind in ("visib", "obj"):
        found = read_boxes(dataset, kind)
        assert list(found) == dataset.images
        assert [box.obj_id for box in found[1, 0]] == [1, 1, 2]
        for image, boxes in found.items():
            wanted = sorted(getattr(t, f"bbox_{kind}") for t in dataset.truth(*image))
            assert sorted(box.bbox for box in boxes) == wanted


def test_an_object_that_is_out_of_sight_has_no_box(broken):
    path = broken / "test" / "000007" / "scene_gt_info.json"
    info = read(path)
    info["2"][0]["bbox_visib"] = [-1, -1, -1, -1]
    write(path, info)
    assert [box.obj_id for box in read_boxes(BopDataset(broken), "visib")[7, 2]] == [2]


def detection(scene, im, obj, bbox=(4, 4, 10, 10), score=0.5, **more):
    return {"scene_id": scene, "image_id": im, "category_id": obj, "bbox": list(bbox), "score": score, "time": 1} | more


def test_boxes_of_a_file(root, tmp_path):
    runs = {"counts": [48 * 5 + 6, 20, 48 * 64 - 48 * 5 - 26], "size": [48, 64]}
    entries = [
        detection(1, 0, 1, (1, 1, 5, 5), 0.2),
        detection(1, 0, 1, (2, 1, 5, 5), 0.9),
        detection(1, 0, 1, (3, 1, 5, 5), 0.4),
        detection(1, 3, 1, segmentation=runs),
        detection(1, 3, 2, segmentation={"counts": [1], "size": [48, 64]}),
        detection(7, 2, 1, (100, 0, 5, 5)),  # beside the image
        detection(9, 9, 1),  # of no target
    ]
    write(tmp_path / "boxes.json", entries)
    found = read_boxes(BopDataset(root), tmp_path / "boxes.json")
    assert [(box.obj_id, box.bbox[0]) for box in found[1, 0]] == [(1, 2.0), (1, 3.0)]  # two sought, the best two
    assert [box.obj_id for box in found[1, 3]] == [1, 2]
    mask = found[1, 3][0].mask
    assert mask.shape == (48, 64)
    assert np.argwhere(mask).tolist() == [[row, 5] for row in range(6, 26)]
    assert found[1, 3][1].mask is None
    assert found[7, 2] == []


def test_masks_that_are_left_out_are_named(root, tmp_path, caplog):
    write(tmp_path / "boxes.json", [detection(7, 2, 1, segmentation={"counts": [1], "size": [48, 64]})])
    read_boxes(BopDataset(root), tmp_path / "boxes.json")
    assert "1 masks are left out" in caplog.text
    assert "cover 1 pixels, the image has 3072" in caplog.text


def test_masks_in_a_string():
    """Made by pycocotools 2.0 of the same mask."""
    rows = ["0111000", "0000101", "0100111", "1000100", "0001100"]
    mask = decode_mask({"size": [5, 7], "counts": "3110001020O0N31M11O"}, (7, 5))
    assert mask.tolist() == [[digit == "1" for digit in row] for row in rows]


def test_masks_of_polygons():
    mask = decode_mask([[2, 1, 6, 1, 6, 3, 2, 3]], (10, 6))
    assert np.argwhere(mask).tolist() == [[row, column] for row in (1, 2, 3) for column in range(2, 7)]
    assert not decode_mask([], (10, 6)).any()


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ({"counts": [60], "size": [10, 6]}, r"wanted the image's size \[6, 10\]"),
        ({"counts": [59], "size": [6, 10]}, "cover 59 pixels, the image has 60"),
        ({"counts": [-1, 61], "size": [6, 10]}, "cover 60"),
        ({"counts": "o", "size": [6, 10]}, "ends within a number"),
        ({"counts": [[1], [2, 3]], "size": [6, 10]}, "wanted run lengths"),
        ({"size": [6, 10]}, "wanted counts and size"),
        ([["a"]], "wanted polygons"),
    ],
)
def test_masks_that_are_none(segmentation, says):
    with pytest.raises(InputError, match=says):
        decode_mask(segmentation, (10, 6))


def spoil(name, change):
    """Change a JSON file of the data set."""

    def spoiler(root):
        content = read(root / name)
        content = change(content) or content
        write(root / name, content)

    return spoiler


def without(name):
    def spoiler(root):
        path = root / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return spoiler


GT = "test/000007/scene_gt.json"
TARGETS, MODELS = "test_targets_bop19.json", "models/models_info.json"


@pytest.mark.parametrize(
    ("spoiler", "says"),
    [
        (without("test"), "no such split; folders of .*boxes: models"),
        (without("models"), "wanted the meshes and models_info.json"),
        (without(MODELS), "models_info.json: no such file; it holds the diameters"),
        (without(TARGETS), "test_targets_bop19.json: no such file; what is to be found is unknown"),
        (without(GT), "scene_gt.json: no such file; the split 'test' has no such file for scene 7"),
        (without("test/000007/scene_camera.json"), "scene_camera.json: no such file"),
        (without("test/000007/rgb/000002.png"), "no picture 000002.png"),
        (without("models/obj_000001.ply"), "obj_000001.ply"),
        (spoil(TARGETS, lambda t: t[0].update(obj_id=5)), r"names object 5, of which there is no model .*has 1, 2\)"),
        (spoil(TARGETS, lambda t: t[0].update(inst_count=3)), "has 2 instances of object 1.*wants 3"),
        (spoil(TARGETS, lambda t: t[0].update(inst_count=0)), "target 0: wanted inst_count >= 1, got 0"),
        (spoil(TARGETS, lambda t: t[0].clear()), "target 0: wanted scene_id, im_id"),
        (spoil(TARGETS, lambda t: [*t, t[0]]), "scene 1, image 0 is named twice"),
        (spoil(TARGETS, lambda t: {"a": t}), "wanted a list, got a dict"),
        (spoil(GT, lambda gt: [*gt]), "wanted an object, got a list"),
        (spoil(GT, lambda gt: gt.update({"3": gt.pop("2")})), "says nothing of image 2, which test_targets"),
        (spoil(GT, lambda gt: gt["2"].clear()), "0 annotations, but 2 in scene_gt_info.json"),
        (spoil(GT, lambda gt: gt["2"][0].update(cam_R_m2c=[1] * 9)), r"image 2\[0\]: cam_R_m2c: not a rotation"),
        (spoil(GT, lambda gt: gt["2"][0].update(cam_t_m2c=[1, 2])), "cam_t_m2c: wanted 3 finite numbers"),
        (spoil(MODELS, lambda m: m["1"].clear()), "object 1: diameter: wanted 1"),
        (spoil(MODELS, lambda m: m["1"].update(diameter=0)), "wanted a diameter above 0 mm, got 0"),
        (spoil(MODELS, lambda m: m["2"].update(symmetries_discrete=[[1]])), "object 2: symmetries_discrete"),
    ],
)
def test_what_is_missing_or_wrong_is_said(broken, spoiler, says):
    spoiler(broken)
    with pytest.raises(CoopEdgeError, match=says) as raised:
        everything(broken)
    assert isinstance(raised.value, (InputError, MeshError))
    assert "\n" not in str(raised.value)


def everything(root):
    """Read all there is."""
    dataset = BopDataset(root)
    for model in dataset.models.values():
        _ = model.vertices
    for target in dataset.targets:
        dataset.sought(target)
    for image in dataset.images:
        dataset.image(*image)
        dataset.camera(*image)
    read_boxes(dataset, "visib")


def test_a_folder_that_is_none(tmp_path):
    with pytest.raises(InputError, match="no such folder; wanted the folder of a data set in BOP layout"):
        BopDataset(tmp_path / "nowhere")


def test_boxes_without_the_file_that_has_them(broken):
    for scene in ("000001", "000007"):
        (broken / "test" / scene / "scene_gt_info.json").unlink()
    with pytest.raises(InputError, match=r"no scene_gt_info.json, which holds the boxes of the truth; give a file"):
        read_boxes(BopDataset(broken), "visib")


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({}, "wanted a list"),
        ([{"scene_id": 1}], "detection 0: wanted scene_id, image_id"),
        ([detection(1, 0, 1, (1, 2, 3))], "detection 0: bbox: wanted 4"),
        ([detection(9, 9, 9)], "none of its 1 detections is of an image and object among the targets"),
        ([], "none of its 0 detections"),
    ],
)
def test_detections_that_are_none(root, tmp_path, entries, says):
    write(tmp_path / "boxes.json", entries)
    with pytest.raises(InputError, match=says):
        read_boxes(BopDataset(root), tmp_path / "boxes.json")


def test_a_file_of_detections_that_is_not_there(root):
    with pytest.raises(InputError, match="no such file; wanted 'visib', 'obj' or a file of detections"):
        read_boxes(BopDataset(root), "visible")
