"""Writes docs/examples/mug/{mug.obj, mug.mtl, mug.png}: the demo object, a mug 9.5 cm high, in metres.

The body is a surface of revolution about z with an inner wall and a textured label; the handle is a swept tube in one
plain colour (a second material). Label and handle together leave the mug without any symmetry.

    python docs/examples/make_mug.py [FOLDER]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image, ImageDraw

SEGMENTS = 48  # around the body
HEIGHT, RADIUS, WALL = 0.095, 0.040, 0.004
TEXTURE = (512, 256)  # width, height

# Outline (radius, z) from the middle of the base up the outside, over the rim and down the inside.
OUTLINE = np.array(
    [
        (0.000, 0.000),
        (0.030, 0.000),
        (0.036, 0.002),
        (0.039, 0.006),
        (0.040, 0.012),
        (0.040, 0.030),
        (0.040, 0.050),
        (0.040, 0.070),
        (0.040, 0.088),
        (0.0395, 0.0935),
        (0.038, 0.095),
        (0.0365, 0.0935),
        (0.036, 0.088),
        (0.036, 0.060),
        (0.036, 0.030),
        (0.036, 0.012),
        (0.034, 0.007),
        (0.028, 0.005),
        (0.000, 0.005),
    ]
)
OUTSIDE_TO = 9  # outline rows up to this one show the label, the others plain glaze

# The texture's lower strip is plain glaze for base, rim and inside; the label fills the part above it.
GLAZE_V = 0.06
LABEL_V = (0.14, 1.0)


def body() -> trimesh.Trimesh:
    """The body: vertices, faces and texture coordinates, the seam at the handle (azimuth 0)."""
    angle = np.linspace(0.0, 2.0 * np.pi, SEGMENTS + 1)
    r, z = OUTLINE[:, 0, None], OUTLINE[:, 1, None]
    vertices = np.stack(np.broadcast_arrays(r * np.cos(angle), r * np.sin(angle), z), axis=-1)
    u = np.broadcast_to(angle / (2.0 * np.pi), vertices.shape[:2])
    label = np.interp(z, (0.012, 0.088), LABEL_V)
    v_outside = np.broadcast_to(np.minimum(label, 0.995), vertices.shape[:2])
    rows, columns = len(OUTLINE), SEGMENTS + 1
    index = np.arange(rows * columns).reshape(rows, columns)
    quads = np.stack([index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]], axis=-1)
    labelled = np.zeros((rows - 1, SEGMENTS), bool)
    labelled[4 : OUTSIDE_TO - 1] = True  # the straight part of the wall, rows 4 to 8
    # Two copies of the vertices: texture coordinates of the label, and of the glaze.
    points = np.concatenate([vertices.reshape(-1, 3)] * 2)
    uv = np.concatenate(
        [
            np.stack([u, v_outside], axis=-1).reshape(-1, 2),
            np.stack([u, np.full_like(u, GLAZE_V)], axis=-1).reshape(-1, 2),
        ]
    )
    quads = quads + np.where(labelled, 0, rows * columns)[..., None]
    triangles = quads.reshape(-1, 4)[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    corners = points[triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    mesh = trimesh.Trimesh(points, triangles[area > 1e-12], process=False)
    material = trimesh.visual.material.SimpleMaterial(image=label_image(), name="glaze")
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return mesh


def handle(along: int = 28, around: int = 14) -> trimesh.Trimesh:
    """A tube of elliptic section swept along half an ellipse in the xz plane, its ends inside the wall."""
    t = np.linspace(-np.pi / 2.0, np.pi / 2.0, along)
    middle = np.stack([RADIUS - WALL / 2 + 0.030 * np.cos(t), np.zeros(along), 0.050 + 0.030 * np.sin(t)], axis=1)
    tangent = np.stack([-np.sin(t), np.zeros(along), np.cos(t)], axis=1)
    outwards = np.cross(tangent, (0.0, -1.0, 0.0))
    s = np.linspace(0.0, 2.0 * np.pi, around, endpoint=False)
    section = 0.0042 * np.cos(s)[None, :, None] * outwards[:, None] + np.array([0.0, 0.007, 0.0]) * np.sin(s)[:, None]
    index = np.arange(along * around).reshape(along, around)
    beside = np.roll(index, -1, axis=1)
    quads = np.stack([index[:-1], beside[:-1], beside[1:], index[1:]], axis=-1).reshape(-1, 4)
    faces = quads[:, [0, 1, 2, 0, 2, 3]].reshape(-1, 3)
    mesh = trimesh.Trimesh((middle[:, None] + section).reshape(-1, 3), faces, process=False)
    material = trimesh.visual.material.SimpleMaterial(diffuse=(214, 92, 40, 255), name="handle")
    mesh.visual = trimesh.visual.TextureVisuals(material=material)
    return mesh


def label_image() -> Image.Image:
    """A sky with sun, hills, a tree, a house and a scale of colours: different all the way round."""
    width, height = TEXTURE
    label = round(height * (1.0 - LABEL_V[0]))
    rows = np.linspace(0.0, 1.0, label)[:, None]
    sky = (1.0 - rows) * np.array([58, 128, 205]) + rows * np.array([240, 226, 190])
    pixels = np.empty((height, width, 3), np.uint8)
    pixels[:] = (236, 230, 218)  # glaze
    pixels[:label] = sky[:, None]
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    x = np.arange(width)
    for base, swing, waves, color in ((140, 26, 2, (98, 150, 82)), (172, 18, 3, (52, 110, 66))):
        top = base + swing * np.sin(2 * np.pi * waves * x / width + base)
        for column, y in zip(x.tolist(), top.tolist(), strict=True):
            draw.line((column, y, column, label - 1), fill=color)
    draw.ellipse((60, 24, 112, 76), fill=(250, 204, 52))
    for i in range(8):
        a = np.pi * i / 4
        c, s = np.cos(a), np.sin(a)
        draw.line((86 + 32 * c, 50 + 32 * s, 86 + 42 * c, 50 + 42 * s), fill=(250, 204, 52), width=4)
    draw.rectangle((190, 110, 262, 178), fill=(190, 60, 52))  # house
    draw.polygon(((180, 112), (226, 70), (272, 112)), fill=(96, 48, 40))
    draw.rectangle((200, 140, 218, 178), fill=(70, 40, 32))
    draw.rectangle((232, 126, 252, 146), fill=(250, 236, 150))
    draw.rectangle((330, 120, 342, 186), fill=(96, 66, 40))  # tree
    draw.ellipse((302, 62, 370, 134), fill=(34, 92, 50))
    for cx, cy in ((318, 92), (350, 84), (340, 114), (326, 118)):
        draw.ellipse((cx - 5, cy - 5, cx + 5, cy + 5), fill=(214, 40, 52))
    stripes = ((122, 60, 160), (60, 90, 190), (44, 160, 170), (240, 180, 40), (224, 90, 50))
    for i, color in enumerate(stripes):
        draw.rectangle((420 + 14 * i, 30 + 9 * i, 431 + 14 * i, 186), fill=color)
    return image


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    label_image().save(folder / "mug.png", optimize=True)
    (folder / "mug.mtl").write_text(
        "# the mug of the coop_edge examples\n"
        "newmtl glaze\nKd 1.000000 1.000000 1.000000\nmap_Kd mug.png\n\n"
        "newmtl handle\nKd 0.839216 0.360784 0.156863\n"
    )
    lines = ["# the mug of the coop_edge examples, metres", "mtllib mug.mtl"]
    b, h = body(), handle()
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in (*b.vertices, *h.vertices)]
    lines += [f"vt {u:.6f} {v:.6f}" for u, v in b.visual.uv]
    lines += ["usemtl glaze", *("f " + " ".join(f"{i}/{i}" for i in face) for face in (b.faces + 1))]
    lines += ["usemtl handle", *("f " + " ".join(map(str, face)) for face in (h.faces + 1 + len(b.vertices)))]
    (folder / "mug.obj").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "mug")
