"""Slow readers of mesh files, written from the formats' descriptions: what ``Mesh.load`` is held against.

Each returns polygons: positions [n,3] in the file's unit, and colours, 0..255 sRGB: at each corner [n,3], or at the
middle [3], None for the albedo. They read what the fuzzed files hold, and are no stricter than they have to be.
"""

from __future__ import annotations

import io
import json
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
from PIL import Image

from tests.oracles.texture import lookup

Polygon = tuple[np.ndarray, np.ndarray | None]


def read(path: Path) -> list[Polygon]:
    return {".obj": obj, ".ply": ply, ".stl": stl, ".off": off, ".glb": glb, ".dae": dae}[path.suffix](path)


def text_of(path: Path) -> list[list[str]]:
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [re.split(r"\s+", line.strip()) if line.strip() else [] for line in re.split(r"\r\n|\r|\n", text)]


def picture(source) -> np.ndarray:
    return np.array(Image.open(source).convert("RGB"))


def shown(image: np.ndarray, uv) -> np.ndarray:
    """The colour at the mean of coordinates [n,2]; NaN where single precision no longer tells texels apart."""
    uv = np.float32(uv)
    if not np.abs(uv).max() < 100:
        return np.full(3, np.nan)
    return lookup(image, *uv.mean(axis=0))


def unit(colors: np.ndarray) -> np.ndarray:
    """To 0..1: floats of which one is clearly above 1 count to 255."""
    colors = np.asarray(colors, float)
    colors = np.where(np.isfinite(colors), colors, 0.0)
    return np.clip(colors / 255 if colors.size and colors.max() > 2 else colors, 0, 1)


def levels(colors) -> np.ndarray:
    return np.rint(np.clip(np.asarray(colors, float), 0, 1) * 255)


def srgb(linear) -> np.ndarray:
    linear = np.asarray(linear, float)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.maximum(linear, 1e-9) ** (1 / 2.4) - 0.055)


def obj(path: Path) -> list[Polygon]:
    lines = [
        words if words[:1] in (["usemtl"], ["mtllib"]) else " ".join(words).split("#")[0].split()
        for words in text_of(path)
    ]
    materials: dict[str, dict] = {}
    for words in lines:
        if words[:1] == ["mtllib"] and len(words) > 1:
            current: dict | None = None
            for row in text_of(path.parent / words[1]):
                if row and row[0].lower() == "newmtl":
                    current = materials.setdefault(" ".join(row[1:]), {}) if " ".join(row[1:]) not in materials else {}
                elif current is None:
                    continue
                elif row and row[0].lower() in ("kd", "ke"):
                    values = [float(w) for w in " ".join(row[1:]).split("#")[0].split()[:3]]
                    which = "color" if row[0].lower() == "kd" else "glow"
                    current[which] = np.clip(values * 3 if len(values) == 1 else values, 0, 1)
                elif row and row[0].lower() in ("map_kd", "map_ke"):
                    name = re.split(r"(?:^|\s)#", " ".join(row[1:]))[0].strip(' "')
                    if name:
                        current["image" if row[0].lower() == "map_kd" else "glow image"] = path.parent / name
    for each in materials.values():
        shines = "glow image" in each or np.any(each.get("glow", 0))
        if shines and "image" not in each and not np.any(each.get("color", 0)):
            each.update({a: each[b] for a, b in (("color", "glow"), ("image", "glow image")) if b in each})
    points = [[float(w) for w in words[1:]] for words in lines if words[:1] == ["v"]]
    vt = [[float(w) for w in (words[1:] + ["0"])[:2]] for words in lines if words[:1] == ["vt"]]
    given = [p[3:6] for p in points if len(p) >= 6]
    if given and np.min(given) < -0.02:  # normals
        points, given = [p[:3] for p in points], []
    colors = iter(unit(np.array(given)) if given else [])
    vertex = [levels(next(colors)) if len(p) >= 6 else None for p in points]
    polygons, name, seen, coordinates = [], None, 0, 0
    for words in lines:
        seen += words[:1] == ["v"]
        coordinates += words[:1] == ["vt"]
        if words[:1] == ["usemtl"]:
            name = " ".join(words[1:])
        if words[:1] in (["f"], ["fo"]):
            fields = [w.split("/") for w in words[1:]]
            index = [int(f[0]) for f in fields]
            index = [i - 1 if i > 0 else seen + i for i in index]
            material = materials.get(name, {})
            uv = [int(f[1]) for f in fields if len(f) > 1 and f[1]]
            color = None if "color" not in material else levels(material["color"])
            has = [vertex[i] is not None for i in index]
            if len(index) > 3 and any(has) and not all(has):
                color = np.full(3, np.nan)  # depends on how the polygon is cut
            elif all(has):
                color = np.array([vertex[i] for i in index])
            if uv and "image" in material:
                places = [vt[i - 1 if i > 0 else coordinates + i] for i in uv]
                color = shown(picture(material["image"]), places)
            polygons.append((np.array([points[i][:3] for i in index]), color))
    return polygons


