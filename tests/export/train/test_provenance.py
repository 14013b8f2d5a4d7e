"""Provenance of weights: data with licences, machine, commit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import coop_edge
from benchmarks.meshes import grey_box
from coop_edge.errors import InputError
from export.data.packs import PackWriter
from export.train import provenance
from export.train.provenance import hardware_name, licences_of, pack_licences

ROOT = Path(__file__).parents[3]


@pytest.fixture
def pack(tmp_path):
    path = tmp_path / "pack.npz"
    with PackWriter(path, 16) as writer:
        for name, source, licence in (("a", "chairs", "CC0"), ("b", "chairs", "CC-BY-3.0"), ("c", "parts", ""),
                                      ("d", "chairs", "CC0")):  # fmt: skip
            writer.add(grey_box(), name, source, licence)
    return path


def test_licences_of_a_pack_are_counted_by_source(pack):
    assert pack_licences(pack) == {
        "chairs": "CC-BY-3.0 (1 objects), CC0 (2 objects)",
        "parts": "not stated (1 objects)",
    }
    with pytest.raises(InputError, match="does not exist"):
        pack_licences(pack.with_name("none.npz"))
    pack.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match="not an asset pack"):
        pack_licences(pack)


def test_what_pairs_are_drawn_from_is_listed_with_its_licence(pack, tmp_path):
    photos = tmp_path / "holidays"
    photos.mkdir()
    assert licences_of(None, photos)["photographs in holidays"] == "not stated"
    (photos / "LICENSE.txt").write_text("\n  CC0-1.0\nmore\n")
    found = licences_of(pack, photos)
    assert found["photographs in holidays"] == "CC0-1.0"
    assert {"chairs", "parts", provenance.PROCEDURAL} < set(found)
    assert any("scikit-image" in source for source in licences_of(None, None))


def test_the_machine_is_named():
    assert "cores of" in hardware_name(torch.device("cpu"))


def code_version(folder, **environment):
    command = [sys.executable, "-c", "from export.train.provenance import code_version; print(code_version())"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", **environment}
    )
    return done.stdout.strip()


def test_the_code_version_names_the_package_and_its_commit():
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert code_version(ROOT).startswith(f"{coop_edge.__version__} {commit.stdout[:12]}".strip())


def test_a_copy_without_history_takes_its_commit_from_the_environment(tmp_path):
    copy = tmp_path / "repository" / "copy"
    for package in ("export", "coop_edge"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Some other repository around it, whose commit says nothing about the copy.
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], cwd=copy.parent, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=copy.parent, check=True)
    assert code_version(copy) == coop_edge.__version__
    assert code_version(copy, COOP_EDGE_COMMIT="fed987") == f"{coop_edge.__version__} fed987"
