"""Objects that look the same from all around: which they are, and labels that do not ask for what cannot be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.mesh.mesh import Mesh
from coop_edge.mesh.symmetry import Symmetries
from coop_edge.render.cpu import CpuRenderer
from coop_edge.templates.viewpoints import template_camera
from export.data import objects, primitives
from export.data.batch import PATCH, on_host
from export.data.geometry import turned
from export.data.labels import coarse_labels
from export.data.objects import THIN, TrainingObject
from export.data.primitives import Surface
from export.data.render_cpu import HostRenderer
from export.data.revolution import TOLERANCE, symmetries_of
from export.data.supply import DataOptions, ObjectSupply
from export.data.symmetry import nearest_pose, roll_towards
from tests import label_oracle as oracle
from tests.export.data.cases import (
    box,
    box_crops,
    facing,
    generator_of,
    one,
    photographs_of,
    scene_of,
    stock_of,
    tensors,
    thing,
)
from tests.export.data.raycast import first_hit, seen_by_camera

SIZE = 160
T = (SIZE // PATCH) ** 2
BOTTLE = np.array([(0, -0.5), (0.25, -0.5), (0.25, 0.1), (0.08, 0.25), (0.08, 0.5), (0, 0.5)])
CENTRE = np.array([0.02, -0.01, 0.015])


def made(surface: Surface, colors=90, turn=None, size=0.1) -> TrainingObject:
    """An object of a surface, whose origin is not its centre, one colour per face or corner."""
    R = np.eye(3) if turn is None else turn
    f = len(surface.faces)
    corner = np.broadcast_to(np.asarray(colors, np.uint8), (f, 3, 3))
    mesh = Mesh(
        np.float32(size * surface.vertices @ R.T), np.int32(surface.faces), CENTRE.copy(), corner.copy(),
        np.zeros((f, 3, 2), np.float32), np.full(f, -1, np.int32),
    )  # fmt: skip
    points = objects.sample_surface(mesh, 64, np.random.default_rng(0))
    return TrainingObject(mesh, points, mesh.diameter, symmetries_of(mesh))


def bottle(sections: int = 48, turn=None) -> TrainingObject:
    return made(primitives.revolve(primitives._subdivided(BOTTLE, 0.1), sections), turn=turn)


def ball() -> TrainingObject:
    angle = np.linspace(-np.pi / 2, np.pi / 2, 30)
    return made(primitives.revolve(0.5 * np.stack([np.cos(angle), np.sin(angle)], 1), 60))


def coloured(axis: int) -> np.ndarray:
    """A bottle's colours, uint8 [F,1,3], one half of it another than the other, along an axis."""
    surface = primitives.revolve(primitives._subdivided(BOTTLE, 0.1), 48)
    middle = surface.vertices[surface.faces].mean(axis=1)[:, axis]
    return np.where(middle[:, None, None] > 0.2 * (axis == 2), np.uint8([200, 30, 30]), np.uint8([40, 60, 90]))


@pytest.mark.parametrize("seed", range(4))
def test_the_axis_of_a_surface_of_revolution_is_found(seed):
    R = se3.random_rotation(np.random.default_rng(seed))
    found = symmetries_of(bottle(turn=R).mesh).continuous
    assert len(found) == 1
    axis, offset = found[0]
    assert abs(axis @ R[:, 2]) == pytest.approx(1.0, abs=1e-6)
    assert np.linalg.norm(np.cross(offset - CENTRE, axis)) < 1e-6


def test_parts_of_several_colours_around_one_axis_are_a_surface_of_revolution():
    surface = primitives.revolve(primitives._subdivided(BOTTLE, 0.1), 48)
    assert len(symmetries_of(made(surface, coloured(2)).mesh).continuous) == 1
    assert symmetries_of(made(surface, coloured(0)).mesh).trivial, "two halves side by side"


def test_a_ball_looks_the_same_from_everywhere():
    found = symmetries_of(ball().mesh)
    assert len(found.continuous) == 2
    np.testing.assert_allclose(found._sphere_centre, CENTRE, atol=1e-6)


def handle() -> TrainingObject:
    mug = primitives.revolve(primitives._subdivided(BOTTLE, 0.1), 48)
    ring = primitives.torus(np.random.default_rng(0)).moved(0.12 * np.eye(3), np.array([0.3, 0.0, 0.0]))
    return made(primitives.join([mug, ring]))


