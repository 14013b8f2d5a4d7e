"""The tracking benchmark: its sequences are what it says, and its figures are those of made-up answers."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import tracking
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.tracking import BACK, FASTEST, GONE, IMAGES, follow, lose, main, sequences
from coop_edge import PoseEstimate
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from tests.benchmarks.bop import HALF_TURN_Z, scene_of, write_dataset


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    first, second = scene_of(0)
    return BopDataset(write_dataset(tmp_path_factory.mktemp("bop") / "boxes", {(1, 0): [first], (1, 3): [second]}))


@pytest.fixture(scope="module")
def drawn(dataset):
    return sequences(dataset, 2)


def centres(each):
    return se3.transform(each.poses(), each.renderer.meshes[0].centre[None])[:, 0]


def test_each_object_moves_before_a_picture_without_it(dataset, drawn):
    assert [each.obj_id for each in drawn] == [1, 2]
    for each, image in zip(drawn, ((1, 3), (1, 0)), strict=True):
        np.testing.assert_array_equal(each.background, dataset.image(*image))
    assert len(sequences(dataset, 1)) == 1


def test_a_data_set_whose_pictures_show_everything_is_refused(tmp_path):
    dataset = BopDataset(write_dataset(tmp_path / "all", {(1, 0): scene_of(0)}))
    with pytest.raises(InputError, match="objects that some picture does not show"):
        sequences(dataset, 2)


def test_steps_grow_to_the_fastest_and_stay_in_the_picture(drawn):
    for each in drawn:
        path, diameter = centres(each), each.renderer.meshes[0].diameter
        steps = np.linalg.norm(np.diff(path, axis=0), axis=1) / diameter
        assert steps[0] < 0.1 * FASTEST
        assert steps[-1] == pytest.approx(FASTEST, rel=0.1)
        assert np.all(np.diff(steps[: tracking.GROWING - 1]) > -0.01)
        pixels = each.camera.project(path)
        assert (pixels > 0).all()
        assert (pixels < each.camera.size).all()


def test_a_picture_shows_the_object_where_it_is(drawn):
    each = drawn[0]
    T = each.poses()[10]
    without, with_it = (each.picture(pose, 3).astype(int) for pose in (None, T))
    x, y = np.round(each.camera.project(centres(each)[10:11])[0]).astype(int)
    changed = np.abs(with_it - without).sum(axis=2) > 0
    assert changed[y, x]
    silhouette = each.renderer.render(T[None], each.camera.K, changed.shape).depth[0] > 0
    rows, columns = np.nonzero(silhouette)
    near = np.zeros_like(changed)
    near[max(rows.min() - 4, 0) : rows.max() + 5, max(columns.min() - 4, 0) : columns.max() + 5] = True
    assert not changed[~near].any()
    assert changed[silhouette].mean() > 0.9
    np.testing.assert_array_equal(each.picture(T, 3), with_it)
    assert (each.picture(T, 4) != with_it).any()  # other noise


def test_errors_are_in_diameters_and_know_symmetries(drawn):
    one, two = drawn
    T = one.poses()[0]
    moved = T.copy()
    moved[0, 3] += 0.25 * one.model.diameter
    assert one.off(PoseEstimate(True, T_camera_object=moved), T) == pytest.approx(0.25)
    assert one.off(PoseEstimate(False, "gone"), T) == np.inf
    turned = two.poses()[0] @ np.reshape(HALF_TURN_Z, (4, 4))
    assert two.off(PoseEstimate(True, T_camera_object=turned), two.poses()[0]) == pytest.approx(0, abs=1e-9)


class Still:
    """Believes that nothing ever moves; ``lost``: or that all is lost."""

    def __init__(self, lost=False):
        self.lost, self.calls = lost, []

    def track(self, image, camera, results, **search):
        self.calls.append(search)
        return [PoseEstimate(False, "lost", object="a")] if self.lost else results


def test_every_fourth_image_is_played_and_judged_by_its_own_pose(drawn):
    each, still = drawn[0], Still()
    errors = follow(still, each, 4)
    assert len(errors) == len(still.calls) == (IMAGES - 1) // 4
    moved = np.linalg.norm(centres(each)[4::4] - centres(each)[0], axis=1) / each.model.diameter
    assert np.all(np.array(errors) > moved - 1e-9)  # some point moves farther than the centre
    assert follow(Still(lost=True), each, 16) == [np.inf] * 3


def test_an_object_that_goes_is_to_be_noticed_and_found_again(drawn):
    still = Still()
    believed, errors = lose(still, drawn[0])
    assert believed == [True] * GONE
    assert len(errors) == BACK
    assert min(errors) > 0.2  # it came back elsewhere
    assert still.calls[0] == {}
    assert all(call["relocate"] for call in still.calls[1:])
    believed, errors = lose(Still(lost=True), drawn[0])
    assert (believed, errors) == ([False] * GONE, [np.inf] * BACK)


def test_figures_of_made_up_answers():
    shares = tracking._shares([0.05, 0.15, 0.3, np.inf])
    assert shares == {"images": 4, "within_0.1": 0.25, "within_0.2": 0.5}
    back = tracking._back([[np.inf, np.inf, 0.1, 0.1], [0.5, 0.1, 0.1, 0.5], [np.inf] * 4])
    assert back == {
        "sequences": 3,
        "found_again": pytest.approx(1 / 3),
        "wrong_at_the_end": pytest.approx(1 / 3),
        "images_until_found": 2.5,
    }
    assert tracking._back([[np.inf]])["images_until_found"] is None


def test_wrong_use_is_one_line(dataset, capsys):
    assert main([str(dataset.root), "--every", "0"]) == 2
    assert "--every: wanted 1 to 63, got 0" in capsys.readouterr().err
    assert main([str(dataset.root / "nowhere")]) == 2
    assert "no such folder" in capsys.readouterr().err
