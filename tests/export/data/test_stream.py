"""The stream: what it gives, that it is reproducible, how it fails and how it ends."""

from __future__ import annotations

import os
import signal

import cv2
import numpy as np
import pytest
from export.data.data import BLOCK, LANES, make_stream

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.camera import project
from coop_edge.templates.viewpoints import VIEWPOINTS
from export.data import objects, pairs, pairs_refiner, scenes, textures
from export.data.batch import PATCH, CoarseBatch, RefinerBatch

SIZE = 48
T = (SIZE // PATCH) ** 2


def take(count: int, role: str = "coarse", *, batch_size: int = 3, workers: int = 0, seed: int = 0, **options):
    with make_stream(role, SIZE, batch_size=batch_size, workers=workers, seed=seed, **options) as stream:
        return [next(stream) for _ in range(count)]


def take_all(stream) -> None:
    """More than can have been drawn ahead."""
    for _ in range(200):
        next(stream)


def assert_same(a, b) -> None:
    for name in a.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)


@pytest.fixture(scope="module")
def things() -> list[objects.TrainingObject]:
    return [objects.procedural(np.random.default_rng(i), "train") for i in range(12)]


def test_coarse_batch_is_what_was_agreed():
    (batch,) = take(1, batch_size=20)
    assert isinstance(batch, CoarseBatch)
    wanted = {
        "query": ("uint8", (20, SIZE, SIZE, 3)), "template": ("uint8", (20, SIZE, SIZE, 3)),
        "match_index": ("int64", (20, T)), "offset": ("float32", (20, T, 2)),
        "on_target": ("bool", (20, T)),
        "template_points": ("float32", (20, SIZE, SIZE, 3)), "K_query": ("float64", (20, 3, 3)),
        "T_query": ("float64", (20, 4, 4)), "diameter": ("float64", (20,)),
    }  # fmt: skip
    assert {n: (str(getattr(batch, n).dtype), getattr(batch, n).shape) for n in wanted} == wanted
    assert batch.match_index.min() >= 0
    assert batch.match_index.max() == T
    assert not batch.offset[batch.match_index == T].any()
    assert batch.on_target[batch.match_index < T].all()
    assert 0.02 < (batch.on_target & (batch.match_index == T)).mean() < 0.5  # turned away in the template
    assert 0.1 < (~batch.on_target).mean() < 0.9
    assert np.isfinite(batch.offset).all()
    on = np.isfinite(batch.template_points).all(axis=-1)
    assert (on | np.isnan(batch.template_points).all(axis=-1)).all()
    for image, silhouette in zip(
        batch.template, on, strict=True
    ):  # black but for samples within a pixel of the outline
        beyond = cv2.dilate(silhouette.astype(np.uint8), np.ones((3, 3))) == 0
        assert not image[beyond].any()
    se3.check_transform(batch.T_query)
    assert (batch.diameter >= objects.SMALLEST).all()
    assert (batch.diameter <= objects.LARGEST).all()


def test_refiner_batch_is_what_was_agreed():
    ((batch, records),) = take(1, "refiner", batch_size=7, keep_scenes=True)
    assert isinstance(batch, RefinerBatch)
    assert len(records) == 7
    p = objects.MODEL_POINTS
    wanted = {
        "query": ("uint8", (7, SIZE, SIZE, 3)), "render": ("uint8", (7, SIZE, SIZE, 3)),
        "object_points": ("float32", (7, SIZE, SIZE, 3)), "flow": ("float32", (7, 2, SIZE, SIZE)),
        "visible": ("bool", (7, SIZE, SIZE)), "K": ("float64", (7, 3, 3)), "T_init": ("float64", (7, 4, 4)),
        "T_true": ("float64", (7, 4, 4)), "model_points": ("float32", (7, p, 3)), "diameter": ("float64", (7,)),
    }  # fmt: skip
    assert {n: (str(getattr(batch, n).dtype), getattr(batch, n).shape) for n in wanted} == wanted
    for name in ("flow", "K", "T_init", "T_true", "model_points"):
        assert np.isfinite(getattr(batch, name)).all(), name
    assert (np.ptp(batch.model_points, axis=1).max(axis=1) <= batch.diameter * 1.0001).all()
    assert (np.ptp(batch.model_points, axis=1).max(axis=1) > batch.diameter * 0.3).all()


