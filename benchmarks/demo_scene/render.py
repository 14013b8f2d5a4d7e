"""The scene in Mitsuba 3: a path-traced picture, and what share of each pixel shows which object."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.demo_scene import layout, noise
from benchmarks.demo_scene.files import linear
from benchmarks.demo_scene.objects import OBJECTS
from benchmarks.demo_scene.parts import Painter, Part, plain, revolve, tube

_PASS = 64  # samples per pixel of the picture


def sensor(mi: Any, scale: int, samples: int) -> dict[str, Any]:
    """The camera at ``scale`` pixels per pixel of the picture.

    Mitsuba's camera looks along +z with x to the left and y up; its film's corner is (0, 0), so that the first pixel's
    centre is (0.5, 0.5); the principal point is given by how far the film's middle lies from it, as a share of the
    film's size.
    """
    width, height = layout.WIDTH * scale, layout.HEIGHT * scale
    T = layout.world_camera() @ np.diag([-1.0, -1.0, 1.0, 1.0])
    cx, cy = layout.K[0, 2] + 0.5, layout.K[1, 2] + 0.5
    return {
        "type": "perspective",
        "fov_axis": "x",
        "fov": float(2.0 * np.degrees(np.arctan(layout.WIDTH / 2.0 / layout.K[0, 0]))),
        "principal_point_offset_x": float(0.5 - cx / layout.WIDTH),
        "principal_point_offset_y": float(0.5 - cy / layout.HEIGHT),
        "near_clip": 0.01,
        "far_clip": 20.0,
        "to_world": mi.ScalarTransform4f(T.tolist()),
        "film": {
            "type": "hdrfilm",
            "width": width,
            "height": height,
            "rfilter": {"type": "box"},
            "pixel_format": "rgb",
            "component_format": "float32",
        },
        "sampler": {"type": "multijitter", "sample_count": samples, "seed": 1},
    }


def picture(mi: Any, samples: int, textures: Mapping[str, bytes]) -> np.ndarray:
    """Radiance float32 [2h,2w,3], path-traced with global illumination; ``samples`` per pixel of the picture.

    In passes of 64, each with a seed of its own: one of all of them would take gigabytes in the vectorised variants.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene: dict[str, Any] = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 9, "hide_emitters": False},
        }
        scene["sensor"] = sensor(mi, 2, _PASS // 4)
        scene |= _room(mi)
        pictures = {
            k: cv2.imdecode(np.frombuffer(v, np.uint8), cv2.IMREAD_COLOR)[..., ::-1] for k, v in textures.items()
        }
        for name, make in OBJECTS.items():
            for i, part in enumerate(make()):
                key = f"{name}{i}"
                scene[key] = _shape(mi, folder / f"{key}.ply", part, layout.T_WORLD_OBJECT[name])
                scene[key]["bsdf"] = _coat(mi, part, pictures)
        for key, (part, T) in _clutter().items():
            scene[key] = _shape(mi, folder / f"{key}.ply", part, T)
            scene[key]["bsdf"] = _coat(mi, part, pictures)
        loaded = mi.load_dict(scene)
        passes = max(1, round(samples / _PASS))
        total = np.zeros((2 * layout.HEIGHT, 2 * layout.WIDTH, 3), np.float64)
        for seed in range(passes):
            total += np.array(mi.render(loaded, seed=seed))
        return (total / passes).astype(np.float32)


def coverage(mi: Any, samples: int = 256) -> np.ndarray:
    """The share of each pixel that shows each object, float32 [h,w,3] in the order of ``OBJECTS``.

    Every object glows in a channel of its own and nothing else does; only what is seen directly counts. Emitters shine
    on their outside only, so a face turned inside out would be missing.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene: dict[str, Any] = {"type": "scene", "integrator": {"type": "path", "max_depth": 1}}
        scene["sensor"] = sensor(mi, 1, samples)
        for channel, (name, make) in enumerate(OBJECTS.items()):
            glow = [float(c == channel) for c in range(3)]
            for i, part in enumerate(make()):
                key = f"{name}{i}"
                flat = replace(part, smooth=False)  # a smooth normal that faces away would darken what is seen
                scene[key] = _shape(mi, folder / f"{key}.ply", flat, layout.T_WORLD_OBJECT[name])
                scene[key]["emitter"] = {"type": "area", "radiance": {"type": "rgb", "value": glow}}
        for key, (part, T) in _clutter().items():
            scene[key] = _shape(mi, folder / f"{key}.ply", part, T)
        return np.array(mi.render(mi.load_dict(scene)))


def _shape(mi: Any, path: Path, part: Part, T: np.ndarray) -> dict[str, Any]:
    """A part as a PLY file that Mitsuba reads, in the world."""
    points = part.vertices @ T[:3, :3].T + T[:3, 3]
    columns = [points]
    names = ["x", "y", "z"]
    if part.smooth:
        columns.append(_normals(points, part.faces))
        names += ["nx", "ny", "nz"]
    if part.uv is not None:
        columns.append(part.uv * (1.0, -1.0) + (0.0, 1.0))  # Mitsuba's bitmaps begin at the top
        names += ["u", "v"]
    columns.append(linear(part.colors))
    names += ["r", "g", "b"]
    rows = np.concatenate(columns, axis=1)
    with path.open("w") as file:
        file.write(f"ply\nformat ascii 1.0\nelement vertex {len(rows)}\n")
        file.writelines(f"property float {n}\n" for n in names)
        file.write(f"element face {len(part.faces)}\nproperty list uchar int vertex_indices\nend_header\n")
        np.savetxt(file, rows, fmt="%.9g")
        np.savetxt(file, np.column_stack([np.full(len(part.faces), 3), part.faces]), fmt="%d")
    return {"type": "ply", "filename": str(path), "face_normals": not part.smooth}


def _normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Normals weighted by area, shared by vertices at the same place (seams)."""
    corners = points[faces]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    _, same = np.unique(np.round(points, 7), axis=0, return_inverse=True)
    same = same.reshape(-1)
    total = np.zeros((same.max() + 1, 3))
    for k in range(3):
        np.add.at(total, same[faces[:, k]], normal)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    return (total / np.maximum(length, 1e-30))[same]


def _bitmap(mi: Any, image: np.ndarray, raw: bool = False) -> dict[str, Any]:
    data = np.ascontiguousarray(image if image.ndim == 3 else image[..., None])
    bitmap = mi.Bitmap(data)
    bitmap.set_srgb_gamma(not raw)
    return {"type": "bitmap", "bitmap": bitmap, "raw": raw, "filter_type": "bilinear"}


def _coat(mi: Any, part: Part, pictures: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """A dielectric coat over the part's colours."""
    colors = (
        _bitmap(mi, pictures[part.texture])
        if part.uv is not None
        else {"type": "mesh_attribute", "name": "vertex_color"}
    )
    bsdf = {"type": "principled", "base_color": colors, "roughness": part.roughness, "specular": 0.5}
    return {"type": "twosided", "bsdf": bsdf}


def _room(mi: Any) -> dict[str, Any]:
    """Table, cloth, walls, a window in four panes on the left, a lamp behind on the right, and what else there is."""
    T = mi.ScalarTransform4f
    boards, rough = noise.wood(3072, 2048, 11)
    table = {"type": "principled", "base_color": _bitmap(mi, boards), "roughness": _bitmap(mi, rough, raw=True)}
    weave = {"type": "diffuse", "reflectance": _bitmap(mi, noise.linen(2048, 1536, 420))}
    wall = {"type": "diffuse", "reflectance": {"type": "rgb", "value": [0.62, 0.58, 0.52]}}
    room: dict[str, Any] = {
        "table": {"type": "rectangle", "to_world": T().rotate([0, 0, 1], 8).scale([0.9, 0.6, 1.0]), "bsdf": table},
        "cloth": {
            "type": "cube",
            "to_world": T()
            .translate([0.0, 0.05, CLOTH_MIDDLE])
            .rotate([0, 0, 1], -14)
            .scale([0.235, 0.175, CLOTH_MIDDLE]),
            "bsdf": weave,
        },
        "back": {"type": "rectangle", "to_world": T().translate([0, 1.6, 1.0]).rotate([1, 0, 0], 90).scale([3, 2, 1])},
        "right": {
            "type": "rectangle",
            "to_world": T().translate([1.8, 0, 1.0]).rotate([0, 1, 0], -90).scale([2, 3, 1]),
        },
        "ceiling": {
            "type": "rectangle",
            "to_world": T().translate([0, 0, 2.4]).rotate([1, 0, 0], 180).scale([3, 3, 1]),
        },
        "sky": {"type": "constant", "radiance": {"type": "rgb", "value": [0.07, 0.08, 0.10]}},
    }
    for key in ("back", "right", "ceiling"):
        room[key]["bsdf"] = wall
    for i in range(2):
        for j in range(2):
            at = T().translate([-1.15, -0.62 + 0.30 * i, 0.80 + 0.36 * j]).rotate([0, 1, 0], 90).scale([0.16, 0.13, 1])
            light = {"type": "area", "radiance": {"type": "rgb", "value": [30.0, 33.0, 37.0]}}
            room[f"pane{i}{j}"] = {"type": "rectangle", "to_world": at, "emitter": light}
    lamp = T().look_at(origin=[0.80, 0.35, 1.30], target=[0, 0, 0], up=[0, 0, 1]).scale([0.11, 0.11, 1])
    glow = {"type": "area", "radiance": {"type": "rgb", "value": [22.0, 16.0, 10.0]}}
    room["lamp"] = {"type": "disk", "to_world": lamp, "emitter": glow}
    return room


CLOTH_MIDDLE = layout.CLOTH / 2


def _clutter() -> dict[str, tuple[Part, np.ndarray]]:
    """Things that nobody looks for: a pencil, marbles, a note and a coin."""
    stand = layout.stand
    pencil = np.array([(0.0, 0.0), (0.0033, 0.0), (0.0038, 0.001), (0.0038, 0.135), (0.0012, 0.150), (0.0, 0.1535)])
    wood, faces, _ = revolve(pencil, 6)
    color = np.where((wood[:, 2] > 0.1355)[:, None], (214, 178, 128), (46, 120, 96)).astype(np.uint8)
    color[wood[:, 2] > 0.1495] = (50, 50, 54)
    lying = wood[:, [2, 0, 1]] + (0.0, 0.0, 0.0034)
    out = {"pencil": (Part(lying, faces, color, roughness=0.3), stand(-0.050, -0.142, -18.0, z=0.0))}
    t = np.linspace(0.0, np.pi, 25)
    for i, (x, y, r, c) in enumerate(((0.135, 0.055, 0.011, (34, 92, 160)), (0.152, 0.022, 0.008, (214, 160, 40)))):
        ball = np.stack([r * np.sin(t), r - r * np.cos(t)], axis=1)
        vertices, faces, _ = revolve(ball, 40)
        out[f"marble{i}"] = (plain(vertices, faces, c, smooth=True, roughness=0.08), stand(x, y, 0.0))
    note = Painter()
    note.box((-0.038, -0.038, 0.0), (0.038, 0.038, 0.004), (238, 216, 104))
    for i, length in enumerate((0.05, 0.058, 0.042, 0.055)):
        y = 0.022 - 0.012 * i
        note.box((-0.03, y, 0.004), (-0.03 + length, y + 0.0016, 0.00402), (60, 66, 110))
    out["note"] = (note.part(0.8), stand(0.128, -0.128, 21.0, z=0.0))
    ring_t = np.linspace(0.0, 2.0 * np.pi, 41)
    ring = np.stack([0.012 * np.cos(ring_t), 0.012 * np.sin(ring_t), 0.0021 + 0 * ring_t], axis=1)
    band, faces = tube(ring, np.array([0.0, 0.0, 1.0]), (0.002, 0.002), 12)
    out["ring"] = (plain(band, faces, (190, 66, 120), smooth=True, roughness=0.3), stand(-0.150, -0.105, 0.0, z=0.0))
    return out
