"""The scene in Mitsuba 3: a path-traced picture, and what share of each pixel shows which object."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks.datasets.demo_scene import layout, noise
from benchmarks.datasets.demo_scene.mitsuba_scene import PASS, bitmap, coat, in_passes, perspective, shape
from benchmarks.datasets.demo_scene.objects import OBJECTS
from benchmarks.datasets.demo_scene.parts import Painter, Part, plain, revolve, tube


def sensor(mi: Any, scale: int, samples: int) -> dict[str, Any]:
    """Describe the camera at ``scale`` pixels per pixel of the picture."""
    return perspective(mi, layout.K, (layout.WIDTH, layout.HEIGHT), layout.world_camera(), scale, samples)


def picture(mi: Any, samples: int, textures: Mapping[str, bytes]) -> np.ndarray:
    """Trace paths with global illumination: radiance float32 [2h,2w,3], ``samples`` per pixel of the picture.

    In passes of 64, each with a seed of its own.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        scene: dict[str, Any] = {
            "type": "scene",
            "integrator": {"type": "path", "max_depth": 9, "hide_emitters": False},
        }
        scene["sensor"] = sensor(mi, 2, PASS // 4)
        scene |= _room(mi)
        pictures = {
            k: np.asarray(cv2.imdecode(np.frombuffer(v, np.uint8), cv2.IMREAD_COLOR))[..., ::-1]
            for k, v in textures.items()
        }
        for name, make in OBJECTS.items():
            for i, part in enumerate(make()):
                key = f"{name}{i}"
                scene[key] = shape(folder / f"{key}.ply", part, layout.T_WORLD_OBJECT[name])
                scene[key]["bsdf"] = coat(mi, part, pictures)
        for key, (part, T) in _clutter().items():
            scene[key] = shape(folder / f"{key}.ply", part, T)
            scene[key]["bsdf"] = coat(mi, part, pictures)
        loaded = mi.load_dict(scene)
        return in_passes(mi, loaded, max(1, round(samples / PASS)))


def coverage(mi: Any, samples: int = 256) -> np.ndarray:
    """Return the share of each pixel that shows each object, float32 [h,w,3] in the order of ``OBJECTS``.

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
                scene[key] = shape(folder / f"{key}.ply", flat, layout.T_WORLD_OBJECT[name])
                scene[key]["emitter"] = {"type": "area", "radiance": {"type": "rgb", "value": glow}}
        for key, (part, T) in _clutter().items():
            scene[key] = shape(folder / f"{key}.ply", part, T)
        return np.array(mi.render(mi.load_dict(scene)))


def _room(mi: Any) -> dict[str, Any]:
    """Table, cloth, walls, a window in four panes on the left, a lamp behind on the right, and what else there is."""
    T = mi.ScalarTransform4f
    boards, rough = noise.wood(3072, 2048, 11)
    table = {"type": "principled", "base_color": bitmap(mi, boards), "roughness": bitmap(mi, rough, raw=True)}
    weave = {"type": "diffuse", "reflectance": bitmap(mi, noise.linen(2048, 1536, 420))}
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
