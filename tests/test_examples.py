"""The demo object: as its script makes it, small, and without symmetry."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np

from coop_edge.mesh import Mesh

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def test_committed_mug_is_what_its_script_writes(tmp_path):
    make = runpy.run_path(str(EXAMPLES / "make_mug.py"))
    make["main"](tmp_path)
    assert (tmp_path / "mug.mtl").read_text() == (EXAMPLES / "mug" / "mug.mtl").read_text()
    made, kept = (Mesh.load(folder / "mug.obj", unit="m") for folder in (tmp_path, EXAMPLES / "mug"))
    np.testing.assert_array_equal(made.faces, kept.faces)
    np.testing.assert_allclose(made.vertices, kept.vertices, atol=1e-6)
    np.testing.assert_array_equal(made.textures[0], kept.textures[0])
    assert sum(p.stat().st_size for p in (EXAMPLES / "mug").iterdir()) < 400_000


def test_mug_exercises_both_kinds_of_color():
    mug = Mesh.load(EXAMPLES / "mug" / "mug.obj", unit="m")
    assert len(mug.faces) <= 3000
    assert mug.notes == ()
    assert len(mug.textures) == 1
    assert {-1, 0} == set(mug.face_texture.tolist())
    np.testing.assert_array_equal(
        np.unique(mug.corner_colors[mug.face_texture < 0].reshape(-1, 3), axis=0), [[214, 92, 40]]
    )
    assert 0.1 < mug.diameter < 0.15
    label = mug.textures[0][:200].astype(int)
    for turned in (label[:, ::-1], *(np.roll(label, label.shape[1] * k // 6, axis=1) for k in range(1, 6))):
        assert np.abs(label - turned).mean() > 5
