"""The Estimator with measured depth: what it takes and refuses, what it makes of it, and what stays as it was."""

from __future__ import annotations

import re

import numpy as np
import pytest

from coop_edge import EstimatorConfig, InputError, PoseEstimate
from coop_edge.geometry import se3
from tests.estimators import AS_REFINED, SMALL, TINY, error_px, knowing, tiny_scene
from tests.estimators_gpu import assert_same, cupy, gpu  # noqa: F401
from tests.stages.oracles import Faults
from tests.stages.scene import Placed, Scene, at, colored_box

WALL = 1.3
"""Distance of what is behind the objects, metres."""
CUBE = colored_box((0.1, 0.1, 0.1), name="cube")
BAR = colored_box((0.16, 0.06, 0.05), name="bar", centre=(0.01, 0.02, -0.03), seed=1)
DIAMETER = {"cube": np.sqrt(3) * 0.1, "bar": np.linalg.norm((0.16, 0.06, 0.05))}


def depth_of(scene: Scene) -> np.ndarray:
    """What a perfect sensor measures: the objects, and a wall behind them."""
    width, height = scene.camera.size
    seen, who, _ = scene.depths(np.eye(3), scene.camera.K, (height, width))
    return np.where(who >= 0, seen, WALL).astype(np.float32)


def bits(results: list[PoseEstimate]) -> list[tuple]:
    return [(r.success, r.score, None if r.T_camera_object is None else r.T_camera_object.tobytes()) for r in results]


@pytest.fixture(scope="module")
def table():
    return Scene(
        (CUBE, BAR),
        (
            Placed(0, at(-0.1, 0.03, 0.7, (0.5, 0.7, -0.3))),
            Placed(1, at(0.15, -0.1, 0.8, (2.0, -0.4, 0.9), BAR.centre)),
            Placed(1, at(-0.06, 0.06, 0.55, (0.0, 0.0, 0.7), BAR.centre)),
        ),
        SMALL,
    )


@pytest.fixture(scope="module")
def exact(table, tmp_path_factory):
    with knowing(tmp_path_factory.mktemp("exact"), table, config=AS_REFINED) as found:
        yield found


@pytest.fixture(scope="module")
def rgb(exact, table):
    return exact[0].estimate(table.image, table.camera, table.detections())


def assert_right(found: list[PoseEstimate], table: Scene) -> None:
    """Every pose is right to a five hundredth of the diameter, by depth."""
    for i, result in enumerate(found):
        assert result.success, result.reason
        assert result.used_depth
        gap = result.T_camera_object[:3, 3] - table.placed[i].T[:3, 3]
        assert np.linalg.norm(gap) < 0.002 * DIAMETER[result.object]


def test_perfect_depth_and_exact_networks_leave_a_five_hundredth_of_the_diameter(exact, table, rgb):
    assert_right(exact[0].estimate(table.image, table.camera, table.detections(), depth_of(table)), table)
    assert not any(result.used_depth for result in rgb)


def test_so_they_do_with_the_outline_whose_colours_mislead(table, tmp_path):
    """Edges within the boxes and before each other move the pose without depth by pixels; surfaces hold it."""
    with knowing(tmp_path, table) as (estimator, _):
        assert_right(estimator.estimate(table.image, table.camera, table.detections(), depth_of(table)), table)


def test_depth_finds_the_distance_that_networks_miss(table, tmp_path):
    """Flow with a common stretch about the crop's middle is a wrong distance, which nothing in the image corrects."""
    faults = Faults(flow_noise=2.0, match_noise=0.1)
    with knowing(tmp_path, table, faults=faults, config=AS_REFINED) as (estimator, _):
        blind = estimator.estimate(table.image, table.camera, table.detections())
        seeing = estimator.estimate(table.image, table.camera, table.detections(), depth_of(table))
    along = [[abs((r.T_camera_object - p.T)[2, 3]) for r, p in zip(found, table.placed, strict=True)]
             for found in (blind, seeing)]  # fmt: skip
    assert np.max(along[1]) < 0.5 * np.max(along[0])


def test_integers_with_their_unit_are_metres(exact, table):
    depth = depth_of(table)
    steps = np.rint(depth * 1e4).astype(np.uint16)
    wanted = exact[0].estimate(
        table.image, table.camera, table.detections(), steps.astype(np.float32) * np.float32(1e-4)
    )
    found = exact[0].estimate(table.image, table.camera, table.detections(), steps, depth_unit=1e-4)
    assert bits(found) == bits(wanted)
    millimetres = np.rint(depth * 1e3).astype(np.uint16)
    for result in exact[0].estimate(table.image, table.camera, table.detections(), millimetres, depth_unit="mm"):
        assert result.used_depth


def test_where_nothing_is_known_the_image_alone_counts_to_the_last_bit(exact, table, rgb):
    depth = depth_of(table)
    x, y, width, height = (int(side) for side in table.box(1))
    depth[max(y - 40, 0) : y + height + 40, max(x - 40, 0) : x + width + 40] = np.nan
    found = exact[0].estimate(table.image, table.camera, table.detections()[1:2], depth)
    assert not found[0].used_depth
    alone = exact[0].estimate(table.image, table.camera, table.detections()[1:2])
    assert bits(found) == bits(alone)


def test_depth_of_one_object_does_not_bear_on_another(exact, table):
    depth, detections = depth_of(table), table.detections()
    together = exact[0].estimate(table.image, table.camera, detections, depth)
    assert exact[0].estimate(table.image, table.camera, [], depth) == []
    for i, detection in enumerate(detections):
        alone = exact[0].estimate(table.image, table.camera, [detection], depth)
        np.testing.assert_allclose(alone[0].T_camera_object, together[i].T_camera_object, atol=1e-6)


