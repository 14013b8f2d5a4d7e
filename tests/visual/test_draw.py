from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from benchmarks.meshes import grey_box, look_at_views
from coop_edge.errors import InputError
from coop_edge.visual import draw


def test_contact_sheet_places_images_in_rows():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 10, 20, 3), np.uint8) + 100
    sheet = draw.contact_sheet(images, columns=3, labels=False)
    assert sheet.shape == (22, 64, 3)
    for i in range(5):
        y, x = (i // 3) * 12, (i % 3) * 22
        np.testing.assert_array_equal(sheet[y : y + 10, x : x + 20], images[i])
    assert (sheet[12:, 44:] == 32).all()


@pytest.mark.parametrize(("n", "shape"), [(0, (1, 8, 3)), (1, (8, 8, 3)), (7, (8, 68, 3)), (8, (18, 68, 3))])
def test_contact_sheet_shapes(n, shape):
    assert draw.contact_sheet(np.zeros((n, 8, 8, 3), np.uint8)).shape == shape


def test_labels_are_drawn_and_do_not_touch_the_input():
    images = np.full((2, 60, 60, 3), 90, np.uint8)
    sheet = draw.contact_sheet(images, labels=["a", ""])
    assert (images == 90).all()
    assert (sheet[:, :60] != 90).any()
    assert (sheet[:, 62:] == 90).all()
    assert (draw.contact_sheet(images)[:, 62:] != 90).any()


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        (np.zeros((2, 8, 8), np.uint8), {}, r"uint8 \[N,h,w,3\]"),
        (np.zeros((2, 8, 8, 3)), {}, "float64"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"columns": 0}, "columns"),
        (np.zeros((2, 8, 8, 3), np.uint8), {"labels": ["a"]}, "labels: wanted 2"),
    ],
)
def test_contact_sheet_checks_its_input(images, options, message):
    with pytest.raises(InputError, match=message):
        draw.contact_sheet(images, **options)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "PNG"])
def test_written_images_are_rgb(suffix, tmp_path):
    image = np.zeros((16, 16, 3), np.uint8)
    image[:] = (220, 120, 20)
    draw.write_image(tmp_path / f"a.{suffix}", image)
    back = np.asarray(Image.open(tmp_path / f"a.{suffix}").convert("RGB")).astype(int)
    assert np.abs(back - image).max() <= 4
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "image", "message"),
    [
        ("a.png", np.zeros((0, 4, 3), np.uint8), "rgb"),
        ("a.png", np.zeros((4, 4), np.uint8), "rgb"),
        ("a.png", np.zeros((4, 4, 3)), "float64"),
        ("a.gif", np.zeros((4, 4, 3), np.uint8), "'.gif'"),
        ("a", np.zeros((4, 4, 3), np.uint8), "suffix"),
    ],
)
def test_write_image_checks_its_input(name, image, message, tmp_path):
    with pytest.raises(InputError, match=message):
        draw.write_image(tmp_path / name, image)
    assert list(tmp_path.iterdir()) == []


def test_depth_and_points_as_colors():
    depth = np.array([[0.0, 1.0], [2.0, 1.5]])
    np.testing.assert_array_equal(draw.depth_image(depth)[..., 0], [[0, 255], [60, 158]])
    points = np.array([[[np.nan] * 3, [0.0, 1.0, 2.0]], [[1.0, 1.0, 1.0], [0.5, 1.0, 1.0]]])
    np.testing.assert_array_equal(draw.points_image(points), [[[0, 0, 0], [0, 0, 255]], [[255, 0, 0], [128, 0, 0]]])
    assert not draw.depth_image(np.zeros((3, 3))).any()
    assert not draw.points_image(np.full((3, 3, 3), np.nan)).any()


def test_side_by_side():
    from coop_edge.render.cpu import CpuRenderer

    K = np.array([[60.0, 0, 19.5], [0, 60.0, 19.5], [0, 0, 1]])
    result = CpuRenderer(grey_box()).render(look_at_views(2, 0.4), K, 40)
    picture = draw.side_by_side(result, 1)
    assert picture.shape == (40, 124, 3)
    np.testing.assert_array_equal(picture[:, :40], result.rgb[1])
    for start in (42, 84):
        lit = picture[:, start : start + 40].any(axis=-1)
        assert not (lit & ~result.mask[1]).any()
        assert lit[result.mask[1]].mean() > 0.95
    with pytest.raises(InputError, match="index"):
        draw.side_by_side(result, 2)
