"""Light against closed forms: Lambert, Blinn, shadows, backgrounds; and its random draws against what is stated."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from coop_edge.geometry import se3
from coop_edge.render.cpu import CpuRenderer
from export.data import light
from export.data.geometry import Random
from export.data.light import LIGHTS, Lighting, draw_lighting, photograph
from export.data.render_cpu import HostRenderer
from export.data.scenes import Scenes, SceneViews, look
from tests.export.data.cases import (
    CPU,
    box,
    box_crops,
    draw,
    facing,
    generator_of,
    one,
    scene_of,
    stock_of,
    tensors,
    things,
)

N = 64
GREY = (200 / 255) ** 2.2
BEHIND = (50 / 255) ** 2.2


def lighting(**change) -> Lighting:
    """One light from the right, before the scene."""
    direction, color = np.zeros((1, LIGHTS, 3)), np.zeros((1, LIGHTS, 3))
    direction[:, 1:, 2] = -1
    direction[0, 0], color[0, 0] = (0.6, 0.0, -0.8), (0.5, 0.4, 0.3)
    values = {
        "ambient": np.full((1, 3), 0.3), "sky": np.zeros((1, 3)), "up": np.array([[0.0, -1.0, 0.0]]),
        "direction": direction, "color": color, "gloss": np.zeros((1, 3)), "shininess": np.full((1, 3), 10.0),
        "shadow": np.zeros(1), "ground": np.array([[0, 0, -1.0, -1.1]]),
    }  # fmt: skip
    return Lighting(**{k: torch.from_numpy(np.asarray(v, float)) for k, v in {**values, **change}.items()})


def view_of(stock, scene: Scenes, margin: float = 1.5) -> SceneViews:
    R, K = box_crops(stock, scene, N, margin)
    return look(HostRenderer(stock), scene.items, R, K, N)


def lit_box(made: Lighting, R: np.ndarray = np.eye(3)) -> tuple[np.ndarray, np.ndarray]:  # noqa: B008
    """A box that shows one face to the camera, lit: linear light [N,N,3], and where it is."""
    thing = box((0.1, 0.1, 0.02))
    stock = stock_of([thing])
    scene = scene_of(stock, [(0, facing(thing, R, 1.0), 1.0)])
    views = view_of(stock, scene)
    background = torch.full((1, 3, N, N), BEHIND)
    return photograph(stock, scene, views, made, background)[0].permute(1, 2, 0).numpy(), views.seen.item[0].numpy()


def test_lambert_shading_of_a_face():
    """albedo (ambient + color n . l), with n . l = 0.8."""
    image, _ = lit_box(lighting())
    np.testing.assert_allclose(image[32, 32], GREY * (0.3 + 0.8 * np.array([0.5, 0.4, 0.3])), rtol=1e-4)
    np.testing.assert_allclose(image[2, 2], BEHIND, rtol=1e-5)


def test_sky_lights_what_faces_up():
    """The face's normal (0, sin a, -cos a) and up = (0, -1, 0): the sky adds (1 + n . up) / 2 of itself."""
    dark = {"ambient": np.zeros((1, 3)), "color": np.zeros((1, LIGHTS, 3)), "sky": np.full((1, 3), 0.6)}
    for angle in (-0.5, 0.0, 0.6):
        image, _ = lit_box(lighting(**dark), se3.so3_exp([angle, 0.0, 0.0]))
        assert image[32, 32, 0] == pytest.approx(GREY * 0.6 * 0.5 * (1 - np.sin(angle)), rel=1e-3)


def test_a_highlight_adds_light_and_is_strongest_in_the_mirror_direction():
    direction, color = np.zeros((1, LIGHTS, 3)), np.zeros((1, LIGHTS, 3))
    direction[..., 2], color[0, 0] = -1.0, 0.5
    mirror = {"direction": direction, "color": color}
    glossy, item = lit_box(lighting(gloss=np.full((1, 3), 0.5), **mirror))
    matt, _ = lit_box(lighting(**mirror))
    on = item == 0
    gain = (glossy - matt)[..., 0]
    assert (gain[on] > 0).all()
    assert gain[32, 32] == pytest.approx(0.5 * 0.5, rel=0.01)
    assert gain[on].max() <= 0.25 * 1.001
    assert not gain[~on].any()


