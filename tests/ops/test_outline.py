"""Edges along outlines, by both implementations: against the oracle, a sphere's outline, and edges at known places.

The kernels run on the host shim, and on a GPU where there is one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import trimesh

from coop_edge import Camera
from coop_edge.errors import InputError
from coop_edge.geometry import se3
from coop_edge.geometry.crop import CropCamera, crop_camera
from coop_edge.kernels.device import CupyDevice
from coop_edge.mesh import Mesh
from coop_edge.ops.cpu import CpuOperations
from coop_edge.ops.cuda import CudaOperations
from coop_edge.ops.outline import LINES, SHIFT, MeasuredEdges, Outlines
from coop_edge.render import CpuRenderer
from tests.cuda_host.host_device import HostDevice
from tests.oracles import outline as oracle

SIZE = 128
FOCAL, MIDDLE = 300.0, 0.5 * (SIZE - 1)
RADIUS, DISTANCE = 0.05, 0.5
UNIFORM = ((2 * SHIFT + 1) ** 2 - 1) / 12
"""Variance of a position that may be any, pixels^2."""
RED, GREEN = (200, 40, 40), (30, 60, 180)
FIELDS = [field.name for field in dataclasses.fields(Outlines)]


@pytest.fixture(scope="module", params=["cpu", "host", pytest.param("cupy", marks=pytest.mark.gpu)])
def ops(request):
    if request.param == "cpu":
        return CpuOperations()
    return CudaOperations(HostDevice() if request.param == "host" else CupyDevice())


def virtual(size: int, count: int = 1) -> CropCamera:
    """Cameras whose crop is the image."""
    K = np.array([[FOCAL, 0.0, 0.5 * (size - 1)], [0.0, FOCAL, 0.5 * (size - 1)], [0.0, 0.0, 1.0]])
    K, unit = (np.broadcast_to(a, (count, 3, 3)) for a in (K, np.eye(3)))
    return CropCamera(K, unit, unit, size)


def measured(ops, image, depth, crop=None, T=None, image_size=None, sensor=None, tolerance=0.01) -> Outlines:
    """Of uint8 [M,S,S,3] or [S,S,3] and depth [M,S,S], on the host; sensor: measured depth [M,S,S] or None."""
    depth = np.asarray(depth, np.float32)
    count, size = depth.shape[:2]
    query = np.moveaxis(np.broadcast_to(image, (count, size, size, 3)), -1, 1).astype(np.float32) / np.float32(255)
    crop = virtual(size, count) if crop is None else crop
    T = np.tile(np.eye(4), (count, 1, 1)) if T is None else T
    arrays = ops.upload(np.ascontiguousarray(query)), ops.upload(depth)
    edges = None
    if sensor is not None:
        points = np.stack([np.zeros(sensor.shape)] * 2 + [sensor], axis=-1).astype(np.float32)
        edges = MeasuredEdges(ops.upload(points), np.full(count, tolerance))
    found = ops.outlines(*arrays, crop, T, image_size or (size, size), edges)
    return Outlines(*(ops.to_host(getattr(found, name)) for name in FIELDS))


def valid(found: Outlines, m: int = 0) -> Outlines:
    """The lines of hypothesis ``m``; beyond them there are zeros."""
    lines = int(found.verdict[m, 0])
    for name in FIELDS[:-1]:
        assert not getattr(found, name)[m, lines:].any(), name
    return Outlines(*(getattr(found, name)[m, :lines] for name in FIELDS[:-1]), found.verdict[m])


def disc(radius: float, size: int = SIZE, middle=None) -> np.ndarray:
    x, y = np.broadcast_to(0.5 * (size - 1) if middle is None else middle, 2)
    v, u = np.mgrid[:size, :size]
    return np.hypot(u - x, v - y) < radius


def two_colors(mask: np.ndarray) -> np.ndarray:
    return np.where(mask[..., None], np.uint8(RED), np.uint8(GREEN))


GREY = np.full((SIZE, SIZE, 3), 90, np.uint8)
"""Says nothing, so that edges are where the lines are."""


@pytest.fixture(scope="module")
def sphere():
    """Depth [1,S,S] of a sphere on the optical axis, and the radius of its outline, pixels.

    The rays that touch it enclose the angle asin(radius / distance) with the axis.
    """
    ball = trimesh.creation.icosphere(subdivisions=5, radius=RADIUS)
    faces = np.asarray(ball.faces, np.int32)
    mesh = Mesh(
        vertices=np.asarray(ball.vertices, np.float32),
        faces=faces,
        centre=np.zeros(3),
        corner_colors=np.full((len(faces), 3, 3), 200, np.uint8),
        corner_uv=np.zeros((len(faces), 3, 2), np.float32),
        face_texture=np.full(len(faces), -1, np.int32),
    )
    T = np.eye(4)[None]
    T[0, 2, 3] = DISTANCE
    depth = CpuRenderer(mesh, threads=1).render(T, virtual(SIZE).K[0], SIZE).depth
    return depth, FOCAL * np.tan(np.arcsin(RADIUS / DISTANCE))


def blobs(size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of noisy patches [S,S,3] and a depth [S,S] of discs and a bar, some cut by the crop."""
    rng = np.random.default_rng(seed)
    mask = np.zeros((size, size), bool)
    for _ in range(3):
        mask |= disc(rng.uniform(0.05, 0.25) * size, size, rng.uniform(0.1, 0.9, 2) * size)
    mask[size // 3 : size // 3 + 2, : size // 2] = True
    depth = np.where(mask, 0.5 + 0.1 * rng.random((size, size)), 0.0)
    patches = rng.integers(0, 256, (8, 8, 3)).repeat(-(-size // 8), 0).repeat(-(-size // 8), 1)[:size, :size]
    image = np.where(mask[..., None], patches // 2 + 100, patches // 2) + rng.integers(0, 20, (size, size, 3))
    return np.roll(image.clip(0, 255).astype(np.uint8), rng.integers(-3, 4, 2), (0, 1)), depth


class TestAgainstTheOracle:
    @pytest.mark.parametrize("size", [64, 97, 128, 224])
    def test_is_the_oracles(self, ops, size):
        scenes = [blobs(size, seed) for seed in range(4)]
        images, depth = (np.stack(parts) for parts in zip(*scenes, strict=True))
        camera = np.array([[300.0, 0.0, 200.0], [0.0, 310.0, 150.0], [0.0, 0.0, 1.0]])
        boxes = np.array([[150.0, 100, 100, 90], [-40, 20, 100, 100], [350, 250, 80, 80], [100, 150, 300, 200]])
        crop = crop_camera(camera, boxes, size, 1.2)
        T = se3.from_rt(se3.random_rotation(np.random.default_rng(0), (4,)), np.array([0.1, -0.2, 0.6]))
        found = measured(ops, images, depth, crop, T, (400, 300))
        inside = []
        for m, (image, d) in enumerate(scenes):
            query, d = np.moveaxis(image, -1, 0) / 255, d.astype(np.float32).astype(float)
            wanted = oracle.measure(query, d, crop.K[m], T[m], crop.H[m], (400, 300))
            lines = valid(found, m)
            inside.append((wanted["weights"] > 0).mean())
            for name in FIELDS:
                np.testing.assert_allclose(getattr(lines, name), wanted[name], atol=1e-3, rtol=1e-4, err_msg=name)
            np.testing.assert_allclose(lines.points, wanted["points"], atol=1e-6)
        assert min(inside) < 0.5 < max(inside)  # some crops lie partly outside of the image

    @pytest.mark.parametrize("fisheye", [False, True])
    def test_lines_end_where_the_image_behind_a_lens_ends(self, ops, fisheye):
        distortion = [0.1, 0.02, 0, 0] if fisheye else [-0.4, 0.2, 1e-3, -2e-3, -0.05]
        camera = Camera([[300.0, 0, 200], [0, 310, 150], [0, 0, 1]], 400, 300, distortion, fisheye=fisheye)
        boxes = np.array([[150.0, 100, 100, 90], [-40, 20, 100, 100], [350, 240, 80, 80], [2, 100, 100, 200]])
        scenes = [blobs(SIZE, seed) for seed in range(4)]
        images, depth = (np.stack(parts) for parts in zip(*scenes, strict=True))
        crop = crop_camera(camera.K, boxes, SIZE, 1.2, camera.lens)
        T = np.tile(np.eye(4), (4, 1, 1))
        found = measured(ops, images, depth, crop, T, (400, 300))
        plain = measured(ops, images, depth, dataclasses.replace(crop, lens=None), T, (400, 300))
        for m, (image, d) in enumerate(scenes):
            query, d = np.moveaxis(image, -1, 0) / 255, d.astype(np.float32).astype(float)
            wanted = oracle.measure(query, d, crop.K[m], T[m], crop.H[m], (400, 300), camera)
            np.testing.assert_allclose(valid(found, m).weights, wanted["weights"], atol=1e-3, rtol=1e-4)
            np.testing.assert_allclose(valid(found, m).verdict, wanted["verdict"], atol=1e-3, rtol=1e-4)
        assert (found.weights > 0).tolist() != (plain.weights > 0).tolist()

    @pytest.mark.parametrize("seed", range(3))
    def test_of_noise(self, ops, seed):
        image = np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3)).astype(np.uint8)
        mask = disc(30.0 + seed)
        lines = valid(measured(ops, image, mask[None]))
        query, camera = np.moveaxis(image, -1, 0) / 255, virtual(SIZE)
        wanted = oracle.measure(query, 1.0 * mask, camera.K[0], np.eye(4), camera.H[0], (SIZE, SIZE))
        for name in FIELDS:
            np.testing.assert_allclose(getattr(lines, name), wanted[name], atol=1e-3, rtol=1e-4, err_msg=name)


class TestMeasuredDepth:
    """Edges of depth beside those of colours."""

    @staticmethod
    def seen(mask, behind=0.3) -> np.ndarray:
        """A flat thing at 0.5 m before a wall, float64 [1,S,S] metres."""
        return np.where(mask, 0.5, 0.5 + behind)[None]

    @pytest.mark.parametrize("seed", range(3))
    def test_is_the_oracles(self, ops, seed):
        image, depth = blobs(SIZE, seed)
        rng = np.random.default_rng(seed)
        depth = depth.astype(np.float32).astype(float)
        sensor = np.where(np.roll(depth, 3, axis=1) > 0, 0.55, 0.9) + rng.normal(0, 0.03, depth.shape)
        sensor[rng.random(depth.shape) < 0.2] = np.nan
        sensor[:40] -= 0.3  # hidden
        sensor = sensor.astype(np.float32)
        lines = valid(measured(ops, image, depth[None], sensor=sensor[None], tolerance=0.05))
        camera, query = virtual(SIZE), np.moveaxis(image, -1, 0) / 255
        args = query, depth, camera.K[0], np.eye(4), camera.H[0], (SIZE, SIZE)
        wanted, plain = oracle.measure(*args, measured=sensor, tolerance=0.05), oracle.measure(*args)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(lines, name), wanted[name], atol=1e-3, rtol=1e-4, err_msg=name)
        assert np.abs(wanted["edges"] - plain["edges"]).max() > 0.1

    @pytest.mark.parametrize("shift", [0.0, 1.3, -2.75])
    def test_an_edge_that_colours_do_not_show(self, ops, shift):
        lines = valid(measured(ops, GREY, 0.5 * disc(30.3)[None], sensor=self.seen(disc(30.3 + shift))))
        off = np.linalg.norm(lines.pixels - MIDDLE, axis=1) - (30.3 + shift)
        assert abs(off.mean()) < 0.1 * max(abs(shift), 1)
        assert (lines.edges[:, 1] < UNIFORM / 10).all()
        assert (lines.weights > 0).all()

    def test_colours_and_depth_together_are_surer(self, ops):
        image, mask = two_colors(disc(30.3)), 0.5 * disc(30.3)[None]
        both, one = (valid(measured(ops, image, mask, sensor=s)) for s in (self.seen(disc(30.3)), None))
        assert (both.edges[:, 2] > one.edges[:, 2] - 1e-6).all()

    @pytest.mark.parametrize("sensor", [np.nan, 0.2])
    def test_unknown_depth_and_what_hides_the_object_say_nothing(self, ops, sensor):
        image, mask = two_colors(disc(31.0)), 0.5 * disc(30.3)[None]
        found, plain = (measured(ops, image, mask, sensor=s) for s in (np.full((1, SIZE, SIZE), sensor), None))
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(found, name), getattr(plain, name), err_msg=name)

    def test_refuses_other_arrays(self, ops):
        query, depth = np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 8, 8), np.float32)
        edges = MeasuredEdges(ops.upload(depth), np.zeros(1))
        with pytest.raises(InputError, match="measured: wanted"):
            ops.outlines(ops.upload(query), ops.upload(depth), virtual(8), np.eye(4)[None], (8, 8), edges)