def test_tracking_uses_depth(exact, table, rgb):
    estimator, _ = exact
    moved = [PoseEstimate(True, T_camera_object=se3.exp((0, 0, 0.02, 0, 0, 0)) @ r.T_camera_object, object=r.object)
             for r in rgb]  # fmt: skip
    tracked = estimator.track(table.image, table.camera, moved, depth_of(table))
    for i, result in enumerate(tracked):
        assert result.success, result.reason
        assert result.used_depth
        gap = result.T_camera_object[:3, 3] - table.placed[i].T[:3, 3]
        assert np.linalg.norm(gap) < 0.005 * DIAMETER[result.object]
        assert error_px(result, table, i) < 1.0


def test_a_gpu_does_the_same(gpu, table, tmp_path):  # noqa: F811
    """Rendered, warped, compared and solved there; see ``test_estimator_gpu`` for why the outline is left out."""
    depth, detections = depth_of(table), table.detections()
    with knowing(tmp_path / "cpu", table, config=AS_REFINED) as (estimator, _):
        wanted = estimator.estimate(table.image, table.camera, detections, depth)
    with knowing(tmp_path / "cuda", table, config=AS_REFINED, device="cuda") as (estimator, _):
        found = estimator.estimate(table.image, table.camera, detections, gpu.asarray(depth))
        again = estimator.estimate(table.image, table.camera, detections, depth)
    assert bits(found) == bits(again)
    assert_same(found, wanted, radians=1e-4, metres=1e-5, score=0.02)


SCENE = tiny_scene()
HERE = PoseEstimate(True, T_camera_object=SCENE.placed[0].T, object="cube")


def tiny(value=0.5, dtype=np.float32, shape=(48, 64)):
    return np.full(shape, value, dtype)


class OnGpu:
    """Claims to be a depth image in a GPU's memory."""

    shape, dtype = (48, 64), np.dtype(np.float32)
    __cuda_array_interface__ = {"shape": shape, "typestr": "<f4", "data": (0, False), "version": 3}  # noqa: RUF012


WRONG = {
    "list": ([[0.5]], None, "depth: wanted an array float32 or uint16 [48,64], got list"),
    "transposed": (tiny(shape=(64, 48)), None, "depth: wanted [48,64] as the image, got [64, 48]; width and height"),
    "another camera's": (tiny(shape=(24, 32)), None, "got [24, 32]; depth must be registered to the colour image"),
    "an axis more": (tiny(shape=(48, 64, 1)), None, "got [48, 64, 1]; leave out the last axis: depth[..., 0]"),
    "uint8": (tiny(1, np.uint8), "mm", "depth: wanted dtype float32 or uint16, got uint8"),
    "int16": (tiny(500, np.int16), "mm", "got int16; int16 of positive values becomes uint16"),
    "no unit": (tiny(500, np.uint16), None, "depth_unit: wanted for depth of dtype uint16, got None"),
    "unknown unit": (tiny(500, np.uint16), "inch", "depth_unit: wanted 'm', 'cm', 'mm', or a positive number"),
    "no number": (tiny(500, np.uint16), -1.0, "or a positive number of metres per step, got -1.0"),
    "a unit alone": (None, "mm", "depth_unit: got 'mm' without depth"),
    "metres that are millimetres": (tiny(500.0), None, "is 500 m with metres, wanted 0.02 to 20 m; is the unit right?; "
                                    "'mm' would make it 0.5 m"),
    "millimetres that are metres": (tiny(0.5), "mm", "is 0.0005 m with depth_unit='mm', wanted 0.02 to 20 m"),
    "negative": (np.where(np.arange(64) == 3, np.float32(-0.5), tiny()), None, "wanted values of at least 0"),
    "nothing": (tiny(0.0), None, "depth: no pixel of it is known"),
    "NaN": (tiny(np.nan), None, "depth: no pixel of it is known"),
    "on a GPU": (OnGpu(), None, "depth: lies on a GPU, this Estimator runs on the CPU (asked for)"),
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    with knowing(tmp_path_factory.mktemp("small"), SCENE) as (estimator, _):
        yield estimator


@pytest.mark.parametrize(("depth", "unit", "says"), WRONG.values(), ids=list(WRONG))
def test_refuses(small, depth, unit, says):
    for call, items in ((small.estimate, SCENE.detections()), (small.estimate, []), (small.track, [HERE])):
        with pytest.raises(InputError, match=re.escape(says)):
            call(SCENE.image, TINY, items, depth, unit)


def test_infinity_and_a_few_known_pixels_are_no_faults(small):
    sparse = tiny(0.0)
    sparse[7, 11] = 0.5
    assert small.estimate(SCENE.image, TINY, [], sparse) == []
    assert small.estimate(SCENE.image, TINY, [], np.where(np.arange(64) > 3, np.float32(np.inf), tiny())) == []


def test_the_result_says_whether_depth_was_used():
    assert PoseEstimate(False, "nothing there").to_dict()["used_depth"] is False
    assert PoseEstimate(False, "nothing there", used_depth=np.True_).used_depth is True
    with pytest.raises(InputError, match=r"PoseEstimate\.used_depth: wanted True or False, got 1"):
        PoseEstimate(False, "nothing there", used_depth=1)


def test_options_of_the_sensor():
    config = EstimatorConfig.parse(["depth.noise=0.01", "depth.floor=0.002"])
    assert config["depth"] == {"noise": 0.01, "floor": 0.002}
    assert EstimatorConfig.from_dict(config).depth.noise == 0.01
