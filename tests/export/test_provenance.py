"""Where weights come from: data with licences, machine and commit; what older files do not say, and who may say it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

import coop_edge
from benchmarks.meshes import grey_box
from coop_edge.errors import InputError
from coop_edge.runtime.bundle import Bundle
from export.data.packs import PackWriter
from export.onnx import provenance
from export.onnx.bundle import export_bundle
from export.onnx.provenance import completed, hardware_name, licences_of, pack_licences
from export.train.checkpoint import Provenance, read_metadata, save_network
from tests.export.small_graphs import small_net

ROOT = Path(__file__).parents[2]
OLD = {"step": 7, "samples": 112, "seed": 3, "minutes": 1.5, "code": "0.1.0", "data": "procedural objects"}


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


def test_what_is_stated_stays_and_what_is_not_is_completed():
    unstated = Provenance(licences={"x": "CC0"}, hardware="two cores", code="abc")
    old = Provenance(**OLD)
    assert completed(old, Provenance()) == old
    filled = completed(old, unstated)
    assert (filled.licences, filled.hardware, filled.code) == ({"x": "CC0"}, "two cores", "0.1.0 abc")
    assert (filled.samples, filled.data) == (112, "procedural objects")
    new = Provenance(**{**OLD, "code": "0.2.0 def"}, licences={"y": "MIT"}, hardware="a GPU")
    assert completed(new, unstated) == new


@pytest.fixture
def old_files(tmp_path):
    """Network files as earlier versions wrote them: without licences and hardware."""
    for role, variant in (("coarse", "hybrid"), ("refiner", "laplace")):
        path = tmp_path / f"{role}.safetensors"
        save_network(path, small_net(variant), Provenance(**OLD))
        with safe_open(path, framework="pt") as file:
            metadata = json.loads(file.metadata()["coop_edge"])
            tensors = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118 (no mapping)
        save_file(tensors, path, {"coop_edge": json.dumps({**metadata, "provenance": OLD})})
        assert read_metadata(path).provenance == Provenance(**OLD)
    return tmp_path


def test_old_files_become_a_bundle_that_says_what_it_is_told(old_files):
    told = Provenance(licences={"x": "CC0"}, hardware="two cores", code="abc")
    bundle = export_bundle([old_files], "tiny", "fp32", old_files / "tiny", unstated=told)
    for role in ("coarse", "refiner"):
        training = Bundle.load(bundle.folder).training[role]
        assert training["licences"] == {"x": "CC0"}
        assert (training["hardware"], training["commit"]) == ("two cores", "0.1.0 abc")
        assert [training[k] for k in ("data", "samples", "steps", "seed", "minutes")] == [
            "procedural objects", 112, 7, 3, 1.5
        ]  # fmt: skip


def code_version(folder, **environment):
    command = [sys.executable, "-c", "from export.onnx.provenance import code_version; print(code_version())"]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", **environment}
    )
    return done.stdout.strip()


def test_a_copy_without_history_says_what_it_is_a_copy_of(tmp_path):
    copy = tmp_path / "repository" / "copy"
    for package in ("export", "coop_edge"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    # Some other repository around it, whose commit says nothing about the copy.
    git = ["git", "-c", "user.name=x", "-c", "user.email=x@x"]
    subprocess.run([*git, "init", "-q"], cwd=copy.parent, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "x"], cwd=copy.parent, check=True)
    assert code_version(copy) == coop_edge.__version__
    (copy / "COMMIT").write_text("0123abc\n")
    assert code_version(copy) == f"{coop_edge.__version__} 0123abc"
    assert code_version(copy, COOP_EDGE_COMMIT="fed987") == f"{coop_edge.__version__} fed987"