def test_a_shadow_falls_on_the_ground_away_from_the_light():
    """The light comes from the right: the ground left of the box is darker than right of it."""
    image, item = lit_box(lighting(shadow=np.ones(1)))
    free, _ = lit_box(lighting())
    dark = (image / free)[..., 0]
    off = item < 0
    assert dark[off].min() < 0.6
    left, right = dark[:, :32][off[:, :32]], dark[:, 32:][off[:, 32:]]
    assert left.mean() < right.mean() - 0.02
    assert (dark <= 1.0001).all()


def test_nothing_is_seen_beyond_the_edge_of_the_photograph():
    thing = box((0.1, 0.1, 0.02))
    stock = stock_of([thing])
    scene = scene_of(stock, [(0, facing(thing, np.eye(3), 1.0), 1.0)], edge=(1.0, 0.0, 0.0))
    image = photograph(stock, scene, view_of(stock, scene), lighting(), torch.full((1, 3, N, N), BEHIND))
    assert not image[..., :31].any()
    assert (image[..., 33:] > 0).all()


def test_light_of_random_scenes_pixel_by_pixel():
    """Diffuse light and highlights, by the formulas in the base camera's axes, in float64, one pixel after the other.

    At pixels of even row and column, where light is worked out; without shadows.
    """
    stock = stock_of(things(8))
    scene, _ = draw(stock, 3, 12)
    R, K = box_crops(stock, scene, N, 1.2)
    views = look(HostRenderer(stock), scene.items, R, K, N)
    lighting = replace(draw_lighting(Random(CPU, 4), scene, one(12)), shadow=torch.zeros(12).double())
    found, dark = light._light(stock, scene, views, lighting)
    assert not dark.any()
    assert int((lighting.gloss > 0).sum()) > 5
    rng = np.random.default_rng(0)
    item = views.seen.item[:, ::2, ::2].numpy()
    assert not found.permute(0, 2, 3, 1)[item < 0].any()
    for i, v, u in rng.permutation(np.argwhere(item >= 0))[:300]:
        wanted = light_at(stock, scene, views, lighting, i, 2 * v, 2 * u)
        np.testing.assert_allclose(found[i, :, v, u], wanted, rtol=1e-3, atol=1e-4)


def light_at(stock, scene, views, lighting, i, v, u) -> np.ndarray:
    """Diffuse light (three) and highlight of a pixel."""
    place = int(views.seen.item[i, v, u])
    thing = stock.things[int(scene.items.slot[i, place])]
    T, scale = scene.items.T[i, place].numpy(), float(scene.items.scale[i, place])
    ray = views.R[i].numpy().T @ np.linalg.inv(views.K[i].numpy()) @ [u, v, 1.0]
    at = ray * float(views.seen.depth[i, v, u]) / scale  # base camera, the object's metres
    x = T[:3, :3].T @ (at - T[:3, 3]) - thing.mesh.centre
    face = int(views.seen.triangle[i, v, u])
    n = T[:3, :3] @ (thing.normal_map[face, :, :3] @ x + thing.normal_map[face, :, 3])
    n /= np.linalg.norm(n)
    eye = -ray / np.linalg.norm(ray)
    if T[:3, :3] @ thing.face_normals[face] @ eye < 0:
        n = -n
    values = {name: getattr(lighting, name)[i].numpy() for name in vars(lighting)}
    diffuse = values["ambient"] + values["sky"] * (1 + n @ values["up"]) / 2
    gleam = 0.0
    for direction, color in zip(values["direction"], values["color"], strict=True):
        diffuse = diffuse + color * max(n @ direction, 0.0)
        half = (eye + direction) / np.linalg.norm(eye + direction)
        if n @ direction > 0:
            gleam += np.clip(n @ half, 0, 1) ** values["shininess"][place] * color.mean()
    return np.append(diffuse, values["gloss"][place] * gleam)


