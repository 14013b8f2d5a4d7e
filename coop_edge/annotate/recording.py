"""The recording of a finished run for the Rerun viewer: made of its record, so that a resumed run has all images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from coop_edge.annotate.items import Item
from coop_edge.base.journal import read_lines
from coop_edge.mesh import Mesh
from coop_edge.types import Detection, PoseEstimate
from coop_edge.visual.rerun_log import RerunLog


def write_recording(path: Path, record: Path, items: Sequence[Item], meshes: Mapping[str, Mesh]) -> None:
    """Write a recording of all images of a run, in their order; each is read once more.

    Args:
        path: to write (.rrd).
        record: of the run.
        items: of the run.
        meshes: of the objects, by name.

    Raises:
        BackendUnavailable: Rerun is not installed.
        InputError: an image that can no longer be read.
    """
    with RerunLog(path, meshes) as log:
        for line in read_lines(record):
            item = items[line["index"]]
            if "error" in line:
                log.failure(item.index, f"{item.name}: {line['error']}")
                continue
            image = item.read()
            results = [PoseEstimate.from_dict(_pose_only(result)) for result in line["results"]]
            found = item.found()
            boxes: list[Detection | None] = [None] * len(results) if found is None else [*found]
            log.frame(item.index, image, item.camera_of(image), results, boxes)


def _pose_only(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a result without the mask and the boxes that a worker adds."""
    return {name: value for name, value in result.items() if name not in ("info", "segmentation")}
