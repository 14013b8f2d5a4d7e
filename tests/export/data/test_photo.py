"""Photographs as tensors against OpenCV and against ``augment``, ``scenes_light`` and ``pairs``."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from export.data import augment, scenes, scenes_light
from export.data.device_geometry import Draw
from export.data.device_jpeg import jpeg
from export.data.device_light import LIGHTS, Lighting, photograph
from export.data.device_photo import (
    backdrops,
    blur_matrix,
    camera,
    color_matrix,
    draw_blur,
    draw_looks,
    motion_kernels,
    resolution_matrix,
)
from export.data.device_render import HostRasterizer
from export.data.device_scenes import look
from tests.export.device_cases import CPU, as_tensors, stock_of, tensors, things


def noise(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random((n, n, 3), np.float32)


def both_ways(matrix: torch.Tensor, image: np.ndarray) -> np.ndarray:
    channels = torch.from_numpy(image).permute(2, 0, 1)
    return (matrix @ channels @ matrix.mT).permute(1, 2, 0).numpy()


@pytest.mark.parametrize("size", [16, 33, 64])
@pytest.mark.parametrize("sigma", [0.2, 0.7, 1.7, 3.4])
def test_blur_is_opencvs(size, sigma):
    image = noise(size)
    found = both_ways(blur_matrix(size, torch.tensor([sigma, 0.5]), 3.4)[0], image)
    np.testing.assert_allclose(found, cv2.GaussianBlur(image, (0, 0), sigma), atol=2e-5)


@pytest.mark.parametrize(("size", "cells"), [(32, 13), (48, 47), (64, 32), (20, 20)])
def test_low_resolution_is_opencvs(size, cells):
    image = noise(size)
    small = cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA)
    wanted = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
    found = both_ways(resolution_matrix(size, torch.tensor([float(cells)]))[0], image)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_blur_keeps_brightness_and_place():
    """Every row of a blur sums to 1, and its centre of mass is its own pixel, off the borders."""
    size = 64
    matrix = draw_blur(Draw(CPU, 1), 60, size, 0.5)
    assert torch.isfinite(matrix).all()
    np.testing.assert_allclose(matrix.sum(dim=2), 1.0, atol=1e-5)
    at = torch.arange(float(size))
    centre = (matrix * at).sum(dim=2) - at
    assert centre[:, 24:40].mean(dim=1).abs().max() < 0.05


@pytest.mark.parametrize("unit", [0.5, 1.0, 1.75])
def test_motion_blur_is_that_of_single_pictures(unit):
    rng = np.random.default_rng(0)
    lengths, angles = unit * rng.uniform(2, 8, 20), rng.uniform(0, np.pi, 20)
    kernels = motion_kernels(*tensors(lengths, angles), unit * 8.0)
    np.testing.assert_allclose(kernels.sum(dim=(1, 2)), 1.0, atol=1e-6)
    for kernel, length, angle in zip(kernels.numpy(), lengths, angles, strict=True):
        wanted = augment._motion(length, angle)
        margin = (len(kernel) - len(wanted)) // 2
        np.testing.assert_allclose(kernel, np.pad(wanted, margin), atol=1e-6)


@pytest.mark.parametrize("size", [120, 128])
@pytest.mark.parametrize("quality", [25, 49, 50, 75, 95])
def test_jpeg_is_the_codecs(size, quality):
    """Pictures as OpenCV gives them back, but for coefficients at the edge of a step, which rounding may flip."""
    smooth = cv2.GaussianBlur(np.random.default_rng(quality).random((size, size, 3), np.float32), (0, 0), 2)
    picture = np.clip(255 * (2 * smooth - 0.5), 0, 255).astype(np.uint8)
    wanted = augment._jpeg(picture, quality).astype(int)
    found = jpeg(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), torch.tensor([quality]))
    found = found[0].permute(1, 2, 0).numpy().astype(int)
    assert found.shape == wanted.shape
    difference = np.abs(found - wanted)
    loss = np.abs(picture.astype(int) - wanted).mean()
    assert difference.mean() < 0.8
    assert abs((found - wanted).mean()) < 0.1
    if quality < 95:  # where there is a loss, it is the same loss
        assert difference.mean() < 0.35 * loss


def test_jpeg_of_nothing():
    none = jpeg(torch.zeros((0, 3, 32, 32)), torch.zeros(0, dtype=torch.int64))
    assert none.shape == (0, 3, 32, 32)


def test_color_matrices_are_those_of_single_templates():
    angle, saturation = np.linspace(-3, 3, 7), np.linspace(0, 1.5, 7)
    found = color_matrix(*tensors(angle, saturation)).numpy()
    for matrix, a, s in zip(found, angle, saturation, strict=True):
        np.testing.assert_allclose(matrix, augment.color_matrix(a, s), atol=1e-12)


def test_a_photograph_is_that_of_the_single_scene():
    """For the same scene, camera, light and background: linear light, in grey levels of the photograph."""
    made = things(8)
    stock = stock_of(made)
    rng = np.random.default_rng(3)
    drawn = [scenes.draw_scene(rng, made) for _ in range(16)]
    lights = [scenes_light.draw_lighting(rng, scene) for scene in drawn]
    size = 128
    crops = [scenes.crop_of(rng, scene, size) for scene in drawn]
    plates = rng.integers(0, 256, (len(drawn), size, size, 3), np.uint8)
    R, K = np.concatenate([c.R_crop_camera for c in crops]), np.concatenate([c.K for c in crops])
    batch = as_tensors(drawn, made)
    views = look(HostRasterizer(stock), batch.items, *tensors(R, K), size)
    background = torch.from_numpy(plates).permute(0, 3, 1, 2).float()
    found = photograph(stock, batch, views, lighting_of(lights), background).permute(0, 2, 3, 1).numpy()
    assert sum(light.shadow > 0 for light in lights) > 5
    assert sum(light.gloss[0] > 0 for light in lights) > 5
    for i, scene in enumerate(drawn):
        view = scenes.look(scene, R[i], K[i], size)
        wanted = scenes_light.photograph(scene, view, lights[i], plates[i])
        level = 255 * np.abs(np.clip(found[i], 0, 1) ** (1 / 2.2) - np.clip(wanted, 0, 1) ** (1 / 2.2))
        assert level.mean() < 0.2, i
        # A point of the shadow's coarse grid may fall to either side of a depth test.
        assert np.mean(level > 1.0) < 0.01, i


def lighting_of(lights: list[scenes_light.Lighting]) -> Lighting:
    n, items = len(lights), 3
    direction, color = np.zeros((n, LIGHTS, 3)), np.zeros((n, LIGHTS, 3))
    direction[..., 2] = -1
    gloss, shininess = np.zeros((n, items)), np.ones((n, items))
    for i, light in enumerate(lights):
        for k, one in enumerate(light.lights):
            direction[i, k], color[i, k] = one.direction, one.color
        gloss[i, : len(light.gloss)], shininess[i, : len(light.gloss)] = light.gloss, light.shininess
    plain = [np.stack([getattr(light, name) for light in lights]) for name in ("ambient", "sky", "up")]
    last = [np.array([light.shadow for light in lights]), np.stack([light.ground for light in lights])]
    return Lighting(*tensors(*plain, direction, color, gloss, shininess, *last))


def test_backdrops_are_pieces_of_the_plates():
    """Each is what ``pairs.backdrop`` makes of some corner, turn and mirroring of a plate at its scale."""
    stock = stock_of(things(1), plates=1)
    size = 512
    found = backdrops(Draw(CPU, 5), stock.backgrounds, 6, size).permute(0, 2, 3, 1).numpy()
    assert found.min() >= 0
    assert found.max() <= 255
    plate = stock.backgrounds[0].numpy()
    for picture in found:
        seen = cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA)
        best = min(distance(seen, plate, side) for side in range(100, 257, 6))
        assert best < 8


def distance(seen: np.ndarray, plate: np.ndarray, side: int) -> float:
    """Least RMS difference between a picture and any turn of any piece of the plate with this side."""
    out = []
    for turn in range(4):
        for mirrored in (False, True):
            turned = np.rot90(plate, turn)[:, :: -1 if mirrored else 1].astype(np.float32)
            scale = 64 / side
            whole = cv2.resize(turned, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            if min(whole.shape[:2]) >= 64:
                score = cv2.matchTemplate(whole, seen.astype(np.float32), cv2.TM_SQDIFF).min()
                out.append(math.sqrt(max(score, 0) / (64 * 64 * 3)))
    return min(out)


def test_a_perfect_camera_is_the_renderers_gamma():
    light = torch.from_numpy(noise(32)).permute(2, 0, 1)[None].repeat(5, 1, 1, 1)
    picture = camera(Draw(CPU, 0), light, 0.25, torch.zeros(5, dtype=torch.float64), 1, 2)
    wanted = augment.camera(np.random.default_rng(0), noise(32), hardness=0.0)
    assert picture.dtype == torch.uint8
    assert np.abs(picture.numpy().astype(int) - wanted).max() <= 1


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e4])
def test_a_camera_takes_any_light_there_can_be(value):
    light = torch.full((3, 3, 32, 32), value)
    picture = camera(Draw(CPU, 0), light, 0.25, torch.ones(3, dtype=torch.float64), 1, 2)
    assert picture.shape == (3, 32, 32, 3)


def test_cameras_make_as_bright_and_as_rough_pictures_as_single_ones():
    """Two samples: mean, contrast between pictures, and roughness of a flat surface, by their standard errors."""
    n, size, count = 32, 32, 400
    rng = np.random.default_rng(0)
    flat = np.full((size, size, 3), 0.4, np.float32)
    single = np.stack([augment.camera(rng, flat.copy()) for _ in range(count)]).astype(float)
    draw = Draw(CPU, 0)
    light = torch.from_numpy(flat).permute(2, 0, 1)[None].repeat(n, 1, 1, 1)
    one = torch.ones(n, dtype=torch.float64)
    batches = [camera(draw, light, 0.25, one, 4, n // 2).numpy() for _ in range(count // n)]
    batch = np.concatenate(batches).astype(float)
    for measure in (
        lambda p: p.mean(axis=(1, 2, 3)),
        lambda p: p.mean(axis=(1, 2))[:, 0] - p.mean(axis=(1, 2))[:, 2],
        lambda p: np.log(p.std(axis=(1, 2)).mean(axis=1) + 0.3),
    ):
        a, b = measure(single), measure(batch)
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4 * error
        assert 0.8 < a.std() / b.std() < 1.25


def test_templates_of_both_ways_are_alike():
    """The share of plain grey, and the spread of colour gains, of single looks and of a batch."""
    rng = np.random.default_rng(0)
    single = [augment.draw_look(rng) for _ in range(2000)]
    looks = draw_looks(Draw(CPU, 0), torch.ones(2000, dtype=torch.float64))
    assert abs(float(looks.lights.plain.double().mean()) - augment.GREY_SHARE) < 0.03
    for a, b in (
        (np.array([s.shading.ambient for s in single]), looks.lights.ambient.numpy()),
        (np.array([s.shading.diffuse for s in single]), looks.lights.diffuse.numpy()),
        (np.stack([s.matrix for s in single])[:, 0, 0], looks.matrix[:, 0, 0].numpy()),
        (np.stack([s.matrix for s in single])[:, 0, 1], looks.matrix[:, 0, 1].numpy()),
    ):
        error = math.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(a.mean() - b.mean()) < 4 * error
        assert 0.8 < a.std() / b.std() < 1.25
    easy = draw_looks(Draw(CPU, 0), torch.zeros(50, dtype=torch.float64))
    assert not easy.lights.plain.any()
    np.testing.assert_allclose(easy.matrix, np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12)
