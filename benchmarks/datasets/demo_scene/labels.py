"""The printed labels of the demo objects, drawn with Pillow. RGB images."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]

CARTON_PANEL = (256, 432)  # width, height of a side, pixels
CARTON_SLOPE = 176  # height of the part above it: the slopes of the gable
CARTON_SIZE = (4 * CARTON_PANEL[0], CARTON_PANEL[1] + CARTON_SLOPE)
MUG_SIZE = (1024, 384)

_CREAM, _LEAF, _ORANGE, _INK = (250, 242, 222), (62, 128, 64), (242, 140, 30), (44, 52, 60)


def _text(draw: ImageDraw.ImageDraw, at: tuple[float, float], text: str, size: int, color: Color, **kw: Any) -> None:
    draw.text(at, text, font=ImageFont.load_default(size), fill=color, **kw)


def _slice(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, color: Color = _ORANGE) -> None:
    """A cut fruit: peel, pith, ten segments."""
    for share, fill in ((1.0, color), (0.9, (255, 236, 190)), (0.82, tuple(min(255, c + 24) for c in color))):
        draw.ellipse((x - share * r, y - share * r, x + share * r, y + share * r), fill=fill)
    for k in range(10):
        a = 2 * np.pi * k / 10 + 0.2
        draw.line((x, y, x + 0.82 * r * np.cos(a), y + 0.82 * r * np.sin(a)), fill=(255, 236, 190), width=3)


def _leaf(draw: ImageDraw.ImageDraw, x: float, y: float, length: float, angle: float, color: Color = _LEAF) -> None:
    t = np.linspace(0, 1, 16)
    along = np.concatenate([t, t[::-1]]) * length
    across = np.concatenate([np.sin(np.pi * t), -np.sin(np.pi * t[::-1])]) * length * 0.26
    c, s = np.cos(angle), np.sin(angle)
    outline = np.stack([x + c * along - s * across, y + s * along + c * across], axis=1)
    draw.polygon([tuple(p) for p in outline.tolist()], fill=color)
    draw.line((x, y, x + c * length * 0.9, y + s * length * 0.9), fill=(150, 196, 120), width=2)


def _front(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    _leaf(draw, x + 172, y + 232, 74, -0.75)
    _leaf(draw, x + 178, y + 240, 62, 0.1, (46, 104, 60))
    _slice(draw, x + 104, y + 290, 84)
    _slice(draw, x + 186, y + 344, 60, (248, 166, 44))
    _text(draw, (x + 18, y + 16), "SUNNY", 60, (206, 62, 30), stroke_width=1)
    _text(draw, (x + 20, y + 82), "ORANGE", 46, _LEAF)
    _text(draw, (x + 20, y + 138), "100 % juice", 24, _INK)
    draw.rectangle((x + 176, y + 396, x + 244, y + 426), fill=_INK)
    _text(draw, (x + 184, y + 398), "0.33 l", 22, _CREAM)


def _facts(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.rectangle((x + 22, y + 24, x + 234, y + 270), outline=_INK, width=3, fill=(255, 252, 244))
    _text(draw, (x + 32, y + 30), "Nutrition", 34, _INK)
    rows = ("Energy 180 kJ", "Fat 0.1 g", "Sugars 9.2 g", "Fibre 0.4 g", "Protein 0.7 g", "Vitamin C 30 mg")
    for i, row in enumerate(rows):
        draw.line((x + 32, y + 78 + 31 * i, x + 224, y + 78 + 31 * i), fill=_INK, width=1 if i else 4)
        _text(draw, (x + 34, y + 82 + 31 * i), row, 20, _INK)
    _leaf(draw, x + 40, y + 350, 120, -0.35)
    _slice(draw, x + 186, y + 352, 48, (236, 96, 44))


def _stripes(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    colors = ((206, 62, 30), _ORANGE, (250, 204, 70), _LEAF, (40, 120, 140))
    for i, color in enumerate(colors):
        top = y + 40 + 62 * i
        draw.polygon(((x, top + 40), (x + 256, top - 20), (x + 256, top + 22), (x, top + 82)), fill=color)
    draw.ellipse((x + 30, y + 30, x + 130, y + 130), fill=_CREAM, outline=(206, 62, 30), width=6)
    _text(draw, (x + 46, y + 56), "BIO", 44, (206, 62, 30))
    rng = np.random.default_rng(5)
    draw.rectangle((x + 96, y + 344, x + 240, y + 424), fill=(255, 255, 255))
    at = x + 104
    while at < x + 230:
        width = int(rng.integers(2, 6))
        draw.rectangle((at, y + 350, at + width - 1, y + 412), fill=(20, 20, 20))
        at += width + int(rng.integers(2, 6))


def _back(draw: ImageDraw.ImageDraw, x: int, y: int) -> None:
    draw.rectangle((x, y + 200, x + 256, y + 432), fill=(122, 178, 92))
    for i, (cx, cy, r) in enumerate(((70, 150, 62), (150, 110, 56), (196, 168, 50), (120, 190, 60))):
        draw.ellipse((x + cx - r, y + cy - r, x + cx + r, y + cy + r), fill=(52 + 8 * i, 112 + 10 * i, 60))
    draw.rectangle((x + 116, y + 220, x + 144, y + 350), fill=(112, 74, 46))
    for cx, cy in ((60, 130), (110, 170), (150, 90), (190, 150), (140, 200), (210, 186), (90, 100)):
        draw.ellipse((x + cx - 13, y + cy - 13, x + cx + 13, y + cy + 13), fill=_ORANGE)
    _text(draw, (x + 22, y + 372), "from our grove", 30, (255, 252, 244))


def carton() -> Image.Image:
    """Draw the wrap of the juice carton: front, facts, back, stripes, each with its slope of the gable above it."""
    image = Image.new("RGB", CARTON_SIZE, _CREAM)
    draw = ImageDraw.Draw(image)
    width, height = CARTON_PANEL
    tops = ((206, 62, 30), _ORANGE, _LEAF, (250, 204, 70))
    for i, (panel, top) in enumerate(zip((_front, _facts, _back, _stripes), tops, strict=True)):
        panel(draw, i * width, CARTON_SLOPE)
        draw.rectangle((i * width, 0, (i + 1) * width, CARTON_SLOPE - 12), fill=top)
    _text(draw, (12, 104), "SHAKE", 38, _CREAM)
    _text(draw, (2 * width + 20, 40), "OPEN", 54, _CREAM)
    draw.polygon(((2 * width + 190, 50), (2 * width + 240, 50), (2 * width + 215, 110)), fill=_CREAM)
    assert CARTON_SLOPE + height == CARTON_SIZE[1]
    return image


def mug() -> Image.Image:
    """Draw the mug's outside, unrolled: bunting, a rising sun, beans, steam and words, different all the way round."""
    width, height = MUG_SIZE
    navy, white = (30, 54, 92), (240, 238, 230)
    image = Image.new("RGB", MUG_SIZE, white)
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 300, width, height), fill=navy)
    x = np.arange(width)
    top = 286 + 18 * np.sin(2 * np.pi * 3 * x / width) + 9 * np.sin(2 * np.pi * 7 * x / width + 1)
    for column, y in zip(x.tolist(), top.tolist(), strict=True):
        draw.line((column, y, column, 310), fill=navy)
    colors = ((212, 62, 56), (246, 186, 56), (66, 150, 140), (86, 102, 178), (238, 130, 90), (120, 168, 80))
    steps = np.array([40 + 9 * (k % 4) for k in range(20)])
    ends = np.concatenate([[0], np.cumsum(steps)]) * width / steps.sum()
    for k, (left, right) in enumerate(zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True)):
        draw.polygon(((left, 20), (right, 20), ((left + right) / 2, 74)), fill=colors[(k * 5 + k // 3) % 6])
    draw.line((0, 20, width, 20), fill=navy, width=5)
    _text(draw, (70, 110), "GOOD", 88, (212, 62, 56), stroke_width=2)
    _text(draw, (72, 196), "MORNING", 60, navy, stroke_width=1)
    draw.pieslice((404, 130, 584, 310), 180, 360, fill=(246, 186, 56))
    for i in range(9):
        a = np.pi * (1.0 + i / 8)
        c, s = np.cos(a), np.sin(a)
        draw.line((494 + 100 * c, 220 + 100 * s, 494 + 124 * c, 220 + 124 * s), fill=(238, 130, 90), width=8)
    for i, (bx, by) in enumerate(((650, 130), (706, 190), (642, 222), (742, 118), (724, 250))):
        draw.ellipse((bx - 22, by - 15, bx + 22, by + 15), fill=(104, 66, 44))
        draw.line((bx - 18, by + 4 * (-1) ** i, bx + 18, by - 4 * (-1) ** i), fill=white, width=4)
    t = np.linspace(0, 1, 40)
    for i in range(3):
        wave = [(820 + 34 * i + 12 * np.sin(2 * np.pi * 1.5 * s + i), 110 + 90 * s) for s in t.tolist()]
        draw.line(wave, fill=(66, 150, 140), width=9, joint="curve")
    draw.rectangle((808, 212, 912, 276), fill=(66, 150, 140))
    draw.arc((896, 218, 944, 266), -90, 90, fill=(66, 150, 140), width=9)
    for i in range(22):
        sx, sy = (53 * i) % width, 330 + (37 * i) % 40
        draw.ellipse((sx - 4, sy - 4, sx + 4, sy + 4), fill=colors[i % 6])
    return Image.fromarray(np.roll(np.asarray(image), 590, axis=1))  # the words beside the handle
