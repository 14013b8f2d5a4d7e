"""The three demo objects: a juice carton, a toy house and a mug. Metres, z up, standing on z = 0."""

from __future__ import annotations

import numpy as np

from benchmarks.datasets.demo_scene.labels import CARTON_PANEL, CARTON_SIZE
from benchmarks.datasets.demo_scene.parts import Painter, Part, disc, plain, revolve, tube

# ---- juice carton: 62 x 62 x 142 mm


_CARTON = (0.031, 0.105, 0.130, 0.142)  # half a side; heights of shoulder, ridge and top


def carton() -> list[Part]:
    """Make a gable-top carton with a printed wrap and a red cap on its front slope."""
    half, shoulder, ridge, top = _CARTON
    v_shoulder = CARTON_PANEL[1] / CARTON_SIZE[1]
    vertices: list[tuple[float, float, float]] = []
    uv: list[tuple[float, float]] = []
    faces: list[tuple[int, int, int]] = []

    def add(points: list[tuple[float, float, float]], coordinates: list[tuple[float, float]]) -> None:
        first = len(vertices)
        vertices.extend(points)
        uv.extend(coordinates)
        faces.extend((first, first + i, first + i + 1) for i in range(1, len(points) - 1))

    corners = [(-half, -half), (half, -half), (half, half), (-half, half)]
    for i in range(4):
        (x0, y0), (x1, y1) = corners[i], corners[(i + 1) % 4]
        u0, u1 = i / 4, (i + 1) / 4
        add(
            [(x0, y0, 0.0), (x1, y1, 0.0), (x1, y1, shoulder), (x0, y0, shoulder)],
            [(u0, 0.0), (u1, 0.0), (u1, v_shoulder), (u0, v_shoulder)],
        )
        if i % 2 == 0:  # front and back: slopes up to the fin, and the fin's own side
            y = np.sign(y0) * 0.001
            v = 0.93
            add(
                [(x0, y0, shoulder), (x1, y1, shoulder), (x1, y, ridge), (x0, y, ridge)],
                [(u0, v_shoulder), (u1, v_shoulder), (u1, v), (u0, v)],
            )
            add([(x0, y, ridge), (x1, y, ridge), (x1, y, top), (x0, y, top)], [(u0, v), (u1, v), (u1, 1), (u0, 1)])
        else:  # the sides close the gable
            middle = (u0 + u1) / 2
            add(
                [
                    (x0, y0, shoulder),
                    (x1, y1, shoulder),
                    (x0, np.sign(y1) * 0.001, ridge),
                    (x0, np.sign(y0) * 0.001, ridge),
                ],
                [(u0, v_shoulder), (u1, v_shoulder), (middle + 0.004, 0.95), (middle - 0.004, 0.95)],
            )
    wrap = np.array(vertices)
    colors = np.full((len(wrap), 3), 255, np.uint8)
    printed = Part(wrap, np.array(faces), colors, np.array(uv), texture="carton", roughness=0.35)
    return [printed, _carton_ends(), _carton_cap()]


def _carton_ends() -> Part:
    """The bottom, and the cut edges of the fin."""
    half, _, ridge, top = _CARTON
    ends = Painter()
    ends.polygon([(-half, -half, 0), (-half, half, 0), (half, half, 0), (half, -half, 0)], (236, 228, 208))
    for side in (-1, 1):
        x, order = side * half, slice(None, None, side)
        ends.polygon([(x, -0.001, ridge), (x, 0.001, ridge), (x, 0.001, top), (x, -0.001, top)][order], (222, 214, 196))
    ends.polygon([(-half, -0.001, top), (half, -0.001, top), (half, 0.001, top), (-half, 0.001, top)], (222, 214, 196))

    return ends.part(0.6)


def _carton_cap() -> Part:
    """A red screw cap on the front slope, off the middle."""
    half, shoulder, ridge, _ = _CARTON
    cap, cap_faces = disc(0.0105, 0.010, 28)
    slope = np.array([0.0, half - 0.001, ridge - shoulder])
    slope /= np.linalg.norm(slope)
    axes = np.stack([(1.0, 0.0, 0.0), slope, np.cross((1.0, 0.0, 0.0), slope)], axis=1)
    middle = np.array([0.012, -(half + 0.001) / 2, (shoulder + ridge) / 2])
    return plain(cap @ axes.T + middle, cap_faces, (196, 34, 40), smooth=False, roughness=0.3)


