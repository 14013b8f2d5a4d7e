"""Cutting polygons into triangles, held against the area of the polygon by another formula."""

from __future__ import annotations

import numpy as np
import pytest

from coop_edge.errors import MeshError
from coop_edge.mesh import Mesh
from coop_edge.mesh.polygons import cut_outline, triangulate
from tests.mesh import surface

L_SHAPE = np.array([[0, 0], [60, 0], [60, 20], [20, 20], [20, 60], [0, 60]], float)  # area 2000
ARROW = np.array([[0, 0], [40, 0], [10, 10], [0, 40]], float)  # area 400


def shoelace(ring: np.ndarray) -> float:
    x, y = ring.T
    return 0.5 * abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum()))


def area(points: np.ndarray, triangles: np.ndarray) -> float:
    a, b, c = (points[triangles[:, i]] for i in range(3))
    return 0.5 * float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum())


def star(rng: np.random.Generator, n: int) -> np.ndarray:
    """A random polygon that does not cross itself: corners by angle round the origin."""
    steps = rng.uniform(0.3, 1.0, n)
    angle = 2 * np.pi * np.cumsum(steps) / steps.sum()
    return rng.uniform(0.1, 1.0, n)[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])


def placed(rng: np.random.Generator, ring: np.ndarray) -> np.ndarray:
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    return np.column_stack([ring, np.zeros(len(ring))]) @ turn.T + rng.normal(size=3)


def test_random_polygons_keep_their_area():
    rng = np.random.default_rng(0)
    rings = [star(rng, int(n)) for n in rng.integers(7, 40, 200)]
    points = np.concatenate([placed(rng, ring) for ring in rings])
    sizes = np.array([len(ring) for ring in rings])
    cut = triangulate(points, sizes)
    assert cut.uncertain == 0
    assert (np.diff(cut.polygon) >= 0).all()
    for p, ring in enumerate(rings):
        assert area(points, cut.corners[cut.polygon == p]) == pytest.approx(shoelace(ring), rel=1e-9)


@pytest.mark.parametrize("ring", [L_SHAPE, ARROW], ids=["L", "arrow"])
@pytest.mark.parametrize("turned", [False, True])
def test_the_first_corner_does_not_matter(ring, turned):
    for start in range(len(ring)):
        rolled = np.roll(ring[::-1] if turned else ring, start, axis=0)
        points = np.column_stack([rolled, np.zeros(len(ring))])
        cut = triangulate(points, np.array([len(ring)]))
        assert area(points, cut.corners) == pytest.approx(shoelace(ring))


SQUARE_WITH_KEYHOLE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0], [3, 3], [3, 6], [6, 6], [6, 3], [3, 3]]
COMB = [
    [0, 0],
    *([2 * i + x, y] for i in range(10) for x, y in ((1, 0), (1, 8), (2, 8), (2, 0))),
    [22, 0],
    [22, 10],
    [0, 10],
]
ODD = {
    "a corner twice": ([[0, 0], [60, 0], [60, 0], [60, 20], [20, 20], [20, 20], [20, 60], [0, 60]], 2000),
    "corners on straight lines": (
        [[0, 0], [30, 0], [60, 0], [60, 10], [60, 20], [40, 20], [20, 20], [20, 60], [0, 60]],
        2000,
    ),
    "a hole with a bridge": (SQUARE_WITH_KEYHOLE, 91),
    "a spike": ([[0, 0], [60, 0], [80, 0], [60, 0], [60, 20], [20, 20], [20, 60], [0, 60]], 2000),
    "a comb": (COMB, 140),
    "micrometres": ((1e-6 * L_SHAPE).tolist(), 2000e-12),
    "far away": ((L_SHAPE + 1e6).tolist(), 2000),
    "thin": ((L_SHAPE * [1, 1e-4]).tolist(), 0.2),
}


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("kind", ODD, ids=list(ODD))
def test_odd_polygons_keep_their_area(kind, turned):
    ring, wanted = np.array(ODD[kind][0], float), ODD[kind][1]
    for start in range(len(ring)):
        rolled = np.roll(ring[::-1] if turned else ring, start, axis=0)
        points = np.column_stack([rolled, np.zeros(len(ring))])
        cut = triangulate(points, np.array([len(ring)]))
        assert cut.uncertain == 0
        assert area(points, cut.corners) == pytest.approx(wanted, rel=1e-6)


