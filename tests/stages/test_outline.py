"""Alignment with the outline: rendered objects before another colour, from poses that are off by known amounts."""

from __future__ import annotations

import dataclasses
import sys

import numpy as np
import pytest

from coop_edge.config import DepthConfig, OutlineConfig
from coop_edge.geometry import se3
from coop_edge.kernels.device import CupyDevice
from coop_edge.mesh import Symmetries
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from coop_edge.pnp.cpu import CpuPnpSolver
from coop_edge.pnp.cuda import CudaPnpSolver
from coop_edge.render import CpuRenderer
from coop_edge.render.cuda import CudaRenderer
from coop_edge.stages.objects import ObjectModel
from coop_edge.stages.outline import Aligned, align
from coop_edge.stages.pairs import ImagePairMaker
from tests.runtime.fake_arrays import DOWNLOAD
from tests.runtime.fake_cuda import FakeCupy
from tests.stages.scene import CAMERA, Placed, Scene, at, colored_box

SIZE, MARGIN = 224, 1.4
CONFIG = OutlineConfig()
RED, GREEN = (190, 30, 30), (20, 150, 60)


def painted(extents, color, *, name, centre=(0.0, 0.0, 0.0), seed=0):
    """A box whose triangles are all about of one colour."""
    box = colored_box(extents, name=name, centre=centre, seed=seed)
    jitter = np.random.default_rng(seed).integers(0, 40, (len(box.faces), 1, 3)).repeat(3, axis=1)
    return dataclasses.replace(box, corner_colors=(np.array(color) + jitter).astype(np.uint8))


def placed_at(mesh, x, y, z, rotation):
    return at(x, y, z, rotation, mesh.centre)


@pytest.fixture(scope="module")
def red():
    """A box and a bar, the bar off-centre in its own frame."""
    return (
        painted((0.10, 0.08, 0.06), RED, name="box"),
        painted((0.16, 0.06, 0.05), RED, name="bar", centre=(0.01, 0.02, -0.03), seed=1),
    )


@pytest.fixture(scope="module")
def apart(red):
    """Box, bar and box, none before another."""
    poses = [
        (0, placed_at(red[0], -0.14, 0.04, 0.5, (0.5, 0.7, -0.3))),
        (1, placed_at(red[1], 0.10, -0.08, 0.6, (2.0, -0.4, 0.9))),
        (0, placed_at(red[0], 0.09, 0.10, 0.5, (1.2, 0.3, 2.0))),
    ]
    return Scene(red, tuple(Placed(k, T) for k, T in poses), CAMERA)


def before_green(scene) -> np.ndarray:
    """The scene's image with no red in the background, uint8 [H,W,3]."""
    width, height = scene.camera.size
    _, who, _ = scene.depths(np.eye(3), scene.camera.K, (height, width))
    return np.where(who[..., None] >= 0, scene.image, scene.image * np.uint8([0, 1, 1]))


def maker_of(scene, image=None, renderer=None, ops=None) -> ImagePairMaker:
    models = [
        ObjectModel(m.name, m.centre, m.diameter, Symmetries(), np.zeros((1, 1, 1, 3)), np.zeros((1, 1, 1)))
        for m in scene.meshes
    ]
    image = before_green(scene) if image is None else image
    renderer = renderer or CpuRenderer(scene.meshes, threads=1)
    return ImagePairMaker(image, scene.camera, models, renderer, SIZE, MARGIN, ops or CpuOperations())


def off(scene, seed=0, depth=0.02, degrees=3.0, sideways=0.01):
    """The true poses [M,4,4], each off along the line of sight by a share of its distance, turned about an axis of
    chance, and moved sideways by a share of the diameter; and their objects [M]."""
    rng = np.random.default_rng(seed)
    T = []
    for placed in scene.placed:
        mesh = scene.meshes[placed.mesh]
        axis, along = rng.normal(size=3), rng.normal(size=3)
        middle = placed.T[:3, :3] @ mesh.centre + placed.T[:3, 3]
        along -= middle * (along @ middle) / (middle @ middle)
        moved = middle * (1 + depth * rng.choice([-1, 1])) + sideways * mesh.diameter * along / np.linalg.norm(along)
        R = se3.so3_exp(np.radians(degrees) * axis / np.linalg.norm(axis)) @ placed.T[:3, :3]
        T.append(se3.from_rt(R, moved - R @ mesh.centre))
    return np.array(T), np.array([placed.mesh for placed in scene.placed])


def errors(scene, T) -> tuple[np.ndarray, np.ndarray]:
    """Mean distance of an object's vertices, metres [M]; error of its centre's distance, share of it [M]."""
    means, shares = [], []
    for pose, placed in zip(T, scene.placed, strict=True):
        mesh = scene.meshes[placed.mesh]
        points = mesh.vertices + mesh.centre
        gap = se3.transform(pose, points) - se3.transform(placed.T, points)
        means.append(np.linalg.norm(gap, axis=1).mean())
        here, there = (np.linalg.norm(se3.transform(p, mesh.centre[None])[0]) for p in (pose, placed.T))
        shares.append(abs(here / there - 1))
    return np.array(means), np.array(shares)


