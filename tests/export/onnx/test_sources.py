"""The checkpoints that a bundle is made of: roles, sizes, what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch

from coop_edge.errors import ConfigError, InputError
from export.networks import CONFIGS, build
from export.onnx.bundle import find_sources
from export.train.checkpoint import save_network
from tests.export.onnx.checkpoints import PROVENANCE, save
from tests.export.small_graphs import WIDE
from tests.export.small_nets import NET


def test_roles_come_from_the_files_not_from_their_names(tmp_path):
    save(tmp_path, "coarse")
    shutil.copy(tmp_path / "coarse.safetensors", tmp_path / "refiner.safetensors")
    with pytest.raises(InputError, match=r"two coarse checkpoints: .*coarse\.safetensors and .*refiner\.safetensors"):
        find_sources([tmp_path])


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        ((), "no coarse and no refiner checkpoint; given: none"),
        (("coarse",), r"no refiner checkpoint; given: .*coarse\.safetensors \(coarse\)"),
        (("refiner",), "no coarse checkpoint"),
    ],
)
def test_missing_roles_are_named(roles, message, tmp_path):
    save(tmp_path, *roles)
    with pytest.raises(InputError, match=message):
        find_sources([tmp_path / f"{role}.safetensors" for role in roles])


def test_the_same_file_given_twice_is_one(checkpoints):
    assert list(find_sources([checkpoints, checkpoints / "coarse.safetensors"])) == ["coarse", "refiner"]


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        ({"image_size": 32}, r"\(refiner\) works on crops of 32 px, .* \(coarse\) on 64 px"),
        ({"patch_size": 8, "stem": "linear"}, r"\(refiner\) works on patches of 8 px"),
    ],
)
def test_sizes_that_cannot_go_together_are_refused(trunk, message, tmp_path):
    save(tmp_path, "coarse")
    net = build(CONFIGS["refiner"].from_dict({**NET["refiner"], "trunk": {**WIDE, **trunk}}))
    save_network(tmp_path / "other.safetensors", net, PROVENANCE)
    with pytest.raises(InputError, match=message):
        find_sources([tmp_path])


def test_what_is_no_checkpoint_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: a folder without a \.safetensors file"):
        find_sources([tmp_path / "empty"])
    with pytest.raises(InputError, match="no such file"):
        find_sources([tmp_path / "missing.safetensors"])


def test_a_checkpoint_of_a_newer_version_is_refused(tmp_path):
    from safetensors.torch import save_file

    metadata = {"coop_edge": json.dumps({"schema": 99})}
    save_file({"x": torch.zeros(1)}, tmp_path / "new.safetensors", metadata)
    with pytest.raises(ConfigError, match="schema 99"):
        find_sources([tmp_path])
