"""Search lines across outlines against a sphere's, and edges against maps whose edge is known."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from coop_edge.mesh import Mesh
from coop_edge.render import CpuRenderer
from coop_edge.stages.outline_lines import (
    BELIEF,
    BINS,
    INSET,
    LEAST_LINES,
    RING,
    SHIFT,
    SOFTNESS,
    Lines,
    find_edges,
    find_lines,
    object_probability,
)

SIZE = 96
FOCAL, MIDDLE = 300.0, 0.5 * (SIZE - 1)
RADIUS, DISTANCE = 0.05, 0.5
UNIFORM = ((2 * SHIFT + 1) ** 2 - 1) / 12
"""Variance of a position that may be any, pixels^2."""


@pytest.fixture(scope="module")
def sphere():
    """Depth [S,S] of a sphere on the optical axis, and the radius of its outline, pixels.

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
    K = np.array([[FOCAL, 0.0, MIDDLE], [0.0, FOCAL, MIDDLE], [0.0, 0.0, 1.0]])
    T = np.eye(4)[None]
    T[0, 2, 3] = DISTANCE
    depth = CpuRenderer(mesh, threads=1).render(T, K, SIZE).depth[0]
    return depth, FOCAL * np.tan(np.arcsin(RADIUS / DISTANCE))


def disc(radius: float, size: int = SIZE, middle: float | None = None) -> np.ndarray:
    v, u = np.mgrid[:size, :size] - (0.5 * (size - 1) if middle is None else middle)
    return np.hypot(u, v) < radius


class TestFindLines:
    def test_none_where_there_is_nothing(self):
        assert find_lines(np.zeros((SIZE, SIZE), np.float32), 100) is None

    def test_none_where_all_is_covered(self):
        """The crop's border is no outline."""
        assert find_lines(np.ones((SIZE, SIZE), np.float32), 100) is None

    def test_none_on_a_wire(self):
        """One pixel thin: its two sides point opposite ways."""
        depth = np.zeros((SIZE, SIZE), np.float32)
        depth[10:80, 40] = 1.0
        assert find_lines(depth, 100) is None

    def test_none_on_a_speck(self):
        depth = np.zeros((SIZE, SIZE), np.float32)
        depth[40:43, 40:43] = 1.0  # 8 border pixels
        assert find_lines(depth, 100) is None

    def test_they_lie_on_a_spheres_outline(self, sphere):
        depth, radius = sphere
        lines = find_lines(depth, 10_000)
        from_middle = lines.centre - MIDDLE
        off = np.linalg.norm(from_middle, axis=1) - radius
        assert np.median(np.abs(off)) < 0.15
        assert np.abs(off).max() < 0.7

    def test_they_lie_on_neither_side_of_it_in_general(self):
        """Over discs of any size and place: what is left is a hundredth of a pixel."""
        rng, off = np.random.default_rng(0), []
        v, u = np.mgrid[:SIZE, :SIZE]
        for _ in range(40):
            middle, radius = MIDDLE + rng.uniform(-0.5, 0.5, 2), rng.uniform(15, 40)
            lines = find_lines((np.hypot(u - middle[0], v - middle[1]) < radius).astype(np.float32), 10_000)
            off.append(np.mean(np.linalg.norm(lines.centre - middle, axis=1) - radius))
        assert abs(np.mean(off)) < 0.03
        assert np.max(np.abs(off)) < 0.1

    def test_normals_point_outwards_along_the_radius(self, sphere):
        depth, _ = sphere
        lines = find_lines(depth, 10_000)
        radial = (lines.centre - MIDDLE) / np.linalg.norm(lines.centre - MIDDLE, axis=1, keepdims=True)
        np.testing.assert_allclose(np.linalg.norm(lines.normal, axis=1), 1.0, atol=1e-12)
        angle = np.degrees(np.arccos(np.clip((radial * lines.normal).sum(axis=1), -1, 1)))
        assert np.median(angle) < 4
        assert angle.max() < 15

    def test_depth_is_the_surfaces(self, sphere):
        depth, _ = sphere
        lines = find_lines(depth, 10_000)
        touching = DISTANCE * (1 - (RADIUS / DISTANCE) ** 2)  # along the axis, where rays touch
        assert (lines.depth > DISTANCE - RADIUS).all()
        assert np.abs(lines.depth - touching).max() < 0.4 * RADIUS

    @pytest.mark.parametrize("count", [20, 57])
    def test_as_many_as_asked_for_all_around(self, sphere, count):
        depth, _ = sphere
        lines = find_lines(depth, count)
        assert [len(a) for a in lines] == [count] * 3
        angle = np.arctan2(*(lines.centre - MIDDLE).T)
        assert (np.histogram(angle, bins=8, range=(-np.pi, np.pi))[0] > 0).all()

    def test_all_where_there_are_fewer(self):
        depth = disc(4.0).astype(np.float32)
        found = find_lines(depth, 10_000)
        assert LEAST_LINES <= len(found.centre) < 40

    def test_none_along_the_crops_border(self):
        """A disc cut by the crop has an outline only where it ends by itself."""
        lines = find_lines(disc(30.0, middle=10.0).astype(np.float32), 10_000)
        assert lines is not None
        assert (lines.centre > 0.4).all()
        assert abs(np.median(np.linalg.norm(lines.centre - 10.0, axis=1)) - 30.0) < 0.15


