"""Reads material libraries (MTL): the diffuse colour and the colour texture of each material.

A material without them that shines (Ke, map_Ke) shows that colour.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.parts import CLAMP, REPEAT, Material, Texture
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import decode, floats, is_number, statements

_ARGUMENTS = {
    **dict.fromkeys(("-blendu", "-blendv", "-bm", "-boost", "-cc", "-clamp", "-imfchan", "-texres", "-type"), 1),
    "-mm": 2,
}
Color = tuple[float, float, float]

_VECTORS = ("-o", "-s", "-t")  # one to three numbers
_NUMBERS = (  # keywords that numbers follow
    "ka", "kd", "ks", "ke", "tf", "tr", "d", "ns", "ni", "illum", "sharpness", "pr", "pm", "ps", "pc", "pcr", "aniso",
    "anisor",
)  # fmt: skip
_NAMES = (
    "newmtl", "map_ka", "map_kd", "map_ks", "map_ke", "map_ns", "map_d", "map_tr", "map_bump", "map_pr",
    "map_pm", "bump", "disp", "decal", "norm", "refl",
)  # fmt: skip


@dataclass(frozen=True)
class MtlMaterial:
    """A material, and how its texture lies: coordinates become uv * scale + offset."""

    material: Material
    transparent: bool = False
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def coordinates(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the texture coordinates of ``uv`` [...,2]."""
        plain = self.scale == (1.0, 1.0) and self.offset == (0.0, 0.0)
        return uv if plain else np.asarray(uv * self.scale + self.offset)


@dataclass
class _Entry:
    name: str
    colors: dict[str, Color | None] = field(default_factory=dict)  # by keyword: kd, ke
    maps: dict[str, str] = field(default_factory=dict)  # what stands behind map_kd and map_ke
    transparent: bool = False


def read_mtl(source: Source, path: Path, data: bytes) -> dict[str, MtlMaterial]:
    """Read the materials of a library by name; of two of one name the first counts.

    Raises:
        MeshError: damaged, or a texture that cannot be used.
    """
    entries: dict[str, _Entry] = {}
    entry: _Entry | None = None
    for number, line in statements(decode(data), _NUMBERS, _NAMES):
        words = line.split(None, 1)
        key, rest = words[0].lower() if words else "", words[1].strip() if len(words) > 1 else ""
        where = f"{path.name}, line {number}"
        if key == "newmtl":
            entry = _Entry(rest)
            if entries.setdefault(rest, entry) is not entry:
                source.note(f"{where}: there is a material {rest!r} already: the first counts")
        elif not key or key.startswith("#"):
            continue
        elif entry is None:
            source.note(f"{where}: what stands before the first newmtl is of no material: not read")
        elif key in ("ka", "kd", "ke"):
            if key in entry.colors:
                source.note(f"{where}: {key.capitalize()} of {entry.name!r} is there twice: the last counts")
            entry.colors[key] = _color(source, f"{where}: {key.capitalize()}", rest)
        elif key in ("map_kd", "map_ke"):
            if key in entry.maps:
                source.note(f"{where}: map_{key[4:].capitalize()} of {entry.name!r} is there twice: the last counts")
            entry.maps[key] = rest
        elif key in ("map_ka", "decal") and rest and not rest.startswith("#"):
            source.note(f"{path.name}: {line.strip().split()[0]} is not read")
        elif key in ("d", "tr", "map_d", "map_tr"):
            entry.transparent |= _is_transparent(key, rest)
        elif key not in (*_NUMBERS, *_NAMES) and not key.startswith("map_"):
            source.note(f"{path.name}: lines that begin with {line.split()[0][:20]!r} are not read")
    return {name: _material(source, path, each) for name, each in entries.items()}


def _is_transparent(key: str, text: str) -> bool:
    """Tell whether a statement makes a material so; Tr 1 does not: some programs write it for what is opaque."""
    words = text.split("#")[0].split()
    if key.startswith("map_"):
        return bool(words)
    values = [float(word) for word in words if is_number(word)]
    return bool(values) and (values[-1] < 0.998 if key == "d" else 0.002 < values[-1] < 0.998)