@pytest.mark.parametrize("role", ["coarse", "refiner"])
def test_samples_do_not_depend_on_the_workers_nor_on_the_batch(role):
    alone = take(4, role, batch_size=6)
    for workers in (1, 3):
        for a, b in zip(alone, take(4, role, batch_size=6, workers=workers), strict=True):
            assert_same(a, b)
    whole = take(1, role, batch_size=24)[0]
    np.testing.assert_array_equal(np.concatenate([b.query for b in alone]), whole.query)


def test_another_seed_and_another_split_are_other_samples():
    a = take(1)[0].query
    for other in (take(1, seed=1), take(1, split="heldout")):
        assert (a != other[0].query).any(axis=(1, 2, 3)).all()


def test_a_stream_goes_on_where_another_stopped():
    with make_stream("coarse", SIZE, batch_size=5, workers=0, seed=2) as stream:
        for _ in range(3):
            next(stream)
        assert stream.position == 15
        following = next(stream)
    assert_same(following, take(1, batch_size=5, seed=2, start=15)[0])
    far = LANES * BLOCK * 40 + 3  # a lane that has forgotten its first objects
    assert_same(take(2, batch_size=1, start=far)[1], take(1, batch_size=1, start=far + 1)[0])


def test_a_workers_exception_comes_out_with_its_traceback(tmp_path):
    broken = tmp_path / "pack.npz"
    broken.write_bytes(b"not a pack")
    with make_stream("coarse", SIZE, batch_size=2, workers=1, seed=0, pack=broken) as stream:
        with pytest.raises(RuntimeError, match=r"(?s)data worker failed.*Traceback.*pack\.npz"):
            next(stream)
        with pytest.raises(RuntimeError, match="data worker failed"):
            next(stream)


def test_a_worker_that_is_killed_is_reported():
    with make_stream("coarse", SIZE, batch_size=2, workers=2, seed=0) as stream:
        next(stream)
        os.kill(stream._blocks._processes[1].pid, signal.SIGKILL)
        with pytest.raises(RuntimeError, match="data worker 1 ended with exit code -9"):
            take_all(stream)


def test_close_ends_the_workers():
    stream = make_stream("coarse", SIZE, batch_size=2, workers=2, seed=0)
    next(stream)
    processes = stream._blocks._processes
    stream.close()
    stream.close()
    assert not any(p.is_alive() for p in processes)
    with pytest.raises(RuntimeError, match="closed"):
        take_all(stream)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "selector"}, "role: wanted one of 'coarse', 'refiner', got 'selector'"),
        ({"split": "test"}, "split: wanted one of 'train', 'heldout', got 'test'"),
        ({"size": 50}, "size: wanted a multiple of 16, got 50"),
        ({"size": 0}, "size: wanted an integer of at least 16, got 0"),
        ({"batch_size": 0}, "batch_size: wanted an integer of at least 1, got 0"),
        ({"workers": -1}, "workers: wanted an integer of at least 0, got -1"),
        ({"workers": 1.5}, "workers: wanted an integer"),
        ({"seed": -1}, "seed: wanted an integer of at least 0"),
        ({"device": "tpu"}, "device: wanted 'cpu' or 'cuda', got 'tpu'"),
        ({"data": "gpu"}, "data: wanted one of 'auto', 'cpu', 'device', got 'gpu'"),
        ({"keep_scenes": True}, "keep_scenes: wanted role='refiner'"),
        ({"pack": "nowhere.npz"}, "pack: 'nowhere.npz' does not exist; python -m export assets"),
        ({"photos": "nowhere"}, "photos: 'nowhere' is not a folder"),
    ],
)
def test_arguments_are_checked_before_a_worker_starts(change, message):
    given = {"role": "coarse", "size": SIZE, "batch_size": 1, "workers": 1, "seed": 0, **change}
    with pytest.raises(ValueError, match=message):
        make_stream(given.pop("role"), given.pop("size"), **given)


def test_held_out_assets_are_a_tenth_and_stay_the_same():
    names = [f"asset {i}" for i in range(5000)]
    held = [n for n in names if textures.is_held_out(n)]
    assert 400 < len(held) < 600
    assert textures.is_held_out("retina.jpg")
    assert not textures.is_held_out("coffee.png")


def test_photographs_are_split_by_name(tmp_path):
    from PIL import Image

    for i in range(60):
        Image.new("RGB", (700, 30), (i, 0, 0)).save(tmp_path / f"{i}.png")
    train, held = (textures.photographs(s, str(tmp_path)) for s in ("train", "heldout"))
    reds = [{int(image[0, 0, 0]) for image in images} for images in (train, held)]
    assert not reds[0] & reds[1]
    assert reds[0] | reds[1] == set(range(60))
    assert len(held) == sum(textures.is_held_out(f"{i}.png") for i in range(60)) > 0
    assert max(train[0].shape) == 512