def run(scene, T, index, config=CONFIG, iterations=None, maker=None, solver=None, covariance=None) -> Aligned:
    return align(
        maker or maker_of(scene),
        T,
        index,
        solver=solver or CpuPnpSolver(threads=1),
        config=config,
        iterations=config.iterations if iterations is None else iterations,
        covariance=covariance,
    )


def assert_as_it_was(result: Aligned, T) -> None:
    np.testing.assert_array_equal(result.T_camera_object, T)
    assert not result.aligned.any()
    assert np.isnan(result.covariance).all()


def test_nothing_to_align(apart):
    result = run(apart, np.zeros((0, 4, 4)), np.zeros(0, int))
    assert result.T_camera_object.shape == (0, 4, 4)
    assert result.covariance.shape == (0, 6, 6)
    assert result.aligned.shape == result.share.shape == (0,)


class TestPoses:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_the_error_falls_and_the_distance_comes_right(self, apart, seed):
        T, index = off(apart, seed)
        result = run(apart, T, index)
        before, _ = errors(apart, T)
        after, depth = errors(apart, result.T_camera_object)
        assert result.aligned.all()
        assert (result.share > 0.9).all()
        assert (after < before / 3).all()
        assert (depth < 0.005).all()
        se3.check_transform(result.T_camera_object, tolerance=1e-9)

    def test_the_input_is_not_written_to(self, apart):
        T, index = off(apart)
        kept = T.copy(), index.copy()
        for array in (T, index):
            array.flags.writeable = False
        assert run(apart, T, index).aligned.any()
        np.testing.assert_array_equal(T, kept[0])
        np.testing.assert_array_equal(index, kept[1])

    def test_the_result_does_not_depend_on_the_batch(self, apart):
        """Not even on one that has no pose, or one that shows nothing."""
        T, index = off(apart)
        T = np.concatenate([T, np.full((1, 4, 4), np.nan), at(0.0, 0.0, -0.5)[None]])
        index = np.append(index, [1, 0])
        whole = run(apart, T, index)
        assert whole.aligned.tolist() == [True, True, True, False, False]
        for i in range(len(T)):
            alone = run(apart, T[i : i + 1], index[i : i + 1])
            for field in dataclasses.fields(Aligned):
                one, all_ = getattr(alone, field.name)[0], getattr(whole, field.name)[i]
                np.testing.assert_array_equal(one, all_, err_msg=f"{i}: {field.name}")

    def test_no_pose_and_one_behind_the_camera_stay_as_they_are(self, apart):
        T = np.stack([np.full((4, 4), np.nan), at(0.0, 0.0, -0.5)])
        result = run(apart, T, np.array([0, 1]))
        assert_as_it_was(result, T)
        assert np.isnan(result.share).all()

    def test_no_iterations(self, apart):
        T, index = off(apart)
        result = run(apart, T, index, iterations=0)
        assert_as_it_was(result, T)
        assert np.isnan(result.share).all()

    def test_a_share_that_none_has(self, apart):
        T, index = off(apart)
        assert_as_it_was(run(apart, T, index, dataclasses.replace(CONFIG, min_share=1.01)), T)

    def test_a_tight_prior_keeps_the_pose(self, apart, monkeypatch):
        for name in ("PRIOR_SIDEWAYS", "PRIOR_DEPTH", "PRIOR_ROTATION"):
            monkeypatch.setattr(f"coop_edge.stages.outline.{name}", 1e-6)
        T, index = off(apart)
        tight = dataclasses.replace(CONFIG, min_share=0.0)
        np.testing.assert_allclose(run(apart, T, index, tight).T_camera_object, T, atol=1e-6)


class TestWhatDoesNotStandOut:
    def test_an_object_of_the_backgrounds_colour(self, apart):
        """Neither side of the outline has a colour of its own."""
        image = np.random.default_rng(0).integers(100, 140, (480, 640, 3), dtype=np.uint8)
        T, index = off(apart)
        result = run(apart, T, index, maker=maker_of(apart, image))
        assert_as_it_was(result, T)
        assert (result.share < 0.1).all()

    def test_an_object_hidden_but_for_a_corner(self, red):
        board = painted((0.16, 0.3, 0.01), GREEN, name="board", seed=3)
        scene = Scene(
            (red[0], board), (Placed(0, at(0, 0, 0.5, (0.5, 0.7, -0.3))), Placed(1, at(-0.05, 0, 0.35))), CAMERA
        )
        T, index = (a[:1] for a in off(scene))
        result = run(scene, T, index)
        assert_as_it_was(result, T)
        assert result.share[0] < CONFIG.min_share

    def test_an_object_that_is_not_there(self, apart):
        T = at(-0.14, -0.09, 0.5, (0.5, 0.7, -0.3))[None]
        assert_as_it_was(run(apart, T, np.array([0])), T)


