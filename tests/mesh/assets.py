"""Small mesh files of known content, written by hand so that no exporter stands between the test and the format."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

WIDTH, HEIGHT = 0.08, 0.04  # of the quad, metres; it lies in z = 0, one corner at the origin
QUAD = np.array([[0, 0, 0], [WIDTH, 0, 0], [WIDTH, HEIGHT, 0], [0, HEIGHT, 0]])
QUAD_FACES = np.array([[0, 1, 2], [0, 2, 3]])
QUAD_UV = QUAD[:, :2] / (WIDTH, HEIGHT)


def texture(seed: int = 0, size: tuple[int, int] = (8, 4)) -> np.ndarray:
    """Random texels: no flip, transpose or rotation of it looks the same."""
    return np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)


def texel_points(image: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """(point on the quad, colour there) of every texel centre: the image upright, its left edge at x = 0."""
    rows, columns = image.shape[:2]
    return [
        (np.array([(c + 0.5) / columns * WIDTH, HEIGHT * (1 - (r + 0.5) / rows), 0.0]), image[r, c].astype(float))
        for r in range(rows)
        for c in range(columns)
    ]


def save_png(path: Path, image: np.ndarray) -> None:
    Image.fromarray(image).save(path)


def obj_quad(folder: Path, image: np.ndarray | None, *, name: str = "skin.png", mtl: bool = True) -> Path:
    if image is not None:
        save_png(folder / name, image)
    if mtl:
        (folder / "quad.mtl").write_text(f"newmtl skin\nKd 0.2 0.3 0.4\nmap_Kd {name}\n")
    lines = ["mtllib quad.mtl", *(f"v {x} {y} {z}" for x, y, z in QUAD), *(f"vt {u} {v}" for u, v in QUAD_UV)]
    (folder / "quad.obj").write_text("\n".join([*lines, "usemtl skin", "f 1/1 2/2 3/3", "f 1/1 3/3 4/4"]) + "\n")
    return folder / "quad.obj"


def ply_quad(folder: Path, image: np.ndarray, *, layout: str, binary: bool = False) -> Path:
    """``layout``: "vertex st", "vertex texture_uv" or "face": where the texture coordinates stand."""
    save_png(folder / "skin.png", image)
    names = {"vertex st": ("s", "t"), "vertex texture_uv": ("texture_u", "texture_v"), "face": ()}[layout]
    header = ["ply", f"format {'binary_little_endian' if binary else 'ascii'} 1.0", "comment TextureFile skin.png"]
    header += [f"element vertex {len(QUAD)}", *(f"property float {n}" for n in ("x", "y", "z", *names))]
    header += [f"element face {len(QUAD_FACES)}", "property list uchar int vertex_indices"]
    header += ["property list uchar float texcoord"] if layout == "face" else []
    data = b""
    rows: list[str] = []
    for v, uv in zip(QUAD, QUAD_UV, strict=True):
        values = [*v, *(uv if names else ())]
        rows.append(" ".join(map(str, values)))
        data += np.array(values, "<f4").tobytes()
    for face in QUAD_FACES:
        uv = QUAD_UV[face].ravel() if layout == "face" else np.zeros(0)
        rows.append(" ".join(map(str, [3, *face, *([6, *uv] if len(uv) else [])])))
        data += b"\x03" + face.astype("<i4").tobytes() + (b"\x06" + uv.astype("<f4").tobytes() if len(uv) else b"")
    text = "\n".join([*header, "end_header"]) + "\n"
    path = folder / "quad.ply"
    path.write_bytes(text.encode() + (data if binary else ("\n".join(rows) + "\n").encode()))
    return path


def ply_colored(folder: Path, *, vertex=None, face=None, extra_uv: bool = False, kind: str = "uchar") -> Path:
    """The quad with vertex and/or face colours [n,3], and texture coordinates without a texture if asked for."""
    colors = [f"property {kind} {c}" for c in ("red", "green", "blue")]
    header = ["ply", "format ascii 1.0", "element vertex 4", *(f"property float {n}" for n in "xyz")]
    header += colors if vertex is not None else []
    header += ["property float s", "property float t"] if extra_uv else []
    header += ["element face 2", "property list uchar int vertex_indices", *(colors if face is not None else [])]
    rows = []
    for i, v in enumerate(QUAD):
        rows.append([*v, *(vertex[i] if vertex is not None else ()), *(QUAD_UV[i] if extra_uv else ())])
    for i, f in enumerate(QUAD_FACES):
        rows.append([3, *f, *(face[i] if face is not None else ())])
    text = "\n".join([*header, "end_header", *(" ".join(map(str, row)) for row in rows)]) + "\n"
    (folder / "colored.ply").write_text(text)
    return folder / "colored.ply"


def dae_quad(folder: Path, image: np.ndarray) -> Path:
    save_png(folder / "skin.png", image)
    positions = " ".join(str(x) for x in QUAD.ravel())
    coordinates = " ".join(str(x) for x in QUAD_UV.ravel())
    indices = " ".join(f"{i} {i}" for i in QUAD_FACES.ravel())
    (folder / "quad.dae").write_text(f"""<?xml version="1.0" encoding="utf-8"?>
<COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">
<asset><unit name="meter" meter="1"/><up_axis>Z_UP</up_axis></asset>
<library_images><image id="img"><init_from>skin.png</init_from></image></library_images>
<library_effects><effect id="fx"><profile_COMMON>
<newparam sid="surf"><surface type="2D"><init_from>img</init_from></surface></newparam>
<newparam sid="samp"><sampler2D><source>surf</source></sampler2D></newparam>
<technique sid="c"><lambert><diffuse><texture texture="samp" texcoord="UV"/></diffuse></lambert></technique>
</profile_COMMON></effect></library_effects>
<library_materials><material id="mat"><instance_effect url="#fx"/></material></library_materials>
<library_geometries><geometry id="geo"><mesh>
<source id="p"><float_array id="pa" count="12">{positions}</float_array><technique_common>
<accessor source="#pa" count="4" stride="3"><param name="X" type="float"/><param name="Y" type="float"/>
<param name="Z" type="float"/></accessor></technique_common></source>
<source id="t"><float_array id="ta" count="8">{coordinates}</float_array><technique_common>
<accessor source="#ta" count="4" stride="2"><param name="S" type="float"/><param name="T" type="float"/></accessor>
</technique_common></source>
<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>
<triangles material="sym" count="2"><input semantic="VERTEX" source="#v" offset="0"/>
<input semantic="TEXCOORD" source="#t" offset="1" set="0"/><p>{indices}</p></triangles>
</mesh></geometry></library_geometries>
<library_visual_scenes><visual_scene id="vs"><node id="n"><instance_geometry url="#geo"><bind_material>
<technique_common><instance_material symbol="sym" target="#mat">
<bind_vertex_input semantic="UV" input_semantic="TEXCOORD" input_set="0"/></instance_material></technique_common>
</bind_material></instance_geometry></node></visual_scene></library_visual_scenes>
<scene><instance_visual_scene url="#vs"/></scene></COLLADA>
""")
    return folder / "quad.dae"


def trimesh_quad(image: np.ndarray, *, pbr: bool = False) -> trimesh.Trimesh:
    from trimesh.visual.material import PBRMaterial, SimpleMaterial

    picture = Image.fromarray(image)
    material = PBRMaterial(name="skin", baseColorTexture=picture) if pbr else SimpleMaterial(image=picture)
    visual = trimesh.visual.TextureVisuals(uv=QUAD_UV, material=material)
    return trimesh.Trimesh(QUAD, QUAD_FACES, visual=visual, process=False)