def test_targets_are_turned_uniformly(things):
    """The mean of a uniform rotation is zero; that of R_z^2 is a third."""
    rng = np.random.default_rng(0)
    R = np.stack([scenes.place(things[0], rng).T[:3, :3] for _ in range(4000)])
    assert np.abs(R.mean(axis=0)).max() < 0.05
    np.testing.assert_allclose((R**2).mean(axis=0), 1 / 3, atol=0.03)


def test_shares_of_scenes(things):
    """Occluders in half of the scenes, one to three objects, a target that can be seen."""
    rng = np.random.default_rng(1)
    drawn = [scenes.draw_scene(rng, things) for _ in range(400)]
    hidden = np.array([1.0 - np.count_nonzero(s.probe[0].item == 0) / s.probe[0].covered for s in drawn])
    assert 0.42 < (hidden > 0.03).mean() < 0.65
    assert {len(s.items) for s in drawn} == {1, 2, 3}
    assert min(scenes.visible_share(s) for s in drawn) >= scenes.LEAST_VISIBLE
    ratio = np.array([scenes.centre_of(s.target)[2] / s.target.object.diameter for s in drawn])
    assert (ratio > scenes.NEAREST * 0.999).all()
    assert (ratio < scenes.FARTHEST * 1.001).all()


def test_share_of_near_templates(things):
    rng = np.random.default_rng(2)
    near = 0
    for _ in range(600):
        item = scenes.place(things[int(rng.integers(len(things)))], rng)
        pose, _ = pairs.template_view(rng, item, SIZE)
        centre = item.object.mesh.centre
        seen_from = -pose[:3, :3].T @ (pose[:3, :3] @ centre + pose[:3, 3])
        query_from = -item.T[:3, :3].T @ scenes.centre_of(item)
        cosine = seen_from @ query_from / np.linalg.norm(seen_from) / np.linalg.norm(query_from)
        near += cosine > np.cos(np.radians(30))  # neighbours of the 42 are 32 degrees apart or more
    assert abs(near / 600 - (0.7 + 0.3 * 0.07)) < 0.06


def test_templates_follow_the_convention_of_template_sets(things):
    """Up to their small turn they are the templates that an estimator renders: same K, same distance, centred."""
    from coop_edge.templates.template_set import template_camera

    for k, thing in enumerate(things):
        T, K = pairs.template_view(np.random.default_rng(k), scenes.place(thing, np.random.default_rng(k)), SIZE)
        poses, K_set = template_camera(thing.mesh, SIZE)
        np.testing.assert_array_equal(K, K_set)
        np.testing.assert_allclose(project(K, se3.transform(T, thing.mesh.centre[None])), (SIZE - 1) / 2, atol=1e-6)
        centre = T[:3, :3] @ thing.mesh.centre + T[:3, 3]
        np.testing.assert_allclose(centre, poses[0, :3, :3] @ thing.mesh.centre + poses[0, :3, 3], atol=1e-9)
        angle = se3.rotation_angle(poses[:, :3, :3], T[None, :3, :3]).min()
        assert np.degrees(angle) < 20
    assert len(VIEWPOINTS) == 42


def test_start_poses_have_the_stated_noise(things):
    rng = np.random.default_rng(3)
    item = scenes.place(things[0], rng)
    start = np.stack([pairs_refiner.start_pose(rng, item) for _ in range(3000)])
    shift = start[:, :3, :3] @ item.object.mesh.centre + start[:, :3, 3] - scenes.centre_of(item)
    d, z = item.object.diameter, scenes.centre_of(item)[2]
    np.testing.assert_allclose(shift.std(axis=0), [0.05 * d, 0.05 * d, min(0.25 * d, 0.05 * z)], rtol=0.06)
    angle = np.degrees(se3.rotation_angle(start[:, :3, :3], item.T[None, :3, :3]))
    assert abs(np.sqrt((angle**2).mean()) - 15 * np.sqrt(3)) < 1.0


def test_share_of_patches_without_a_match():
    batches = take(8, batch_size=25, seed=4)
    share = np.concatenate([b.match_index == T for b in batches]).mean()
    assert 0.6 < share < 0.9


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
    from dataclasses import replace

    from benchmarks.meshes import grey_box, textured_sphere

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


def test_errors_are_coop_edge_errors():
    with pytest.raises(InputError):
        make_stream("coarse", 32, batch_size=1, workers=0, seed=0, split="val")