def _color(source: Source, what: str, text: str) -> Color | None:
    words = text.split("#")[0].split()
    if words and words[0].lower() in ("spectral", "xyz"):
        source.note(f"{what} {words[0]} is not read: wanted R G B")
        return None
    if not words:
        raise MeshError(f"{what}: has no value; wanted R G B")
    values = floats(words[:3], what)
    if not np.isfinite(values).all():
        raise MeshError(f"{what}: wanted finite numbers, got {text[:40]!r}")
    if len(values) not in (1, 3):
        raise MeshError(f"{what}: wanted R G B, got {text[:40]!r}")
    if values.max() > 1.01 or values.min() < 0.0:
        source.note(f"{what} {text[:40]} is cut to 0..1")
    r, g, b = np.clip(np.broadcast_to(values, 3), 0.0, 1.0)
    return float(r), float(g), float(b)


def _material(source: Source, path: Path, entry: _Entry) -> MtlMaterial:
    color, glow = entry.colors.get("kd"), entry.colors.get("ke")
    found = MtlMaterial(Material(entry.name, color), entry.transparent)
    textured = _textured(source, path, entry, found, "map_Kd")
    if not any(glow or ()) and not entry.maps.get("map_ke"):
        if color is None and textured.material.texture is None and any(entry.colors.get("ka") or ()):
            source.note(f"{path.name}: material {entry.name!r} has no diffuse colour; its ambient one is not read")
        return textured
    if textured.material.texture is not None or any(color or ()):
        what = "map_Ke" if entry.maps.get("map_ke") else "Ke"
        source.note(f"{path.name}: {what} is not read: material {entry.name!r} has a colour beside the light")
        return textured
    source.note(f"material {entry.name!r} has no colour but the light that it gives off: taken as its colour")
    return _textured(source, path, entry, replace(found, material=replace(found.material, color=glow)), "map_Ke")


def _textured(source: Source, path: Path, entry: _Entry, found: MtlMaterial, key: str) -> MtlMaterial:
    """Return a material with the texture that a statement names; as it is where there is none."""
    if key.lower() not in entry.maps:
        return found
    options, name = _split(entry.maps[key.lower()], f"{path.name}, material {entry.name!r}: {key}")
    name = _file_name(source, path, name)
    if not name:
        source.note(f"{path.name}: material {entry.name!r} has a {key} without a file")
        return found
    for option in ("-mm", "-imfchan", "-cc", "-t"):
        if option in options:
            source.note(f"{path.name}: the option {option} of the texture {name!r} is not read")
    clamp = CLAMP if options.get("-clamp", ["off"])[0].lower() == "on" else REPEAT
    texture = Texture(source.assets.image(name, path.parent), (clamp, clamp))
    scale, offset = _pair(options.get("-s"), 1.0), _pair(options.get("-o"), 0.0)
    return replace(found, material=replace(found.material, texture=texture), scale=scale, offset=offset)


def _split(text: str, what: str) -> tuple[dict[str, list[str]], str]:
    """Return the options of a map and their arguments, and what is left: the name of a file."""
    options: dict[str, list[str]] = {}
    rest = text.strip()
    while rest.startswith("-"):
        key, tail = [*rest.split(None, 1), ""][:2]
        key = key.lower()
        words = tail.split()
        if key in _VECTORS:
            count = next((i for i, word in enumerate(words[:3]) if not is_number(word)), min(len(words), 3))
        elif key in _ARGUMENTS:
            count = _ARGUMENTS[key]
        else:
            break  # a file's name may begin so
        if count == 0 or len(words) < count:
            raise MeshError(f"{what}: the option {key} lacks its value")
        options[key] = words[:count]
        rest = re.sub(rf"^\s*(\S+\s*){{{count}}}", "", tail)
    return options, rest.strip()


def _file_name(source: Source, path: Path, text: str) -> str:
    """Return the name that is meant: without quotes and without a comment behind it."""
    quoted = re.match(r'"([^"]*)"', text)
    if quoted:
        return quoted.group(1)
    before = re.split(r"(?:^|\s)#", text)[0].strip()
    return text if before != text and source.assets.find(text, path.parent) else before


def _pair(words: list[str] | None, default: float) -> tuple[float, float]:
    values = [float(word) for word in words or ()]
    values += [default] * (2 - len(values))
    if not np.isfinite(values).all():
        raise MeshError(f"an option of a texture is not finite: {' '.join(words or ())}")
    return values[0], values[1]