@pytest.mark.parametrize(
    "make",
    [handle, lambda: bottle(8), lambda: bottle(12), lambda: box((0.1, 0.1, 0.1)), lambda: box((0.1, 0.1, 0.3))],
    ids=["handle", "eight corners", "twelve corners", "cube", "square rod"],
)
def test_what_shows_how_it_is_turned_has_no_axis(make):
    assert symmetries_of(make().mesh).trivial


def test_drawn_objects_state_their_symmetry():
    """Most of what is turned on a lathe is round (some has few corners); the axis is that of the points' moments."""
    made = [objects.turned(np.random.default_rng(i)) for i in range(40)]
    round_ones = [m for m in made if len(m.symmetries.continuous) == 1]
    assert len(round_ones) > 20
    for m in round_ones:
        axis, offset = m.symmetries.continuous[0]
        points = m.model_points - offset
        along = points @ axis
        away = np.linalg.norm(points - along[:, None] * axis, axis=1)
        turned_points = points @ se3.so3_exp(1.0 * axis).T
        np.testing.assert_allclose(turned_points @ axis, along, atol=1e-9)
        assert np.abs((points - along[:, None] * axis).mean(axis=0)).max() < 0.25 * away.mean(), "all around the axis"
    assert not any(objects.procedural(np.random.default_rng(i), "train").symmetries.continuous for i in range(10))


def test_training_has_its_share_of_turned_and_of_thin_objects():
    def made(split):
        supply = ObjectSupply(DataOptions("coarse", 32, 0, split))
        return [supply(number, 1.0)[0] for number in range(1, 161, 2)]

    def thin(things):
        extent = np.array([np.sort(np.linalg.eigvalsh(np.cov(m.model_points.T))) for m in things])
        return (extent[:, 2] > 9 * extent[:, 1]).mean()

    train, heldout = made("train"), made("heldout")
    assert 0.05 < np.mean([not m.symmetries.trivial for m in train]) < 0.25
    assert not any(m.symmetries.continuous for m in heldout[:20])
    assert thin(train) > thin(heldout) + 0.03
    low, high = THIN
    for seed in range(5):
        a, b = (objects.procedural(np.random.default_rng(seed), "train", thin=t) for t in (False, True))
        sides = [np.ptp(m.mesh.vertices, axis=0) for m in (a, b)]
        ratio = np.sort((sides[1] / sides[1].max()) / (sides[0] / sides[0].max()))
        assert low * 0.99 < ratio.max() / ratio.min() < high * 1.01


def test_a_texture_shows_how_a_thing_is_turned():
    mesh = bottle().mesh
    textured = replace(mesh, face_texture=np.zeros_like(mesh.face_texture), textures=(np.zeros((4, 4, 3), np.uint8),))
    assert symmetries_of(textured).trivial


def test_a_squashed_bottle_has_no_axis_once_it_differs_by_more_than_the_tolerance():
    surface = primitives.revolve(primitives._subdivided(BOTTLE, 0.1), 48)
    for squash, wanted in ((1.0 - 0.1 * TOLERANCE, 1), (0.9, 0)):
        mesh = made(replace(surface, vertices=surface.vertices * (squash, 1.0, 1.0))).mesh
        assert len(symmetries_of(mesh).continuous) == wanted


@pytest.mark.parametrize("name", ["bottle", "ball", "plain"])
def test_nearest_poses_are_those_of_the_package(name):
    """Against ``Symmetries.nearest_symmetric``, and against all turns in steps of a degree."""
    rng = np.random.default_rng(2)
    chosen = {"bottle": bottle(turn=se3.random_rotation(rng)), "ball": ball(), "plain": thing(0)}[name]
    stock = stock_of([thing(1), chosen])
    T_query, reference = (se3.from_rt(se3.random_rotation(rng, (20,)), rng.normal(size=(20, 3))) for _ in range(2))
    found = nearest_pose(stock, torch.ones(20, dtype=torch.int64), *tensors(T_query, reference)).numpy()
    np.testing.assert_allclose(found, chosen.symmetries.nearest_symmetric(T_query, reference), atol=1e-9)
    if name == "plain":
        np.testing.assert_array_equal(found, T_query)
    if name == "bottle":
        every = T_query[:, None] @ Symmetries(continuous=chosen.symmetries.continuous).transforms(np.pi / 360)
        angles = se3.rotation_angle(every[..., :3, :3], reference[:, None, :3, :3])
        own = se3.rotation_angle(found[:, :3, :3], reference[:, :3, :3])
        assert (own <= angles.min(axis=1) + 1e-9).all()
        assert (own >= angles.min(axis=1) - np.radians(0.51)).all()
    none = torch.zeros(0, dtype=torch.int64)
    assert nearest_pose(stock, none, torch.zeros(0, 4, 4).double(), torch.zeros(0, 4, 4).double()).shape == (0, 4, 4)