def upright(count: int, at: float) -> Lines:
    """Lines across the edge x = ``at``, the object on the left."""
    centre = np.stack([np.full(count, at), np.linspace(20, 70, count)], axis=1)
    return Lines(centre, np.tile([1.0, 0.0], (count, 1)), np.ones(count))


def step_at(x: float, low: float = 0.02, blur: float = SOFTNESS) -> np.ndarray:
    """A map [S,S], probable left of x, with an edge as soft as that of the step function."""
    row = 0.5 - (0.5 - low) * np.tanh((np.arange(SIZE) - x) / (2 * blur))
    return np.tile(row.astype(np.float32), (SIZE, 1))


class TestFindEdges:
    @pytest.mark.parametrize("shift", [0.0, 0.25, -0.5, 1.3, -2.75, 4.5, -6.0])
    def test_the_shift_of_a_step(self, shift):
        edges = find_edges(step_at(40.0 + shift), upright(12, 40.0))
        np.testing.assert_allclose(edges.shift, shift, atol=0.2)
        assert (edges.variance < UNIFORM / 10).all()  # even of a colour that is certain BELIEF believes only so much
        assert (edges.contrast > 0.75).all()  # counted in whole pixels, across a soft edge

    def test_contrast_here_falls_where_the_edge_is_elsewhere(self):
        there, gone = (find_edges(step_at(40.0 + shift), upright(5, 40.0)) for shift in (0.0, 6.0))
        assert (there.contrast_here > 0.8).all()
        assert (np.abs(gone.contrast_here) < 0.1).all()  # all of the object's colour
        assert (gone.contrast > 0.8).all()

    def test_no_information_gives_the_uniform_distribution(self):
        edges = find_edges(np.full((SIZE, SIZE), 0.5, np.float32), upright(7, 40.0))
        np.testing.assert_allclose(edges.shift, 0.0, atol=1e-9)
        np.testing.assert_allclose(edges.variance, UNIFORM, rtol=1e-9)
        np.testing.assert_allclose(edges.contrast, 0.0, atol=1e-12)

    def test_a_turned_normal_sees_the_same_edge(self):
        """Along a normal 60 degrees off an edge 2 px away is 4 px away."""
        lines = upright(6, 40.0)
        normal = np.tile([np.cos(np.pi / 3), np.sin(np.pi / 3)], (6, 1))
        edges = find_edges(step_at(42.0), lines._replace(normal=normal))
        np.testing.assert_allclose(edges.shift, 4.0, atol=0.3)

    def test_an_edge_the_wrong_way_round_has_no_contrast(self):
        edges = find_edges(1 - step_at(40.0), upright(6, 40.0))
        assert (edges.contrast_here < -0.8).all()

    def test_beyond_the_image_nothing_is_known(self):
        edges = find_edges(step_at(40.0), upright(6, 500.0))
        np.testing.assert_allclose(edges.variance, UNIFORM, rtol=1e-9)

    def test_a_masks_own_edges_are_at_its_lines(self):
        """So that a render before its own image does not move."""
        mask = disc(25.3)
        edges = find_edges(mask.astype(np.float32), find_lines(mask.astype(np.float32), 10_000))
        assert abs(edges.shift.mean()) < 0.03

    def test_is_the_posterior_of_the_formula(self):
        """Bayes' rule, place by place, at pixel centres so that nothing is interpolated."""
        probability = np.random.default_rng(0).uniform(0.05, 0.95, (SIZE, SIZE)).astype(np.float32)
        lines = Lines(np.array([[40.0, 30.0], [50.0, 45.0]]), np.array([[1.0, 0.0], [0.0, -1.0]]), np.ones(2))
        edges = find_edges(probability, lines)
        for i, (centre, normal) in enumerate(zip(lines.centre, lines.normal, strict=True)):
            likelihood = []
            for shift in range(-9, 10):
                product = 1.0
                for r in range(-12, 13):
                    x, y = (centre + r * normal).astype(int)
                    p = float(probability[y, x])
                    f = 0.5 - BELIEF * np.tanh((r - shift) / (2 * SOFTNESS))
                    product *= f * p + (1 - f) * (1 - p)
                likelihood.append(product)
            posterior = np.array(likelihood) / np.sum(likelihood)
            mean = posterior @ np.arange(-9, 10)
            assert edges.shift[i] == pytest.approx(mean, abs=1e-9)
            assert edges.variance[i] == pytest.approx(posterior @ (np.arange(-9, 10) - mean) ** 2, abs=1e-9)


