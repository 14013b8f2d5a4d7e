"""Logs images, boxes, poses and scores over time for the Rerun viewer; needs the extra ``rerun``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from coop_edge.base.missing import install_extra
from coop_edge.errors import BackendUnavailable
from coop_edge.mesh import Mesh
from coop_edge.types import Camera, Detection, PoseEstimate
from coop_edge.visual.overlay import COLORS


def import_rerun(path: Path | None = Path()) -> Any:
    """Return the package rerun, None where no recording is wanted.

    Raises:
        BackendUnavailable: it is not installed.
    """
    if path is None:
        return None
    try:
        import rerun
    except ImportError as error:
        raise BackendUnavailable(f"--rerun needs Rerun ({error}): {install_extra('rerun')}") from None
    return rerun


def recording(path: Path | None, meshes: Mapping[str, Mesh]) -> AbstractContextManager[RerunLog | None]:
    """Open a ``RerunLog``; None gives none.

    Raises:
        BackendUnavailable: Rerun is not installed.
    """
    return nullcontext() if path is None else RerunLog(path, meshes)


class RerunLog:
    """A recording in ``path`` (.rrd), opened by ``rerun PATH``; a context manager.

    Args:
        meshes: of the objects, by name; each is logged when it is first seen.

    Raises:
        BackendUnavailable: Rerun is not installed.
    """

    def __init__(self, path: Path, meshes: Mapping[str, Mesh]) -> None:
        self._rr = rerun = import_rerun()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._recording = rerun.RecordingStream("coop_edge")
        self._recording.save(str(path))
        self._meshes, self._known = meshes, set[str]()
        self._log("world", rerun.ViewCoordinates.RDF, static=True)  # x right, y down, z forward

    def frame(
        self,
        number: int,
        image: Any,
        camera: Camera,
        results: Sequence[PoseEstimate],
        detections: Sequence[Detection | None],
    ) -> None:
        """Log one frame: image, boxes looked in, and of each result the pose, or that there is none, and the score.

        What an earlier frame showed and this one has no result for disappears.

        Args:
            number: of the frame, on the timeline "frame".
            image: RGB uint8 [height,width,3].
            camera: of the image. Its distortion is left out: meshes are drawn as without a lens.
            results: of the frame; several of one object allowed.
            detections: boxes that were looked in; None for a result that was not.
        """
        rr = self._rr
        self._recording.set_time("frame", sequence=number)
        self._log("world/camera", rr.Pinhole(image_from_camera=camera.K, resolution=list(camera.size)))
        self._log("world/camera/image", rr.Image(np.asarray(image)).compress(jpeg_quality=85))
        boxes = [detection for detection in detections if detection is not None]
        corners, names = [list(box.bbox or ()) for box in boxes], [box.object for box in boxes]
        self._log("world/camera/image/boxes", rr.Boxes2D(array=corners, array_format=rr.Box2DFormat.XYWH, labels=names))
        places: dict[str, int] = {}
        for i, result in enumerate(results):
            places[result.object] = places.get(result.object, -1) + 1
            self._result(f"{result.object}/{places[result.object]}", i, result)
        shown = {f"{name}/{i}" for name, last in places.items() for i in range(last + 1)}
        for name in sorted(self._known - shown):
            self._clear(name)

    def failure(self, number: int, text: str) -> None:
        """Log why there is nothing of a frame; what earlier frames showed disappears."""
        self._recording.set_time("frame", sequence=number)
        self._log("failures", self._rr.TextLog(text))
        self._log("world/camera", self._rr.Clear(recursive=True))
        for name in sorted(self._known):
            self._clear(name)

    def __enter__(self) -> RerunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self._recording.flush()
        self._recording.disconnect()

    def _result(self, name: str, index: int, result: PoseEstimate) -> None:
        rr, path = self._rr, f"world/objects/{name}"
        self._log(f"scores/{name}", rr.Scalars(result.score))
        if result.T_camera_object is None:
            self._clear(name)
            self._log(f"reasons/{name}", rr.TextLog(f"{name}: {result.reason}"))
            return
        T = result.T_camera_object
        self._log(path, rr.Transform3D(translation=T[:3, 3], mat3x3=T[:3, :3]))
        if name not in self._known:
            self._known.add(name)
            mesh, color = self._meshes[result.object], COLORS[index % len(COLORS)]
            vertices = mesh.vertices + mesh.centre.astype(np.float32)
            colors = np.tile(np.array(color, np.uint8), (len(vertices), 1))
            shape = rr.Mesh3D(vertex_positions=vertices, triangle_indices=mesh.faces, vertex_colors=colors)
            self._log(f"{path}/mesh", shape)

    def _clear(self, name: str) -> None:
        self._log(f"world/objects/{name}", self._rr.Clear(recursive=True))
        self._known.discard(name)

    def _log(self, path: str, what: Any, **options: Any) -> None:
        self._recording.log(path, what, **options)