PLY_TYPES = {
    "char": "b",
    "uchar": "B",
    "short": "h",
    "ushort": "H",
    "int": "i",
    "uint": "I",
    "float": "f",
    "double": "d",
}
PLY_TYPES |= {"int8": "b", "uint8": "B", "int16": "h", "uint16": "H", "int32": "i", "uint32": "I"}
PLY_TYPES |= {"float32": "f", "float64": "d"}


def ply(path: Path) -> list[Polygon]:
    head, _, body = re.split(rb"(end_header\r?\n)", path.read_bytes(), maxsplit=1, flags=re.IGNORECASE)
    lines = [line.split() for line in re.split(r"\r\n|\r|\n", head.decode("latin-1"))]
    form = next(w[1] for w in lines if w[:1] and w[0].lower() == "format")
    tables: dict[str, list[dict]] = {}
    order = ">" if "big" in form else "<"
    rows = [line.split() for line in re.split(r"\r\n|\r|\n", body.decode("latin-1")) if line.strip()]
    at = row_at = 0
    for k, words in enumerate(lines):
        if not words or words[0].lower() != "element":
            continue
        properties = []
        for other in lines[k + 1 :]:
            if other and other[0].lower() == "element":
                break
            if other and other[0].lower() == "property":
                properties.append([w.lower() for w in other[1:]])
        table = tables[words[1].lower()] = []
        for _ in range(int(words[2])):
            row, column = {}, 0
            for p in properties:
                n = 1
                if p[0] == "list":
                    if form == "ascii":
                        n, column = int(rows[row_at][column]), column + 1
                    else:
                        code = order + PLY_TYPES[p[1]]
                        (n,) = struct.unpack_from(code, body, at)
                        at += struct.calcsize(code)
                code = PLY_TYPES[p[-2]]
                if form == "ascii":
                    values = [float(w) for w in rows[row_at][column : column + n]]
                    values = [float(np.float32(v)) if code == "f" else v for v in values]
                    column += n
                else:
                    values = list(struct.unpack_from(f"{order}{n}{code}", body, at))
                    at += struct.calcsize(f"{order}{n}{code}")
                row[p[-1]] = values if p[0] == "list" else values[0]
            table.append(row)
            row_at += 1
    return _ply_polygons(path, lines, tables)


def _ply_polygons(path: Path, lines: list[list[str]], tables: dict[str, list[dict]]) -> list[Polygon]:
    vertex, face = tables.get("vertex", []), tables.get("face", [])
    images = [picture(path.parent / w[2]) for w in lines if [x.lower() for x in w[:2]] == ["comment", "texturefile"]]
    types = {w[-1].lower(): w[1] for w in lines if w[:1] and w[0].lower() == "property" and len(w) == 3}

    def colors(table: list[dict]) -> np.ndarray | None:
        if not table or not {"red", "green", "blue"} <= set(table[0]):
            return None
        raw = np.array([[row[c] for c in ("red", "green", "blue")] for row in table], float)
        return levels(unit(raw) if types["red"] in ("float", "double") else raw / 255)

    by_vertex, by_face = colors(vertex), colors(face)
    polygons = []
    for k, row in enumerate(face):
        index = [int(i) for i in row.get("vertex_indices", row.get("vertex_index"))]
        assert min(index, default=0) >= 0
        color = None
        if by_face is not None:
            color = by_face[k]
        if by_vertex is not None and index:
            color = np.array([by_vertex[i] for i in index])
        if images and row.get("texcoord") and row.get("texnumber", 0) != -1:
            uv = np.float32(row["texcoord"]).reshape(-1, 2)
            color = shown(images[int(row.get("texnumber", 0))], uv)
        polygons.append((np.array([[vertex[i][c] for c in "xyz"] for i in index]).reshape(-1, 3), color))
    return polygons


