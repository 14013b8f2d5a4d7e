"""Appearance: colours change, places do not."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from benchmarks.meshes import grey_box
from coop_edge.geometry import se3
from coop_edge.geometry.crop import crop_camera
from export.data import augment, objects, scenes, scenes_light, textures
from export.data.objects import TrainingObject
from export.data.scenes import BASE_K, Item, Scene


def test_camera_gives_bytes_and_repeats_itself():
    light = np.random.default_rng(0).random((64, 64, 3), np.float32)
    for seed in range(30):
        a, b = (augment.camera(np.random.default_rng(seed), light.copy()) for _ in range(2))
        assert a.dtype == np.uint8
        assert a.shape == (64, 64, 3)
        np.testing.assert_array_equal(a, b)


def test_camera_takes_any_light_there_can_be():
    for value in (0.0, 1e-9, 1e4):
        picture = augment.camera(np.random.default_rng(1), np.full((32, 32, 3), value, np.float32))
        assert picture.shape == (32, 32, 3)


def test_camera_does_not_move_the_picture():
    """The centroid of a bright spot stays where it is, over all kinds of blur, to within what rounding and noise do."""
    n = 65
    x = np.arange(n)
    spot = np.exp(-((x - 40) ** 2) / 8)[None, :] * np.exp(-((x - 25) ** 2) / 8)[:, None]
    light = np.repeat(spot[..., None], 3, axis=2).astype(np.float32)
    shifts = []
    for seed in range(60):
        picture = augment.camera(np.random.default_rng(seed), light.copy()).astype(float).sum(axis=2)
        weight = np.clip(picture - np.median(picture) - 0.4 * np.ptp(picture), 0, None)
        total = weight.sum()
        shifts.append([(weight.sum(axis=0) * x).sum() / total - 40, (weight.sum(axis=1) * x).sum() / total - 25])
    assert np.abs(np.median(shifts, axis=0)).max() < 0.05
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15
    assert np.abs(shifts).max() < 1.0


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.2, 3.0])
def test_motion_blur_is_centred(angle):
    kernel = augment._motion(5.0, angle)
    side = len(kernel)
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    assert abs(kernel.sum() - 1) < 1e-6
    assert abs((kernel * x).sum()) < 1e-6
    assert abs((kernel * y).sum()) < 1e-6


def test_color_matrix():
    np.testing.assert_allclose(augment.color_matrix(0.0, 1.0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(augment.color_matrix(2 * np.pi, 1.0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(augment.color_matrix(1.1, 0.4) @ np.ones(3), np.ones(3), atol=1e-12)
    np.testing.assert_allclose(augment.color_matrix(2 * np.pi / 3, 1.0) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    grey = augment.color_matrix(0.0, 0.0) @ [0.2, 0.7, 0.1]
    assert np.ptp(grey) < 1e-12


def test_noise_has_the_strength_asked_for():
    for n in (32, 700):
        noise = augment._noise(np.random.default_rng(0), n, 0.05)
        assert noise.shape[:2] == (n, n)
        assert abs(noise.std() - 0.05) < 0.005


def test_share_of_plain_templates():
    rng = np.random.default_rng(0)
    looks = [augment.draw_look(rng) for _ in range(1500)]
    plain = [look for look in looks if look.plain]
    assert abs(len(plain) / 1500 - 0.2) < 0.04
    for look in plain:
        assert look.matrix[0, 0] * 255 == pytest.approx(np.diag(look.matrix * 255).mean())
        assert 100 <= look.matrix[0, 0] * 255 <= 235
    assert abs(np.mean([look.supersample == 3 for look in looks]) - 0.5) < 0.05


def test_a_plain_template_shows_light_alone():
    rng = np.random.default_rng(3)
    while not (look := augment.draw_look(rng)).plain:
        pass
    thing = objects.procedural(np.random.default_rng(5), "train")
    item = scenes.place(thing, rng)
    crop = crop_camera(BASE_K, scenes.amodal_box(item), 64)
    image, seen = look.render(thing, crop.to_crop(item.T[None])[0], crop.K[0], 64)
    assert (image[..., 0] == image[..., 1]).all()
    assert image[seen.mask[0]].any()
    beyond = cv2.dilate(seen.mask[0].astype(np.uint8), np.ones((3, 3))) == 0
    assert beyond.any()
    assert not image[beyond].any()


def lit_box(lighting: scenes_light.Lighting, n: int = 64) -> tuple[np.ndarray, scenes.View]:
    """A box that shows one face to the camera, lit."""
    box = grey_box((0.1, 0.1, 0.02))
    thing = TrainingObject(box, np.zeros((1, 3)), box.diameter)
    scene = Scene((Item(thing, se3.from_rt(np.eye(3), [0, 0, 1.0])),))
    crop = crop_camera(BASE_K, scenes.amodal_box(scene.target), n, margin=1.5)
    view = scenes.look(scene, crop.R_crop_camera[0], crop.K[0], n)
    return scenes_light.photograph(scene, view, lighting, np.full((n, n, 3), 50, np.uint8)), view


def lighting(**change) -> scenes_light.Lighting:
    values = {
        "ambient": np.full(3, 0.3), "sky": np.zeros(3), "up": np.array([0.0, -1.0, 0.0]), "lights": (),
        "gloss": np.zeros(1), "shininess": np.full(1, 10.0), "shadow": 0.0, "ground": np.array([0, 0, -1.0, -1.1]),
    }  # fmt: skip
    direction = np.array([0.6, 0.0, -0.8])
    values["lights"] = (scenes_light.Light(direction, np.array([0.5, 0.4, 0.3])),)
    return scenes_light.Lighting(**{**values, **change})


def test_lambert_shading_of_a_face():
    """albedo (ambient + color n . l), with n . l = 0.8."""
    image, view = lit_box(lighting())
    inner = view.item == 0
    inner[1:] &= inner[:-1]
    inner[:, 1:] &= inner[:, :-1]
    albedo = (200 / 255) ** 2.2
    np.testing.assert_allclose(image[32, 32], albedo * (0.3 + 0.8 * np.array([0.5, 0.4, 0.3])), rtol=1e-4)
    np.testing.assert_allclose(image[2, 2], (50 / 255) ** 2.2, rtol=1e-5)


def test_a_highlight_adds_light_and_is_strongest_in_the_mirror_direction():
    plain, view = lit_box(lighting())
    mirror = (scenes_light.Light(np.array([0.0, 0.0, -1.0]), np.full(3, 0.5)),)
    glossy, _ = lit_box(lighting(gloss=np.full(1, 0.5), lights=mirror))
    matt, _ = lit_box(lighting(lights=mirror))
    on = view.item == 0
    gain = (glossy - matt)[..., 0]
    assert (gain[on] > 0).all()
    assert gain[32, 32] == pytest.approx(0.5 * 0.5, rel=0.01)
    assert gain[on].max() <= 0.25 * 1.001
    assert not gain[~on].any()
    assert (plain[on] > 0).all()


def test_a_shadow_falls_on_the_ground_away_from_the_light():
    """The light comes from the right: the ground left of the box is darker than right of it."""
    image, view = lit_box(lighting(shadow=1.0))
    free, _ = lit_box(lighting())
    dark = (image / free)[..., 0]
    off = view.item < 0
    assert dark[off].min() < 0.6
    left, right = dark[:, :32][off[:, :32]], dark[:, 32:][off[:, 32:]]
    assert left.mean() < right.mean() - 0.02
    assert (dark <= 1.0001).all()


@pytest.mark.parametrize("size", [32, 128])
def test_textures_and_backgrounds(size):
    seen = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        for image in (textures.texture(rng, size, "train"), textures.background(rng, size, "train")):
            assert image.dtype == np.uint8
            assert image.shape == (size, size, 3)
            assert image.flags.c_contiguous
            seen.add(image.tobytes())
    assert len(seen) == 120


def test_everything_works_without_photographs(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert textures.photo_crop(rng, 32, "train", str(tmp_path)).shape == (32, 32, 3)
