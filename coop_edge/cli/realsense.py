"""Reads a RealSense: colour images, depth aligned to them, and the camera as its maker calibrated it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import numpy as np

from coop_edge.base.missing import install_extra
from coop_edge.calibration.realsense import read_realsense
from coop_edge.cli.frames import Shot
from coop_edge.errors import BackendUnavailable, InputError, quoted
from coop_edge.types import Camera

log = logging.getLogger("coop_edge")

NAME = "realsense"
"""What a source is called; ``realsense:SERIAL`` is one of several."""
SIZE, RATE = (640, 480), 30
"""Pixels and frames per second: a mode that all models have, at USB 2 too."""


def is_realsense(source: str) -> bool:
    """Tell whether a source of the command line is a RealSense."""
    return source.partition(":")[0].lower() == NAME


def to_camera(intrinsics: Any) -> Camera:
    """Return the camera of librealsense's ``rs2_intrinsics``, distortion included.

    Args:
        intrinsics: with width, height, fx, fy, ppx, ppy, model and coeffs (5 of them).

    Raises:
        InputError: a distortion that OpenCV's models do not hold.
    """
    values: dict[str, Any] = {name: getattr(intrinsics, name) for name in ("width", "height")}
    values |= {name: float(getattr(intrinsics, name)) for name in ("fx", "fy", "ppx", "ppy")}
    values |= {"model": str(intrinsics.model), "coeffs": [float(value) for value in intrinsics.coeffs]}
    found = read_realsense(values, name=None)
    assert found.width is not None
    assert found.height is not None
    return Camera(found.K, found.width, found.height, found.distortion, found.fisheye)


class RealSense:
    """A RealSense that streams: a context manager, and an iterable of ``Shot`` with depth, the newest frame each time.

    Args:
        source: "realsense", or "realsense:SERIAL" for one of several.

    Raises:
        BackendUnavailable: pyrealsense2 is not installed.
        InputError: no such camera, or one that does not stream colour and depth.

    Attributes:
        camera: Camera of the colour images.
        depth_unit: metres per step of the depth images.
    """

    def __init__(self, source: str = NAME) -> None:
        rs = _package()
        serial = source.partition(":")[2]
        config = rs.config()
        if serial:
            config.enable_device(serial)
        config.enable_stream(rs.stream.color, *SIZE, rs.format.rgb8, RATE)
        config.enable_stream(rs.stream.depth, *SIZE, rs.format.z16, RATE)
        self._source, self._pipeline, self._align = source, rs.pipeline(), rs.align(rs.stream.color)
        try:
            profile = self._pipeline.start(config)
        except RuntimeError as error:  # librealsense's only kind
            raise InputError(
                f"{source}: no RealSense streams colour and depth of {SIZE[0]}x{SIZE[1]} at {RATE} Hz "
                f"({quoted(error)}); is it connected, and free of other programs? `rs-enumerate-devices` lists them"
            ) from None
        try:
            self.depth_unit = float(profile.get_device().first_depth_sensor().get_depth_scale())
            color = profile.get_stream(rs.stream.color).as_video_stream_profile()
            self.camera = to_camera(color.get_intrinsics())
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Shot]:
        """Yield frames until the camera gives none for five seconds, which is logged as a warning."""
        read = 0
        while True:
            try:
                frames = self._align.process(self._pipeline.wait_for_frames())
            except RuntimeError as error:
                log.warning("%s: gave no frame after %d (%s)", self._source, read, quoted(error))
                return
            color, depth = frames.get_color_frame(), frames.get_depth_frame()
            if not color or not depth:  # the driver lost one of the two
                continue
            image, steps = np.array(color.get_data()), np.array(depth.get_data())  # the driver uses its memory again
            name, measured = f"{read:06d}", {"depth": steps, "depth_unit": self.depth_unit}
            if not steps.any():
                log.warning("%s: frame %s: its depth image is empty; poses come from the colour image", NAME, name)
                measured = {}
            yield Shot(name, image, measured)
            read += 1

    def close(self) -> None:
        """Stop the camera."""
        self._pipeline.stop()

    def __enter__(self) -> RealSense:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _package() -> Any:
    try:
        import pyrealsense2
    except ImportError as error:
        raise BackendUnavailable(
            f"a RealSense needs pyrealsense2 ({error}): pip install pyrealsense2, or {install_extra('realsense')}"
        ) from None
    return pyrealsense2
