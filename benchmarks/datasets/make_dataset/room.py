"""Where the scene stands: a table, what is behind it, and the light, drawn from a few kinds each."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from benchmarks.datasets.demo_scene import noise
from benchmarks.datasets.demo_scene.mitsuba_scene import bitmap
from benchmarks.datasets.make_dataset.assets import SPLIT
from export.data import textures

LIGHTS = ("window", "lamp", "ceiling", "two lamps", "overcast")
TABLES = ("wood", "linen", "plain", "printed", "mottled")
_TEXELS = 1536  # along the table's longer side


def room(mi: Any, azimuth: float, rng: np.random.Generator) -> tuple[dict[str, Any], dict[str, str]]:
    """Draw shapes and lights of a scene that cameras at about ``azimuth`` look at, and say what they are in words."""
    about = mi.ScalarTransform4f().rotate([0, 0, 1], float(np.degrees(azimuth)))  # cameras stand at +x of the room
    light, table = (str(rng.choice(kinds)) for kinds in (LIGHTS, TABLES))
    shapes = {"table": _table(mi, table, rng), **_walls(mi, about, rng), **_light(mi, light, about, rng)}
    return shapes, {"light": light, "table": table}


@lru_cache(maxsize=2)
def _boards(kind: str, variant: int) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and roughness of a table top, uint8."""
    height = _TEXELS * 2 // 3
    if kind == "wood":
        return noise.wood(_TEXELS, height, (5, 8, 11)[variant % 3], variant)
    if kind == "linen":
        return noise.linen(_TEXELS, height, (150, 220, 300)[variant % 3], variant), None
    rng = np.random.default_rng([7, variant])
    if kind == "printed":
        return textures.background(rng, 768, SPLIT), None
    field = noise.fractal_noise((768, 768), (40, 40), 4, rng)[..., None]
    ends = (np.clip(textures.random_color(rng), 40, 235) for _ in range(2))
    low, high = (e * w for e, w in zip(ends, (1.0, 1.0), strict=True))
    return np.clip(low + (high - low) * np.clip(2.5 * field - 0.75, 0.0, 1.0), 0, 255).astype(np.uint8), None


def _table(mi: Any, kind: str, rng: np.random.Generator) -> dict[str, Any]:
    """A table top of about 1.8 m by 1.3 m, anyhow turned below the objects."""
    T = mi.ScalarTransform4f().rotate([0, 0, 1], float(rng.uniform(0, 360))).scale([0.9, 0.65, 1.0])
    bsdf: dict[str, Any] = {"type": "principled", "specular": 0.5, "roughness": float(rng.uniform(0.3, 0.9))}
    if kind == "plain":
        bsdf["base_color"] = _rgb(np.clip(textures.random_color(rng), 25, 240))
    else:
        color, rough = _boards(kind, int(rng.integers(6)))
        tint = rng.uniform(0.75, 1.0, 3)
        bsdf["base_color"] = bitmap(mi, (color * tint).astype(np.uint8))
        if rough is not None:
            bsdf["roughness"] = bitmap(mi, rough, raw=True)
    return {"type": "rectangle", "to_world": T, "bsdf": {"type": "twosided", "bsdf": bsdf}}


def _walls(mi: Any, about: Any, rng: np.random.Generator) -> dict[str, Any]:
    """A floor, and two walls behind the table, one of them with a picture on it."""
    T = mi.ScalarTransform4f()
    far = -float(rng.uniform(1.0, 2.2))
    plain = {"type": "diffuse", "reflectance": _rgb(np.clip(textures.random_color(rng), 60, 235))}
    print_ = {"type": "diffuse", "reflectance": bitmap(mi, textures.background(rng, 512, SPLIT))}
    floor = {"type": "diffuse", "reflectance": _rgb(np.clip(textures.random_color(rng), 40, 200))}
    turned = float(rng.uniform(-15, 15))
    back = about @ T.rotate([0, 0, 1], turned).translate([far, 0, 0.6]).rotate([0, 1, 0], 90)
    picture = about @ T.rotate([0, 0, 1], turned).translate(
        [far + 0.01, float(rng.uniform(-0.6, 0.6)), float(rng.uniform(0.0, 0.5))]
    ).rotate([0, 1, 0], 90)
    aside = about @ T.translate([0, float(rng.choice([-1.0, 1.0])) * 2.2, 0.6])
    return {
        "floor": {"type": "rectangle", "to_world": T.translate([0, 0, -0.74]).scale([4, 4, 1]), "bsdf": _both(floor)},
        "back": {"type": "rectangle", "to_world": back @ T.scale([1.4, 3.0, 1]), "bsdf": _both(plain)},
        "picture": {"type": "rectangle", "to_world": picture @ T.scale([0.45, 0.6, 1]), "bsdf": _both(print_)},
        "side": {
            "type": "rectangle",
            "to_world": aside @ T.rotate([1, 0, 0], 90).scale([2.5, 1.4, 1]),
            "bsdf": _both(plain),
        },
    }


def _light(mi: Any, kind: str, about: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Area lights and the sky of a kind; they shine downwards or inwards."""
    angle = float(rng.uniform(-160, 160))
    warm, cold, white = (22.0, 16.0, 10.0), (26.0, 31.0, 38.0), (20.0, 19.5, 18.0)
    out: dict[str, Any] = {}

    def panel(key: str, degrees: float, distance: float, z: float, half: tuple[float, float], glow: Any) -> None:
        at = about @ mi.ScalarTransform4f().rotate([0, 0, 1], degrees)
        to = at @ mi.ScalarTransform4f().look_at(origin=[distance, 0, z], target=[0, 0, 0.05], up=[0, 1, 0])
        value = [float(g) for g in np.asarray(glow) * rng.uniform(0.8, 1.25)]
        out[key] = {
            "type": "rectangle",
            "to_world": to @ mi.ScalarTransform4f().scale([half[0], half[1], 1.0]),
            "emitter": {"type": "area", "radiance": {"type": "rgb", "value": value}},
        }

    sky = 0.08
    if kind == "window":
        for k in range(2):
            panel(f"pane{k}", angle + 16.0 * k, 1.6, rng.uniform(0.7, 1.3), (0.17, 0.3), cold)
    elif kind == "lamp":
        panel("lamp", angle, rng.uniform(0.5, 1.0), rng.uniform(0.9, 1.4), (0.09, 0.09), np.multiply(warm, 2.5))
        sky = 0.15
    elif kind == "ceiling":
        for k in range(2):
            panel(f"tube{k}", 180.0 * k + angle, 0.5, 1.9, (0.06, 0.5), white)
        sky = 0.2
    elif kind == "two lamps":
        panel("lamp0", angle, 0.9, 1.1, (0.1, 0.1), np.multiply(warm, 1.8))
        panel("lamp1", angle + rng.uniform(90, 200), 1.2, 0.9, (0.2, 0.2), np.multiply(cold, 0.35))
    else:
        panel("sky_window", angle, 1.2, 1.8, (0.7, 0.7), np.multiply(white, 0.07))
        sky = 0.8
    out["sky"] = {
        "type": "constant",
        "radiance": {"type": "rgb", "value": [float(sky * c) for c in rng.uniform(0.85, 1.1, 3)]},
    }
    return out


def _rgb(srgb: np.ndarray) -> dict[str, Any]:
    """A colour of 0..255 as Mitsuba takes it, in linear light."""
    from benchmarks.datasets.demo_scene.files import linear

    return {"type": "rgb", "value": [float(c) for c in linear(srgb)]}


def _both(bsdf: dict[str, Any]) -> dict[str, Any]:
    return {"type": "twosided", "bsdf": bsdf}
