"""Defines what goes into an Estimator and what comes out: frozen, validated on construction, free of any backend.

Pixels: the centre of the top-left pixel is (0, 0). Lengths are metres. ``T_camera_object`` maps object points to camera
points (x right, y down, z forward).
"""

from coop_edge.types.camera import Camera
from coop_edge.types.detection import Detection
from coop_edge.types.result import Motion, PoseEstimate
from coop_edge.types.times import StageTimes

__all__ = ["Camera", "Detection", "Motion", "PoseEstimate", "StageTimes"]
