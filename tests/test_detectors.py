"""Detections of other libraries' detectors, on stand-ins with the fields that theirs have."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from coop_edge import Detection, InputError, PoseEstimate, StageTimes
from coop_edge.geometry import se3
from coop_edge.geometry.masks import decode_rle, encode_rle, fill_polygons


class Tensor:
    """PyTorch's, on a GPU: NumPy takes it only after the usual three calls."""

    def __init__(self, values, where="cuda", grad=True):
        self.values, self.where, self.grad = np.asarray(values, np.float32), where, grad

    def detach(self):
        return Tensor(self.values, self.where, False)

    def cpu(self):
        return Tensor(self.values, "cpu", self.grad)

    def numpy(self):
        assert self.where == "cpu"
        assert not self.grad
        return self.values

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda device type tensor to numpy")


def ultralytics(n=2, masks=None):
    boxes = SimpleNamespace(
        xyxy=Tensor([[10, 20, 40, 60], [5, 5, 25, 15]][:n]).values.reshape(-1, 4), conf=[0.9, 0.25][:n], cls=[3, 0][:n]
    )
    boxes = SimpleNamespace(**{name: Tensor(value) for name, value in vars(boxes).items()})
    names = {0: "person", 3: "cup"}
    return SimpleNamespace(boxes=boxes, names=names, masks=masks, orig_shape=(80, 100))


class TestUltralytics:
    def test_boxes(self):
        cup, person = Detection.from_ultralytics([ultralytics()])
        assert (cup.object, cup.bbox, person.object) == ("cup", (10.0, 20.0, 30.0, 40.0), "person")
        assert cup.score == pytest.approx(0.9)
        assert cup.mask is None

    @pytest.mark.parametrize("objects", [{"cup": "mug"}, {3: "mug"}, {3: "mug", "cat": "cat"}])
    def test_classes_become_objects_and_others_are_left_out(self, objects):
        (mug,) = Detection.from_ultralytics(ultralytics(), objects)
        assert mug.object == "mug"

    def test_masks_are_polygons_of_the_image(self):
        square = np.array([[12, 22], [38, 22], [38, 58], [12, 58]], np.float32)
        cup, person = Detection.from_ultralytics(ultralytics(masks=SimpleNamespace(xy=[square, np.zeros((0, 2))])))
        assert cup.mask.shape == (80, 100)
        assert abs(cup.mask.sum() - 26 * 36) <= 26 + 36 + 1
        assert cup.mask[30, 20]
        assert not cup.mask[10, 10]
        assert person.mask is None

    def test_nothing_found(self):
        assert Detection.from_ultralytics(ultralytics(0)) == []

    @pytest.mark.parametrize(
        ("given", "says"),
        [([], "wanted those of one image, got a list of 0"), ([1, 2], "list of 2"), (3, "wanted Ultralytics' Results")],
    )
    def test_refusals(self, given, says):
        with pytest.raises(InputError, match=says):
            Detection.from_ultralytics(given)


def supervised(**options):
    fields = {
        "xyxy": np.array([[10.0, 20, 40, 60], [5, 5, 25, 15]]),
        "mask": None,
        "confidence": np.array([0.9, 0.25]),
        "class_id": np.array([3, 0]),
        "data": {"class_name": np.array(["cup", "person"])},
    }
    return SimpleNamespace(**(fields | options))


class TestSupervision:
    def test_boxes_and_masks(self):
        mask = np.zeros((2, 80, 100), bool)
        mask[0, 25:50, 15:30] = True
        cup, person = Detection.from_supervision(supervised(mask=mask))
        assert (cup.object, cup.bbox, cup.score, person.object) == ("cup", (10.0, 20.0, 30.0, 40.0), 0.9, "person")
        np.testing.assert_array_equal(cup.mask, mask[0])
        assert person.mask is None  # empty: the box says where it is

    def test_without_names_and_scores(self):
        bare = supervised(data={}, confidence=None)
        (cup,) = Detection.from_supervision(bare, {3: "cup"})
        assert cup.score == 1.0
        with pytest.raises(InputError, match=r"class 3 has no name; pass objects=\{3: NAME\}"):
            Detection.from_supervision(bare)

    def test_nothing(self):
        none = supervised(xyxy=np.zeros((0, 4)), confidence=np.zeros(0), class_id=np.zeros(0), data={})
        assert Detection.from_supervision(none) == []
        with pytest.raises(InputError, match="wanted supervision's Detections"):
            Detection.from_supervision([1])


COCO = {
    "images": [{"id": 7, "height": 80, "width": 100, "file_name": "a.png"}, {"id": 8, "height": 5, "width": 6}],
    "categories": [{"id": 1, "name": "cup"}, {"id": 2, "name": "cat"}],
    "annotations": [
        {"image_id": 7, "category_id": 1, "bbox": [10, 20, 30, 40], "segmentation": [[12, 22, 38, 22, 38, 58, 12, 58]]},
        {"image_id": 7, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5},
        {"image_id": 8, "category_id": 1, "segmentation": {"size": [5, 6], "counts": [6, 3, 21]}},
    ],
}