# ---- toy house: 10 x 7 x 10 cm


def _boards(
    paint: Painter, start: np.ndarray, end: np.ndarray, height: float, color: tuple[int, int, int], shade: float
) -> None:
    """A wall of boards, one above the other, each a little different, from ``start`` to ``end`` (seen from outside)."""
    n = 6
    for i in range(n):
        low, high = height * i / n, height * (i + 1) / n
        tone = 1.0 + shade * (-1) ** i - 0.02 * (i % 3)
        up_low, up_high = np.array([0, 0, low]), np.array([0, 0, high])
        corners = (start + up_low, end + up_low, end + up_high, start + up_high)
        paint.polygon([c.tolist() for c in corners], np.multiply(color, tone).tolist())


def _roof(paint: Painter, x: float, y: float, eaves: float, ridge: float) -> None:
    """Two slopes of shingles, terracotta in front and slate behind, with an underside."""
    rows, columns = 5, 9
    lift = 0.0009  # each row overlaps the one below
    rng = np.random.default_rng(3)
    for side, base in ((-1, (186, 84, 58)), (1, (84, 98, 116))):
        for i in range(rows):
            for j in range(columns):
                a, b = i / rows, (i + 1) / rows
                left, right = -x + 2 * x * j / columns, -x + 2 * x * (j + 1) / columns
                quad = [
                    (left, side * y * (1 - a), eaves + (ridge - eaves) * a + lift),
                    (right, side * y * (1 - a), eaves + (ridge - eaves) * a + lift),
                    (right, side * y * (1 - b), eaves + (ridge - eaves) * b),
                    (left, side * y * (1 - b), eaves + (ridge - eaves) * b),
                ]
                step = [
                    (right, *quad[1][1:]),
                    (left, *quad[0][1:]),
                    *((u, quad[0][1], quad[0][2] - lift) for u in (left, right)),
                ]
                shingle = np.multiply(base, rng.uniform(0.82, 1.12)).tolist()
                paint.polygon(quad if side < 0 else quad[::-1], shingle)
                paint.polygon(step if side < 0 else step[::-1], np.multiply(shingle, 0.9).tolist())
        under = [(-x, side * y, eaves), (x, side * y, eaves), (x, 0, ridge - 0.002), (-x, 0, ridge - 0.002)]
        edge = [
            (-x, side * y, eaves),
            (x, side * y, eaves),
            (x, side * y, eaves + 0.001),
            (-x, side * y, eaves + 0.001),
        ]
        paint.polygon(under[::-1] if side < 0 else under, (150, 120, 90))
        paint.polygon(edge if side < 0 else edge[::-1], (150, 120, 90))
        for end in (-1, 1):  # close the slab and its steps
            u = end * x
            sides = [[(u, side * y, eaves), (u, 0, ridge), (u, 0, ridge - 0.002)]]
            for i in range(rows):
                (v0, z0), (v1, z1) = (
                    (side * y * (1 - a), eaves + (ridge - eaves) * a) for a in (i / rows, (i + 1) / rows)
                )
                sides.append([(u, v0, z0), (u, v0, z0 + lift), (u, v1, z1)])
            for triangle in sides:
                paint.polygon(triangle if side * end > 0 else triangle[::-1], (150, 120, 90))


