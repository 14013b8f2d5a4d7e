"""The command `coop-edge serve-model`: a model repository for Triton Inference Server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from coop_edge.cli import options
from coop_edge.cli.output import print_line


def serve_model(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Model repository to write into.")],
    object_: options.Objects,
    instances: Annotated[int, typer.Option(min=1, help="Estimators per GPU; on the CPU, in all.")] = 1,
    templates: options.Templates = None,
    engines: options.Engines = "coop-xs",
    device: options.Device = options.DeviceName.auto,
    threads: options.Threads = 0,
    effort: options.Effort = None,
    settings: options.Settings = None,
) -> None:
    """Write a model for Triton's Python backend: an image and boxes in, poses out."""
    from coop_edge.cli import inputs
    from coop_edge.serving.repository import write_repository

    options.configured(settings, {"effort": effort})  # wrong options end here
    objects = [
        (each.name, str(each.mesh.resolve()), each.unit, str(each.templates.resolve()) if each.templates else None)
        for each in inputs.parse_objects(object_, templates or [])
    ]
    given = [*([f"effort={effort.value}"] if effort is not None else []), *(settings or [])]
    kept = {"engines": engines, "device": device.value, "settings": given, "objects": objects}
    model = write_repository(folder, **kept, instances=instances, threads=threads)  # type: ignore[arg-type]
    print_line(f"written: {model}")
    print_line(f"tritonserver --model-repository {folder.resolve()}")
