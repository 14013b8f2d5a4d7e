"""Writes COLLADA files by hand, as little as the tests need."""

from __future__ import annotations

import numpy as np


def floats(name: str, rows: np.ndarray, params: str) -> str:
    rows = np.atleast_2d(rows)
    columns = "".join(f'<param name="{p}" type="float"/>' for p in params)
    return (
        f'<source id="{name}"><float_array id="{name}-a" count="{rows.size}">'
        f"{' '.join(f'{v:.9g}' for v in rows.ravel())}</float_array><technique_common>"
        f'<accessor source="#{name}-a" count="{len(rows)}" stride="{rows.shape[1]}">{columns}</accessor>'
        "</technique_common></source>"
    )


def primitive(kind: str, polygons: list[list[int]], *, inputs: str = "", material: str = "", holes=()) -> str:
    """``inputs``: further inputs of offset 0. ``holes``: for "polygons", lists of rings for a <ph> each."""
    symbol = f' material="{material}"' if material else ""
    head = f'<{kind} count="{len(polygons) + len(holes)}"{symbol}><input semantic="VERTEX" source="#v" offset="0"/>'
    flat = " ".join(str(i) for p in polygons for i in p)
    if kind == "triangles":
        body = f"<p>{flat}</p>"
    elif kind == "polylist":
        body = f"<vcount>{' '.join(str(len(p)) for p in polygons)}</vcount><p>{flat}</p>"
    else:
        body = "".join(f"<p>{' '.join(map(str, p))}</p>" for p in polygons)
        for rings in holes:
            outline, *rest = (" ".join(map(str, ring)) for ring in rings)
            body += f"<ph><p>{outline}</p>{''.join(f'<h>{ring}</h>' for ring in rest)}</ph>"
    return f"{head}{inputs}{body}</{kind}>"


def collada(
    points: np.ndarray,
    primitives: list[str],
    *,
    sources: str = "",
    libraries: str = "",
    nodes: str | None = None,
    bind: str = "",
) -> str:
    nodes = nodes or f'<node id="n"><instance_geometry url="#g">{bind}</instance_geometry></node>'
    return (
        '<?xml version="1.0"?><COLLADA xmlns="http://www.collada.org/2005/11/COLLADASchema" version="1.4.1">'
        f'<asset><unit meter="0.001"/></asset>{libraries}<library_geometries><geometry id="g"><mesh>'
        f'{floats("p", points, "XYZ")}{sources}<vertices id="v"><input semantic="POSITION" source="#p"/></vertices>'
        f'{"".join(primitives)}</mesh></geometry></library_geometries><library_visual_scenes><visual_scene id="s">'
        f'{nodes}</visual_scene></library_visual_scenes><scene><instance_visual_scene url="#s"/></scene></COLLADA>'
    )


def effect(look: str, *, params: str = "", model: str = "phong") -> str:
    """The libraries of one material M of one effect."""
    return (
        f'<library_effects><effect id="M-fx"><profile_COMMON>{params}<technique sid="c"><{model}>{look}</{model}>'
        '</technique></profile_COMMON></effect></library_effects><library_materials><material id="M" name="M">'
        '<instance_effect url="#M-fx"/></material></library_materials>'
    )


def bind(symbol: str = "M", extra: str = "") -> str:
    return (
        f'<bind_material><technique_common><instance_material symbol="{symbol}" target="#M">{extra}'
        "</instance_material></technique_common></bind_material>"
    )
