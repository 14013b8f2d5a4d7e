"""Pictures as the sensor saw them: orientation tags of any format, bits of sensors in 16-bit files."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from coop_edge import InputError
from coop_edge.cli import pictures
from coop_edge.cli.frames import open_frames
from coop_edge.cli.image_list import list_pictures
from coop_edge.cli.inputs import read_image

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (6, 10, 3), np.uint8)


@pytest.fixture(autouse=True)
def _unsaid(monkeypatch):
    monkeypatch.setattr(pictures, "_SAID", set())
    monkeypatch.setattr(pictures, "_SETTLED", {})


def tiff(orientation: int, order: str, *, big: bool = False, frames: int = 1) -> bytes:
    """An uncompressed RGB TIFF of PICTURE, byte by byte after TIFF 6.0 and the BigTIFF design."""
    height, width = PICTURE.shape[:2]
    offset = "Q" if big else "I"
    start, n = (16, 8) if big else (8, 4)  # of the pixels; size of an offset
    entries = [
        (256, "H", width), (257, "H", height), (258, "H", 8), (259, "H", 1), (262, "H", 2), (273, offset, start),
        (274, "H", orientation), (277, "H", 3), (278, "H", height), (279, offset, PICTURE.nbytes), (284, "H", 1),
    ]  # fmt: skip
    kinds = {"H": 3, "I": 4, "Q": 16}
    head = b"II" if order == "<" else b"MM"
    at = start + PICTURE.nbytes
    head += struct.pack(f"{order}HHHQ", 43, 8, 0, at) if big else struct.pack(f"{order}HI", 42, at)
    body = b""
    for frame in range(frames):
        body += struct.pack(f"{order}{'Q' if big else 'H'}", len(entries))
        for tag, kind, value in entries:
            value = 8 if (tag, frame) == (258, 1) else value
            packed = struct.pack(f"{order}{kind}", value).ljust(n, b"\0")
            body += struct.pack(f"{order}HH{offset}", tag, kinds[kind], 1) + packed
        following = at + len(body) + n if frame + 1 < frames else 0
        body += struct.pack(f"{order}{offset}", following)
    return head + PICTURE.tobytes() + body


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_a_tiff_is_as_stored(tmp_path, orientation, order, big, caplog):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(orientation, order, big=big))
    np.testing.assert_array_equal(read_image(path), PICTURE)
    assert ("orientation tag is not applied: box and camera must be of the 10x6 image" in caplog.text) == (
        orientation > 1
    )


def test_every_directory_of_a_tiff_and_one_that_is_cut_off(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(6, "<", frames=3))
    np.testing.assert_array_equal(read_image(path), PICTURE)
    data = tiff(6, "<")
    for cut in range(0, len(data) - 4, 3):
        path.write_bytes(data[:cut])
        with pytest.raises(InputError):
            read_image(path)
    looped = bytearray(tiff(6, "<"))
    looped[-4:] = struct.pack("<I", 8 + PICTURE.nbytes)  # the next directory is this one
    path.write_bytes(looped)
    np.testing.assert_array_equal(read_image(path), PICTURE)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_portrait_photograph_is_named(tmp_path, suffix, caplog):
    exif = Image.Exif()
    exif[274] = 6
    flat = np.full((60, 100, 3), (200, 60, 30), np.uint8)
    flat[:, 50:] = (20, 90, 160)
    options = {"quality": 95} if suffix != ".png" else {}
    Image.fromarray(flat).save(tmp_path / f"a{suffix}", exif=exif, **options)
    Image.fromarray(flat).save(tmp_path / f"b{suffix}", exif=exif, **options)
    image = read_image(tmp_path / f"a{suffix}")
    assert image.shape == flat.shape
    assert np.abs(image.astype(int) - flat).mean() < 4
    assert "a" + suffix + ": its orientation tag is not applied" in caplog.text
    assert "of the 100x60 image" in caplog.text
    caplog.clear()
    read_image(tmp_path / f"b{suffix}")
    assert caplog.text == ""  # once for a folder


@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_bits_of_a_sensor_in_a_16_bit_file(tmp_path, bits, suffix, caplog):
    values = np.linspace(0, (1 << bits) - 1, 40 * 60 * 3).astype(np.uint16).reshape(40, 60, 3)
    cv2.imwrite(str(tmp_path / f"a{suffix}"), values[..., ::-1])
    image = read_image(tmp_path / f"a{suffix}")
    np.testing.assert_array_equal(image, values >> (bits - 8))
    assert 120 < image.mean() < 135
    assert (f"uses {bits} of its 16 bits, by which it looks black" in caplog.text) == (bits < 16)


@pytest.mark.parametrize("dark", [[0], [3, 7], [11], list(range(11))])
@pytest.mark.parametrize("read", ["frames", "list"])
def test_frames_of_a_folder_are_read_as_of_the_same_bits(dark, read, tmp_path, caplog):
    """A dark one of 12 bits needs 10 or fewer."""
    frames = RNG.integers(0, 4096, (12, 6, 10, 3), np.uint16)
    frames[:, 0, 0] = 4095
    frames[dark] >>= 3
    for i, frame in enumerate(frames):
        cv2.imwrite(str(tmp_path / f"{i}.png"), frame[..., ::-1])
    if read == "frames":
        found = [image for _, image in open_frames(tmp_path)]
    else:
        found = [each.read() for each in reversed(list_pictures(tmp_path))][::-1]
    np.testing.assert_array_equal(np.stack(found), frames >> 4)
    assert caplog.text.count("read as a picture of 12 bits") == 1


def test_a_frame_of_more_bits_than_those_that_were_looked_at_is_named(tmp_path, caplog):
    for i in range(40):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((6, 10), 4095 if i == 1 else 900, np.uint16))
    means = [image.mean() for _, image in open_frames(tmp_path)]
    assert (means[0], means[1], means[2]) == (900 >> 2, 4095 >> 4, 900 >> 4)
    assert "1.png: uses 12 bits, frames before it were read as of 10 bits" in caplog.text


def test_a_folder_with_a_damaged_frame_names_it_when_it_is_read(tmp_path):
    for i in range(3):
        cv2.imwrite(str(tmp_path / f"{i}.png"), np.full((6, 10), 4095, np.uint16))
    (tmp_path / "1.png").write_bytes(b"")
    frames = open_frames(tmp_path)
    next(frames)
    with pytest.raises(InputError, match=r"1\.png: the file is empty"):
        next(frames)


DATA = Path(__file__).parents[1] / "data" / "image"


def test_orientation_tags_of_tiff_files_are_not_applied():
    """o1 says "as stored", o3 and o6 ask for a turn: the stored pixels, as Pillow reads them, are the same."""
    stored = np.array(Image.open(DATA / "o1.tif").convert("RGB"))
    for name in ("o1.tif", "o3.tif", "o6.tif"):
        np.testing.assert_array_equal(read_image(DATA / name), stored)


def test_grey_of_twelve_bits(caplog):
    image = read_image(DATA / "g12.png")
    assert image.mean() == pytest.approx(127, abs=1)
    assert "g12.png: uses 12 of its 16 bits, by which it looks black" in caplog.text


def test_grey_and_alpha_and_floats(tmp_path):
    grey = RNG.integers(0, 4096, (6, 10), np.uint16)
    grey[0, 0] = 4095
    cv2.imwrite(str(tmp_path / "grey.png"), grey)
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.repeat((grey >> 4)[..., None], 3, axis=2))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.dstack([PICTURE[..., ::-1], np.zeros((6, 10), np.uint8)]))
    np.testing.assert_array_equal(read_image(tmp_path / "alpha.png"), PICTURE)
    cv2.imwrite(str(tmp_path / "float.tif"), PICTURE.astype(np.float32) / 255)
    with pytest.raises(InputError, match=r"float\.tif: wanted a picture of 8 or 16 bits, got float32"):
        read_image(tmp_path / "float.tif")
