"""Reads material libraries (MTL): the diffuse colour and the colour texture of each material."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.parts import CLAMP, REPEAT, Material, Texture
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import decode, floats, is_number, lines

_ARGUMENTS = {
    **dict.fromkeys(("-blendu", "-blendv", "-bm", "-boost", "-cc", "-clamp", "-imfchan", "-texres", "-type"), 1),
    "-mm": 2,
}
_VECTORS = ("-o", "-s", "-t")  # one to three numbers


@dataclass(frozen=True)
class MtlMaterial:
    """A material, and how its texture lies: coordinates become uv * scale + offset."""

    material: Material
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def coordinates(self, uv: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the texture coordinates of ``uv`` [...,2]."""
        plain = self.scale == (1.0, 1.0) and self.offset == (0.0, 0.0)
        return uv if plain else np.asarray(uv * self.scale + self.offset)


@dataclass
class _Entry:
    name: str
    color: tuple[float, float, float] | None = None
    texture: str | None = None  # what stands behind map_Kd


def read_mtl(source: Source, path: Path, data: bytes) -> dict[str, MtlMaterial]:
    """Read the materials of a library by name.

    Raises:
        MeshError: damaged, or a texture that cannot be used.
    """
    entries: dict[str, _Entry] = {}
    entry: _Entry | None = None
    for number, line in enumerate(lines(re.sub(r"\\\r?\n", " ", decode(data))), 1):
        key, _, rest = line.strip().replace("\t", " ").partition(" ")
        key, rest = key.lower(), rest.strip()
        if key == "newmtl":
            entry = _Entry(rest)
            entries.setdefault(rest, entry)
        elif entry is None or not key or key.startswith("#"):
            continue
        elif key == "kd":
            entry.color = _color(source, f"{path.name}, line {number}: Kd", rest)
        elif key == "map_kd":
            entry.texture = rest
        elif key in ("map_ka", "map_ke") and rest and not rest.startswith("#"):
            source.note(f"{path.name}: {line.strip().split()[0]} is not read")
    return {name: _material(source, path, each) for name, each in entries.items()}


def _color(source: Source, what: str, text: str) -> tuple[float, float, float] | None:
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
    found = MtlMaterial(Material(entry.name, entry.color))
    if entry.texture is None:
        return found
    options, name = _split(entry.texture, f"{path.name}, material {entry.name!r}: map_Kd")
    name = _file_name(source, path, name)
    if not name:
        source.note(f"{path.name}: material {entry.name!r} has a map_Kd without a file")
        return found
    for key in ("-mm", "-imfchan", "-cc", "-t"):
        if key in options:
            source.note(f"{path.name}: the option {key} of the texture {name!r} is not read")
    clamp = CLAMP if options.get("-clamp", ["off"])[0].lower() == "on" else REPEAT
    texture = Texture(source.assets.image(name, path.parent), (clamp, clamp))
    scale, offset = _pair(options.get("-s"), 1.0), _pair(options.get("-o"), 0.0)
    return MtlMaterial(replace(found.material, texture=texture), scale, offset)


def _split(text: str, what: str) -> tuple[dict[str, list[str]], str]:
    """Return the options of a map and their arguments, and what is left: the name of a file."""
    options: dict[str, list[str]] = {}
    rest = text.strip()
    while rest.startswith("-"):
        key, _, tail = rest.partition(" ")
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
