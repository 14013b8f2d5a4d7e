"""Declares, each once, the options that several commands share."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from coop_edge.config import EstimatorConfig


class DeviceName(str, Enum):
    """Devices that a user may choose."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class EffortName(str, Enum):
    """Presets of ``EstimatorConfig.effort``."""

    fast = "fast"
    balanced = "balanced"
    best = "best"


Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

Engines = Annotated[str, typer.Option(help="Name of an installed bundle of networks, or a bundle's folder.")]
Device = Annotated[DeviceName, typer.Option(help="Where to run.")]
Threads = Annotated[int, typer.Option(min=0, help="CPU threads; 0 = all cores.")]

Host = Annotated[
    str,
    typer.Option(
        help="Address to listen at. With any but 127.0.0.1 other machines can open the page; it has no password."
    ),
]
Port = Annotated[int, typer.Option(min=1, max=65535)]

Camera = Annotated[
    str, typer.Option(help="FX,FY,CX,CY in pixels, or a calibration file (JSON, ROS, Kalibr, OpenCV ...).")
]
Objects = Annotated[list[str], typer.Option("--object", help="NAME=MESH:UNIT; may be given several times.")]
MoreObjects = Annotated[
    list[str] | None, typer.Option("--object", help="One more object: [NAME=]MESH:UNIT; may be given several times.")
]
Detections = Annotated[
    Path | None,
    typer.Option(help='JSON list of {"object": NAME, "bbox": \\[x, y, width, height], "mask": PICTURE}.'),
]
Boxes = Annotated[
    list[str] | None,
    typer.Option(
        "--box",
        metavar="[NAME=]X,Y,W,H",
        help="Where an object is: left, top, width and height in pixels; may be given several times.",
    ),
]
Templates = Annotated[
    list[str] | None, typer.Option(help="NAME=TEMPLATES.npz of `coop-edge onboard`; may be given several times.")
]

IgnoreColors = Annotated[bool, typer.Option("--ignore-colors", help="Drop the file's colours and textures.")]
AllowOutside = Annotated[
    bool,
    typer.Option("--allow-outside", help="Also read textures that lie outside the parent of the mesh's folder."),
]

Depth = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE|FOLDER",
        help="Depth registered to the picture, 16-bit PNG or .npy. A folder: of the same name; for a video, in order.",
    ),
]
DepthUnit = Annotated[
    str | None,
    typer.Option(
        metavar="UNIT",
        help="m, cm, mm, or metres per step. Default: depth_scale of the camera's file (BOP); metres for floats.",
    ),
]

Rerun = Annotated[
    Path | None, typer.Option(metavar="FILE.rrd", help="Recording to write for the Rerun viewer (extra rerun).")
]

# These stand for an option of EstimatorConfig, which has their range and default: see ``configured``.
Effort = Annotated[
    EffortName | None,
    typer.Option(help="How many poses per detection are tried: more find more objects, and take longer. Sets effort."),
]
Efforts = Annotated[
    list[EffortName] | None, typer.Option("--effort", help="May be given several times. Default: all of them.")
]
Hypotheses = Annotated[
    int | None, typer.Option(help="Poses tried per detection, in place of the effort's. Sets coarse.hypotheses.")
]
Iterations = Annotated[int | None, typer.Option(help="Refinement steps per pose tried. Sets refine.iterations.")]
TrackIterations = Annotated[
    int | None, typer.Option(help="Refinement steps per object after the first frame. Sets refine.track_iterations.")
]
MinScore = Annotated[
    float | None,
    typer.Option(help="Least score, 0 to 1, of a reported pose; 0: all are reported. Sets select.min_score."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any option of EstimatorConfig, such as coarse.margin=1.3; may be given several times.",
    ),
]


def configured(settings: list[str] | None, flags: Mapping[str, object] | None = None) -> EstimatorConfig:
    """Make the Estimator's options of what the command line gives.

    Args:
        settings: the values of ``--set``.
        flags: values of flags that stand for an option, by its dotted name; None where a flag was not given.

    Raises:
        ConfigError: no such option or value, or one that is given by a flag and by ``--set``.
    """
    from coop_edge.config import EstimatorConfig

    values = {name: value.value if isinstance(value, Enum) else value for name, value in (flags or {}).items()}
    given = [f"{name}={value}" for name, value in values.items() if value is not None]
    return EstimatorConfig().updated([*given, *(settings or [])])
