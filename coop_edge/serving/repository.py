"""Writes a model repository for Triton: ``config.pbtxt``, and the Python backend's model over an Estimator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from coop_edge.base.files import atomic_write
from coop_edge.errors import InputError

NAME = "coop_edge"
"""Of the model in the repository."""

INPUTS = (
    ("IMAGE", "TYPE_UINT8", (-1, -1, 3), False),
    ("K", "TYPE_FP64", (3, 3), False),
    ("DISTORTION", "TYPE_FP64", (-1,), True),
    ("FISHEYE", "TYPE_BOOL", (1,), True),
    ("OBJECTS", "TYPE_STRING", (-1,), False),
    ("BOXES", "TYPE_FP64", (-1, 4), False),
)
"""Name, type, dimensions, whether optional: an RGB image, its camera, N objects in N boxes (x, y, width, height)."""
OUTPUTS = (
    ("T_CAMERA_OBJECT", "TYPE_FP64", (-1, 4, 4)),
    ("SCORE", "TYPE_FP64", (-1,)),
    ("PRESENCE", "TYPE_FP64", (-1,)),
    ("SUCCESS", "TYPE_BOOL", (-1,)),
    ("REASON", "TYPE_STRING", (-1,)),
)
"""Name, type and dimensions, N rows each; a pose that was not found holds NaN and has a reason."""


def write_repository(
    folder: Path,
    *,
    engines: str,
    device: str,
    settings: Sequence[str],
    objects: Sequence[tuple[str, str, str, str | None]],
    instances: int,
    threads: int,
) -> Path:
    """Write the model into ``folder``/coop_edge and return that folder.

    Args:
        folder: the model repository.
        engines, device, settings: of the Estimators; "cuda" takes one GPU each.
        objects: name, mesh, unit and templates (or None) of each; the paths as the server sees them.
        instances: Estimators per GPU, or in all on CPUs.
        threads: of one Estimator; 0 leaves it to it.

    Raises:
        InputError: nothing to serve, or a model that another program wrote.
    """
    if not objects:
        raise InputError("serve-model: wanted at least one --object NAME=MESH:UNIT")
    model = folder / NAME
    if (model / "config.pbtxt").is_file() and "coop_edge serve-model" not in (model / "config.pbtxt").read_text():
        raise InputError(f"{model}: holds a model of another program; give another folder")
    options = {"engines": engines, "device": device, "settings": json.dumps(list(settings)), "threads": str(threads)}
    options["objects"] = json.dumps([list(each) for each in objects])
    with atomic_write(model / "1" / "model.py") as file:
        file.write(Path(__file__).with_name("triton_model.py").read_bytes())
    with atomic_write(model / "config.pbtxt") as file:
        file.write(config(options, device, instances).encode())
    return model


def config(options: dict[str, str], device: str, instances: int) -> str:
    """Return the text of config.pbtxt."""
    kind = "KIND_GPU" if device == "cuda" else "KIND_CPU"
    tensors = [_tensor("input", name, kind_, dims, optional) for name, kind_, dims, optional in INPUTS]
    tensors += [_tensor("output", name, kind_, dims, False) for name, kind_, dims in OUTPUTS]
    parameters = [
        f"parameters {{\n  key: {_text(key)}\n  value {{ string_value: {_text(value)} }}\n}}"
        for key, value in options.items()
    ]
    head = f'# Written by coop_edge serve-model.\nname: {_text(NAME)}\nbackend: "python"\nmax_batch_size: 0'
    group = f"instance_group {{\n  count: {instances}\n  kind: {kind}\n}}"
    return "\n".join([head, *tensors, group, *parameters]) + "\n"


def _tensor(field: str, name: str, kind: str, dims: Sequence[int], optional: bool) -> str:
    lines = [f"name: {_text(name)}", f"data_type: {kind}", f"dims: [ {', '.join(map(str, dims))} ]"]
    lines += ["optional: true"] if optional else []
    return f"{field} {{\n  " + "\n  ".join(lines) + "\n}"


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)  # protobuf's text format escapes as JSON does
