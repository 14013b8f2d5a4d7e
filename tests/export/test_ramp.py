"""Hardness: what easy pairs leave out, how pairs become hard along the ramp, and start poses between iterations."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.render.cpu import CpuRenderer
from coop_edge.templates.viewpoints import VIEWPOINTS
from export.data import augment, data, objects, pairs, pairs_refiner, scenes
from export.data.data import BLOCK, HALFWAY_SHARE, VIEWS, Recipe, make_stream

SIZE = 48
T = (SIZE // 16) ** 2


@pytest.fixture(scope="module")
def things() -> list[objects.TrainingObject]:
    return [objects.procedural(np.random.default_rng(i), "train") for i in range(8)]


def test_easy_scenes_show_the_whole_target(things):
    rng = np.random.default_rng(2)
    for _ in range(60):
        scene = scenes.draw_scene(rng, things, hardness=0.0)
        assert scene.edge is None
        assert scenes.visible_share(scene) == 1.0


def test_easy_templates_are_the_nearest_and_keep_the_models_colours(things):
    rng = np.random.default_rng(3)
    for _ in range(200):
        assert not augment.draw_look(rng, hardness=0.0).plain
        item = scenes.place(things[0], rng)
        pose, _ = pairs.template_view(rng, item, SIZE, hardness=0.0)
        towards = -item.T[:3, :3].T @ scenes.centre_of(item)
        nearest = np.sort(VIEWPOINTS @ (towards / np.linalg.norm(towards)))[-1]
        seen_from = pose[:3, :3].T @ np.array([0.0, 0.0, -1.0])
        angle = np.degrees(np.arccos(seen_from @ towards / np.linalg.norm(towards)))
        assert angle < np.degrees(np.arccos(nearest)) + 25  # the template's own small turn


def test_a_perfect_camera_only_applies_gamma():
    light = np.random.default_rng(0).uniform(0, 1, (16, 16, 3)).astype(np.float32)
    picture = augment.camera(np.random.default_rng(1), light.copy(), hardness=0.0)
    assert picture.dtype == np.uint8
    np.testing.assert_allclose(picture / 255.0, light ** (1 / augment.GAMMA), atol=0.5 / 255 + 1e-4)


def test_easy_photographs_look_as_the_renderer_draws(things):
    """Same pose, same virtual camera: inside the silhouette the two images hardly differ; hard ones do."""
    rng = np.random.default_rng(4)
    stock = pairs.Stock(things, [np.full((64, 64, 3), 255, np.uint8)])
    gaps: dict[float, list[float]] = {0.0: [], 1.0: []}
    for thing in things:
        scene = scenes.Scene((scenes.place(thing, rng),))
        crop = scenes.crop_of(rng, scene, 64)
        R, K = crop.R_crop_camera[0], crop.K[0]
        T = se3.from_rt(R, np.zeros(3)) @ scene.target.T
        seen = CpuRenderer(thing.mesh, supersample=3).render(T[None], K, 64)
        inside = cv2.erode(seen.mask[0].astype(np.uint8), np.ones((5, 5))) > 0
        for hardness, kept in gaps.items():
            image = pairs.query_image(rng, scene, R, K, 64, stock, hardness)
            kept.append(np.abs(image.astype(float) - seen.rgb[0])[inside].mean())
    assert np.median(gaps[0.0]) < 12
    assert np.median(gaps[1.0]) > 2 * np.median(gaps[0.0])


def test_hardness_rises_along_the_ramp():
    recipe = Recipe("coarse", SIZE, 0, "train", None, None, False, hardness=1.0, ramp=1000)
    assert [recipe.hardness_of(i) for i in (0, 250, 1000, 9999)] == [0.0, 0.25, 1.0, 1.0]
    assert Recipe("coarse", SIZE, 0, "train", None, None, False, hardness=0.5).hardness_of(0) == 0.5


def test_a_stream_becomes_harder():
    """More patches have a match while whole objects are seen from near by."""
    shares = {}
    for name, options in (("easy", {"hardness": 0.0}), ("ramp", {"ramp": 10**9}), ("hard", {})):
        with make_stream("coarse", SIZE, batch_size=120, workers=0, seed=0, **options) as stream:
            shares[name] = (next(stream).match_index == T).mean()
    assert shares["easy"] < shares["hard"] - 0.04
    assert shares["ramp"] < shares["hard"] - 0.04


def test_samples_do_not_depend_on_where_a_ramp_stream_starts():
    options = {"batch_size": 4, "workers": 0, "seed": 1, "ramp": 60}
    with make_stream("coarse", SIZE, **options) as stream:
        whole = [next(stream) for _ in range(4)]
    with make_stream("coarse", SIZE, start=8, **options) as stream:
        later = next(stream)
    np.testing.assert_array_equal(later.query, whole[2].query)


def test_refiner_starts_halfway_in_training_alone(things):
    """Of METHOD's noise in full on held-out pairs; of most training pairs it is a part."""
    stock = pairs.Stock(things, [np.zeros((64, 64, 3), np.uint8)])
    angles = {}
    for halfway in (0.0, 1.0):
        drawn = [pairs_refiner.refiner_pair(np.random.default_rng(i), stock, SIZE, 0.0, halfway)[0] for i in range(60)]
        angles[halfway] = [float(se3.rotation_angle(b.T_init[0, :3, :3], b.T_true[0, :3, :3])) for b in drawn]
    ratio = np.mean(np.square(angles[1.0])) / np.mean(np.square(angles[0.0]))
    assert 0.08 < ratio < 0.4  # the mean square of a uniform number's square is a fifth
    nothing = pairs_refiner.start_pose(np.random.default_rng(0), scenes.place(things[0], np.random.default_rng(0)), 0.0)
    np.testing.assert_allclose(nothing, scenes.place(things[0], np.random.default_rng(0)).T, atol=1e-9)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_photograph_in_training_is_seen_from_two_start_poses(split):
    """The same object at the same pose, in crops aimed by different start poses; held-out pairs are all their own."""
    with make_stream("refiner", SIZE, batch_size=8, workers=0, seed=1, split=split, hardness=0.0, ramp=0) as stream:
        batch = next(stream)
    centred = np.linalg.norm(batch.T_true[:, :3, 3], axis=1)  # crops turn the camera, they do not move it
    same = [
        batch.diameter[i] == batch.diameter[i + 1]
        and np.isclose(centred[i], centred[i + 1], rtol=1e-9)
        and not np.array_equal(batch.T_init[i], batch.T_init[i + 1])
        for i in range(7)
    ]
    assert same == ([True, False] * 4)[:7] if split == "train" else not any(same)