def test_lights_are_drawn_as_stated():
    """Ambient, sky and lights make up about 1 on a surface that faces them all; one to three lights."""
    stock = stock_of(things(3))
    scene, _ = draw(stock, 1, 400, hardness=0.0)
    drawn = draw_lighting(Random(CPU, 1), scene, one(400))
    lights = (drawn.color.sum(dim=2) > 0).sum(dim=1)
    assert [0.25 < float((lights == k).double().mean()) < 0.42 for k in (1, 2, 3)] == [True] * 3
    brightness = drawn.color.mean(dim=2)
    assert (brightness[:, :-1] >= brightness[:, 1:]).all()
    total = drawn.ambient.mean(dim=1) + 0.5 * drawn.sky.mean(dim=1) + brightness.sum(dim=1) / 1.4
    assert total.log().mean() == pytest.approx(0.05, abs=0.05)
    assert total.log().std() == pytest.approx(0.25, abs=0.04)
    assert 0.42 < float((drawn.gloss > 0).double().mean()) < 0.58
    assert 0.55 < float((drawn.shadow > 0).double().mean()) < 0.75
    for name in ("up", "direction"):
        np.testing.assert_allclose(getattr(drawn, name).norm(dim=-1), 1.0, atol=1e-9)
    assert (drawn.ground[:, :3] * scene.centre).sum(dim=1).lt(0).double().mean() > 0.8  # faces the camera
    easy = draw_lighting(Random(CPU, 1), scene, 0 * one(400))
    assert not easy.gloss.any()
    assert not easy.shadow.any()
    np.testing.assert_array_equal(easy.direction[:, 0], torch.tensor([0.0, 0, -1]).expand(400, 3))


def test_easy_photographs_look_as_the_renderer_draws():
    """Same pose, same virtual camera: inside the silhouette the two images hardly differ; hard ones do."""
    stock = stock_of(things(8), backgrounds=1)
    generator = generator_of(stock, N, 4)
    scene, _ = draw(stock, 4, 16, hardness=0.0)
    scene = replace(scene, items=scene.items.only(torch.arange(3) == 0))
    R, K = box_crops(stock, scene, N, 1.2)
    T = poses_in(R, scene.items.T[:, 0])
    gaps: dict[float, list[float]] = {0.0: [], 1.0: []}
    for hardness, kept in gaps.items():
        images = generator.query_images(scene, R, K, hardness * one(16)).numpy()
        for i, slot in enumerate(scene.items.slot[:, 0].tolist()):
            seen = CpuRenderer(stock.things[slot].mesh, supersample=3).render(T[[i]], K[i].numpy(), N)
            inside = cv2.erode(seen.mask[0].astype(np.uint8), np.ones((5, 5))) > 0
            kept.append(np.abs(images[i].astype(float) - seen.rgb[0])[inside].mean())
    assert np.median(gaps[0.0]) < 12
    assert np.median(gaps[1.0]) > 2 * np.median(gaps[0.0])


def poses_in(R: Tensor, T: Tensor) -> np.ndarray:
    return se3.from_rt(R.numpy(), np.zeros((len(R), 3))) @ T.numpy()


def test_no_scenes():
    stock = stock_of(things(1))
    scene, _ = draw(stock, 0, 0)
    views = look(HostRenderer(stock), scene.items, *tensors(np.zeros((0, 3, 3)), np.zeros((0, 3, 3))), N)
    image = photograph(stock, scene, views, draw_lighting(Random(CPU), scene, one(0)), torch.zeros(0, 3, N, N))
    assert image.shape == (0, 3, N, N)
