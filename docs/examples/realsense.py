"""RealSense: aligned colour and depth, and poses. python realsense.py cup=cup.ply:mm X,Y,WIDTH,HEIGHT

Needs Intel's package: pip install pyrealsense2
"""

from __future__ import annotations

import sys

from coop_edge import CoopEdgeError, Detection, Estimator
from coop_edge.cli.inputs import add_objects, parse_objects
from coop_edge.cli.realsense import RealSense


def follow(estimator, camera, frames, detection):
    """Yield the pose of the object in each frame; it is looked for where it was first detected while it is lost."""
    results = []
    for frame in frames:
        results = estimator.track(frame.image, camera, results, **frame.measured)  # measured: depth, metres per step
        if not results or not results[0].success:
            results = estimator.estimate(frame.image, camera, [detection], **frame.measured)
        yield results[0]


def main(obj: str, box: str) -> None:
    (given,) = parse_objects([obj])
    detection = Detection(given.name, tuple(float(side) for side in box.split(",")))
    with RealSense() as device, Estimator.from_engines("coop-xs") as estimator:
        add_objects(estimator, [given])
        estimator.warmup()
        for result in follow(estimator, device.camera, device, detection):
            print(result.T_camera_object[:3, 3] if result.success else result.reason, result.used_depth)  # noqa: T201


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CoopEdgeError as error:
        raise SystemExit(f"error: {error}") from None