class TestBatch:
    def test_none_is_legal(self, ops):
        found = measured(ops, np.zeros((0, SIZE, SIZE, 3), np.uint8), np.zeros((0, SIZE, SIZE)))
        shapes = [getattr(found, name).shape for name in FIELDS]
        assert shapes == [(0, LINES, 3), (0, LINES, 2), (0, LINES, 2), (0, LINES), (0, LINES, 4), (0, 3)]
        assert all(getattr(found, name).dtype == np.float32 for name in FIELDS)

    def test_a_hypothesis_does_not_depend_on_its_batch(self, ops):
        images, depth = (np.stack(parts) for parts in zip(*(blobs(SIZE, seed) for seed in range(3)), strict=True))
        depth[1] = 0.0
        whole = measured(ops, images, depth)
        assert (whole.verdict[:, 0] > 0).tolist() == [True, False, True]
        for m in range(3):
            alone = measured(ops, images[m : m + 1], depth[m : m + 1])
            for name in FIELDS:
                np.testing.assert_array_equal(getattr(alone, name)[0], getattr(whole, name)[m], err_msg=name)

    def test_the_order_of_threads_does_not_matter(self):
        image, depth = blobs(SIZE, 5)
        found = [measured(CudaOperations(HostDevice(reverse=r)), image, depth[None]) for r in (False, True)]
        for name in FIELDS:
            np.testing.assert_array_equal(*(getattr(one, name) for one in found), err_msg=name)

    @pytest.mark.parametrize(
        ("query", "depth", "says"),
        [
            (np.zeros((1, 3, 8, 8)), np.zeros((1, 8, 8), np.float32), "query: wanted a .*float32.*got a .*float64"),
            (np.zeros((1, 3, 8, 8), np.float32), np.zeros((2, 8, 8), np.float32), "depth: wanted"),
            (np.zeros((1, 3, 8, 8), np.float32), np.zeros((1, 8, 9), np.float32), "depth: wanted"),
        ],
    )
    def test_refuses_other_arrays(self, ops, query, depth, says):
        with pytest.raises(InputError, match=says):
            ops.outlines(ops.upload(query), ops.upload(depth), virtual(8), np.eye(4)[None], (8, 8))


