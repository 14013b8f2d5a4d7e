"""Reads the materials of a COLLADA file: diffuse colour or texture, and what a node binds to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from coop_edge.errors import MeshError
from coop_edge.mesh.formats.dae_file import DaeFile, Element, attribute, integer, numbers
from coop_edge.mesh.parts import CLAMP, MIRROR, REPEAT, Material, Texture
from coop_edge.mesh.text import is_number

_WRAPS = {"WRAP": REPEAT, "MIRROR": MIRROR, "CLAMP": CLAMP, "BORDER": CLAMP}
_MODELS = ("phong", "blinn", "lambert", "constant")


@dataclass(frozen=True)
class DaeMaterial:
    """A material and which texture coordinates its texture uses: the name in the effect, the set that is bound."""

    material: Material
    name: str | None = None
    bound: int | None = None
    transparent: bool = False


class DaeMaterials:
    """Makes the materials of a file, each once."""

    def __init__(self, file: DaeFile) -> None:
        self._file = file
        self._made: dict[str, DaeMaterial] = {}

    def bound(self, instance: Element) -> dict[str, DaeMaterial]:
        """Return the materials that a node binds to the symbols of a geometry.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        found = {}
        for each in instance.findall("bind_material/technique_common/instance_material"):
            material = self.get(attribute(each, "target"))
            for bind in each.findall("bind_vertex_input"):
                if bind.get("semantic") == material.name and bind.get("input_semantic") == "TEXCOORD":
                    material = replace(material, bound=integer(bind, "input_set", 0))
            found[attribute(each, "symbol")] = material
        return found

    def get(self, reference: str) -> DaeMaterial:
        """Return the material ``#id``.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        if reference not in self._made:
            element = self._file.target(reference, "material")
            instance = element.find("instance_effect")
            if instance is None:
                raise MeshError(f"material {reference!r} has no effect; the file is damaged")
            effect = self._file.target(instance.get("url"), "effect")
            label = element.get("name") or reference[1:]
            self._made[reference] = replace(self._effect(effect, label), transparent=_is_transparent(effect))
        return self._made[reference]

    def _effect(self, effect: Element, label: str) -> DaeMaterial:
        profile = effect.find("profile_COMMON")
        technique = None if profile is None else profile.find("technique")
        model = None
        if technique is not None:
            model = next((technique.find(kind) for kind in _MODELS if technique.find(kind) is not None), None)
        if model is None or profile is None:
            self._file.source.note(f"material {label!r} has no common technique: its colour is not read")
            return DaeMaterial(Material(label))
        params = {p.get("sid"): p for p in [*effect.findall("newparam"), *profile.iter("newparam")]}
        diffuse = self._look(model.find("diffuse"), params, label)
        emission = self._look(model.find("emission"), params, label)
        if model.tag == "constant":  # it has no diffuse part
            return emission or DaeMaterial(Material(label))
        if emission is not None and not _dark(emission):
            if _dark(diffuse):
                self._file.source.note(
                    f"material {label!r} has no colour but the light that it gives off: taken as its colour"
                )
                return emission
            self._file.source.note(f"the light that material {label!r} gives off (emission) is not read")
        if diffuse is None and not _dark(self._look(model.find("ambient"), params, label)):
            self._file.source.note(f"material {label!r} has no diffuse colour; its ambient one is not read")
        return diffuse or DaeMaterial(Material(label))

    def _look(self, element: Element | None, params: dict[str | None, Element], label: str) -> DaeMaterial | None:
        """Return a colour or a texture of an effect, None if it states neither."""
        if element is None:
            return None
        texture = element.find("texture")
        if texture is not None:
            if self._file.source.ignore_colors:
                return None
            return DaeMaterial(Material(label, texture=self._texture(texture, params, label)), texture.get("texcoord"))
        color = element.find("color")
        param = element.find("param")
        if color is None and param is not None:
            holder = params.get(param.get("ref"))
            color = None if holder is None else next(iter([*holder.iter("float3"), *holder.iter("float4")]), None)
            if color is None:
                raise MeshError(
                    f"material {label!r}: its colour is the parameter {param.get('ref')!r}, which is missing"
                )
        if color is None:
            return None
        values = numbers(color, len((color.text or "").split()))
        if len(values) not in (3, 4):
            raise MeshError(f"material {label!r}: a colour of {len(values)} numbers; wanted 3 or 4")
        if values[:3].max() > 1.01 or values[:3].min() < 0:
            self._file.source.note(f"the colour of material {label!r} is cut to 0..1")
        r, g, b = (float(c) for c in np.clip(values[:3], 0.0, 1.0))
        return DaeMaterial(Material(label, (r, g, b)))

    def _texture(self, texture: Element, params: dict[str | None, Element], label: str) -> Texture:
        """Follow a texture to its sampler, surface and image; some exporters name the image at once."""
        name = attribute(texture, "texture")
        holder, wrap, image = params.get(name), (REPEAT, REPEAT), name
        sampler = None if holder is None else holder.find("sampler2D")
        if sampler is not None:
            s, t = ((sampler.findtext(key) or "WRAP").strip() for key in ("wrap_s", "wrap_t"))
            wrap = _WRAPS.get(s, REPEAT), _WRAPS.get(t, REPEAT)
            image = self._image_of(sampler, params, label)
        element = self._file.target("#" + image, "image")
        path = element.findtext("init_from/ref") or element.findtext("init_from")
        if path is None or not path.strip():
            raise MeshError(f"material {label!r}: its image {image!r} names no file; export it again")
        if element.find("init_from/hex") is not None or element.find("data") is not None:
            raise MeshError(f"material {label!r}: its image {image!r} lies inside the file, which is not read")
        self._moved(texture, label)
        return Texture(self._file.source.assets.image(path.strip()), wrap)

    def _image_of(self, sampler: Element, params: dict[str | None, Element], label: str) -> str:
        instance = sampler.find("instance_image")  # COLLADA 1.5
        if instance is not None:
            return attribute(instance, "url").lstrip("#")
        surface = params.get((sampler.findtext("source") or "").strip())
        name = None if surface is None else surface.findtext("surface/init_from")
        if name is None or not name.strip():
            raise MeshError(f"material {label!r}: its texture leads to no image; the file is damaged")
        return name.strip()

    def _moved(self, texture: Element, label: str) -> None:
        """Note what exporters add to move a texture, if it is not the identity."""
        plain = {"repeatU": 1.0, "repeatV": 1.0, "offsetU": 0.0, "offsetV": 0.0, "rotateUV": 0.0}
        for element in texture.iter():
            if element.tag in plain:
                try:
                    moved = float(element.text or "") != plain[element.tag]
                except ValueError:
                    moved = True
                if moved:
                    self._file.source.note(f"{element.tag} of the texture of material {label!r} is not read")


def _is_transparent(effect: Element) -> bool:
    """Tell whether an effect lets light through, by the four rules of COLLADA 1.5."""
    color, amount = effect.find(".//transparent"), effect.find(".//transparency")
    if color is None and amount is None:
        return False
    if color is not None and color.find("texture") is not None:
        return True
    words = [*(amount.findtext("float") or "").split(), "1"] if amount is not None else ["1"]
    share = float(words[0]) if is_number(words[0]) else 1.0
    given = ((color.findtext("color") or "") if color is not None else "").split()
    values = [float(word) for word in given if is_number(word)]
    r, g, b, a = [*values, *(1.0,) * 4][:4]
    return {
        "A_ONE": a * share < 0.998,
        "A_ZERO": a * share > 0.002,
        "RGB_ONE": min(r, g, b) * share < 0.998,
        "RGB_ZERO": max(r, g, b) * share > 0.002,
    }.get(color.get("opaque", "A_ONE") if color is not None else "A_ONE", True)


def _dark(look: DaeMaterial | None) -> bool:
    return look is None or (look.material.texture is None and not any(look.material.color or (0.0,)))