def stl(path: Path) -> list[Polygon]:
    data = path.read_bytes()
    count = int.from_bytes(data[80:84], "little")
    if len(data) != 84 + 50 * count and data.lstrip()[:5].lower() == b"solid":
        words = [w for w in text_of(path) if w and w[0].lower() == "vertex"]
        points = np.array([[float(x) for x in w[1:4]] for w in words]).reshape(-1, 3, 3)
        return [(triangle, None) for triangle in points]
    polygons = []
    common = data[data.index(b"COLOR=", 0, 80) + 6 :][:3] if b"COLOR=" in data[:76] else None
    spares = [struct.unpack_from("<H", data, 84 + 50 * i + 48)[0] for i in range(count)]
    for i, spare in enumerate(spares):
        points = np.array(struct.unpack_from("<12f", data, 84 + 50 * i)[3:]).reshape(3, 3)
        low, middle, high = ((spare >> k) & 31 for k in (0, 5, 10))
        color = None
        if common is not None:
            own = not spare & 0x8000 and any(spares)
            color = np.rint(np.array([low, middle, high]) * 255 / 31) if own else np.array(list(common), float)
        elif spare & 0x8000:
            color = np.rint(np.array([high, middle, low]) * 255 / 31)
        polygons.append((points, color))
    return polygons


def off(path: Path) -> list[Polygon]:
    rows = [" ".join(row).split("#")[0].split() for row in text_of(path)]
    rows = [row for row in rows if row]
    head = rows[0][0]
    if rows[0][0][-3:].isalpha():
        rows = [rows[0][1:], *rows[1:]] if len(rows[0]) > 1 else rows[1:]
    n, m = int(rows[0][0]), int(rows[0][1])
    points = [[float(w) for w in row] for row in rows[1 : n + 1]]
    vertex = None
    if len(points[0]) >= 6 and ("C" in head.upper() or min(min(p[3:6]) for p in points) >= -0.02):  # else normals
        vertex = levels(_off_unit([row[3:6] for row in rows[1 : n + 1]]))
    faces = rows[n + 1 : n + m + 1]
    given = [row[int(row[0]) + 1 :][:3] for row in faces]
    colors = iter(levels(_off_unit([g for g in given if len(g) == 3])) if any(len(g) == 3 for g in given) else [])
    polygons = []
    for row, own in zip(faces, given, strict=True):
        index = [int(w) for w in row[1 : int(row[0]) + 1]]
        assert min(index) >= 0
        color = next(colors) if len(own) == 3 else None
        if vertex is not None:
            color = np.array([vertex[i] for i in index])
        polygons.append((np.array([points[i][:3] for i in index]), color))
    return polygons


def _off_unit(words: list[list[str]]) -> np.ndarray:
    numbers = np.array([[float(w) for w in row] for row in words])
    whole = np.array([all(re.fullmatch(r"[+-]?\d+", w) for w in row) for row in words])
    if not whole.any() or numbers[whole].max() <= 1:
        return unit(numbers)
    numbers[whole] /= 255
    if not whole.all():
        numbers[~whole] = unit(numbers[~whole])
    return numbers


def glb(path: Path) -> list[Polygon]:
    data = path.read_bytes()
    (length,) = struct.unpack_from("<I", data, 12)
    gltf, blob = json.loads(data[20 : 20 + length].decode("utf-8-sig")), data[28 + length :]

    def accessor(index: int) -> np.ndarray:
        entry = gltf["accessors"][index]
        width = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4}[entry["type"]]
        code = {5120: "b", 5121: "B", 5122: "h", 5123: "H", 5125: "I", 5126: "f"}[entry["componentType"]]
        if "bufferView" not in entry:
            return np.zeros((entry["count"], width))
        view = gltf["bufferViews"][entry["bufferView"]]
        size = struct.calcsize("<" + code) * width
        start, stride = view.get("byteOffset", 0) + entry.get("byteOffset", 0), view.get("byteStride", 0) or size
        rows = [struct.unpack_from(f"<{width}{code}", blob, start + stride * i) for i in range(entry["count"])]
        array = np.array(rows, float).reshape(-1, width)
        if entry.get("normalized") and code != "f":
            array = np.maximum(array / {"b": 127, "B": 255, "h": 32767, "H": 65535, "I": 2**32 - 1}[code], -1)
        return array

    def matrix(node: dict) -> np.ndarray:
        if "matrix" in node:
            return np.array(node["matrix"], float).reshape(4, 4).T
        x, y, z, w = np.array(node.get("rotation", [0, 0, 0, 1])) / np.linalg.norm(node.get("rotation", [0, 0, 0, 1]))
        T = np.eye(4)
        hat = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        T[:3, :3] = (np.eye(3) + 2 * w * hat + 2 * hat @ hat) @ np.diag(node.get("scale", [1, 1, 1]))
        T[:3, 3] = node.get("translation", [0, 0, 0])
        return T

    polygons: list[Polygon] = []

    def walk(index: int, parent: np.ndarray) -> None:
        node = gltf["nodes"][index]
        world = parent @ matrix(node)
        for primitive in gltf["meshes"][node["mesh"]].get("primitives", []) if "mesh" in node else []:
            _glb_primitive(gltf, blob, accessor, primitive, world, polygons)
        for child in node.get("children", []):
            walk(child, world)

    scenes = gltf.get("scenes")
    inner = {c for node in gltf.get("nodes", []) for c in node.get("children", [])}
    roots = scenes[gltf.get("scene", 0)].get("nodes", []) if scenes else set(range(len(gltf["nodes"]))) - inner
    for root in roots:
        walk(root, np.eye(4))
    return polygons


