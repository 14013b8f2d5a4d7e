"""What a person does on the page, without the page: with networks that know the truth."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.labels.store import LabelStore
from coop_edge.types import Camera, PoseEstimate
from coop_edge.view.cloud import cloud
from coop_edge.view.scene import screen_to_pixels
from coop_edge.view.session import Session
from tests.estimators import AS_REFINED, SMALL, knowing
from tests.stages.scene import Placed, Scene, at, colored_box


@pytest.fixture(scope="module")
def table():
    cube, bar = colored_box((0.1, 0.1, 0.1), name="cube"), colored_box((0.16, 0.06, 0.05), name="bar", seed=1)
    placed = Placed(0, at(-0.1, 0.03, 0.7, (0.5, 0.7, -0.3))), Placed(1, at(0.15, -0.1, 0.8, (2.0, -0.4, 0.9)))
    return Scene((cube, bar), placed, SMALL)


@pytest.fixture(scope="module")
def exact(table, tmp_path_factory):
    with knowing(tmp_path_factory.mktemp("exact"), table, config=AS_REFINED) as (estimator, _):
        yield estimator


@pytest.fixture
def begin(exact, table, tmp_path):
    def session(count=3, depths=None) -> Session:
        renderer = exact.backend.renderer
        store = LabelStore(tmp_path / "labels", ["cube", "bar"], renderer=lambda name: renderer(exact.objects[name]))
        pictures = [(f"{i}.png", lambda: table.image) for i in range(count)]
        return Session(exact, pictures, lambda image: table.camera, store, depths)

    return session


def test_a_box_gives_a_pose_and_a_correction_a_label(begin, table):
    session = begin()
    item = session.estimate("cube", table.box(0))
    np.testing.assert_allclose(item.T, table.placed[0].T, atol=1e-3)
    assert session.store.labelled() == set()
    centre = session.mesh_centre()
    session.nudge(0, 0.004)
    session.nudge(5, np.radians(3))
    np.testing.assert_allclose(session.mesh_centre() - centre, [0.004, 0, 0], atol=1e-9)
    turned = se3.rotation_angle(session.item.T[:3, :3], item.T[:3, :3])
    assert turned == pytest.approx(np.radians(3))
    assert session.item.moved
    session.refine()
    np.testing.assert_allclose(session.item.T, table.placed[0].T, atol=1e-3)
    session.accept()
    ((name, T),) = session.store.labels(0)
    assert name == "cube"
    np.testing.assert_allclose(T, session.item.T, atol=1e-9)


def test_undo_takes_back_one_thing_at_a_time(begin, table):
    session = begin()
    session.estimate("cube", table.box(0))
    session.accept()
    session.estimate("bar", table.box(1))
    session.accept()
    session.nudge(2, 0.01)  # what is moved is no label until it is accepted again
    assert [name for name, _ in session.store.labels(0)] == ["cube"]
    session.undo()
    assert [name for name, _ in session.store.labels(0)] == ["cube", "bar"]
    session.go(1)
    session.undo()  # of image 0
    assert session.index == 0
    assert [name for name, _ in session.store.labels(0)] == ["cube"]
    session.undo()
    session.undo()
    assert session.store.labelled() == set()
    session.undo()
    assert session.items == ()
    with pytest.raises(InputError, match="nothing to undo"):
        session.undo()


def test_another_session_goes_on_where_this_one_stopped(begin, table):
    session = begin()
    session.estimate("cube", table.box(0))
    session.accept()
    session.go(1)
    session.accept()  # nothing there: said so
    again = begin()
    assert again.index == 2
    again.go(0)
    assert [(item.name, item.accepted) for item in again.items] == [("cube", True)]
    again.remove()
    assert again.store.labels(0) == []
    assert again.store.labelled() == {0, 1}


def test_accept_takes_all_poses_of_the_image_in_one_step(begin, table):
    session = begin()
    session.estimate("cube", table.box(0))
    session.estimate("bar", table.box(1))
    session.estimate("cube", (2, 2, 12, 12))  # found nothing, and is no label
    session.accept()
    assert [item.accepted for item in session.items] == [True, True, False]
    assert [name for name, _ in session.store.labels(0)] == ["cube", "bar"]
    session.undo()
    assert session.store.labelled() == set()
    assert [item.accepted for item in session.items] == [False, False, False]


def test_what_is_not_accepted_stays_where_it_was_found(begin, table):
    session = begin()
    session.estimate("cube", table.box(0))
    T = session.item.T
    assert session.unaccepted() == {"0.png": 1}
    session.follow()
    assert session.unaccepted() == {"0.png": 1, "1.png": 1}
    session.accept()
    session.go(0)
    np.testing.assert_array_equal(session.item.T, T)
    assert session.unaccepted() == {"0.png": 1}
    session.accept()
    session.go(2)
    assert session.unaccepted() == {}
    assert session.labelled == 2


def test_an_image_accepted_as_empty_is_not_tracked_into(begin, table):
    session = begin()
    session.go(1)
    session.accept()
    session.go(0)
    session.estimate("cube", table.box(0))
    session.follow()
    assert (session.index, session.items) == (1, ())


class TestWhichImageItIs:
    """Labels belong to an image, wherever it stands in a folder."""

    @pytest.fixture
    def view(self, exact, table, tmp_path):
        def session(*paths, shade=0) -> Session:
            """As ``coop-edge view`` makes one of these files, whose pixels are the table's, made darker."""
            renderer = exact.backend.renderer
            names = ["cube", "bar"]
            store = LabelStore(tmp_path / "labels", names, renderer=lambda name: renderer(exact.objects[name]))
            for path in paths:
                path.parent.mkdir(exist_ok=True)
                path.touch()
            image = np.maximum(table.image, shade) - np.uint8(shade)
            pictures = [(path.name, lambda: image) for path in paths]
            return Session(exact, pictures, lambda image: table.camera, store, paths=paths)

        return session

    def test_another_file_is_another_image(self, view, table, tmp_path):
        view(tmp_path / "a.png").accept()
        other = view(tmp_path / "b.png", shade=60)
        assert other.labelled == 0
        other.estimate("cube", table.box(0))
        other.accept()
        kept = cv2.imread(str(tmp_path / "labels/train/000000/rgb/000001.png"))[..., ::-1]
        np.testing.assert_array_equal(kept, other.image)
        assert json.loads((tmp_path / "labels/images.json").read_text()) == {"0": "../a.png", "1": "../b.png"}
        assert view(tmp_path / "a.png").items == ()
        assert len(view(tmp_path / "b.png", shade=60).items) == 1
        one_more = view(tmp_path / "more" / "a.png", shade=60)  # of the same name, and the first is still there
        assert one_more.labelled == 0

    def test_a_folder_that_grows_keeps_its_labels(self, view, table, tmp_path):
        folder = tmp_path / "images"
        session = view(folder / "1.png", folder / "3.png", folder / "5.png")
        session.estimate("cube", table.box(0))
        session.accept()
        session.go(1)
        session.accept()
        session.undo()
        session.accept()
        grown = view(*(folder / f"{i}.png" for i in range(6)))
        assert (grown.index, grown.labelled) == (0, 2)
        grown.accept()  # image 0 must not take the id of another one
        grown.go(1)
        assert [item.name for item in grown.items] == ["cube"]
        assert grown.store.labelled() == {0, 1, 2}
        shrunk = view(folder / "3.png", folder / "1.png")
        assert shrunk.labelled == 2
        shrunk.go(1)
        assert [item.name for item in shrunk.items] == ["cube"]

    def test_a_folder_that_moved_keeps_its_labels(self, view, tmp_path):
        view(tmp_path / "images" / "1.png").accept()
        (tmp_path / "images").rename(tmp_path / "elsewhere")
        moved = view(tmp_path / "elsewhere" / "1.png")
        assert moved.labelled == 1
        moved.accept()
        assert json.loads((tmp_path / "labels/images.json").read_text()) == {"0": "../elsewhere/1.png"}

    def test_frames_of_videos(self, view, tmp_path):
        for name in ("one.mp4", "two.mp4"):
            (tmp_path / name).touch()
        store = view(tmp_path / "a.png").store
        paths = [tmp_path / name / f"{i:06d}" for name in ("one.mp4", "two.mp4") for i in range(2)]
        sources = [store.source(path) for path in paths]
        assert sources == ["../one.mp4/000000", "../one.mp4/000001", "../two.mp4/000000", "../two.mp4/000001"]
        assert store.image_ids(paths) == [0, 1, 2, 3]

    def test_two_that_are_gone_and_have_one_name(self, view, tmp_path):
        view(tmp_path / "a" / "1.png", tmp_path / "b" / "1.png").accept()
        second = view(tmp_path / "b" / "1.png")
        second.accept()
        for name in "ab":
            (tmp_path / name / "1.png").unlink()
        with pytest.raises(InputError, match=r"several images called '1\.png', .*another folder \(-o\)"):
            view(tmp_path / "c" / "1.png")

    def test_other_pixels_under_the_same_name(self, view, tmp_path):
        view(tmp_path / "a.png").accept()
        (tmp_path / "a.png").unlink()
        with pytest.raises(InputError, match=r"000000\.png: these labels were made on another picture"):
            view(tmp_path / "other" / "a.png", shade=60)