class TestMeasuredDepth:
    def test_edges_of_depth_place_a_flat_face_that_no_colour_shows(self, red):
        """Its surface alone leaves it free to slide in its plane: a wall behind it shows where it ends."""
        scene = Scene(red[:1], (Placed(0, placed_at(red[0], 0.0, 0.0, 0.5, (0.0, 0.0, 0.0))),), CAMERA)
        image = np.random.default_rng(0).integers(100, 140, (480, 640, 3), dtype=np.uint8)
        front, who, _ = scene.depths(np.eye(3), CAMERA.K, (480, 640))
        T, index = off(scene, depth=0.005, degrees=1.0, sideways=0.03)

        def slid(wall) -> tuple[float, Aligned]:
            depth = np.where(who >= 0, front, wall).astype(np.float32)
            maker = dataclasses.replace(maker_of(scene, image), measured=depth)
            parts = {"solver": CpuPnpSolver(threads=1), "config": CONFIG, "iterations": CONFIG.iterations}
            found = align(maker, T, index, depth=DepthConfig(), **parts)
            return np.linalg.norm((found.T_camera_object - scene.placed[0].T)[0, :2, 3]), found

        before = np.linalg.norm((T - scene.placed[0].T)[0, :2, 3])
        (with_wall, found), (without, _) = slid(0.8), slid(0.0)
        assert found.used_depth.all()
        assert found.share[0] > 0.9
        assert with_wall < 0.7 * before  # what is known of the pose beforehand holds it too
        assert without > 0.9 * before


def test_an_object_cut_by_the_images_border(red):
    """What lies outside of the image takes no part; the rest of the outline is enough."""
    scene = Scene(red, (Placed(0, placed_at(red[0], 0.25, 0.0, 0.5, (0.5, 0.7, -0.3))),), CAMERA)
    x, _, w, _ = scene.box(0)
    assert x + w == pytest.approx(640)  # cut
    T, index = off(scene)
    result = run(scene, T, index)
    (before,), (after,) = errors(scene, T)[0], errors(scene, result.T_camera_object)[0]
    assert result.aligned.all()
    assert after < before / 2


class TestCovariance:
    def test_is_one(self, apart):
        T, index = off(apart)
        covariance = run(apart, T, index).covariance
        np.testing.assert_allclose(covariance, covariance.transpose(0, 2, 1), rtol=1e-9, atol=1e-15)
        assert (np.linalg.eigvalsh(covariance) > 0).all()

    def test_it_errs_on_the_cautious_side(self, apart):
        """Errors over standard deviations, all six components. Edges of real images are worse than a render's, and
        lines are weighted for those: so less than one here, though not as little as a tenth."""
        ratios = []
        for seed in range(4):
            T, index = off(apart, seed)
            result = run(apart, T, index)
            truth = np.array([placed.T for placed in apart.placed])
            pose = result.T_camera_object
            xi = np.c_[
                pose[:, :3, 3] - truth[:, :3, 3], se3.so3_log(pose[:, :3, :3] @ truth[:, :3, :3].transpose(0, 2, 1))
            ]
            d2 = np.einsum("mi,mij,mj->m", xi, np.linalg.inv(result.covariance), xi) / 6
            ratios.extend(d2[result.aligned])
        scale = float(np.sqrt(np.mean(ratios)))
        assert 0.1 < scale < 1.0


def test_through_cupy_as_on_the_host(apart, monkeypatch):
    """Poses and verdicts come back once per iteration, and verdicts once for the last look; nothing else does."""
    T, index = off(apart)
    wanted = run(apart, T, index, iterations=2)
    cupy = FakeCupy()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    device = CupyDevice()
    renderer, ops = CudaRenderer(apart.meshes, device=device), CudaOperations(device)
    maker = maker_of(apart, cupy.put(before_green(apart)), renderer, ops)
    maker.make(T, index)  # uploads the meshes
    cupy.transfers.clear()
    found = run(apart, T, index, iterations=2, maker=maker, solver=CudaPnpSolver(device=device))
    down = [size for way, size in cupy.transfers if way == DOWNLOAD]
    assert len(down) == 3
    assert max(down) < 1024 * len(T)
    np.testing.assert_array_equal(found.aligned, wanted.aligned)
    # A grey level or a rounding apart, where the two crops and renders differ.
    np.testing.assert_allclose(found.T_camera_object, wanted.T_camera_object, atol=2e-4)
    np.testing.assert_allclose(found.share, wanted.share, atol=0.03)


def test_the_surer_a_pose_the_less_it_is_moved(apart):
    """By its covariance: as sure as a thousandth it stays, unsure it goes where it goes without one."""
    maker, index = maker_of(apart), np.array([0])
    start = apart.placed[0].T[None].copy()
    start[:, 2, 3] *= 1.02

    def moved(spread):
        covariance = None if spread is None else np.eye(6)[None] * spread**2
        found = run(apart, start, index, maker=maker, covariance=covariance)
        assert found.aligned.all()
        return np.linalg.norm(found.T_camera_object[0, :3, 3] - start[0, :3, 3])

    free, unsure, halfway, sure = (moved(s) for s in (None, 1e3, 2e-2, 7e-5))
    assert free > 0.005
    assert unsure == pytest.approx(free, rel=1e-6)
    assert sure < 0.02 * free
    assert sure < halfway < free
