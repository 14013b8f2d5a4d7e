"""Depth in crops and under rendered surfaces against a float64 oracle: CPU, host shim, and a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.crop import crop_camera
from coop_edge.geometry.lens import Lens
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from coop_edge.ops.depth import BINS, SurfaceLimits, places_per_side
from coop_edge.render import CpuRenderer
from coop_edge.stages.crop import pose_crop
from coop_edge.types import Camera
from tests.cuda_host.host_device import HostDevice
from tests.oracles import depth as oracle
from tests.stages.scene import at, colored_box

CAMERA = Camera(np.array([[150.0, 0.2, 80.0], [0.0, 140.0, 60.0], [0.0, 0.0, 1.0]]), 161, 121)
BOX = colored_box((0.1, 0.07, 0.05))
DIAMETER = float(np.linalg.norm((0.1, 0.07, 0.05)))


@pytest.fixture(params=["cpu", "shim", pytest.param("gpu", marks=pytest.mark.gpu)])
def ops(request):
    if request.param == "cpu":
        return CpuOperations()
    if request.param == "shim":
        return CudaOperations(HostDevice())
    from coop_edge.kernels.device import CupyDevice

    return CudaOperations(CupyDevice())


def depth_image(seed=0) -> np.ndarray:
    """A slanted wall with a step and holes."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    depth = 0.6 + 0.001 * u + 0.0005 * v - 0.1 * (u > 90)
    depth[np.random.default_rng(seed).random(depth.shape) < 0.1] = 0.0
    return depth.astype(np.float32)


@pytest.mark.parametrize("boxes", [[], [(60, 40, 9, 12)], [(20, 30, 31, 27), (0, 0, 161, 121), (-20, -15, 50, 40)]])
def test_points_are_the_oracles(ops, boxes):
    crop = crop_camera(CAMERA.K, np.reshape(boxes, (-1, 4)), 24, 1.2)
    depth = depth_image()
    found = ops.to_host(ops.depth_points(ops.upload(depth), crop))
    assert found.shape == (len(boxes), 24, 24, 3)
    assert found.dtype == np.float32
    for i in range(len(boxes)):
        wanted = oracle.points(depth, CAMERA.K, crop.H[i], crop.R_crop_camera[i], 24)
        np.testing.assert_allclose(found[i], wanted, atol=2e-7)


@pytest.mark.parametrize("fisheye", [False, True])
def test_points_go_through_the_lens(ops, fisheye):
    K = np.array([[150.0, 0.0, 80.0], [0.0, 140.0, 60.0], [0.0, 0.0, 1.0]])
    lens = Lens.make(K, [0.08, -0.02, 0.01, 0.0] if fisheye else [-0.2, 0.05, 0.001, -0.002, 0.0], fisheye=fisheye)
    crop = crop_camera(K, np.array([[90.0, 20.0, 50.0, 40.0], [0.0, 0.0, 161.0, 121.0]]), 24, 1.2, lens)
    depth = depth_image()
    found = ops.to_host(ops.depth_points(ops.upload(depth), crop))
    for i in range(2):
        wanted = oracle.points(depth, K, crop.H[i], crop.R_crop_camera[i], 24, lens)
        assert np.isfinite(wanted[..., 0]).sum() > 200
        # The ray of a pixel's middle is taken from half a pixel beside it: off by half the change of the distortion.
        np.testing.assert_allclose(found[i], wanted, atol=0.002)


def test_a_crops_points_are_on_the_wall_that_was_measured(ops):
    """Along the crop's own axis, not the camera's: a wall square to the camera is slanted in a crop beside it."""
    crop = crop_camera(CAMERA.K, np.array([[120.0, 80.0, 30.0, 30.0]]), 32, 1.0)
    wall = np.full((CAMERA.height, CAMERA.width), 0.8, np.float32)
    found = ops.to_host(ops.depth_points(ops.upload(wall), crop))[0].reshape(-1, 3)
    found = found[np.isfinite(found[:, 0])]
    assert len(found) > 500
    np.testing.assert_allclose(found @ crop.R_crop_camera[0][:, 2], 0.8, atol=1e-6)
    assert np.ptp(found[:, 2]) > 0.02


def test_depth_is_not_interpolated_over_an_edge(ops):
    depth = np.full((CAMERA.height, CAMERA.width), 0.5, np.float32)
    depth[:, 80:] = 1.0
    crop = crop_camera(CAMERA.K, np.array([[78.0, 58.0, 4.0, 4.0]]), 64, 1.0)
    found = ops.to_host(ops.depth_points(ops.upload(depth), crop))[0].reshape(-1, 3)
    z = np.unique(np.round(found @ crop.R_crop_camera[0][:, 2], 5))
    np.testing.assert_allclose(z, [0.5, 1.0])


