"""The pictures beside the scene, each against what it says it shows."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge import Estimator
from coop_edge.demo import load_scene
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.types import Detection
from coop_edge.view.pictures import agreement_picture, templates_picture, views_picture
from tests.estimators import AS_REFINED, SMALL, knowing
from tests.stages.scene import Placed, Scene, at, colored_box

SCENE = load_scene()


@pytest.fixture(scope="module")
def estimator():
    """The demo's engines, which retrieve views, with two of its objects."""
    with Estimator.from_engines("coop-xs", device="cpu", threads=1) as made:
        for name in ("carton", "house"):
            mesh, unit = SCENE.meshes[name]
            made.add_object(name, mesh, unit=unit)
        yield made


def tiles(sheet: np.ndarray, columns: int, size: int) -> list[np.ndarray]:
    """The pictures of a sheet, without their labels; they stand two pixels apart."""
    step = size + 2
    assert sheet.shape[1] == columns * step - 2
    corners = [(y, x) for y in range(0, sheet.shape[0], step) for x in range(0, sheet.shape[1], step)]
    return [sheet[y + 24 : y + size, x : x + size] for y, x in corners]


def test_the_sheet_holds_42_different_views(estimator):
    sheet = templates_picture(estimator.objects["house"], estimator.backend.renderer)
    views = tiles(sheet, 7, 96)
    assert len(views) == 42
    assert len({view.tobytes() for view in views}) == 42
    assert all(np.ptp(view) > 30 for view in views)


def box_of(name: str) -> Detection:
    return next(d for d in SCENE.detections if d.object == name)


def test_similar_views_are_near_the_truth_and_sorted(estimator):
    found = estimator.similar_views(SCENE.image, SCENE.camera, box_of("house"), 8)
    similarity = [value for value, _ in found]
    assert len(found) == 8
    assert similarity == sorted(similarity, reverse=True)
    true = SCENE.truth["house"]
    angles = [np.degrees(se3.rotation_angle(T[:3, :3], true[:3, :3])) for _, T in found]
    assert min(angles) < 45  # the 42 views lie about 35 degrees apart
    assert all(T[2, 3] > 0 for _, T in found)
    sheet = views_picture(estimator, SCENE.image, SCENE.camera, box_of("house"))
    assert len(tiles(sheet, 4, 96)) == 8


def test_similar_views_of_an_object_that_is_not_registered(estimator):
    with pytest.raises(InputError, match="mug"):
        estimator.similar_views(SCENE.image, SCENE.camera, box_of("mug"), 8)


def test_engines_without_features_retrieve_no_views(tmp_path):
    cube = colored_box((0.1, 0.1, 0.1), name="cube")
    table = Scene((cube,), (Placed(0, at(0.0, 0.0, 0.7, (0.5, 0.7, -0.3))),), SMALL)
    with knowing(tmp_path, table, config=AS_REFINED) as (made, _):
        assert views_picture(made, table.image, SMALL, Detection("cube", table.box(0))) is None


def test_edges_agree_at_the_true_pose_and_not_beside_it(estimator):
    """White: both have an edge there; in a picture that is the render itself all of the image's edges are white."""
    name, T = "house", SCENE.truth["house"]
    mesh, camera = estimator.objects[name], SCENE.camera
    rendered = estimator.backend.renderer(mesh).render(T[None], camera.K, camera.size[::-1])
    image = np.ascontiguousarray(np.asarray(rendered.rgb)[0])
    beside = T.copy()
    beside[:2, 3] += 0.013, 0.007

    def agreement(T) -> float:
        picture = agreement_picture(estimator, image, camera, name, T)
        edges = tiles(picture, 3, 224)[2].astype(int)
        seen, both = edges[..., 0] > 128, edges.min(axis=-1) > 128
        return float((both & seen).sum() / seen.sum())

    assert agreement(T) > 0.95
    assert agreement(beside) < 0.75
