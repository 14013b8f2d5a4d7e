"""What a camera does to pictures, and colours of templates: against OpenCV and against what is stated."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch

from export.data import photo
from export.data.geometry import Random
from export.data.jpeg import jpeg, jpeg_of_tensors
from export.data.photo import (
    GREY_SHARE,
    camera,
    color_matrices,
    draw_backdrops,
    draw_blur,
    draw_cells,
    draw_looks,
    motion_kernels,
)
from export.data.resample import (
    blur_matrix,
    blurred,
    enlarged,
    enlargement_matrix,
    reduced,
    reduction_matrix,
    warped,
)
from export.data.textures import GAMMA, LINEAR, color_matrix
from tests.export.data.cases import CPU, one, stock_of, tensors, things

RECORDED_CAMERA = ((168.62, 25.25), (0.02, 16.54), (0.510, 1.287))
RECORDED_LOOKS = ((0.4522, 0.1694), (0.5468, 0.1747), (0.8477, 0.3699), (0.0573, 0.2802))
"""Means and standard deviations, as an earlier program drew them: see the tests that use them."""


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
    wanted, of = cv2.resize(image, (cells, cells), interpolation=cv2.INTER_AREA), torch.tensor([float(cells)])
    small = both_ways(reduction_matrix(size, of)[0], image)
    np.testing.assert_allclose(small[:cells, :cells], wanted, atol=2e-5)
    np.testing.assert_array_equal(small[cells:, :cells], np.repeat(small[cells - 1 : cells, :cells], size - cells, 0))
    found = both_ways(enlargement_matrix(size, of)[0], small)
    np.testing.assert_allclose(found, cv2.resize(wanted, (size, size), interpolation=cv2.INTER_LINEAR), atol=2e-5)


def test_pictures_are_treated_as_by_the_matrices():
    """What a CPU does by OpenCV and a GPU by matrices; a sigma of 0 and all cells leave a picture as it is."""
    image = torch.from_numpy(noise(40)).permute(2, 0, 1)[None].repeat(4, 1, 1, 1)
    sigma, cells = torch.tensor([0.0, 0.4, 1.2, 0.8]), torch.tensor([40.0, 40.0, 17.0, 33.0])

    def through(matrix, picture):
        return matrix[:, None] @ picture @ matrix.mT[:, None]

    found = blurred(image, sigma, 1.7)
    np.testing.assert_allclose(found, through(blur_matrix(40, sigma, 1.7), image), atol=2e-5)
    np.testing.assert_array_equal(found[0], image[0])
    small = reduced(image, cells)
    np.testing.assert_allclose(small, through(reduction_matrix(40, cells), image), atol=2e-5)
    np.testing.assert_array_equal(small[1], image[1])
    levels = (255 * small).to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    found = enlarged(levels, cells)
    wanted = through(enlargement_matrix(40, cells), levels.permute(0, 3, 1, 2).float()).permute(0, 2, 3, 1)
    assert (found.float() - wanted).abs().max() < 1.0  # grey levels; OpenCV rounds weights too
    np.testing.assert_array_equal(found[1], levels[1])


def test_noise_and_jpeg_are_of_the_sensors_pixels(monkeypatch):
    """A sensor of half the pixels: what it makes of a flat picture is smooth from pixel to pixel."""
    rough = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(photo, "COARSE_SHARE", share)
        monkeypatch.setattr(photo, "COARSEST", 0.45)
        picture = camera(Random(CPU, 0), torch.full((60, 3, 64, 64), 0.4), 0.5, one(60), 0, 30).double()
        step = (picture[:, :, 1:] - picture[:, :, :-1]).square().mean(dim=(1, 2, 3))
        rough[share] = step / picture.var(dim=(1, 2)).mean(dim=1).clamp(min=1e-9)
    assert rough[1.0].median() < 0.6 * rough[0.0].median()


def test_blur_keeps_brightness_and_place():
    """Every row of a blur sums to 1, and its centre of mass is its own pixel, off the borders."""
    size = 64
    random = Random(CPU, 1)
    sigma, cells = draw_blur(random, 60, 0.5), draw_cells(random, 60, size)
    resolution = enlargement_matrix(size, cells) @ reduction_matrix(size, cells)
    matrix = blur_matrix(size, sigma, 0.85) @ resolution
    assert torch.isfinite(matrix).all()
    np.testing.assert_allclose(matrix.sum(dim=2), 1.0, atol=1e-5)
    at = torch.arange(float(size))
    centre = (matrix * at).sum(dim=2) - at
    assert centre[:, 24:40].mean(dim=1).abs().max() < 0.05


@pytest.mark.parametrize("unit", [0.5, 1.0, 1.75])
def test_motion_blur_is_a_centred_line(unit):
    """By its sum and its moments: the covariance of a line of length l at angle a is l^2 / 12 along it."""
    rng = np.random.default_rng(0)
    lengths, angles = unit * rng.uniform(2, 8, 20), rng.uniform(0, np.pi, 20)
    kernels = motion_kernels(*tensors(lengths, angles), unit * 8.0).numpy().astype(float)
    side = kernels.shape[-1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    for kernel, length, angle in zip(kernels, lengths, angles, strict=True):
        assert abs(kernel.sum() - 1) < 1e-6
        assert abs((kernel * x).sum()) < 1e-6
        assert abs((kernel * y).sum()) < 1e-6
        along = x * np.cos(angle) + y * np.sin(angle)
        across = x * np.sin(angle) - y * np.cos(angle)
        assert (kernel * along**2).sum() == pytest.approx(length**2 / 12, rel=0.2, abs=0.45)  # of whole pixels
        assert (kernel * across**2).sum() < 0.25


def coded_by_opencv(picture: np.ndarray, quality: int) -> np.ndarray:
    _, code = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return cv2.imdecode(code, cv2.IMREAD_COLOR)


@pytest.mark.parametrize("size", [120, 128])
@pytest.mark.parametrize("quality", [25, 49, 50, 75, 95])
def test_jpeg_of_tensors_is_the_codecs(size, quality):
    """Pictures as OpenCV gives them back, but for coefficients at the edge of a step, which rounding may flip."""
    smooth = cv2.GaussianBlur(np.random.default_rng(quality).random((size, size, 3), np.float32), (0, 0), 2)
    picture = np.clip(255 * (2 * smooth - 0.5), 0, 255).astype(np.uint8)
    wanted = coded_by_opencv(picture, quality)
    np.testing.assert_array_equal(jpeg(torch.from_numpy(picture[None]), torch.tensor([quality]))[0], wanted)
    found = jpeg_of_tensors(torch.from_numpy(picture).permute(2, 0, 1)[None].float(), torch.tensor([quality]))
    difference = found[0].permute(1, 2, 0).numpy().astype(int) - wanted
    loss = np.abs(picture.astype(int) - wanted).mean()
    assert np.abs(difference).mean() < 0.8
    assert abs(difference.mean()) < 0.1
    if quality < 95:  # where there is a loss, it is the same loss
        assert np.abs(difference).mean() < 0.35 * loss


def test_jpeg_of_nothing():
    none = torch.zeros(0, dtype=torch.int64)
    assert jpeg_of_tensors(torch.zeros((0, 3, 32, 32)), none).shape == (0, 3, 32, 32)
    assert jpeg(torch.zeros((0, 32, 32, 3), dtype=torch.uint8), none).shape == (0, 32, 32, 3)


def test_color_matrix():
    np.testing.assert_allclose(color_matrix(0.0, 1.0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(color_matrix(2 * np.pi, 1.0), np.eye(3), atol=1e-12)
    np.testing.assert_allclose(color_matrix(1.1, 0.4) @ np.ones(3), np.ones(3), atol=1e-12)
    np.testing.assert_allclose(color_matrix(2 * np.pi / 3, 1.0) @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    assert np.ptp(color_matrix(0.0, 0.0) @ [0.2, 0.7, 0.1]) < 1e-12
    angle, saturation = np.linspace(-3, 3, 7), np.linspace(0, 1.5, 7)
    found = color_matrices(*tensors(angle, saturation)).numpy()
    np.testing.assert_allclose(found, [color_matrix(a, s) for a, s in zip(angle, saturation, strict=True)], atol=1e-12)


@pytest.mark.parametrize("gap", [0.0, 9.5])
def test_a_warp_is_the_homography(gap):
    """A smooth picture as a function of place, seen through a homography; 0 beyond the picture."""
    m, size = 64, 24
    y, x = np.mgrid[:m, :m]
    picture = np.stack([2 * x + 30, 3 * y + 10, x + y + 40], axis=-1).astype(np.uint8)
    H = np.array([[1.1, 0.1, 5.0 - gap], [-0.05, 1.2, 8.0], [1e-3, -5e-4, 1.0]])
    found = warped(torch.from_numpy(picture[None]), torch.tensor([0, 0]), torch.from_numpy(np.stack([H, H])), size)
    v, u = np.mgrid[:size, :size]
    place = np.stack([u, v, np.ones_like(u)], axis=-1) @ H.T
    px, py = place[..., 0] / place[..., 2], place[..., 1] / place[..., 2]
    wanted = np.stack([2 * px + 30, 3 * py + 10, px + py + 40], axis=-1)
    inside = (px >= 0) & (py >= 0) & (px <= m - 1) & (py <= m - 1)
    assert np.abs(found[1].numpy() - wanted)[inside].max() < 1.0
    assert inside.all() == (gap == 0)
    assert not found[1].numpy()[(px <= -1) | (py <= -1)].any()


def test_backdrops_are_pieces_of_the_backgrounds():
    """Each is some piece, turn and mirroring of a background at its scale, in linear light."""
    stock = stock_of(things(1), backgrounds=1)
    plate = (255 * stock.backgrounds[0].permute(1, 2, 0) ** (1 / GAMMA)).round().numpy()
    np.testing.assert_array_equal(LINEAR[plate.astype(np.uint8)], stock.backgrounds[0].permute(1, 2, 0))
    linear = draw_backdrops(Random(CPU, 5), stock.backgrounds, 6, 512)
    found = 255 * linear.permute(0, 2, 3, 1).numpy() ** (1 / GAMMA)
    assert found.min() >= 0
    assert found.max() <= 255.1
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


def picture_of(light: np.ndarray, count: int) -> torch.Tensor:
    return torch.from_numpy(light).permute(2, 0, 1)[None].repeat(count, 1, 1, 1)


def test_a_perfect_camera_only_applies_gamma():
    light = noise(32)
    picture = camera(Random(CPU, 0), picture_of(light, 5), 0.25, 0 * one(5), 1, 2)
    assert picture.dtype == torch.uint8
    np.testing.assert_allclose(picture / 255.0, np.tile(light ** (1 / GAMMA), (5, 1, 1, 1)), atol=0.5 / 255 + 1e-4)


@pytest.mark.parametrize("value", [0.0, 1e-9, 1e4])
def test_a_camera_takes_any_light_there_can_be(value):
    picture = camera(Random(CPU, 0), torch.full((3, 3, 32, 32), value), 0.25, one(3), 1, 2)
    assert picture.shape == (3, 32, 32, 3)


def test_a_camera_does_not_move_the_picture():
    """The centroid of a bright spot stays where it is, over all kinds of blur, to within what rounding and noise do."""
    n = 65
    x = np.arange(n)
    spot = np.exp(-((x - 40) ** 2) / 8)[None, :] * np.exp(-((x - 25) ** 2) / 8)[:, None]
    light = np.repeat(spot[..., None], 3, axis=2).astype(np.float32)
    shifts = []
    for picture in camera(Random(CPU, 0), picture_of(light, 60), n / 128, one(60), 7, 30).numpy().astype(float):
        brightness = picture.sum(axis=2)
        weight = np.clip(brightness - np.median(brightness) - 0.4 * np.ptp(brightness), 0, None)
        total = weight.sum()
        shifts.append([(weight.sum(axis=0) * x).sum() / total - 40, (weight.sum(axis=1) * x).sum() / total - 25])
    assert np.abs(np.median(shifts, axis=0)).max() < 0.05
    assert np.abs(np.mean(shifts, axis=0)).max() < 0.15
    assert np.abs(shifts).max() < 1.0


def agrees(found: np.ndarray, recorded: tuple[float, float], of: int) -> None:
    """Means within four standard errors of their difference, and spreads within a quarter."""
    mean, spread = recorded
    assert abs(found.mean() - mean) < 4 * math.sqrt(spread**2 / of + found.var() / len(found))
    assert 0.8 < found.std() / spread < 1.25


def test_cameras_make_as_bright_and_as_rough_pictures_as_recorded():
    """Of a flat surface: mean, red minus blue, and logarithm of the roughness, over 4,000 single pictures."""
    n, count = 32, 640
    random, flat = Random(CPU, 0), np.full((32, 32, 3), 0.4, np.float32)
    batches = [camera(random, picture_of(flat, n), 0.25, one(n), 4, n // 2).numpy() for _ in range(count // n)]
    p = np.concatenate(batches).astype(float)
    figures = (
        p.mean(axis=(1, 2, 3)),
        p.mean(axis=(1, 2))[:, 0] - p.mean(axis=(1, 2))[:, 2],
        np.log(p.std(axis=(1, 2)).mean(axis=1) + 0.3),
    )
    for found, recorded in zip(figures, RECORDED_CAMERA, strict=True):
        agrees(found, recorded, 4000)


def test_templates_look_as_recorded():
    """The share of plain grey, ambient and diffuse light, and two gains of colours, over 20,000 single looks."""
    looks = draw_looks(Random(CPU, 0), one(2000))
    plain = looks.lights.plain.numpy()
    assert abs(plain.mean() - GREY_SHARE) < 0.03
    assert ((looks.matrix[plain] * 255 >= 99.9) | (looks.matrix[plain] == 0)).all()
    assert (looks.matrix[plain] * 255 <= 235).all()
    figures = (looks.lights.ambient, looks.lights.diffuse, looks.matrix[:, 0, 0], looks.matrix[:, 0, 1])
    for found, recorded in zip(figures, RECORDED_LOOKS, strict=True):
        agrees(found.numpy(), recorded, 20000)
    easy = draw_looks(Random(CPU, 0), 0 * one(50))
    assert not easy.lights.plain.any()
    np.testing.assert_allclose(easy.matrix, np.broadcast_to(np.eye(3), (50, 3, 3)), atol=1e-12)


def test_plain_grey_stays_grey():
    looks = draw_looks(Random(CPU, 0), one(200))
    white = torch.full((200, 4, 4, 3), 180, dtype=torch.uint8)
    seen = looks.recolored(white)[looks.lights.plain]
    assert len(seen)
    assert (seen[..., 0] == seen[..., 1]).all()
    assert (seen[..., 0] == seen[..., 2]).all()
