r"""ROS 2 node: detections in, poses out; what has been found is followed from image to image.

    python3 ros2_node.py --ros-args -p engines:=coop-xs -p objects:="['cup=/meshes/cup.ply:mm']" \
        -r image:=/camera/image_rect -r camera_info:=/camera/camera_info -r detections:=/detector/detections

Subscribes to `image` (sensor_msgs/Image: rgb8, bgr8, rgba8, bgra8 or mono8), `camera_info` (sensor_msgs/CameraInfo) and
`detections` (vision_msgs/Detection2DArray, with the stamp of the image they were made in; boxes are taken as upright).
Images are rectified, and P holds their intrinsics; with `-p rectified:=false` they are raw, and K and D hold.

With `-p depth:=true` it also subscribes to `depth` (sensor_msgs/Image: 16UC1 millimetres or 32FC1 metres), registered
to the image and with its stamp (RealSense: `/camera/aligned_depth_to_color/image_raw`), and waits for that of each.

Publishes `poses` (vision_msgs/Detection3DArray) and, of each object once it is found, `pose/OBJECT`
(geometry_msgs/PoseStamped), in the frame of the camera: x right, y down, z forward, metres (REP 103's optical frame).
Needs vision_msgs 4 (Humble or newer).

One instance per object is followed. Detections of an object that is being followed are ignored; one that has been lost
is missing from `poses` until the next detection of it.
"""

from __future__ import annotations

import re
from collections import OrderedDict

import numpy as np
import rclpy
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion, Vector3
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import CameraInfo, Image
from vision_msgs.msg import Detection2DArray, Detection3D, Detection3DArray, ObjectHypothesisWithPose

from coop_edge import Camera, CoopEdgeError, Detection, Estimator
from coop_edge.cli.inputs import parse_objects

CHANNELS = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0], "mono8": [0, 0, 0]}
PIXEL_BYTES = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}
DEPTHS = {"16UC1": (np.uint16, "mm"), "mono16": (np.uint16, "mm"), "32FC1": (np.float32, "m")}
"""Of REP 118: types and units of depth images."""
KEPT_IMAGES = 30
"""A detector may be this many images late."""


class PoseNode(Node):
    """One Estimator; rclpy's default executor calls it from one thread, as it must be."""

    def __init__(self) -> None:
        super().__init__("coop_edge")
        engines = self.declare_parameter("engines", "coop-xs").value
        device = self.declare_parameter("device", "auto").value
        objects = self.declare_parameter("objects", [""]).value  # ROS has no type for an empty list
        self.estimator = Estimator.from_engines(engines, device=device)
        for each in parse_objects([text for text in objects if text]):
            self.estimator.add_object(each.name, each.mesh, unit=each.unit)
        self.estimator.warmup()
        self.camera: Camera | None = None
        self.images: OrderedDict[tuple[int, int], tuple] = OrderedDict()  # and the arguments for their depth
        self.results: dict = {}  # object -> the last pose, while it is being followed
        self.rectified = self.declare_parameter("rectified", True).value
        self.publisher = self.create_publisher(Detection3DArray, "poses", 10)
        self.single: dict = {}  # object -> the publisher of its pose alone
        self.create_subscription(CameraInfo, "camera_info", self.on_camera, qos_profile_sensor_data)
        self.waiting: dict = {}  # stamp -> the image, or the depth, whose other half is not there yet
        self.with_depth = self.declare_parameter("depth", False).value
        if self.with_depth:
            self.create_subscription(Image, "depth", self.on_depth, qos_profile_sensor_data)
        self.create_subscription(Image, "image", self.on_image, qos_profile_sensor_data)
        self.create_subscription(Detection2DArray, "detections", self.on_detections, 10)

    def on_camera(self, message) -> None:
        try:
            self.camera = to_camera(message, self.rectified)
        except CoopEdgeError as error:
            self.get_logger().error(f"camera_info: {error}")

    def on_image(self, message) -> None:
        """Follow what is known, once the depth is there, if there is to be any."""
        if not self.with_depth:
            self.follow(message, None)
        elif (depth := self.waiting.pop(stamp_of(message), None)) is not None:
            self.follow(message, depth)
        else:
            self.wait(message)

    def on_depth(self, message) -> None:
        """Follow what is known, once the image is there."""
        if (image := self.waiting.pop(stamp_of(message), None)) is not None:
            self.follow(image, message)
        else:
            self.wait(message)

    def wait(self, message) -> None:
        """Keep the first half of a pair, and no more than ``KEPT_IMAGES`` of them."""
        self.waiting[stamp_of(message)] = message
        while len(self.waiting) > KEPT_IMAGES:
            self.waiting.pop(next(iter(self.waiting)))

    def follow(self, message, depth) -> None:
        """Follow what is known through an image and its depth (None: there is none), and publish where it is."""
        if self.camera is None:
            return
        try:
            image, measured = to_rgb(message), () if depth is None else to_depth(depth)
            self.images[stamp_of(message)] = image, measured
            while len(self.images) > KEPT_IMAGES:
                self.images.popitem(last=False)
            results = self.estimator.track(image, self.camera, list(self.results.values()), *measured)
        except (CoopEdgeError, ValueError) as error:
            self.get_logger().error(f"image: {error}")
            return
        for result in results:
            if not result.success:
                self.get_logger().warning(f"{result.object}: {result.reason}")
        self.results = {result.object: result for result in results if result.success}
        self.publisher.publish(to_message(message.header, self.results.values(), self.estimator.objects))
        for name, result in self.results.items():
            if name not in self.single:
                topic = "pose/" + re.sub(r"\W", "_", name)  # what ROS takes in a name
                self.single[name] = self.create_publisher(PoseStamped, topic, 10)
            self.single[name].publish(PoseStamped(header=message.header, pose=to_pose(result.T_camera_object)))

    def on_detections(self, message) -> None:
        """Find what is not being followed, in the image that the detections are of."""
        image, measured = self.images.get(stamp_of(message), (None, ()))
        if image is None or self.camera is None:
            self.get_logger().warning("detections of an image that is not there (any more); are the stamps the same?")
            return
        known = set(self.estimator.objects) - set(self.results)
        try:
            results = self.estimator.estimate(image, self.camera, to_detections(message, known), *measured)
        except CoopEdgeError as error:
            self.get_logger().error(f"detections: {error}")
            return
        for result in results:
            if not result.success:
                self.get_logger().warning(f"{result.object}: {result.reason}")
            elif result.object not in self.results or result.presence > self.results[result.object].presence:
                self.results[result.object] = result

    def destroy_node(self) -> None:
        self.estimator.close()
        super().destroy_node()