@pytest.mark.parametrize("views", [1, VIEWS, 3, BLOCK])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_as_many_pairs_start_nearer_however_many_share_a_photograph(split, views, monkeypatch):
    """All but a photograph's first, and of the firsts as many as are left to draw; no photograph outlives its block."""
    photographs, firsts, nearer = [], [], []

    def first(rng, stock, size, hardness, halfway):
        photographs.append(object())
        firsts.append(len(nearer))
        nearer.append(rng.random() < halfway)
        return nearer[-1], photographs[-1]

    def again(rng, record):
        assert record is photographs[-1]
        nearer.append(True)
        return True

    monkeypatch.setattr(pairs_refiner, "refiner_pair", first)
    monkeypatch.setattr(pairs_refiner, "again", again)
    monkeypatch.setattr(data, "stack", list)
    monkeypatch.setattr(data, "VIEWS", views)
    artist = Recipe("refiner", SIZE, 0, split, None, None, False).artist()
    monkeypatch.setattr(artist, "_stock", lambda block: None)
    blocks = 500
    for block in range(blocks):
        artist(block)
    if split == "heldout":
        assert (len(photographs), sum(nearer)) == (BLOCK * blocks, 0)
        return
    assert len(photographs) == blocks * -(-BLOCK // views)
    assert [i % BLOCK for i in firsts[: len(firsts) // blocks]] == list(range(0, BLOCK, views))
    assert np.mean(nearer) == pytest.approx(HALFWAY_SHARE, abs=0.03)


@pytest.mark.parametrize("change", [{"hardness": 1.5}, {"hardness": -0.1}, {"hardness": float("nan")}, {"ramp": -1}])
def test_arguments_are_checked(change):
    with pytest.raises(InputError, match=next(iter(change))):
        make_stream("coarse", SIZE, batch_size=1, workers=0, seed=0, **change)