class TestCoco:
    def test_one_image_of_several(self):
        cup, cat = Detection.from_coco(COCO, image_id=7)
        assert (cup.object, cup.bbox, cup.score) == ("cup", (10.0, 20.0, 30.0, 40.0), 1.0)
        assert cup.mask[30, 20]
        assert (cat.object, cat.mask, cat.score) == ("cat", None, 0.5)
        (small,) = Detection.from_coco(COCO, image_id=8)
        assert small.bbox == (1.0, 1.0, 1.0, 3.0)
        assert Detection.from_coco(COCO, image_id=9) == []
        with pytest.raises(InputError, match="holds 2 images; say which"):
            Detection.from_coco(COCO)

    def test_results_are_a_list(self):
        results = [{"image_id": 1, "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.25}]
        (found,) = Detection.from_coco(results, objects={5: "cup"})
        assert (found.object, found.score) == ("cup", 0.25)
        with pytest.raises(InputError, match="class 5 has no name"):
            Detection.from_coco(results)

    @pytest.mark.parametrize("given", ["text", {"images": []}, None])
    def test_refusals(self, given):
        with pytest.raises(InputError, match="wanted a COCO file's content"):
            Detection.from_coco(given)


def test_corners():
    assert Detection.from_xyxy("cup", (10, 20, 40.5, 60), 0.5).bbox == (10.0, 20.0, 30.5, 40.0)
    for wrong in ((10, 20, 10, 60), (40, 20, 10, 60), (1, 2, 3)):
        with pytest.raises(InputError, match="xyxy: wanted"):
            Detection.from_xyxy("cup", wrong)


class TestRunLengths:
    @pytest.mark.parametrize("shape", [(0, 0), (1, 1), (5, 7), (64, 48)])
    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_there_and_back(self, shape, share):
        mask = np.random.default_rng(0).random(shape) < share
        rle = encode_rle(mask)
        assert sum(rle["counts"]) == mask.size
        assert all(isinstance(count, int) for count in rle["counts"])
        np.testing.assert_array_equal(decode_rle(rle), mask)

    def test_known(self):
        mask = np.array([[False, True, True], [False, False, True]])
        assert encode_rle(mask) == {"size": [2, 3], "counts": [2, 1, 1, 2]}
        assert encode_rle(~mask)["counts"] == [0, 2, 1, 1, 2]

    def test_compressed(self):
        """As pycocotools writes [6, 1, 40, 4, 5, 4, 5, 4, 21] of 9 x 10 pixels."""
        counts = [6, 1, 40, 4, 5, 4, 5, 4, 21]
        rle = {"size": [9, 10], "counts": compressed(counts)}
        assert rle["counts"] == "61X13mN000`0"
        np.testing.assert_array_equal(decode_rle(rle), decode_rle({"size": [9, 10], "counts": counts}))

    @pytest.mark.parametrize(
        "rle", [{}, {"size": [2, 2], "counts": [1]}, {"size": [2, 2], "counts": [5, -1]}, {"size": 3, "counts": []}]
    )
    def test_refusals(self, rle):
        with pytest.raises(InputError, match="segmentation"):
            decode_rle(rle)

    def test_polygons_have_their_corner_at_zero(self):
        """A square from 2 to 5 covers the pixels 2, 3 and 4."""
        mask = fill_polygons([[2, 2, 5, 2, 5, 5, 2, 5]], 8, 8)
        rows = np.flatnonzero(mask.any(axis=1))
        assert 2 <= rows.min() <= rows.max() <= 5
        assert mask[2:5, 2:5].all()


def compressed(counts):
    """rleToString of the COCO API."""
    text = ""
    for i, count in enumerate(counts):
        x = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            c = x & 0x1F
            x >>= 5
            more = x != -1 if c & 0x10 else x != 0
            text += chr((c | 0x20 if more else c) + 48)
    return text


def test_bop_lines():
    T = se3.exp([0.1, -0.2, 1.0, 0.3, 0.2, 0.1])
    estimate = PoseEstimate(True, T_camera_object=T, score=0.75, times=StageTimes(coarse_ms=250.0))
    scene, image, obj, score, R, t, time = estimate.to_bop_csv(2, 17, 5).split(",")
    assert (scene, image, obj, score, time) == ("2", "17", "5", "0.75", "0.250000")
    np.testing.assert_allclose(np.array(R.split(), float).reshape(3, 3), T[:3, :3], atol=1e-9)
    np.testing.assert_allclose(np.array(t.split(), float), 1000 * T[:3, 3], rtol=1e-9)
    assert PoseEstimate(True, T_camera_object=T).to_bop_csv(1, 1, 1).endswith(",-1.000000")
    with pytest.raises(InputError, match=r"there is no pose \(hidden\)"):
        PoseEstimate(False, "hidden", object="cup").to_bop_csv(1, 1, 1)