def stamp_of(message) -> tuple[int, int]:
    return message.header.stamp.sec, message.header.stamp.nanosec


def to_camera(message, rectified: bool) -> Camera:
    """Camera of a sensor_msgs/CameraInfo: of rectified images by P, of raw ones by K and D."""
    if rectified:
        return Camera(np.reshape(message.p, (3, 4))[:, :3], message.width, message.height)
    fisheye = message.distortion_model in ("equidistant", "fisheye")
    distortion = list(message.d) or ([0.0] * 4 if fisheye else None)
    return Camera(np.reshape(message.k, (3, 3)), message.width, message.height, distortion, fisheye)


def to_rgb(message) -> np.ndarray:
    """RGB uint8 [h,w,3] of a sensor_msgs/Image; its rows may be padded. Raises ValueError."""
    if message.encoding not in CHANNELS:
        raise ValueError(f"encoding {message.encoding!r}; wanted one of {', '.join(CHANNELS)}")
    size = PIXEL_BYTES[message.encoding]
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    pixels = rows[:, : message.width * size].reshape(message.height, message.width, size)
    return np.ascontiguousarray(pixels[..., CHANNELS[message.encoding]])


def to_depth(message) -> tuple[np.ndarray, str]:
    """Depth [h,w] and its unit of a sensor_msgs/Image; its rows may be padded. Raises ValueError."""
    if message.encoding not in DEPTHS:
        raise ValueError(f"encoding {message.encoding!r} of depth; wanted one of {', '.join(DEPTHS)}")
    dtype, unit = DEPTHS[message.encoding]
    size = np.dtype(dtype).itemsize
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)[:, : message.width * size]
    order = ">" if message.is_bigendian else "<"
    return np.ascontiguousarray(rows).view(np.dtype(dtype).newbyteorder(order)).astype(dtype), unit


def to_detections(message, known) -> list[Detection]:
    """Of a Detection2DArray, those whose best hypothesis is one of the objects ``known``."""
    found = []
    for each in message.detections:
        best = max((result.hypothesis for result in each.results), key=lambda h: h.score, default=None)
        if best is not None and best.class_id in known:
            box, score = each.bbox, float(np.clip(best.score, 0.0, 1.0))
            corner = box.center.position.x - box.size_x / 2, box.center.position.y - box.size_y / 2
            found.append(Detection(best.class_id, (*corner, box.size_x, box.size_y), score=score))
    return found


def to_message(header, results, meshes):
    """Detection3DArray of poses in the frame of ``header``. The box is centred at the mesh and turned with it."""
    message = Detection3DArray(header=header)
    for result in results:
        T, mesh = result.T_camera_object, meshes[result.object]
        detection = Detection3D(header=header, id=result.object)
        hypothesis = ObjectHypothesisWithPose()
        hypothesis.hypothesis.class_id, hypothesis.hypothesis.score = result.object, result.score
        hypothesis.pose.pose = to_pose(T)
        if result.covariance is not None:  # the same order as ROS's: x, y, z, then rotations about these axes
            hypothesis.pose.covariance = result.covariance.ravel().tolist()
        detection.results.append(hypothesis)
        low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)  # vertices are stored relative to mesh.centre
        middle = T.copy()
        middle[:3, 3] += T[:3, :3] @ (mesh.centre + (low + high) / 2)
        detection.bbox.center = to_pose(middle)
        detection.bbox.size = Vector3(**dict(zip("xyz", map(float, high - low), strict=True)))
        message.detections.append(detection)
    return message


def to_pose(T) -> Pose:
    x, y, z, w = quaternion(T[:3, :3])
    position = Point(**dict(zip("xyz", map(float, T[:3, 3]), strict=True)))
    return Pose(position=position, orientation=Quaternion(x=x, y=y, z=z, w=w))


def quaternion(R) -> tuple[float, float, float, float]:
    """Unit quaternion (x, y, z, w), w >= 0, of a rotation matrix [3,3].

    The eigenvector of the largest eigenvalue of Bar-Itzhack's symmetric matrix (J. Guidance, 2000): exact and stable
    for all angles, 180 degrees included.
    """
    R = np.asarray(R, np.float64)
    N = np.zeros((4, 4))
    N[:3, :3] = R + R.T - np.trace(R) * np.eye(3)
    N[:3, 3] = N[3, :3] = R[2, 1] - R[1, 2], R[0, 2] - R[2, 0], R[1, 0] - R[0, 1]
    N[3, 3] = np.trace(R)
    q = np.linalg.eigh(N)[1][:, -1]
    x, y, z, w = (q if q[3] >= 0 else -q).tolist()
    return x, y, z, w


def main() -> None:
    rclpy.init()
    node = PoseNode()
    try:
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass  # the usual ends of a node
    finally:
        node.destroy_node()
        rclpy.try_shutdown()


if __name__ == "__main__":
    main()