def compared(ops, count=3, size=40, seed=0, offset=0.004):
    """Renders of the box at poses, measured depth of a slightly other one with holes and an occluder, and limits."""
    rng = np.random.default_rng(seed)
    T = np.array([at(0.05 * i - 0.05, 0.02, 0.6, rng.normal(0, 1, 3)) for i in range(count)]).reshape(-1, 4, 4)
    renderer = CpuRenderer((BOX,), threads=1)
    centre, diameter = np.zeros((count, 3)), np.full(count, DIAMETER)
    crop = pose_crop(CAMERA, T, centre, diameter, size, 1.2)
    T_crop = crop.to_crop(T)
    true = se3.compose(T, se3.exp(np.array([0.002, 0.001, offset, 0.02, -0.03, 0.01])))
    images = []
    for pose in true:
        seen = renderer.render(pose[None], CAMERA.K, (CAMERA.height, CAMERA.width)).depth[0]
        scene = np.where(seen > 0, seen, 0.75).astype(np.float32)
        scene[:, :70] = np.minimum(scene[:, :70], 0.45)
        scene[rng.random(scene.shape) < 0.05] = 0.0
        images.append(scene)
    measured = np.zeros((count, size, size, 3), np.float32)
    for i, image in enumerate(images):
        measured[i] = ops.to_host(ops.depth_points(ops.upload(image), crop.take(np.array([i]))))[0]
    depth = renderer.render(T_crop, crop.K, size).depth
    limits = SurfaceLimits(diameter, np.full(count, 0.02), np.full(count, 0.005), 0.002, 0.0005, 0.1)
    return depth, measured, crop, T_crop, limits


@pytest.mark.parametrize("size", [40, 130])
@pytest.mark.parametrize("count", [0, 1, 3])
def test_surfaces_are_the_oracles(ops, count, size):
    depth, measured, crop, T_crop, limits = compared(ops, count, size)
    found = ops.surfaces(ops.upload(depth), ops.upload(measured), crop, T_crop, limits)
    side, _ = places_per_side(size)
    assert found.weights.shape == (count, side * side)
    assert found.gaps.shape == (count, BINS)
    shared = {"noise": limits.noise, "floor": limits.floor, "information": limits.information}
    occurred = np.zeros(5, int)
    for i in range(count):
        each = {"diameter": limits.diameter[i], "gate": limits.gate[i], "tolerance": limits.tolerance[i]}
        wanted = oracle.surfaces(depth[i], measured[i], crop.K[i], T_crop[i], each | shared)
        occurred += wanted["tally"]
        assert (wanted["weights"] > 0).sum() > 10
        for name in ("tally", "gaps"):
            np.testing.assert_array_equal(ops.to_host(getattr(found, name))[i], wanted[name])
        np.testing.assert_allclose(ops.to_host(found.weights)[i], wanted["weights"], rtol=1e-5)
        for name, slack in (("points", 1e-7), ("places", 1e-7), ("normals", 1e-5)):
            np.testing.assert_allclose(ops.to_host(getattr(found, name))[i], wanted[name], atol=slack)
    assert count == 0 or occurred[:4].min() > 0
    assert count < 3 or occurred[4] > 0


def test_a_surface_does_not_depend_on_its_batch(ops):
    depth, measured, crop, T_crop, limits = compared(ops, 3)
    together = ops.surfaces(ops.upload(depth), ops.upload(measured), crop, T_crop, limits)
    for i in range(3):
        one = np.array([i])
        own = SurfaceLimits(limits.diameter[one], limits.gate[one], limits.tolerance[one], 0.002, 0.0005, 0.1)
        alone = ops.surfaces(ops.upload(depth[one]), ops.upload(measured[one]), crop.take(one), T_crop[one], own)
        for name in ("points", "places", "normals", "weights", "tally", "gaps"):
            np.testing.assert_array_equal(ops.to_host(getattr(together, name))[i], ops.to_host(getattr(alone, name))[0])


def test_the_true_pose_agrees_and_a_nearer_one_lies_before_what_was_measured(ops):
    depth, measured, crop, T_crop, limits = compared(ops, 1, 64, offset=0.0)
    here = ops.to_host(ops.surfaces(ops.upload(depth), ops.upload(measured), crop, T_crop, limits).tally)[0]
    nearer = np.where(depth > 0, depth - np.float32(0.05), np.float32(0.0))
    before = ops.to_host(ops.surfaces(ops.upload(nearer), ops.upload(measured), crop, T_crop, limits).tally)[0]
    assert here[2] > 4 * before[2]  # of places; an occluder hides the rest
    assert before[4] > here[4] + 0.3 * here[1]


def test_refuses_what_is_no_depth():
    ops = CpuOperations()
    crop = crop_camera(CAMERA.K, np.array([[60.0, 40.0, 9.0, 12.0]]), 24, 1.2)
    with pytest.raises(InputError, match=r"depth: wanted a numpy.ndarray float32 \[height,width\], got a .* float64"):
        ops.depth_points(np.zeros((5, 5)), crop)
    limits, flat = SurfaceLimits(*np.ones((3, 1)), 0.1, 0.1, 0.1), np.zeros((1, 24, 24), np.float32)
    with pytest.raises(InputError, match=r"measured: wanted a numpy.ndarray float32 \[1,24,24,3\]"):
        ops.surfaces(flat, flat, crop, np.eye(4)[None], limits)
