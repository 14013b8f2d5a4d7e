"""RealSense: aligned colour and depth, and poses. python realsense.py cup=cup.ply:mm X,Y,WIDTH,HEIGHT

Needs Intel's package: pip install pyrealsense2
"""

from __future__ import annotations

import sys

import numpy as np

from coop_edge import Camera, CoopEdgeError, Detection, Estimator
from coop_edge.cli.inputs import add_objects, parse_objects

SIZE, RATE = (640, 480), 30


def to_camera(intrinsics) -> Camera:
    """Camera of the colour stream's rs2_intrinsics; its images are not distorted by more than a pixel."""
    K = [[intrinsics.fx, 0.0, intrinsics.ppx], [0.0, intrinsics.fy, intrinsics.ppy], [0.0, 0.0, 1.0]]
    return Camera(K, intrinsics.width, intrinsics.height)


def to_arrays(frames) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 [h,w,3] and depth uint16 [h,w] of aligned frames; copies, for the driver uses its memory again."""
    return np.array(frames.get_color_frame().get_data()), np.array(frames.get_depth_frame().get_data())


def stream(rs=None):
    """Yield (camera, RGB image, depth, metres per step) of each frame. rs: pyrealsense2, imported here if not given."""
    if rs is None:
        try:
            import pyrealsense2 as rs
        except ImportError:
            raise SystemExit("pyrealsense2 is missing: pip install pyrealsense2") from None
    pipeline, config = rs.pipeline(), rs.config()
    config.enable_stream(rs.stream.color, *SIZE, rs.format.rgb8, RATE)
    config.enable_stream(rs.stream.depth, *SIZE, rs.format.z16, RATE)
    profile = pipeline.start(config)
    try:
        scale = profile.get_device().first_depth_sensor().get_depth_scale()
        camera = to_camera(profile.get_stream(rs.stream.color).as_video_stream_profile().get_intrinsics())
        align = rs.align(rs.stream.color)  # depth as the colour camera would see it
        while True:
            yield camera, *to_arrays(align.process(pipeline.wait_for_frames())), scale
    finally:
        pipeline.stop()


def follow(estimator, frames, detection):
    """Yield the pose of the object in each frame; it is looked for where it was first detected while it is lost."""
    results = []
    for camera, image, depth, scale in frames:
        results = estimator.track(image, camera, results, depth, scale)
        if not results or not results[0].success:
            results = estimator.estimate(image, camera, [detection], depth, scale)
        yield results[0]


def main(obj: str, box: str) -> None:
    (given,) = parse_objects([obj])
    detection = Detection(given.name, tuple(float(side) for side in box.split(",")))
    with Estimator.from_engines("coop-xs") as estimator:
        add_objects(estimator, [given])
        estimator.warmup()
        for result in follow(estimator, stream(), detection):
            print(result.T_camera_object[:3, 3] if result.success else result.reason, result.used_depth)  # noqa: T201


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CoopEdgeError as error:
        raise SystemExit(f"error: {error}") from None