def test_following_tracks_into_images_without_labels(begin, table):
    session = begin()
    session.estimate("cube", table.box(0))
    session.estimate("bar", table.box(1))
    session.follow()
    assert session.index == 1
    assert [item.name for item in session.items] == ["cube", "bar"]
    for item, placed in zip(session.items, table.placed, strict=True):
        np.testing.assert_allclose(item.T, placed.T, atol=1e-3)
    session.go(2)
    session.accept()
    session.go(1)
    session.follow()
    assert session.items == ()


def test_find_adds_what_is_not_known_yet(begin, table, exact, monkeypatch):
    """An accepted object less than a centimetre away is the one that was found; another object is not."""
    session = begin()
    session.estimate("cube", table.box(0))
    T = session.item.T
    near, far = T.copy(), T.copy()
    near[0, 3] += 0.009
    far[0, 3] += 0.011
    poses = {"near": ("cube", near), "far": ("cube", far), "other": ("bar", near)}
    results = [PoseEstimate(True, T_camera_object=T, score=0.5, object=name) for name, T in poses.values()]
    results.append(PoseEstimate(False, "nowhere", object="bar"))
    monkeypatch.setattr(type(exact), "find", lambda self, image, camera, names: results)
    assert [item.result for item in session.find()] == results  # what is not accepted is no reason to leave one out
    while len(session.items) > 1:
        session.undo()
    session.accept()
    assert [item.result for item in session.find()] == results[1:]
    assert [item.accepted for item in session.items] == [True, False, False, False]