def house() -> list[Part]:
    """Make a toy house: every wall in its own colour, door, windows, and a chimney off the middle."""
    paint = Painter()
    x, y, wall, eaves, ridge = 0.045, 0.030, 0.052, 0.048, 0.084
    corner = {(i, j): np.array([i * x, j * y, 0.0]) for i in (-1, 1) for j in (-1, 1)}
    _boards(paint, corner[-1, -1], corner[1, -1], wall, (222, 186, 84), 0.06)
    _boards(paint, corner[1, -1], corner[1, 1], wall, (86, 140, 190), 0.06)
    _boards(paint, corner[1, 1], corner[-1, 1], wall, (120, 164, 92), 0.06)
    _boards(paint, corner[-1, 1], corner[-1, -1], wall, (196, 100, 92), 0.06)
    for side, color in ((-1, (176, 84, 78)), (1, (70, 120, 170))):
        gable = [(side * x, -side * -y, wall), (side * x, -side * y, wall), (side * x, 0, ridge - 0.003)]
        paint.polygon(gable[::-1], color)
    paint.polygon([c.tolist() for c in (corner[-1, -1], corner[-1, 1], corner[1, 1], corner[1, -1])], (120, 92, 66))
    _roof(paint, 0.052, 0.038, eaves - 0.004, ridge)

    white, glass, brown = (240, 238, 230), (62, 92, 120), (112, 66, 42)
    paint.box((-0.030, -y - 0.0022, 0.0), (-0.012, -y, 0.034), brown)  # door, with its knob
    paint.box((-0.0165, -y - 0.0040, 0.015), (-0.0140, -y - 0.0022, 0.0175), (236, 196, 60))
    for left in (0.004, 0.025):  # front windows with a cross
        paint.box((left, -y - 0.0015, 0.014), (left + 0.015, -y, 0.034), white)
        for i in (0, 1):
            for j in (0, 1):
                low = (left + 0.0015 + 0.0065 * i, -y - 0.0020, 0.0155 + 0.009 * j)
                paint.box(low, (low[0] + 0.0055, -y - 0.0015, low[2] + 0.008), glass)
    paint.box((x, -0.012, 0.016), (x + 0.0015, 0.012, 0.036), white)  # a broad window on the right
    paint.box((x + 0.0015, -0.0105, 0.0175), (x + 0.002, 0.0105, 0.0345), (250, 214, 110))
    paint.box((-x - 0.0015, 0.006, 0.02), (-x, 0.020, 0.036), glass)  # a small one on the left
    paint.box((-0.020, y, 0.012), (0.028, y + 0.0015, 0.030), (226, 120, 60))  # a board behind
    paint.box((0.016, 0.006, 0.060), (0.030, 0.018, 0.098), (150, 62, 52))  # chimney
    paint.box((0.0145, 0.0045, 0.098), (0.0315, 0.0195, 0.102), (90, 88, 86))
    return [paint.part(0.55)]


# ---- mug: 9.4 cm high, 8.6 cm across

_MUG = np.array(
    [
        (0.0000, 0.0030),
        (0.0250, 0.0030),
        (0.0265, 0.0000),
        (0.0300, 0.0000),
        (0.0330, 0.0020),
        (0.0350, 0.0070),
        (0.0372, 0.0220),
        (0.0390, 0.0400),
        (0.0404, 0.0600),
        (0.0415, 0.0780),
        (0.0424, 0.0910),
        (0.0418, 0.0938),
        (0.0402, 0.0938),
        (0.0392, 0.0905),
        (0.0378, 0.0700),
        (0.0356, 0.0400),
        (0.0330, 0.0120),
        (0.0280, 0.0065),
        (0.0000, 0.0055),
    ]
)
_PRINTED = slice(5, 11)  # rows of the outline that carry the print


def mug() -> list[Part]:
    """Make a flaring mug: print outside, white inside, a red handle at azimuth 0."""
    vertices, faces, u = revolve(_MUG, 72)
    row = np.repeat(np.arange(len(_MUG)), 73)
    printed = (row[faces] >= _PRINTED.start).all(axis=1) & (row[faces] < _PRINTED.stop).all(axis=1)
    z = _MUG[_PRINTED, 1]
    v = np.interp(vertices[:, 2], (z[0], z[-1]), (0.004, 0.996))
    white = np.full((len(vertices), 3), (238, 235, 226), np.uint8)
    body = Part(vertices, faces[printed], white, np.stack([u, v], axis=1), texture="mug", smooth=True, roughness=0.25)
    glaze = Part(vertices, faces[~printed], white, smooth=True, roughness=0.25)
    t = np.linspace(-0.52 * np.pi, 0.53 * np.pi, 30)
    middle = np.stack([0.037 + 0.003 * np.sin(t) + 0.031 * np.cos(t), 0 * t, 0.048 + 0.029 * np.sin(t)], axis=1)
    loop, loop_faces = tube(middle, np.array([0.0, 1.0, 0.0]), (0.0042, 0.0068), 18)
    handle = plain(loop, loop_faces, (190, 44, 48), smooth=True, roughness=0.25)
    return [body, glaze, handle]


OBJECTS = {"carton": carton, "house": house, "mug": mug}