class TestLines:
    @pytest.mark.parametrize(
        "mask",
        [np.zeros((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool), disc(1.6), disc(3.0), ~disc(3.0)],
        ids=["nothing", "all", "a speck", "few inside", "few outside"],
    )
    def test_none_where_there_is_no_outline_to_speak_of(self, ops, mask):
        """The crop's border is no outline."""
        found = measured(ops, two_colors(mask), mask[None])
        assert len(valid(found).points) == 0
        assert not found.verdict.any()

    def test_none_on_a_wire(self, ops):
        """One pixel thin: its two sides point opposite ways."""
        mask = disc(20.0, SIZE, (30, 30))
        wired = mask.copy()
        wired[90] = True
        without, with_wire = (valid(measured(ops, GREY, m[None])) for m in (mask, wired))
        np.testing.assert_array_equal(with_wire.pixels, without.pixels)

    def test_they_lie_on_a_spheres_outline(self, ops, sphere):
        depth, radius = sphere
        lines = valid(measured(ops, GREY, depth))
        off = np.linalg.norm(lines.pixels - MIDDLE, axis=1) - radius
        assert np.median(np.abs(off)) < 0.15
        assert np.abs(off).max() < 0.7

    def test_they_lie_on_neither_side_of_it_in_general(self, ops):
        """Over discs of any size and place: what is left is a hundredth of a pixel."""
        rng = np.random.default_rng(0)
        middle, radius = MIDDLE + rng.uniform(-0.5, 0.5, (40, 2)), rng.uniform(15, 40, 40)
        masks = np.stack([disc(r, SIZE, m) for r, m in zip(radius, middle, strict=True)])
        found = measured(ops, GREY, masks)
        off = [(np.linalg.norm(valid(found, i).pixels - middle[i], axis=1) - radius[i]).mean() for i in range(40)]
        assert abs(np.mean(off)) < 0.03
        assert np.max(np.abs(off)) < 0.1

    def test_normals_point_outwards_along_the_radius(self, ops, sphere):
        depth, _ = sphere
        lines = valid(measured(ops, GREY, depth))
        radial = (lines.pixels - MIDDLE) / np.linalg.norm(lines.pixels - MIDDLE, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(lines.normals, axis=1), 1.0, atol=1e-6)
        angle = np.degrees(np.arccos(np.clip((radial * lines.normals).sum(axis=1), -1, 1)))
        assert np.median(angle) < 4
        assert angle.max() < 15

    def test_points_are_the_surfaces(self, ops, sphere):
        """Seen where the lines are, in the object's own frame, at the depth where rays touch the sphere."""
        depth, _ = sphere
        T = se3.exp(np.array([[0.1, -0.2, 0.3, 0.4, 1.1, -0.7]]))
        lines = valid(measured(ops, GREY, depth, T=T))
        seen = se3.transform(T[0], lines.points)
        projected = seen @ virtual(SIZE).K[0].T
        np.testing.assert_allclose(projected[:, :2] / projected[:, 2:], lines.pixels, atol=1e-4)
        assert (seen[:, 2] > DISTANCE - RADIUS).all()
        assert np.abs(seen[:, 2] - DISTANCE * (1 - (RADIUS / DISTANCE) ** 2)).max() < 0.4 * RADIUS

    def test_as_many_as_there_are_places_for_all_around(self, ops):
        lines = valid(measured(ops, GREY, disc(45.0)[None]))
        assert len(lines.points) == LINES
        angle = np.arctan2(*(lines.pixels - MIDDLE).T)
        assert (np.histogram(angle, bins=8, range=(-np.pi, np.pi))[0] > LINES / 16).all()

    def test_all_where_there_are_fewer(self, ops):
        lines = valid(measured(ops, GREY, disc(6.0)[None]))
        assert 24 <= len(lines.points) < 50

    def test_none_along_the_crops_border(self, ops):
        """A disc cut by the crop has an outline only where it ends by itself."""
        lines = valid(measured(ops, GREY, disc(30.0, middle=10.0)[None]))
        assert len(lines.points)
        assert (lines.pixels > 0.4).all()
        assert abs(np.median(np.linalg.norm(lines.pixels - 10.0, axis=1)) - 30.0) < 0.15


class TestEdges:
    @pytest.mark.parametrize("shift", [0.0, 0.25, -0.5, 1.3, -2.75, 4.5, -6.0])
    def test_the_shift_of_a_discs_edge(self, ops, shift):
        """The object is larger or smaller in the image than in the render. Where it is by far, colours of the one side
        are counted for the other, and pull the edge back."""
        lines = valid(measured(ops, two_colors(disc(30.3 + shift)), disc(30.3)[None]))
        off = np.linalg.norm(lines.pixels - MIDDLE, axis=1) - (30.3 + shift)
        assert abs(off.mean()) < 0.1 * max(abs(shift), 1)
        assert np.abs(off).max() < 1.0  # pixels are one colour or the other
        assert (lines.edges[:, 1] < UNIFORM / 10).all()  # even of a colour that is certain BELIEF believes only so much
        assert (lines.edges[:, 2] > 0.6).all()

    def test_a_masks_own_edges_are_at_its_lines(self, ops):
        """So that a render before its own image does not move."""
        lines = valid(measured(ops, two_colors(disc(25.3)), disc(25.3)[None]))
        assert abs(lines.edges[:, 0].mean()) < 0.03
        assert (lines.edges[:, 3] > 0.8).all()

    def test_contrast_here_falls_where_the_edge_is_elsewhere(self, ops):
        lines = valid(measured(ops, two_colors(disc(36.3)), disc(30.3)[None]))
        assert (np.abs(lines.edges[:, 3]) < 0.15).all()  # all of the object's colour
        assert (lines.edges[:, 2] > 0.7).all()

    def test_edge_contrast_is_that_of_lines_that_see_an_edge(self, ops):
        """Those outside of the image do not count; ten more have half the contrast."""
        renders = np.stack([disc(30.3), disc(36.3), disc(3.0)])
        found = measured(ops, two_colors(disc(30.3)), renders, image_size=(SIZE // 2, SIZE))
        clear, contrast = valid(found).weights > 0, found.edge_contrast(np)
        assert 0.3 < clear.mean() < 0.7
        wanted = (valid(found).edges[clear, 3].sum() + 10 * 0.5) / (clear.sum() + 10)
        assert contrast[0] == pytest.approx(wanted, rel=1e-5)
        assert contrast[0] > 0.8
        assert abs(contrast[1]) < 0.25  # the edge is clear, and elsewhere
        assert contrast[2] == 0.5  # no outline to speak of
        device = Outlines(*(ops.upload(getattr(found, name)) for name in FIELDS))
        np.testing.assert_allclose(ops.to_host(device.edge_contrast(ops.xp)), contrast, rtol=1e-6)

    def test_edge_contrast_says_nothing_where_no_edge_is_clear(self, ops):
        noise = np.random.default_rng(0).integers(100, 116, (SIZE, SIZE, 3)).astype(np.uint8)
        found = measured(ops, noise, disc(30.3)[None])
        assert (valid(found).edges[:, 2] < 0.6).all()
        assert found.edge_contrast(np)[0] == 0.5

    def test_an_edge_the_wrong_way_round_has_no_contrast(self, ops):
        """Near the outline the object has the background's colour and the other way round."""
        red = disc(24.0) | (disc(36.0) & ~disc(30.0))
        lines = valid(measured(ops, two_colors(red), disc(30.0)[None]))
        assert (lines.edges[:, 3] < -0.3).all()

    @pytest.mark.parametrize("size", [SIZE, 2 * SIZE])
    def test_no_information_gives_the_uniform_distribution(self, ops, size):
        grey = np.full((size, size, 3), 90, np.uint8)
        found = measured(ops, grey, disc(0.25 * size, size)[None])
        shift, variance, *contrasts = valid(found).edges.T
        np.testing.assert_allclose(shift, 0.0, atol=1e-6)
        np.testing.assert_allclose(variance, UNIFORM * (size / SIZE) ** 2, rtol=1e-6)
        np.testing.assert_allclose(contrasts, 0.0, atol=1e-7)
        assert not found.weights.any()
        np.testing.assert_array_equal(found.verdict[0, 1:], 0.0)

    def test_a_crop_of_twice_the_size_shows_the_same(self, ops):
        """All lengths grow with the crop."""
        image, mask = two_colors(disc(31.5)), disc(30.3)
        small = valid(measured(ops, image, mask[None]))
        large = valid(measured(ops, image.repeat(2, 0).repeat(2, 1), mask.repeat(2, 0).repeat(2, 1)[None]))
        np.testing.assert_allclose(large.edges.mean(axis=0), small.edges.mean(axis=0) * [2, 4, 1, 1], rtol=0.1)
        np.testing.assert_allclose(large.weights.mean(), small.weights.mean() / 2, rtol=0.05)
        np.testing.assert_allclose(large.verdict, small.verdict, atol=0.02)


class TestWeights:
    def test_clear_edges_count_and_faint_ones_do_not(self, ops):
        clear = valid(measured(ops, two_colors(disc(30.3)), disc(30.3)[None]))
        assert (clear.weights > 0.3).all()
        assert clear.verdict[1:] == pytest.approx(1.0, abs=0.05)
        noise = np.random.default_rng(0).integers(100, 116, (SIZE, SIZE, 3)).astype(np.uint8)
        faint = valid(measured(ops, noise, disc(30.3)[None]))
        assert np.median(faint.weights) < 0.1
        assert (faint.verdict[1:] < 0.2).all()

    def test_lines_outside_of_the_image_say_nothing(self, ops):
        """The image ends at the disc's middle: lines there are not judged, and have no weight."""
        found = measured(ops, two_colors(disc(30.3)), disc(30.3)[None], image_size=(SIZE // 2, SIZE))
        lines = valid(found)
        beyond = lines.pixels[:, 0] > SIZE / 2
        assert 0.4 < beyond.mean() < 0.6
        assert not lines.weights[beyond].any()
        assert (lines.weights[lines.pixels[:, 0] < SIZE / 2 - 6] > 0.3).all()
        assert found.verdict[0, 1] == pytest.approx(1.0, abs=0.05)