def test_convex_polygons_stay_fans():
    angle = 2 * np.pi * np.arange(7) / 7
    points = np.column_stack([np.cos(angle), np.sin(angle), np.zeros(7)])
    cut = triangulate(points, np.array([7]))
    np.testing.assert_array_equal(cut.corners, [[0, i, i + 1] for i in range(1, 6)])


def test_small_and_no_polygons():
    assert len(triangulate(np.zeros((0, 3)), np.zeros(0, np.int64)).corners) == 0
    cut = triangulate(np.eye(3), np.array([1, 2, 0]))
    assert len(cut.corners) == 0


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("n", [1, 2, 16])
def test_holes(n, turned):
    """A square of 400 with holes of 4 each, in rows and columns, so that corners lie on straight lines."""

    def square(half: float, x: float = 0.0, y: float = 0.0) -> np.ndarray:
        ring = np.array([[-half, -half], [half, -half], [half, half], [-half, half]]) + (x, y)
        return np.column_stack([ring, np.zeros(4)])

    places = [(x, y) for x in (-6, -2, 2, 6) for y in (-6, -2, 2, 6)][:n]
    holes = [square(1, *place)[:: -1 if turned else 1] for place in places]
    cut = cut_outline(square(10), holes)
    assert cut is not None
    assert area(np.concatenate([square(10), *holes]), cut) == pytest.approx(400 - 4 * n)


def test_what_crosses_itself_is_said(tmp_path):
    (tmp_path / "bow.obj").write_text("v 0 0 0\nv .1 .1 0\nv .1 0 0\nv 0 .1 0\nf 1 2 3 4\n")
    notes = Mesh.load(tmp_path / "bow.obj", unit="m").notes
    assert any("1 polygons cross themselves" in note for note in notes)


@pytest.mark.parametrize("start", range(6))
@pytest.mark.parametrize("suffix", ["obj", "ply", "ply binary", "off", "dae polylist", "dae polygons"])
def test_every_format_cuts_concave_polygons(suffix, start, tmp_path):
    """The L beside a triangle and a square, so that sizes are mixed."""
    ring = np.roll(L_SHAPE, start, axis=0)
    other = np.array([[100, 0], [110, 0], [110, 10], [100, 10]], float)
    points = np.column_stack([np.concatenate([ring, other]), np.zeros(10)])
    polygons = [list(range(6)), [6, 7, 8], [6, 8, 9]]
    kind, _, how = suffix.partition(" ")
    path = tmp_path / f"a.{kind}"
    path.write_bytes(WRITERS[kind](points, polygons, how))
    mesh = Mesh.load(path, unit="mm")
    assert surface.area(mesh) * 1e6 == pytest.approx(2000 + 100, rel=1e-6)
    assert len(mesh.faces) == 6


def _obj(points, polygons, how) -> bytes:
    rows = [f"v {x} {y} {z}" for x, y, z in points] + ["f " + " ".join(str(i + 1) for i in p) for p in polygons]
    return "\n".join(rows).encode() + b"\n"


def _off(points, polygons, how) -> bytes:
    rows = ["OFF", f"{len(points)} {len(polygons)} 0", *(f"{x} {y} {z}" for x, y, z in points)]
    return "\n".join([*rows, *(" ".join(map(str, [len(p), *p])) for p in polygons)]).encode() + b"\n"


def _ply(points, polygons, how) -> bytes:
    form = "binary_little_endian" if how else "ascii"
    head = (
        f"ply\nformat {form} 1.0\nelement vertex {len(points)}\nproperty float x\nproperty float y\nproperty float z\n"
    )
    head += f"element face {len(polygons)}\nproperty list uchar int vertex_indices\nend_header\n"
    if how:
        body = points.astype("<f4").tobytes()
        body += b"".join(bytes([len(p)]) + np.array(p, "<i4").tobytes() for p in polygons)
        return head.encode() + body
    return head.encode() + _off(points, polygons, how).split(b"\n", 2)[2]


def _dae(points, polygons, how) -> bytes:
    from tests.mesh.dae_writer import collada, primitive

    return collada(points, [primitive(how, polygons)]).encode()


WRITERS = {"obj": _obj, "off": _off, "ply": _ply, "dae": _dae}


def test_faces_of_two_corners_are_an_error_in_obj(tmp_path):
    (tmp_path / "a.obj").write_text("v 0 0 0\nv .1 0 0\nv 0 .1 0\nf 1 2 3\nf 1 2\n")
    with pytest.raises(MeshError, match="line 5: a face of 2 corners"):
        Mesh.load(tmp_path / "a.obj", unit="m")