class TestObjectProbability:
    def test_two_colours(self):
        mask = disc(20.0)
        image = np.where(mask[..., None], np.uint8([200, 40, 40]), np.uint8([30, 60, 180]))
        probability = object_probability(image, mask)
        assert (probability.shape, probability.dtype) == ((SIZE, SIZE), np.float32)
        assert (probability[mask] > 0.999).all()
        assert (probability[~mask] < 0.001).all()

    def test_a_colour_never_seen_says_nothing(self):
        mask = disc(20.0)
        image = np.where(mask[..., None], np.uint8([200, 40, 40]), np.uint8([30, 60, 180]))
        image[0, 0] = 255, 255, 255  # farther out than the ring
        assert object_probability(image, mask)[0, 0] == pytest.approx(0.5)

    def test_one_colour_says_nothing(self):
        mask = disc(20.0)
        np.testing.assert_allclose(object_probability(np.full((SIZE, SIZE, 3), 90, np.uint8), mask), 0.5)

    @pytest.mark.parametrize(
        "mask",
        [np.zeros((SIZE, SIZE), bool), np.ones((SIZE, SIZE), bool), disc(3.0), ~disc(3.0)],
        ids=["nothing", "all", "few inside", "few outside"],
    )
    def test_none_where_a_side_has_too_few_pixels(self, mask):
        assert object_probability(np.zeros((SIZE, SIZE, 3), np.uint8), mask) is None

    def test_is_the_ratio_of_smoothed_histograms(self):
        """Counted pixel by pixel; what a pixel counts for is spread over its bin's neighbours."""
        size = 32
        image = np.random.default_rng(1).integers(0, 256, (size, size, 3)).astype(np.uint8) // 2 + 20
        mask = disc(9.0, size)
        shares = [np.zeros((BINS,) * 3), np.zeros((BINS,) * 3)]
        counts = [0, 0]
        covered, bare = np.argwhere(mask), np.argwhere(~mask)
        for y in range(size):
            for x in range(size):
                other = bare if mask[y, x] else covered
                # cv2's 5 x 5 distances: within 2 % of the true ones; no pixel here is as near to a threshold
                far = np.hypot(*(other - (y, x)).T).min() - 0.5
                if far <= INSET or (not mask[y, x] and far >= RING):
                    continue
                side = 0 if mask[y, x] else 1
                counts[side] += 1
                for d in np.ndindex(3, 3, 3):
                    bins = np.clip(image[y, x] // 16 + np.array(d) - 1, 0, BINS - 1)
                    shares[side][tuple(bins)] += np.prod([(1, 2, 1)[k] / 4 for k in d])
        here, beyond = (s / n for s, n in zip(shares, counts, strict=True))
        b = tuple(np.moveaxis(image // 16, -1, 0))
        wanted = (here[b] + 1e-5) / (here[b] + beyond[b] + 2e-5)
        np.testing.assert_allclose(object_probability(image, mask), wanted, rtol=1e-5)