def _glb_primitive(gltf, blob, accessor, primitive, world, polygons) -> None:
    attributes = primitive.get("attributes", {})
    mode = primitive.get("mode", 4)
    if "POSITION" not in attributes or mode < 4:
        return
    points = accessor(attributes["POSITION"]) @ world[:3, :3].T + world[:3, 3]
    order = accessor(primitive["indices"]).ravel().astype(int) if "indices" in primitive else np.arange(len(points))
    if mode == 4:
        triples = order.reshape(-1, 3)
    else:
        triples = [(order[0] if mode == 6 else order[i], order[i + 1], order[i + 2]) for i in range(len(order) - 2)]
    material = gltf["materials"][primitive["material"]] if "material" in primitive else {}
    pbr = material.get("pbrMetallicRoughness", {})
    factor = np.clip(pbr.get("baseColorFactor", [1, 1, 1, 1])[:3], 0, 1)
    info = pbr.get("baseColorTexture")
    coordinates = attributes.get(f"TEXCOORD_{info.get('texCoord', 0)}") if info else None
    colors = unit(accessor(attributes["COLOR_0"])[:, :3]) if "COLOR_0" in attributes else None
    if coordinates is not None:
        image = gltf["images"][gltf["textures"][info["index"]]["source"]]
        view = gltf["bufferViews"][image["bufferView"]]
        start = view.get("byteOffset", 0)
        pixels = picture(io.BytesIO(blob[start : start + view["byteLength"]]))
        linear = np.where(pixels / 255 <= 0.04045, pixels / 255 / 12.92, ((pixels / 255 + 0.055) / 1.055) ** 2.4)
        pixels, uv = levels(srgb(linear * factor)), accessor(coordinates)
    for triple in triples:
        triple = list(triple)
        assert min(triple) >= 0
        color = None
        if coordinates is not None:
            color = shown(pixels, np.column_stack([uv[triple, 0], 1 - uv[triple, 1]]))
        elif colors is not None:
            color = levels(srgb(colors[triple] * factor)).mean(axis=0)
        elif "baseColorFactor" in pbr:
            color = levels(srgb(factor))
        polygons.append((points[triple], color))


def dae(path: Path) -> list[Polygon]:
    root = ET.fromstring(path.read_bytes())
    for element in root.iter():
        element.tag = element.tag.split("}")[-1]
    ids = {}
    for element in root.iter():
        if "id" in element.attrib:
            ids.setdefault("#" + element.attrib["id"], element)

    def table(reference: str) -> np.ndarray:
        access = ids[reference].find("technique_common/accessor")
        values = [float(w) for w in (ids[access.get("source")].text or "").split()]
        stride, offset = int(access.get("stride", 1)), int(access.get("offset", 0))
        named = [i for i, p in enumerate(access.findall("param")) if p.get("name")] or list(range(stride))
        return np.array([[values[offset + stride * i + k] for k in named] for i in range(int(access.get("count")))])

    polygons: list[Polygon] = []

    def walk(node: ET.Element, parent: np.ndarray) -> None:
        world = parent
        for each in node:
            values = (
                [float(w) for w in (each.text or "").split()] if each.tag in ("translate", "scale", "matrix") else []
            )
            if each.tag == "translate":
                world = world @ np.block([[np.eye(3), np.array(values)[:, None]], [0, 0, 0, 1]])
            elif each.tag == "scale":
                world = world @ np.diag([*values, 1])
            elif each.tag == "matrix":
                world = world @ np.array(values).reshape(4, 4)
        for each in node:
            if each.tag == "instance_geometry":
                for primitive in ids[each.get("url")].find("mesh"):
                    _dae_primitive(path, ids, table, each, primitive, world, polygons)
            elif each.tag == "node":
                walk(each, world)

    instance = root.find("scene/instance_visual_scene")
    if instance is not None:
        top = ids[instance.get("url")].findall("node")
    elif root.find("library_visual_scenes/visual_scene") is not None:
        top = root.find("library_visual_scenes/visual_scene").findall("node")
    else:
        top = [
            ET.fromstring(f'<node><instance_geometry url="#{g.get("id", "")}"/></node>') for g in root.iter("geometry")
        ]
    for node in top:
        walk(node, np.eye(4))
    return polygons


