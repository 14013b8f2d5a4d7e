"""The search of a whole image: its features, places, and what is known beforehand.

The tiny features are linear in the pixels of their cells and know nothing of the cells around, so that an image cut
into squares is described as it would be whole.
"""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.config import FindConfig
from coop_edge.errors import InputError
from coop_edge.render import CpuRenderer
from coop_edge.runtime.bundle import Bundle
from coop_edge.runtime.onnx import OnnxRunner
from coop_edge.stages.bounds import STEP, Bounds, box_sides, check_size, search_bounds
from coop_edge.stages.boxes import overlaps
from coop_edge.stages.features import FeatureExtractor, unit_cells
from coop_edge.stages.image_maps import CELL, Level, image_levels
from coop_edge.stages.places import find_places
from coop_edge.stages.views import MARGIN, Views
from coop_edge.types import Camera
from tests.runtime.networks import tiny_bundle
from tests.stages.chain import OPS

SIZE = 128
WIDTH, HEIGHT = 320, 240
CAMERA = Camera(np.array([[500.0, 0.0, 159.5], [0.0, 500.0, 119.5], [0.0, 0.0, 1.0]]), WIDTH, HEIGHT)
ALL = (0.0, 0.0, float(WIDTH), float(HEIGHT))
FREE = Bounds(ALL, 0.0, np.inf, 500.0)


@pytest.fixture(scope="module")
def linear(tmp_path_factory):
    bundle = Bundle.load(tiny_bundle(tmp_path_factory.mktemp("tiny"), input_size=SIZE))
    with OnnxRunner(bundle.network("features"), threads=1) as runner:
        yield FeatureExtractor(OPS, runner, 5)