def test_what_is_not_found_stays_until_the_next_try(begin, table):
    session = begin()
    item = session.estimate("cube", (2, 2, 12, 12))
    assert item.T is None
    assert item.result.reason
    for action in (session.refine, session.accept, lambda: session.nudge(0, 0.1)):
        with pytest.raises(InputError, match="has no pose"):
            action()
    session.estimate("cube", table.box(0))
    assert len(session.items) == 1


def test_wrong_steps_are_said(begin, table):
    session = begin()
    for action, says in (
        (session.refine, "no object is chosen"),
        (session.remove, "nothing to remove"),
        (lambda: session.go(3), "no image 3"),
        (lambda: session.estimate("cat", table.box(0)), "cat"),
    ):
        with pytest.raises(InputError, match=says):
            action()
    with pytest.raises(InputError, match="at least one image"):
        Session(session.estimator, [], lambda image: table.camera, session.store)


def test_an_image_that_cannot_be_read_is_passed_over_and_said(exact, table, tmp_path):
    def broken():
        raise InputError("broken.png: not an image")

    def session(*good: bool) -> Session:
        renderer = exact.backend.renderer
        store = LabelStore(tmp_path / "labels", ["cube", "bar"], renderer=lambda name: renderer(exact.objects[name]))
        pictures = [(f"{i}.png", (lambda: table.image) if well else broken) for i, well in enumerate(good)]
        return Session(exact, pictures, lambda image: table.camera, store)

    here = session(False, True, False, False, True, False)
    assert (here.index, here.passed_over) == (1, ["broken.png: not an image"])
    here.accept()
    here.step(1)
    assert (here.index, here.passed_over) == (4, ["broken.png: not an image"] * 2)
    with pytest.raises(InputError, match=r"^broken\.png: not an image$"):
        here.step(1)
    assert here.index == 4
    here.accept()
    again = session(False, True, False, False, True, False)  # all that can be labelled is
    assert (again.index, len(again.passed_over)) == (1, 1)
    again.step(1)
    assert (again.index, len(again.passed_over)) == (4, 2)
    again.step(-1)
    assert again.index == 1
    whole = session(True, True)
    whole.step(1)
    assert (whole.index, whole.passed_over) == (1, [])
    with pytest.raises(InputError, match="no image 2"):
        whole.step(1)
    with pytest.raises(InputError, match=r"broken\.png"):
        session(False, False)


def test_the_overlay_shows_every_item(begin, table):
    session = begin()
    assert np.array_equal(session.overlay(), table.image)
    session.estimate("cube", table.box(0))
    x, y, w, h = (int(v) for v in table.box(0))
    assert (session.overlay() != table.image)[y : y + h, x : x + w].any()


def true_depth(table) -> np.ndarray:
    """What a sensor would measure of the scene, uint16 in tenths of a millimetre; 0 beside the objects."""
    width, height = table.camera.size
    return np.rint(1e4 * table.depths(np.eye(3), table.camera.K, (height, width))[0]).astype(np.uint16)


