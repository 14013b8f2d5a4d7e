"""A stand-in for pyrealsense2 that gives recorded arrays, as far as coop_edge goes."""

from __future__ import annotations

import enum
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np


class Distortion(enum.Enum):
    """Prints as librealsense's own does."""

    none = 0
    inverse_brown_conrady = 2
    brown_conrady = 4

    def __str__(self) -> str:
        return f"distortion.{self.name}"


class Frame:
    """One image of a set, in memory that the driver uses again."""

    def __init__(self, array: np.ndarray | None) -> None:
        self._array = array

    def __bool__(self) -> bool:
        return self._array is not None

    def get_data(self) -> np.ndarray:
        assert self._array is not None
        return self._array


def intrinsics(width: int, height: int, *, model: Distortion = Distortion.none, coeffs: Any = (0.0,) * 5) -> Any:
    """rs2_intrinsics of a camera with a focal length of 0.94 widths."""
    return SimpleNamespace(
        width=width, height=height, fx=0.94 * width, fy=0.95 * width, ppx=width / 2 + 0.5, ppy=height / 2 + 0.5,
        model=model, coeffs=list(coeffs),
    )  # fmt: skip


def package(recorded: Any, of: Any, *, scale: float = 0.001, start: Exception | None = None) -> Any:
    """The package. recorded: pairs of colour and depth, None for one that is lost, in one buffer each as a driver's.

    of: the intrinsics. start: error that starting raises. ``said`` writes down the configuration and "stopped".
    """
    said: list[Any] = []
    stream = SimpleNamespace(as_video_stream_profile=lambda: SimpleNamespace(get_intrinsics=lambda: of))
    sensor = SimpleNamespace(get_depth_scale=lambda: scale)
    profile = SimpleNamespace(
        get_stream=lambda which: {"color": stream}[which],
        get_device=lambda: SimpleNamespace(first_depth_sensor=lambda: sensor),
    )
    waiting, buffers = iter(recorded), {}

    def in_buffer(kind: str, array: np.ndarray | None) -> Frame:
        if array is None:
            return Frame(None)
        buffer = buffers.setdefault(kind, np.empty_like(array))
        buffer[...] = array
        return Frame(buffer)

    def wait_for_frames() -> Any:
        pair = next(waiting, None)
        if pair is None:
            raise RuntimeError("Frame didn't arrive within 5000")
        return pair

    def processed(pair: Any) -> Any:
        color, depth = pair
        return SimpleNamespace(
            get_color_frame=lambda: in_buffer("color", color), get_depth_frame=lambda: in_buffer("depth", depth)
        )

    def begin(config: Any) -> Any:
        if start is not None:
            raise start
        return profile

    class Config:
        def enable_device(self, serial: str) -> None:
            said.append(("device", serial))

        def enable_stream(self, *what: Any) -> None:
            said.append(what)

    def align(to: Any) -> Any:
        said.append(("aligned to", to))
        return SimpleNamespace(process=processed)

    pipeline = SimpleNamespace(
        start=begin, wait_for_frames=wait_for_frames, stop=mock.Mock(side_effect=lambda: said.append("stopped"))
    )
    return SimpleNamespace(
        stream=SimpleNamespace(color="color", depth="depth"), format=SimpleNamespace(rgb8="rgb8", z16="z16"),
        config=Config, pipeline=lambda: pipeline, align=align, said=said,
    )  # fmt: skip
