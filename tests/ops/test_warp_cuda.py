"""The crop kernel against the CPU and against a float64 oracle; on the host shim, and on a GPU where there is one."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.geometry.crop import crop_camera
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from coop_edge.ops.sampling import samples_per_side
from coop_edge.stages.crop import crop_detections, pose_crop
from coop_edge.types import Camera, Detection
from tests.cuda_host.host_device import HostDevice
from tests.kernels.devices import device  # noqa: F401
from tests.oracles import warp as oracle
from tests.stages.scene import at

CPU = CpuOperations()
CAMERA = Camera(np.array([[130.0, 0.0, 70.0], [0.0, 140.0, 50.0], [0.0, 0.0, 1.0]]), 141, 103)
HALF_A_LEVEL = 0.5 + 0.03
"""Rounding to 8 bits, and 1e-4 pixels across an edge from 0 to 255 in FP32."""


def noise(camera=CAMERA, seed=0) -> np.ndarray:
    """The hardest image: neighbours have nothing to do with each other."""
    return np.random.default_rng(seed).integers(0, 256, (camera.height, camera.width, 3), dtype=np.uint8)


def smooth(camera=CAMERA) -> np.ndarray:
    v, u = np.mgrid[: camera.height, : camera.width]
    waves = [np.sin(u / 9.0) * np.cos(v / 7.0), np.cos(u / 5.0 + v / 11.0), np.sin(v / 6.0)]
    return np.rint(127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


def levels(device, image, H, size, lens=None) -> np.ndarray:  # noqa: F811
    """float64 [N,3,S,S] in 0..255."""
    out = CudaOperations(device).warp(device.xp.asarray(image), H, size, lens)
    assert (out.shape, out.dtype) == ((len(H), 3, size, size), np.float32)
    host = device.to_numpy(out)
    whole = np.rint(host.astype(np.float64) * 255.0)
    np.testing.assert_array_equal(host, whole.astype(np.float32) / np.float32(255.0))  # 8 bits, as the CPU's
    return whole


def boxes(*given) -> np.ndarray:
    return np.array(given, np.float64).reshape(-1, 4)


BOXES = {
    "none": boxes(),
    "one, magnified": boxes((60, 40, 9, 12)),
    "m = 1": boxes((20, 30, 31, 27), (101.3, 11.7, 20.2, 19)),
    "m = 2 and 3": boxes((15, 10, 60, 40), (30, 5, 90, 70)),
    "all of it": boxes((0, 0, 141, 103)),
    "at the border": boxes((-20, -15, 50, 40), (120, 80, 60, 60), (0, 0, 3, 3), (138, 100, 5, 5)),
    "mixed": boxes((60, 40, 9, 12), (0, 0, 141, 103), (20, 30, 31, 27)),
}


@pytest.mark.parametrize("size", [33, 16, 7])
@pytest.mark.parametrize("case", BOXES)
@pytest.mark.parametrize("image", [noise(), smooth()], ids=["noise", "smooth"])
def test_is_the_mean_of_bilinear_samples(device, image, case, size):  # noqa: F811
    H = crop_camera(CAMERA.K, BOXES[case], size, 1.2).H
    assert samples_per_side(H, size).tolist() == [oracle.samples_per_side(h, size) for h in H]
    found, wanted = levels(device, image, H, size), oracle.warp(image, H, size)
    assert np.abs(found - wanted).max(initial=0.0) <= HALF_A_LEVEL


@pytest.mark.parametrize("size", [32, 47])
@pytest.mark.parametrize("case", BOXES)
def test_is_the_cpus_crop_to_one_grey_level(device, case, size):  # noqa: F811
    """One level: both round to 8 bits, the CPU more than once. The image is smooth: OpenCV rounds places of samples."""
    H = crop_camera(CAMERA.K, BOXES[case], size, 1.2).H
    apart = np.abs(levels(device, smooth(), H, size) - np.rint(255.0 * CPU.warp(smooth(), H, size)))
    assert apart.max(initial=0.0) <= 1.0


@pytest.mark.parametrize("m", [1, 2, 3, 5, 16])
def test_odd_homographies_and_every_number_of_samples(device, m):  # noqa: F811
    """Turned, sheared and with perspective, and m up to its bound."""
    size, c, s = 9, np.cos(0.4), np.sin(0.4)
    away = np.array([[1.0, 0.0, -70.0], [0.0, 1.0, -50.0], [0.0, 0.0, 1.0]])
    turn = np.array([[c, -s, 0.0], [s, 1.1 * c, 0.0], [5e-4, -8e-4, 1.0]])
    scale = np.array([[1 / m, 0.0, 4.0], [0.0, 1 / m, 4.0], [0.0, 0.0, 1.0]])
    H = (scale @ turn @ away)[None]
    assert abs(int(samples_per_side(H, size)[0]) - m) <= 1
    assert np.abs(levels(device, noise(), H, size) - oracle.warp(noise(), H, size)).max() <= HALF_A_LEVEL
    # A homography has no scale; one whose sign is turned looks backwards.
    np.testing.assert_array_equal(levels(device, noise(), 1e-3 * H, size), levels(device, noise(), H, size))
    assert not levels(device, noise(), -H, size).any()


def test_what_lies_behind_the_camera_is_black(device):  # noqa: F811
    """A box 150 degrees wide, aside: part of its crop lies behind the camera, where the image would be mirrored."""
    wide = Camera([[12.0, 0.0, 70.0], [0.0, 12.0, 50.0], [0.0, 0.0, 1.0]], 141, 103)
    H = crop_camera(wide.K, boxes((71, 0, 70, 103)), 40, 1.2).H
    image = 255 - noise(wide) // 2
    found, wanted = levels(device, image, H, 40), oracle.warp(image, H, 40)
    u, v = np.meshgrid(np.arange(40), np.arange(40))
    behind = (np.linalg.inv(H[0]) @ np.stack([u, v, np.ones_like(u)]).reshape(3, -1))[2].reshape(40, 40) <= 0
    assert 0.05 < behind.mean() < 0.9
    assert not found[0][:, behind].any()
    assert (found[0][:, ~behind] > 0).any()
    assert np.abs(found - wanted).max() <= HALF_A_LEVEL


def test_a_crop_whose_middle_looks_backwards(device):  # noqa: F811
    """No anchor there; the rest of the crop is what it is."""
    H = np.linalg.inv(np.array([[3.0, 0.2, 0.0], [0.1, 2.5, 0.0], [-0.12, 0.0, 1.0]]))[None]
    found, wanted = levels(device, smooth(), H, 33), oracle.warp(smooth(), H, 33)
    assert (found[0, :, :, :8] > 0).any()
    assert not found[0, :, :, 9:].any()
    assert np.abs(found - wanted).max() <= HALF_A_LEVEL


def test_a_large_image_costs_no_precision(device):  # noqa: F811
    """FP32 has a tenth of a thousandth of a pixel left at column 3800, were coordinates not relative."""
    camera = Camera(np.array([[3000.0, 0.0, 1920.0], [0.0, 3000.0, 60.0], [0.0, 0.0, 1.0]]), 3840, 120)
    H = crop_camera(camera.K, boxes((3780, 30, 40, 41), (3400, 2, 400, 110)), 24, 1.2).H
    found, wanted = levels(device, noise(camera), H, 24), oracle.warp(noise(camera), H, 24)
    assert np.abs(found - wanted).max() <= HALF_A_LEVEL


def test_a_crop_does_not_depend_on_its_batch(device):  # noqa: F811
    H = crop_camera(CAMERA.K, BOXES["at the border"], 17, 1.2).H
    together = levels(device, noise(), H, 17)
    for i in range(len(H)):
        np.testing.assert_array_equal(levels(device, noise(), H[i : i + 1], 17)[0], together[i])


def test_the_order_of_threads_does_not_matter():
    H = crop_camera(CAMERA.K, BOXES["mixed"], 17, 1.2).H
    results = [levels(HostDevice(reverse=reverse), noise(), H, 17) for reverse in (False, True)]
    np.testing.assert_array_equal(*results)


def test_images_of_any_strides(device):  # noqa: F811
    image = device.xp.asarray(np.ascontiguousarray(noise()[:, ::-1]))[:, ::-1]
    H = crop_camera(CAMERA.K, BOXES["m = 1"], 16, 1.2).H
    np.testing.assert_array_equal(
        device.to_numpy(CudaOperations(device).warp(image, H, 16)),
        device.to_numpy(CudaOperations(device).warp(device.xp.asarray(noise()), H, 16)),
    )


def test_the_stages_take_it_in_the_place_of_the_cpus(device):  # noqa: F811
    image = device.xp.asarray(smooth())
    detections = [Detection("a", bbox=(20, 30, 40, 30)), Detection("a", bbox=(90, 10, 30, 60))]
    crops = crop_detections(image, CAMERA, detections, 32, ops=CudaOperations(device), margin=1.2, patch=16)
    plain = crop_detections(smooth(), CAMERA, detections, 32, ops=CPU, margin=1.2, patch=16)
    np.testing.assert_allclose(device.to_numpy(crops.images), plain.images, atol=1.001 / 255)
    np.testing.assert_array_equal(crops.camera.H, plain.camera.H)
    aimed = pose_crop(CAMERA, at(0.1, 0.05, 0.9)[None], np.zeros((1, 3)), np.array([0.17]), 32, 1.2)
    np.testing.assert_allclose(levels(device, smooth(), aimed.H, 32) / 255, CPU.warp(smooth(), aimed.H, 32), atol=0.004)


LENSES = {
    "barrel": Camera(CAMERA.K, 141, 103, [-0.25, 0.08, 1e-3, -2e-3, -0.01]),
    "rational": Camera(CAMERA.K, 141, 103, [0.5, -0.2, 1e-3, 2e-4, 0.05, 0.6, -0.1, 0.02]),
    "prism and tilt": Camera(
        CAMERA.K, 141, 103, [-0.2, 0.1, 1e-3, 0, 0.05, 0, 0, 0, 1e-3, 2e-3, -1e-3, 0, 0.05, -0.03]
    ),
    "fisheye": Camera([[60.0, 0, 70], [0, 60, 50], [0, 0, 1]], 141, 103, [0.05, -0.02, 0.01, -0.002], fisheye=True),
}


@pytest.mark.parametrize("lens", LENSES)
@pytest.mark.parametrize("case", ["none", "one, magnified", "m = 1", "m = 2 and 3", "at the border"])
def test_through_a_lens_is_the_mean_of_bilinear_samples(device, lens, case):  # noqa: F811
    """Places are off by 3e-4 pixels at most, a tenth of a level."""
    camera = LENSES[lens]
    H = crop_camera(camera.K, BOXES[case], 16, 1.2, camera.lens).H
    wanted = oracle.warp(noise(), H, 16, camera)
    assert samples_per_side(H, 16, camera.lens).tolist() == [oracle.samples_per_side(h, 16, camera) for h in H]
    assert np.abs(levels(device, noise(), H, 16, camera.lens) - wanted).max(initial=0.0) <= HALF_A_LEVEL + 0.1
    on_cpu = 255 * CPU.warp(smooth(), H, 16, camera.lens)
    assert np.abs(on_cpu - oracle.warp(smooth(), H, 16, camera)).max(initial=0.0) <= 1.6  # OpenCV's 1/32 pixel


def test_beyond_the_limit_of_a_lens_all_is_black(device):  # noqa: F811
    """r (1 - 0.4 r^2) would show the image again, mirrored."""
    with pytest.warns(UserWarning, match="folds"):
        camera = Camera([[60.0, 0, 70], [0, 60, 50], [0, 0, 1]], 141, 103, [-0.4, 0, 0, 0])
    K = np.array([[12.0, 0, 15.5], [0, 12, 15.5], [0, 0, 1]])
    H = (K @ np.linalg.inv(camera.K))[None]
    u, v = np.meshgrid(*[np.arange(32) - 15.5] * 2)
    beyond = np.hypot(u, v) / 12 > np.sqrt(1 / 1.2)
    for image in (
        levels(device, smooth() // 2 + 100, H, 32, camera.lens),
        CPU.warp(smooth() // 2 + 100, H, 32, camera.lens),
    ):
        assert not image[0][:, np.hypot(u, v) / 12 > np.sqrt(1 / 1.2) + 0.1].any()
        assert (image[0][:, ~beyond] > 0).any()
    assert 0.3 < beyond.mean() < 0.8


def test_a_mask_is_seen_through_the_lens_too():
    camera = LENSES["barrel"]
    mask = np.zeros((103, 141), bool)
    mask[5:30, 4:40] = True
    crops = crop_detections(
        smooth(), camera, [Detection("a", bbox=(0, 0, 80, 60), mask=mask)], 64, ops=CPU, margin=1.2, patch=16
    )
    grid = np.stack(np.meshgrid(np.arange(64.0), np.arange(64.0)), -1).reshape(1, -1, 2)
    place = np.rint(crops.camera.pixels_to_image(grid)[0])
    there = np.array([0 <= u < 141 and 0 <= v < 103 and mask[int(v), int(u)] for u, v in place])
    np.testing.assert_array_equal(crops.trusted[0], there.reshape(4, 16, 4, 16).any(axis=(1, 3)).ravel())
    assert 0 < crops.trusted.sum() < 16
