"""Onboarding into a file: the same poses from it, and refusal of what other engines made."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from coop_edge import Estimator, TemplateSet
from coop_edge.demo import load_scene
from coop_edge.errors import BundleError, InputError
from coop_edge.mesh import Mesh, Symmetries
from coop_edge.registry import view_settings
from coop_edge.render import CpuRenderer
from coop_edge.stages.views import Views

ENGINES = Path(__file__).parents[1] / "engines" / "coop-xs"
SCENE = load_scene()
NAME = SCENE.detections[0].object


@pytest.fixture(scope="module")
def mesh() -> Mesh:
    path, unit = SCENE.meshes[NAME]
    return Mesh.load(path, unit=unit, name=NAME)


@pytest.fixture
def estimator():
    with Estimator.from_engines(ENGINES, device="cpu", config={"effort": "fast"}, threads=1) as opened:
        yield opened


@pytest.fixture(scope="module")
def made(mesh) -> TemplateSet:
    with Estimator.from_engines(ENGINES, device="cpu", threads=1) as opened:
        return opened.onboard(mesh, symmetries=Symmetries())


def test_a_file_gives_the_same_poses_and_describes_nothing_again(estimator, made, mesh, tmp_path, monkeypatch):
    estimator.add_object(NAME, mesh)
    (wanted,) = estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections[:1])
    estimator.remove_object(NAME)
    made.save(tmp_path / "a.npz")
    monkeypatch.setattr(Views, "describe", None)  # whoever called it would fail
    estimator.add_object(NAME, mesh, templates=tmp_path / "a.npz")
    (found,) = estimator.estimate(SCENE.image, SCENE.camera, SCENE.detections[:1])
    assert found.success
    np.testing.assert_array_equal(found.T_camera_object, wanted.T_camera_object)
    assert found.score == wanted.score


def test_what_is_kept(made, estimator, tmp_path):
    assert made.view_descriptors is not None
    assert made.view_descriptors.shape == (42 * 16, 8, 8, 112)
    assert made.settings["view_descriptors"] == view_settings(estimator.bundle)
    assert made.view_descriptors.nbytes < 25e6
    assert not estimator.objects  # nothing was registered
    made.save(tmp_path / "a.npz")
    again = TemplateSet.load(tmp_path / "a.npz")
    np.testing.assert_array_equal(again.view_descriptors, made.view_descriptors)
    assert again.hash == made.hash
    assert replace(made, view_descriptors=None).hash != made.hash


@pytest.mark.parametrize(
    ("key", "value"), [("network", "0" * 64), ("turns", 8), ("margin", 1.1), ("map", "s8"), ("network", None)]
)
def test_views_that_something_else_described_are_refused(estimator, made, mesh, key, value):
    described = {**made.settings["view_descriptors"], key: value}
    other = replace(made, settings={**made.settings, "view_descriptors": described})
    with pytest.raises(BundleError, match=f"views described with {key} {str(value)[:12]} .*coop-edge onboard"):
        estimator.add_object(NAME, mesh, templates=other)
    assert not estimator.objects


def test_descriptors_that_do_not_fit_are_refused(estimator, made, mesh):
    nameless = replace(made, settings={k: v for k, v in made.settings.items() if k != "view_descriptors"})
    with pytest.raises(BundleError, match="views described with network None"):
        estimator.add_object(NAME, mesh, templates=nameless)
    fewer = replace(made, view_descriptors=made.view_descriptors[: 42 * 8])
    with pytest.raises(BundleError, match=r"descriptors of views \[336, 8, 8, 112\] \(wanted \[672, 8, 8, 112\]\)"):
        estimator.add_object(NAME, mesh, templates=fewer)
    broken = made.view_descriptors.copy()
    broken[3, 5] = np.nan
    with pytest.raises(BundleError, match="not finite"):
        estimator.add_object(NAME, mesh, templates=replace(made, view_descriptors=broken))


def test_templates_without_views_have_them_described(estimator, made, mesh):
    estimator.add_object(NAME, mesh, templates=replace(made, view_descriptors=None))
    (model,) = estimator._registry.models
    np.testing.assert_array_equal(model.views.descriptors, made.view_descriptors)


def test_engines_without_features_say_that_views_are_left_out(made, mesh, tmp_path, caplog):
    for file in ENGINES.iterdir():
        if file.suffix == ".onnx" and "features" not in file.name:
            (tmp_path / file.name).symlink_to(file)
    manifest = json.loads((ENGINES / "bundle.json").read_text())
    del manifest["networks"]["features"]
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    caplog.set_level(logging.INFO, logger="coop_edge")
    with Estimator.from_engines(tmp_path, device="cpu", threads=1) as opened:
        opened.add_object(NAME, mesh, templates=made)
        assert "describe views for retrieval" in caplog.text
        assert opened.onboard(mesh).view_descriptors is None


def test_files_of_the_first_schema_are_read(made, tmp_path):
    path = tmp_path / "a.npz"
    replace(made, view_descriptors=None).save(path)
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    manifest = json.loads(bytes(arrays["manifest"]).decode())
    arrays["manifest"] = np.frombuffer(json.dumps({**manifest, "schema": 1}).encode(), np.uint8)
    np.savez_compressed(path, **arrays)
    assert TemplateSet.load(path).view_descriptors is None


def test_arguments(estimator, mesh):
    with pytest.raises(InputError, match="unit="):
        estimator.onboard(SCENE.meshes[NAME][0])
    with pytest.raises(InputError, match="supersample"):
        estimator.onboard(mesh, supersample=2)
    with pytest.raises(InputError, match="symmetries"):
        estimator.onboard(mesh, symmetries=3)
    seen = []

    def renderer(*args, **kwargs):
        seen.append(kwargs)
        return CpuRenderer(*args, threads=1, **kwargs)

    assert estimator.onboard(mesh, renderer=renderer, supersample=1).settings["supersample"] == 1
    assert len(seen) == 1