def test_a_template_is_rolled_until_only_the_angle_of_the_axis_to_the_line_of_sight_is_left():
    """The least angle over all rolls and all turns about the axis, by a search over both."""
    rng = np.random.default_rng(5)
    chosen = bottle(turn=se3.random_rotation(rng))
    axis, stock = chosen.symmetries.continuous[0][0], stock_of([chosen])
    R, target = (se3.random_rotation(rng, (6,)) for _ in range(2))
    slot = torch.zeros(6, dtype=torch.int64)
    roll = roll_towards(stock, slot, *tensors(R, target)).numpy()
    rolled = se3.so3_exp(np.stack([0 * roll, 0 * roll, roll], axis=1)) @ R
    wanted = np.abs(np.arccos(np.clip((R @ axis)[:, 2], -1, 1)) - np.arccos(np.clip((target @ axis)[:, 2], -1, 1)))
    T, reference = (torch.from_numpy(se3.from_rt(r, np.zeros(3))) for r in (target, rolled))
    alike = nearest_pose(stock, slot, T, reference).numpy()
    np.testing.assert_allclose(se3.rotation_angle(alike[:, :3, :3], rolled), wanted, atol=1e-6)
    steps = np.radians(np.arange(0, 360, 4.0))
    rolls = se3.so3_exp(np.stack([0 * steps, 0 * steps, steps], axis=1))
    turns = se3.so3_exp(steps[:, None] * axis)
    every = se3.rotation_angle(rolls[:, None, None] @ R, (target @ turns[:, None])[None])
    assert (every.min(axis=(0, 1)) > wanted - 1e-6).all(), "no roll and turn brings them nearer"


def view(chosen: TrainingObject, R: np.ndarray, template: int):
    """Labels of one object at a rotation with one template; cameras and poses besides."""
    stock = stock_of([chosen])
    scene = scene_of(stock, [(0, facing(chosen, R, 0.6), 1.0)])
    R_crop, K = box_crops(stock, scene, SIZE)
    poses, K_template = template_camera(chosen.mesh, SIZE)
    depth = CpuRenderer(chosen.mesh, threads=1).render(poses[[template]], K_template, SIZE).depth
    given = tensors(poses[[template]], K_template[None], depth)
    index, offset, _ = (t[0].numpy() for t in coarse_labels(HostRenderer(stock), stock, scene, R_crop, K, SIZE, *given))
    return index, offset, turned(R_crop, scene.items.T[:, 0])[0].numpy(), K[0].numpy(), poses[template], K_template


