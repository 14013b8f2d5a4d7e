"""What tests of building plans share: a bundle of their own, a TensorRT that is not there."""

from __future__ import annotations

import os

import pytest

from coop_edge.runtime.bundle import Bundle
from tests.runtime.fake_tensorrt import install
from tests.runtime.networks import tiny_bundle


@pytest.fixture(scope="session")
def tiny_original(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def own_bundle(tiny_original, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "tiny"
    folder.mkdir()
    for path in tiny_original.iterdir():
        os.link(path, folder / path.name)
    return Bundle.load(folder, check_hashes=False)


@pytest.fixture
def trt(monkeypatch):
    return install(monkeypatch, "tensorrt-11.4.0")[0]