def _dae_primitive(path, ids, table, instance, primitive, world, polygons) -> None:
    if primitive.tag not in ("triangles", "polylist"):
        return
    inputs = {}
    for each in primitive.findall("input"):
        offset = int(each.get("offset", 0))
        inputs.setdefault(each.get("semantic"), []).append(
            (table if each.get("semantic") != "VERTEX" else None, each, offset)
        )
    width = max(o for group in inputs.values() for _, _, o in group) + 1
    index = np.array([int(w) for p in primitive.findall("p") for w in (p.text or "").split()]).reshape(-1, width)
    assert index.min(initial=0) >= 0
    vertex = inputs["VERTEX"][0]
    source = next(i for i in ids[vertex[1].get("source")].findall("input") if i.get("semantic") == "POSITION")
    points = table(source.get("source"))[:, :3] @ world[:3, :3].T + world[:3, 3]
    sizes = [3] * (len(index) // 3)
    if primitive.tag == "polylist":
        sizes = [int(w) for w in (primitive.findtext("vcount") or "").split()]
    flat, image, sets = None, None, None
    for bound in instance.findall("bind_material/technique_common/instance_material"):
        if bound.get("symbol") == primitive.get("material"):
            flat, image, sets = _dae_material(path, ids, bound)
    if flat is None and image is None and ids.get(f"#{primitive.get('material')}") is not None:
        flat, image, sets = _dae_material(path, ids, ET.fromstring(f'<a target="#{primitive.get("material")}"/>'))
    at = 0
    for size in sizes:
        rows = index[at : at + size]
        at += size
        color = flat
        if "COLOR" in inputs:
            first = min(inputs["COLOR"], key=lambda i: int(i[1].get("set", 0)))
            color = levels(unit(table(first[1].get("source"))))[rows[:, first[2]], :3]
        if image is not None and "TEXCOORD" in inputs:
            chosen = [i for i in inputs["TEXCOORD"] if sets is None or int(i[1].get("set", 0)) == sets]
            chosen = chosen or inputs["TEXCOORD"]
            color = shown(image, table(chosen[0][1].get("source"))[rows[:, chosen[0][2]], :2])
        polygons.append((points[rows[:, vertex[2]]], color))


def _dae_material(path, ids, bound):
    """Flat colour or image of a material, and the set that is bound."""
    effect = ids[ids[bound.get("target")].find("instance_effect").get("url")]
    profile = effect.find("profile_COMMON")
    technique = profile.find("technique") if profile is not None else None
    models = [] if technique is None else [m for k in ("phong", "blinn", "lambert") for m in technique.findall(k)]
    diffuse = models[0].find("diffuse") if models else None
    if diffuse is None:
        return None, None, None
    texture = diffuse.find("texture")
    if texture is None:
        color = diffuse.find("color")
        return (None if color is None else levels([float(w) for w in color.text.split()][:3])), None, None
    params = {p.get("sid"): p for p in profile.findall("newparam")}
    sampler = params[texture.get("texture")].find("sampler2D") if texture.get("texture") in params else None
    name = texture.get("texture")
    if sampler is not None:
        name = params[sampler.findtext("source")].findtext("surface/init_from")
    image = picture(path.parent / ids["#" + name].findtext("init_from"))
    sets = [
        int(b.get("input_set", 0))
        for b in bound.findall("bind_vertex_input")
        if b.get("semantic") == texture.get("texcoord") and b.get("input_semantic") == "TEXCOORD"
    ]
    return None, image, sets[0] if sets else None
