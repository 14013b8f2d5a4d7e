"""Procedural objects, their normals, textures, and what is held out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from benchmarks.meshes import grey_box, textured_sphere
from export.data import objects, textures


def test_held_out_assets_are_a_tenth_and_stay_the_same():
    names = [f"asset {i}" for i in range(5000)]
    held = [n for n in names if textures.is_held_out(n)]
    assert 400 < len(held) < 600
    assert textures.is_held_out("retina.jpg")
    assert not textures.is_held_out("coffee.png")


def test_photographs_are_split_by_name(tmp_path):
    for i in range(60):
        Image.new("RGB", (700, 30), (i, 0, 0)).save(tmp_path / f"{i}.png")
    train, held = (textures.photographs(s, str(tmp_path)) for s in ("train", "heldout"))
    reds = [{int(textures.photograph(path)[0, 0, 0]) for path in paths} for paths in (train, held)]
    assert not reds[0] & reds[1]
    assert reds[0] | reds[1] == set(range(60))
    assert len(held) == sum(textures.is_held_out(f"{i}.png") for i in range(60)) > 0
    assert max(textures.photograph(train[0]).shape) == 512


def test_procedural_objects_are_small_enough_and_varied():
    made = [objects.procedural(np.random.default_rng(i), "train") for i in range(60)]
    faces = [len(m.mesh.faces) for m in made]
    assert max(faces) <= objects.MAX_FACES
    assert len(set(faces)) > 30
    for m in made:
        assert abs(m.mesh.diameter / m.diameter - 1) < 1e-4
    diameters = np.log([m.diameter for m in made])
    assert diameters.min() < np.log(0.06)
    assert diameters.max() > np.log(0.5)
    assert any(m.mesh.textures for m in made)
    assert any(not m.mesh.textures for m in made)


def test_smooth_normals_of_a_sphere_and_a_box():
    """Interpolated normals are radial on a sphere; across the edges of a box nothing is smoothed."""
    ball = objects.TrainingObject(textured_sphere(3, 0.1, 8), np.zeros((1, 3)), 0.2)
    corners = ball.mesh.vertices[ball.mesh.faces].astype(np.float64)
    rng = np.random.default_rng(0)
    weight = rng.dirichlet(np.ones(3), len(corners))
    points = np.einsum("fc,fck->fk", weight, corners)
    normals = np.einsum("fij,fj->fi", ball.normal_map[..., :3], points) + ball.normal_map[..., 3]
    radial = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosine = (normals * radial).sum(1) / np.linalg.norm(normals, axis=1)
    assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 1.5
    cube = objects.TrainingObject(replace(grey_box(), name="cube"), np.zeros((1, 3)), 0.1)
    np.testing.assert_allclose(cube.normal_map[..., :3], 0, atol=1e-4)
    np.testing.assert_allclose(cube.normal_map[..., 3], cube.face_normals, atol=1e-6)


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
