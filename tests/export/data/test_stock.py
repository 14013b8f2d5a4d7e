"""The stock: what its slots hold, how objects are exchanged, what does not fit; and the supply of objects by number."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from coop_edge.errors import InputError
from export.data.geometry import Random
from export.data.stock import ObjectStock
from export.data.supply import BACKGROUND, DataOptions, Limits, ObjectSupply
from tests.export.data.cases import CPU, stock_of, things

SMALL = Limits(vertices=3000, faces=5000, texels=4 * 256 * 256, textures=8)


def test_a_slot_is_exchanged_and_only_filled_slots_are_picked():
    made = things(4)
    stock = ObjectStock(3, CPU, SMALL)
    with pytest.raises(InputError, match="at least one object"):
        stock.pick(Random(CPU), 2)
    stock.put(0, made[0])
    assert not stock.pick(Random(CPU, 0), 50).any()
    for slot, thing in ((1, made[1]), (2, made[2]), (0, made[3])):
        stock.put(slot, thing)
    assert stock.things == [made[3], made[1], made[2]]
    assert float(stock.diameter[0]) == made[3].diameter
    picked = stock.pick(Random(CPU, 0), 900)
    share = torch.bincount(picked, minlength=3) / 900
    assert (share - 1 / 3).abs().max() < 0.07


def test_a_slot_holds_what_its_object_is():
    made = things(2)
    stock = stock_of(made)
    surfaces = stock.surfaces
    for slot, thing in enumerate(made):
        mesh, f = thing.mesh, len(thing.mesh.faces)
        assert int(stock.face_count[slot]) == f
        corners = stock.vertices.view(-1, 4)[surfaces.faces[slot, :f, :3].long()][..., :3]
        np.testing.assert_array_equal(corners, mesh.vertices[mesh.faces])
        np.testing.assert_array_equal(surfaces.colors[slot, :f, :, :3], mesh.corner_colors)
        np.testing.assert_array_equal(stock.face_normals[slot, :f], thing.face_normals)
        np.testing.assert_array_equal(stock.normal_map[slot, :f], thing.normal_map)
        np.testing.assert_array_equal(stock.model_points[slot], thing.model_points)
        np.testing.assert_array_equal(stock.centre[slot], mesh.centre)
        for i, image in enumerate(mesh.textures):
            first, height, width, _ = surfaces.textures[slot, i].tolist()
            texels = surfaces.texels.view(-1, 4)[first : first + height * width, :3]
            np.testing.assert_array_equal(texels.reshape(height, width, 3), image)
        assert float(stock.vertices[slot, :, :3].norm(dim=1).max()) == pytest.approx(mesh.radius)


def test_surfaces_follow_an_exchange():
    made = things(3)
    stock = stock_of(made)
    faces = stock.surfaces.faces
    stock.put(1, made[2])
    f = len(made[2].mesh.faces)
    corners = stock.vertices.view(-1, 4)[faces[1, :f, :3].long()][..., :3]
    np.testing.assert_array_equal(corners, made[2].mesh.vertices[made[2].mesh.faces])


def test_backgrounds_are_kept_as_light():
    stock = ObjectStock(1, CPU, SMALL, backgrounds=2)
    assert not stock.backgrounds.any()
    stock.put_background(0, np.full((BACKGROUND, BACKGROUND, 3), 255, np.uint8))
    assert stock.backgrounds.shape == (1, 3, BACKGROUND, BACKGROUND)
    assert (stock.backgrounds == 1).all()
    with pytest.raises(InputError, match="background: wanted uint8"):
        stock.put_background(1, np.zeros((8, 8, 3), np.uint8))


def test_what_does_not_fit_is_made_anew_or_shrunk():
    thing = next(t for t in things(12) if t.mesh.textures)
    few = Limits(vertices=3000, faces=len(thing.mesh.faces) - 1, texels=1 << 18, textures=8)
    with pytest.raises(InputError, match="wanted at most"):
        ObjectStock(1, CPU, few).put(0, thing)
    small = Limits(vertices=3000, faces=5000, texels=5000, textures=8)
    stock = ObjectStock(1, CPU, small)
    stock.put(0, thing)
    kept = stock.things[0].mesh
    assert sum(image.shape[0] * image.shape[1] for image in kept.textures) <= 5000
    assert kept.vertices is thing.mesh.vertices
    made, _ = ObjectSupply(DataOptions("coarse", 48, 0), limits=Limits(faces=400))(0, 1.0)
    assert len(made.mesh.faces) <= 400


def test_the_supply_is_a_function_of_lane_and_number():
    options = DataOptions("coarse", 48, seed=3)
    made = [ObjectSupply(options, lane)(number, 1.0) for lane, number in ((0, 4), (0, 4), (1, 4), (0, 5))]
    hashes = [thing.mesh.hash for thing, _ in made]
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    np.testing.assert_array_equal(made[0][1], made[1][1])
    assert (made[0][1] != made[2][1]).any()
    assert made[3][1] is None, "a background with every second object"
    assert made[0][1].shape == (BACKGROUND, BACKGROUND, 3)
    other = ObjectSupply(DataOptions("coarse", 48, seed=3, split="heldout"))(4, 1.0)[0]
    assert other.mesh.hash not in hashes
