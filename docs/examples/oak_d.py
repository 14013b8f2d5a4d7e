"""OAK-D: aligned colour and depth, and poses. python oak_d.py cup=cup.ply:mm X,Y,WIDTH,HEIGHT

Needs Luxonis' package, version 3: pip install depthai
"""

from __future__ import annotations

import sys

import numpy as np

from coop_edge import Camera, CoopEdgeError, Detection, Estimator
from coop_edge.cli.inputs import add_objects, parse_objects

SIZE, RATE = (640, 400), 30


def to_camera(K) -> Camera:
    """Camera of undistorted colour images by the calibration's intrinsics [3,3]."""
    return Camera(np.asarray(K, np.float64), *SIZE)


def to_arrays(color, depth) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 [h,w,3] and depth uint16 [h,w], millimetres, of two ImgFrames; the package gives colours as BGR."""
    return np.ascontiguousarray(color.getCvFrame()[..., ::-1]), np.array(depth.getFrame())


def stream(dai=None):
    """Yield (camera, RGB image, depth in millimetres) of each frame. dai: depthai, imported here if not given."""
    if dai is None:
        try:
            import depthai as dai
        except ImportError:
            raise SystemExit("depthai is missing: pip install depthai") from None
    color, left, right = dai.CameraBoardSocket.CAM_A, dai.CameraBoardSocket.CAM_B, dai.CameraBoardSocket.CAM_C
    with dai.Pipeline() as pipeline:
        cameras = {socket: pipeline.create(dai.node.Camera).build(socket) for socket in (color, left, right)}
        picture = cameras[color].requestOutput(SIZE, fps=RATE, enableUndistortion=True)
        stereo, sync = pipeline.create(dai.node.StereoDepth), pipeline.create(dai.node.Sync)
        cameras[left].requestOutput(SIZE, fps=RATE).link(stereo.left)
        cameras[right].requestOutput(SIZE, fps=RATE).link(stereo.right)
        picture.link(stereo.inputAlignTo)  # depth as the colour camera would see it
        picture.link(sync.inputs["color"])
        stereo.depth.link(sync.inputs["depth"])
        pairs = sync.out.createOutputQueue()
        camera = to_camera(pipeline.getDefaultDevice().readCalibration().getCameraIntrinsics(color, *SIZE))
        pipeline.start()
        while pipeline.isRunning():
            pair = pairs.get()
            yield camera, *to_arrays(pair["color"], pair["depth"])


def follow(estimator, frames, detection):
    """Yield the pose of the object in each frame; it is looked for where it was first detected while it is lost."""
    results = []
    for camera, image, depth in frames:
        results = estimator.track(image, camera, results, depth, "mm")
        if not results or not results[0].success:
            results = estimator.estimate(image, camera, [detection], depth, "mm")
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