def cells_of(image, features):
    """Unit cells [C,h,w] of an image of whole cells, each described in the corner of a square of its own."""
    h, w = (side // CELL for side in image.shape[:2])
    squares = np.zeros((h * w, SIZE, SIZE, 3), np.uint8)
    for k in range(h * w):
        y, x = CELL * (k // w), CELL * (k % w)
        squares[k, :CELL, :CELL] = image[y : y + CELL, x : x + CELL]
    (maps,) = features.maps(OPS.as_network_image(squares), "s16")
    return unit_cells(maps)[:, :, 0, 0].reshape(h, w, -1).transpose(2, 0, 1)


def levels_of(image, scales, features, region=ALL, reach=0):
    size = image.shape[1::-1]
    return list(image_levels(image, size, np.asarray(scales, float), region, reach, features=features))


def test_the_image_is_described_as_if_it_were_not_cut(linear):
    image = np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (level,) = levels_of(image, [1.0], linear)
    assert (level.x, level.y, level.scale) == (0, 0, 1)
    assert level.maps.shape[1:] == (HEIGHT // CELL, WIDTH // CELL)
    np.testing.assert_allclose(level.maps, cells_of(image, linear), atol=1e-4)


def test_a_region_is_described_with_its_surroundings_and_no_more(linear):
    image = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    (level,) = levels_of(image, [1.0], linear, region=(100.0, 96.0, 60.0, 32.0), reach=20)
    assert (level.x, level.y) == (80, 76)
    assert level.maps.shape[1:] == (5, 7)  # 72 x 100 pixels, begun cells counted
    np.testing.assert_allclose(level.maps, cells_of(image[76:156, 80:192], linear), atol=1e-4)
    (corner,) = levels_of(image, [1.0], linear, region=(-50.0, 200.0, 60.0, 100.0), reach=16)
    assert (corner.x, corner.y) == (0, 184)
    assert corner.maps.shape[1:] == (4, 2)


def test_enlarged_the_image_keeps_its_places(linear):
    """Twice as large: blocks of 8 pixels of one colour fill cells, whose edges stay where they are."""
    rng = np.random.default_rng(2)
    blocks = rng.integers(0, 255, (6, 9, 3), dtype=np.uint8)
    image = blocks.repeat(8, axis=0).repeat(8, axis=1)
    (level,) = levels_of(image, [2.0], linear, region=(0.0, 0.0, 72.0, 48.0))
    large = blocks.repeat(CELL, axis=0).repeat(CELL, axis=1)
    wanted = cells_of(large, linear)
    assert level.maps.shape == wanted.shape
    alike = (level.maps * wanted).sum(axis=0)  # interpolation blurs the pixels at the edges
    assert alike.min() > 0.9
    assert np.median(alike) > 0.98


def made_up(rng, channels=4, count=5, side=8):
    """Views of an object in the form that ``places`` reads."""
    share = rng.random((count, 1, side, side)).astype(np.float32)
    cells = unit_cells(rng.standard_normal((count, channels, side, side)).astype(np.float32))
    T = np.repeat(np.eye(4)[None], count, axis=0)
    T[:, 2, 3] = np.linspace(0.4, 0.6, count)
    sides = rng.uniform(60, SIZE / MARGIN, (count, 2))
    descriptors = np.moveaxis(cells * share / share.sum(axis=(2, 3), keepdims=True), 1, -1)
    return Views(descriptors, T, np.full(count, 500.0), sides, np.zeros(3))


class Levels:
    """Random maps of two sizes, with a view put into one of them."""

    def __init__(self, seed, view=3, place=(1, 5, 2)):
        rng = np.random.default_rng(seed)
        self.views, self.view, self.place = made_up(rng), view, place
        maps = [unit_cells(rng.standard_normal((1, 4, h, w)).astype(np.float32))[0] for h, w in ((15, 20), (22, 30))]
        level, y, x = place
        maps[level][:, y : y + 8, x : x + 8] = unit_cells(np.moveaxis(self.views.descriptors[view], -1, 0)[None])[0]
        self.levels = [Level(s, 0.0, 0.0, m) for s, m in zip((1.0, 1.5), maps, strict=True)]

    def box(self):
        level, y, x = self.place
        scale, sides = self.levels[level].scale, self.views.sides[self.view]
        corner = (np.array([x, y]) * CELL + (SIZE - sides) / 2) / scale
        return np.concatenate([corner, sides / scale])


@pytest.mark.parametrize(("seed", "place"), [(0, (1, 5, 2)), (1, (0, 7, 11)), (2, (1, 0, 21))])
def test_what_is_there_is_the_best_place(seed, place):
    made = Levels(seed, place=place)
    found = find_places(made.levels, made.views, 0.1, 10, bounds=FREE, ops=OPS)
    assert found.view[0] == made.view
    np.testing.assert_allclose(found.box[0], made.box(), atol=1e-9)
    assert found.score[0] > 1.3 * found.score[1]
    assert (np.diff(found.score) <= 0).all()
    assert (overlaps(found.box, found.box) - np.eye(len(found.box))).max() < 0.5
    assert find_places(made.levels, made.views, 0.1, 0, bounds=FREE, ops=OPS).box.shape == (0, 4)


def test_scores_are_standard_deviations_of_the_cosines():
    """By hand, in float64: the weighted mean cosine over the window, against those of the sampled windows."""
    made = Levels(4)
    found = find_places(made.levels, made.views, 0.1, 1, bounds=FREE, ops=OPS)
    level, y, x = made.place
    template = made.views.descriptors[made.view].astype(np.float64)
    cosine = sum(
        template[r, c] @ made.levels[level].maps[:, y + r, x + c].astype(np.float64) for r in range(8) for c in range(8)
    )
    assert cosine == pytest.approx(1.0, abs=1e-5)
    # Of windows of random cells with 4 channels: the spread of each cell's cosine is 1/2, and cells are independent.
    weight = np.linalg.norm(template, axis=-1)
    spread = np.sqrt((weight**2).sum() / 4)
    assert found.score[0] == pytest.approx(cosine / spread, rel=0.25)


def test_a_region_holds_the_middle_of_boxes():
    made = Levels(0)
    x, y, w, h = made.box()
    beside = Bounds((x + w / 2 + 9, 0.0, 500.0, 500.0), 0.0, np.inf, 500.0)
    around = Bounds((x + w / 2 - 1, y + h / 2 - 1, 2.0, 2.0), 0.0, np.inf, 500.0)
    boxes = find_places(made.levels, made.views, 0.1, 10, bounds=beside, ops=OPS).box
    assert (boxes[:, 0] + boxes[:, 2] / 2 >= x + w / 2 + 1).all()  # half a cell of 16 pixels
    boxes = find_places(made.levels, made.views, 0.1, 10, bounds=around, ops=OPS).box
    np.testing.assert_allclose(boxes[0], made.box(), atol=1e-9)
    assert (np.abs(boxes[:, :2] + boxes[:, 2:] / 2 - (x + w / 2, y + h / 2)) <= 9).all()


def test_distances_rule_out_what_is_too_near_or_too_far():
    made = Levels(0)
    z = made.views.depths()[made.view] * 500.0 * made.levels[made.place[0]].scale
    inside = Bounds(ALL, z - 1e-3, z + 1e-3, 500.0)
    np.testing.assert_allclose(
        find_places(made.levels, made.views, 0.1, 1, bounds=inside, ops=OPS).box[0], made.box(), atol=1e-9
    )
    for near, far in ((0.0, z - 1e-3), (z + 1e-3, np.inf)):
        found = find_places(made.levels, made.views, 0.1, 10, bounds=Bounds(ALL, near, far, 500.0), ops=OPS)
        level_z = made.views.depths()[found.view]
        assert len(found.box)
        assert not np.isclose(found.box, made.box()).all(axis=1).any()
        scale = made.views.sides[found.view, 0] / found.box[:, 2]
        assert ((level_z * 500.0 * scale >= near) & (level_z * 500.0 * scale <= far)).all()
    assert len(find_places(made.levels, made.views, 0.1, 10, bounds=Bounds(ALL, 50.0, 60.0, 500.0), ops=OPS).box) == 0


def test_depth_rules_out_another_distance_but_not_the_unknown():
    made = Levels(0)
    z = made.views.depths()[made.view] * 500.0 * made.levels[made.place[0]].scale
    for value, there in ((z, True), (z - 0.05, True), (z + 0.2, False), (z - 0.2, False), (0.0, True)):
        depth = np.full((HEIGHT, WIDTH), value, np.float32)
        bounds = Bounds(ALL, 0.0, np.inf, 500.0, depth)
        boxes = find_places(made.levels, made.views, 0.1, 10, bounds=bounds, ops=OPS).box
        assert np.isclose(boxes, made.box()).all(axis=1).any() == there, value


def test_a_render_in_an_image_is_found(far, views, frozen):
    """With the features that ship, at a size between two levels and off the cells' grid."""
    i, rng = 200, np.random.default_rng(3)
    focal = 0.8 * views.focal[i]
    K = np.array([[focal, 0.0, 140.0], [0.0, focal, 110.0], [0.0, 0.0, 1.0]])
    seen = CpuRenderer(far, threads=1).render(views.T_crop_object[i][None], K, (HEIGHT, WIDTH))
    noise = rng.integers(60, 200, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8).repeat(8, axis=0).repeat(8, axis=1)
    image = np.where(seen.depth[0][..., None] > 0, seen.rgb[0], noise)
    v, u = np.nonzero(seen.depth[0])
    box = np.array([[u.min(), v.min(), np.ptp(u) + 1, np.ptp(v) + 1]], float)
    scales = SIZE / MARGIN / box_sides(CAMERA, FindConfig(smallest=0.15), 1.0)
    levels = levels_of(np.ascontiguousarray(image), scales, frozen, reach=SIZE // 2)
    found = find_places(levels, views, far.diameter, 5, bounds=Bounds(ALL, 0.0, np.inf, focal), ops=OPS)
    assert overlaps(found.box[:2], box).max() > 0.5


def test_levels_cover_the_sizes_that_are_looked_for():
    sides = box_sides(CAMERA, FindConfig(smallest=0.1), 0.9)
    np.testing.assert_allclose(sides[1:] / sides[:-1], STEP)
    assert sides[0] / np.sqrt(STEP) == pytest.approx(0.1 * WIDTH)
    assert 0.9 * HEIGHT / STEP < sides[-1] / np.sqrt(STEP) <= 0.9 * HEIGHT
    with pytest.raises(
        InputError, match=r"smallest box looked for \(160 px, find.smallest\) is larger than .* \(48 px, advanced"
    ):
        box_sides(CAMERA, FindConfig(smallest=0.5), 0.2)


@pytest.mark.parametrize(
    ("region", "says"),
    [
        ((400, 0, 50, 50), "lies outside the 320x240 image"),
        ((-50, 10, 50, 50), "lies outside"),
        ((0, 240, 10, 10), "lies outside"),
        ((0, 0, 0, 10), "width and height positive"),
        ((0, 0, float("nan"), 10), "wanted finite numbers"),
    ],
)
def test_refuses_a_region_that_shows_nothing(region, says):
    with pytest.raises(InputError, match=says):
        search_bounds(CAMERA, region, FindConfig())


def test_refuses_bounds_that_nothing_meets():
    with pytest.raises(InputError, match=r"find.far = 0.5: wanted more than find.near = 0.5 m"):
        search_bounds(CAMERA, ALL, FindConfig(near=0.5, far=0.5))
    bounds = search_bounds(CAMERA, ALL, FindConfig(far=0.5))
    check_size("small", 0.6, bounds, CAMERA)
    with pytest.raises(InputError, match=r"'large' \(diameter 0.7 m\) is 700 px large at find.far = 0.5 m, .*320x240"):
        check_size("large", 0.7, bounds, CAMERA)
    check_size("any", 1e3, search_bounds(CAMERA, ALL, FindConfig()), CAMERA)
