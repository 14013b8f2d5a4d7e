"""The simulated depth camera, and the command that adds its depth to a set: what it does to true depth, and no more."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.dataset import SENSOR_DEPTH, BopDataset
from benchmarks.datasets.make_dataset.add_depth import add_depth, main, sensor_rng
from benchmarks.datasets.make_dataset.depth_sensor import SensorOptions, measure
from tests.benchmarks.bop import scene_of, write_dataset

K = np.array([[300.0, 0.0, 99.5], [0.0, 300.0, 74.5], [0.0, 0.0, 1.0]])
PLAIN = SensorOptions(dropouts=0.0)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_the_same_seed_is_the_same_depth():
    depth = np.full((150, 200), 0.8)
    np.testing.assert_array_equal(measure(depth, K, rng(1)), measure(depth, K, rng(1)))
    assert (measure(depth, K, rng(1)) != measure(depth, K, rng(2))).any()


def test_noise_grows_with_the_square_of_the_distance():
    spread = []
    for z in (0.5, 1.0, 2.0):
        found = measure(np.full((150, 200), z), K, rng(), PLAIN)
        assert (found[3:-3, 3:-3] > 0).all()
        spread.append(np.std(found[found > 0] - z))
        assert abs(np.mean(found[found > 0]) - z) < 0.1 * spread[-1] + 0.0005
    np.testing.assert_allclose(np.divide(spread[1:], spread[:-1]), 4.0, rtol=0.3)
    assert spread[1] == pytest.approx(PLAIN.noise, rel=0.2)


def test_values_come_in_steps():
    found = measure(np.full((150, 200), 0.8), K, rng(), PLAIN)
    np.testing.assert_allclose(found / PLAIN.resolution, np.rint(found / PLAIN.resolution), atol=1e-3)


def test_nothing_comes_back_from_grazing_surfaces_edges_and_shadows():
    u = np.arange(200.0)
    grazing = np.tile(0.3 / (0.35 - (u - 99.5) / 300.0), (150, 1))  # a wall seen at an angle that grows to the right
    found = measure(grazing, K, rng(), PLAIN)
    assert (found[5:-5, 20:60] > 0).mean() > 0.9
    assert (found[5:-5, 194:198] > 0).mean() < 0.5
    step = np.where(np.arange(200) < 100, 1.5, 0.7) * np.ones((150, 1))
    found = measure(step, K, rng(), PLAIN)
    assert (found[:, 92:99] > 0).mean() < 0.3  # left of what is nearer: its shadow
    assert (found[5:-5, 110:190] > 0).mean() > 0.99
    assert (found[5:-5, 10:80] > 0).mean() > 0.99
    flying = (found > 0.75) & (found < 1.4)
    assert 0 < flying.sum() < 0.02 * found.size


def test_what_is_not_there_is_not_measured():
    depth = np.zeros((150, 200))
    assert not measure(depth, K, rng()).any()
    depth[40:100, 40:120] = 0.9
    assert not measure(depth, K, rng())[depth == 0].any()


def test_the_command_adds_depth_beside_the_true_one(tmp_path, capsys):
    root = tmp_path / "set"
    write_dataset(root, {(1, 0): scene_of(0), (1, 3): scene_of(1)}, depth=True)
    dataset = BopDataset(root)
    assert add_depth(dataset, seed=3) == len(dataset.images)
    scene, image = dataset.images[0]
    wanted = measure(dataset.depth(scene, image), dataset.camera(scene, image).K, sensor_rng(3, scene, image))
    found = dataset.depth(scene, image, folder=SENSOR_DEPTH)
    np.testing.assert_allclose(found, wanted, atol=0.51e-3 * dataset.depth_scale(scene, image))
    main([str(root)])
    assert f"{len(dataset.images)} depth images in {SENSOR_DEPTH}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no such folder"):
        main([str(tmp_path / "none")])