@pytest.mark.parametrize("seed", range(3))
def test_coarse_labels_of_a_bottle_are_those_of_the_nearest_pose_by_ray_casting(seed):
    """Rays through the patches' centres, turned about the axis by NumPy, projected into the template and cast there."""
    rng = np.random.default_rng(seed)
    chosen = bottle(turn=se3.random_rotation(rng))
    poses, _ = template_camera(chosen.mesh, SIZE)
    axis, _ = chosen.symmetries.continuous[0]
    R = se3.so3_exp(rng.normal(size=3) * 0.15) @ poses[7, :3, :3] @ se3.so3_exp(2.2 * axis)
    index, offset, T_query, K, T_template, K_template = view(chosen, R, 7)
    alike = chosen.symmetries.nearest_symmetric(T_query, T_template)
    assert se3.rotation_angle(T_query[:3, :3], alike[:3, :3]) > 1.5, "the case is one of another azimuth"
    vertices, side = chosen.mesh.vertices.astype(float) + CENTRE, SIZE // PATCH
    inverse = se3.invert(T_query)
    rays = np.linalg.solve(K, np.column_stack([oracle.patch_centres(SIZE), np.ones(T)]).T).T @ T_query[:3, :3]
    along = first_hit(inverse[:3, 3], rays, vertices, chosen.mesh.faces)
    checked = agree = 0
    for t in np.flatnonzero(np.isfinite(along)):
        p = inverse[:3, 3] + along[t] * rays[t]
        there = se3.transform(se3.invert(alike) @ T_query, p[None])
        wanted = bool(seen_by_camera(there, T_template, chosen.mesh, 0.01 * chosen.diameter)[0])
        checked, agree = checked + 1, agree + (wanted == (index[t] < T))
        if wanted and index[t] < T:
            at = PATCH * (np.array([index[t] % side, index[t] // side]) + 0.5 + offset[t]) - 0.5
            assert np.abs(at - project(K_template, se3.transform(T_template, there))[0]).max() < 0.1
    assert checked >= 14
    assert agree >= checked - 2, "they may differ at an outline"


def test_coarse_labels_do_not_depend_on_what_cannot_be_seen():
    """Turned about its axis a bottle has the labels it had, a thing without an axis has others."""
    chosen = bottle(sections=72)
    poses, _ = template_camera(chosen.mesh, SIZE)
    R = se3.so3_exp([0.1, -0.2, 0.05]) @ poses[11, :3, :3]
    before = view(chosen, R, 11)
    for angle in (25.0, 130.0, 275.0):
        after = view(chosen, R @ se3.so3_exp([0.0, 0.0, np.radians(angle)]), 11)
        both = (before[0] < T) & (after[0] < T)
        assert both.sum() >= 14
        assert ((before[0] < T) == (after[0] < T)).mean() > 0.94
        place = [np.stack([i % 10, i // 10], 1) + o for i, o in ((before[0], before[1]), (after[0], after[1]))]
        assert np.abs(place[0] - place[1])[both].max() < 0.05
    rod = box((0.1, 0.1, 0.3))
    R = template_camera(rod.mesh, SIZE)[0][11, :3, :3]
    assert (view(rod, R, 11)[0] != view(rod, R @ se3.so3_exp([0, 0, np.pi / 2]), 11)[0]).sum() > 4


def test_a_bottle_that_is_only_turned_about_its_axis_has_no_flow():
    chosen, rng = bottle(sections=72), np.random.default_rng(1)
    stock, R = stock_of([chosen]), se3.random_rotation(rng)
    T_true = facing(chosen, R, 0.6)
    T_init = facing(chosen, R @ se3.so3_exp([0.0, 0.0, 2.0]), 0.6)
    photographs = photographs_of(stock, scene_of(stock, [(0, T_true, 1.0)]), SIZE)
    batch = on_host(generator_of(stock, SIZE).refiner_at(photographs, torch.from_numpy(T_init[None]), 0))
    on = np.isfinite(batch.object_points[0, ..., 0])
    assert on.sum() > 500
    assert np.abs(batch.flow[0][:, on]).max() < 1e-3
    assert batch.visible[0][on].mean() > 0.97
    np.testing.assert_allclose(batch.T_true, batch.T_init, atol=1e-9)


def test_drawn_pairs_of_a_bottle_are_true_to_what_they_state():
    """Matches agree with the pose that the batch states, which is the template's but for the view."""
    stock = stock_of([bottle(), thing(3)])
    batch = on_host(generator_of(stock, SIZE, 6).coarse(0 * one(24), labels=2))
    side, errors = SIZE // PATCH, []
    for i, t in np.argwhere(batch.match_index < T):
        cell = batch.match_index[i, t]
        at = PATCH * (np.array([cell % side, cell // side]) + 0.5 + batch.offset[i, t]) - 0.5
        column, row = np.rint(at).astype(int).clip(0, SIZE - 1)
        point = batch.template_points[i, row, column].astype(float)
        if np.isfinite(point).all():
            seen = batch.K_query[i] @ se3.transform(batch.T_query[i], point[None])[0]
            errors.append(np.linalg.norm(seen[:2] / seen[2] - oracle.patch_centres(SIZE)[t]))
    assert len(errors) > 100
    assert np.median(errors) < 1.0
