"""README.md of a set: what it is, what it is for, and whose objects are in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.datasets.make_dataset.assets import Asset
from benchmarks.datasets.make_dataset.models import write_json
from coop_edge.base.files import atomic_write

_TEXT = """# Synthetic set of coop_edge, BOP layout

Made by `python -m benchmarks.datasets.make_dataset` (options: `dataset.json`) with Mitsuba {version}. For choosing
hyper-parameters; nothing is trained on it. The objects belong to the held-out split of the asset pack.

- `models/`: millimetres; vertex colours, or one texture beside the file. Scaled: the sizes are not those of the things.
  Symmetries in `models_info.json` were found by trying turns, with colours (2 % of the diameter).
- `test/<scene>/`: `rgb` (JPEG, with the noise and blur of a small camera), `depth` (16 bit, 0.1 mm a step, without
  noise), `depth_sensor` (the same of a simulated stereo camera), `mask` (whole silhouette), `mask_visib`,
  `scene_gt.json`, `scene_camera.json`, `scene_gt_info.json`.
  `checks.json` has what else is known of a picture (light, table, camera) and how our renderer's outlines at the
  truth agree with Mitsuba's (intersection over union, mean distance and shift of the outlines in pixels).
- `test_targets_bop19.json`: objects of which at least a tenth is visible. Things lie about that have no model here.

The pictures are a derived work of the objects below, which were scaled, had their textures laid into one image and, if
grey, were given a colour. Those under CC BY want their makers named, as the source does (library and author, or
project), those under CC BY-SA the same licence for what is derived of them (KiCad's exception frees designs that use
the libraries, not this).

| model | object | source | licence |
|---|---|---|---|
"""


_DEEDS = (
    ("CC-BY-SA-4.0", "https://creativecommons.org/licenses/by-sa/4.0/"),
    ("CC-BY-3.0-USA", "https://creativecommons.org/licenses/by/3.0/us/"),
    ("CC-BY-3.0", "https://creativecommons.org/licenses/by/3.0/"),
    ("CC-BY-4.0", "https://creativecommons.org/licenses/by/4.0/"),
    ("CC0", "https://creativecommons.org/publicdomain/zero/1.0/"),
    ("Zlib", "https://opensource.org/license/zlib"),
    ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0"),
)
"""Where a licence is to be read, by how its name begins; a longer name comes before the one it begins with."""


def write_readme(root: Path, assets: Sequence[Asset], version: str) -> None:
    """Write README.md, and the same table for programs in models/provenance.json."""
    rows = [
        {"obj_id": k, "name": a.mesh.name, "source": a.source, "licence": a.licence}
        for k, a in enumerate(assets, start=1)
    ]
    lines = [f"| {r['obj_id']} | {r['name']} | {r['source']} | {_linked(str(r['licence']))} |" for r in rows]
    with atomic_write(root / "README.md") as file:
        file.write((_TEXT.format(version=version) + "\n".join(lines) + "\n").encode())
    write_json(root / "models" / "provenance.json", rows)


def _linked(licence: str) -> str:
    """A licence's name, with where it is to be read if that is known."""
    deed = next((url for name, url in _DEEDS if licence.startswith(name)), None)
    return f"[{licence}]({deed})" if deed else licence