def test_depth_goes_into_every_pose(begin, exact, table, monkeypatch):
    depth = true_depth(table)
    given = []
    for name in ("estimate", "find", "track"):
        real = getattr(type(exact), name)

        def call(self, *arguments, name=name, real=real, **measured):
            given.append((name, measured["depth_unit"], np.array_equal(measured["depth"], depth)))
            return [] if name == "find" else real(self, *arguments, **measured)

        monkeypatch.setattr(type(exact), name, call)
    session = begin(depths=lambda i: {"depth": depth, "depth_unit": 1e-4})
    np.testing.assert_allclose(session.depth_m, depth * 1e-4, rtol=1e-6)
    item = session.estimate("cube", table.box(0))
    assert item.result.used_depth
    np.testing.assert_allclose(item.T, table.placed[0].T, atol=1e-3)
    session.refine()
    session.find("bar")
    session.follow()
    assert given == [(name, 1e-4, True) for name in ("estimate", "track", "find", "track")]


def test_depth_that_knows_nothing_and_depth_of_another_size(begin, table):
    size = table.image.shape[:2]
    session = begin(depths=lambda i: {"depth": np.zeros(size, np.uint16), "depth_unit": "mm"})
    assert not session.estimate("cube", table.box(0)).result.used_depth
    with pytest.raises(InputError, match="must be registered to the colour image"):
        begin(depths=lambda i: {"depth": np.ones((4, 4), np.float32), "depth_unit": None})
    with pytest.raises(InputError, match="depth_unit: wanted for depth of dtype uint16"):
        begin(depths=lambda i: {"depth": np.ones(size, np.uint16), "depth_unit": None})


def _grid(shape, step):
    grid = np.zeros(shape, bool)
    grid[::step, ::step] = True
    return grid


@pytest.mark.parametrize("distortion", [None, (-0.2, 0.05, 0.001, -0.002)])
def test_points_are_those_that_the_pixels_show(distortion):
    """By cv2.projectPoints: every point lies at its pixel, as far as depth says, and has its colour."""
    camera = Camera([[300.0, 0.0, 150.0], [0.0, 310.0, 119.5], [0.0, 0.0, 1.0]], 320, 240, distortion)
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (240, 320, 3), np.uint8)
    metres = rng.uniform(0.3, 1.2, (240, 320)).astype(np.float32)
    metres[rng.random(metres.shape) < 0.2] = 0
    points, colors = cloud(image, metres, camera, 1.0)
    step = 2  # 76,800 pixels are more than are shown
    assert len(points) == np.count_nonzero((metres > 0) & (metres < 1.0) & _grid(metres.shape, step))
    lens = np.zeros(4) if distortion is None else np.array(distortion)
    pixels = cv2.projectPoints(points.astype(float), np.zeros(3), np.zeros(3), camera.K, lens)[0][:, 0]
    x, y = np.rint(pixels).astype(int).T
    assert np.abs(pixels - np.stack([x, y], axis=1)).max() < 0.05
    np.testing.assert_allclose(points[:, 2], metres[y, x], rtol=1e-6)
    np.testing.assert_array_equal(colors, image[y, x])
    assert points[:, 2].max() < 1.0
    assert len(np.unique(y * 320 + x)) == len(points)
    assert [each.shape for each in cloud(image, 0 * metres, camera, 1.0)] == [(0, 3), (0, 3)]


@pytest.mark.parametrize("aspect", [0.7, 1.0, 2.2])
def test_places_on_the_screen_are_pixels_of_the_image(aspect):
    """A view at the camera's place, and one beside it that looks askew, by a plain projection."""
    viser = pytest.importorskip("viser.transforms", reason="viser is not installed (extra view)")
    camera = Camera([[300.0, 0.0, 150.0], [0.0, 310.0, 119.5], [0.0, 0.0, 1.0]], 320, 240, [-0.2, 0.05, 0, 0])
    pixels, distance, fov = np.array([(10.0, 20.0), (300.0, 200.0), (150.0, 119.5)]), 1.7, 1.1
    on_plane = distance * np.c_[(pixels - camera.K[:2, 2]) / np.diag(camera.K)[:2], np.ones(3)]
    for turn, position in ((np.zeros(3), np.zeros(3)), (np.array([0.1, -0.3, 0.2]), np.array([0.4, -0.2, -0.3]))):
        R = se3.so3_exp(turn)
        seen = (on_plane - position) @ R
        screen = 0.5 + 0.5 * seen[:, :2] / seen[:, 2:] / np.tan(fov / 2) / np.array([aspect, 1.0])
        wxyz = viser.SO3.from_matrix(R).wxyz
        found = screen_to_pixels(screen, wxyz, position, fov, aspect, distance, camera)
        np.testing.assert_allclose(found, pixels, atol=1e-6)
    backwards = viser.SO3.from_matrix(np.diag([1.0, -1.0, -1.0])).wxyz
    assert np.isnan(
        screen_to_pixels(np.array([[0.5, 0.5]]), backwards, np.zeros(3), fov, aspect, distance, camera)
    ).all()
