"""The ROS 2 node, on stand-ins for rclpy and the messages that take no field and no type which ROS would refuse."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from coop_edge import Estimator, PoseEstimate
from coop_edge.geometry import se3
from tests.estimators import AS_REFINED, SMALL, knowing, show
from tests.stages.scene import Placed, Scene, at, colored_box

PATH = Path(__file__).parents[1] / "docs/examples/ros2_node.py"


def message(name: str, **defaults):
    """A message class: keywords only, its own fields only, and numbers of the field's type only, as ROS has it."""

    def init(self, **values):
        for field, default in defaults.items():
            setattr(self, field, values.pop(field) if field in values else default())
        assert not values, f"{name} has no field {', '.join(values)}"

    def set_field(self, field, value):
        assert field in defaults, f"{name} has no field {field}"
        kind = type(defaults[field]())
        assert isinstance(value, kind) or (kind is bytes and isinstance(value, bytearray)), f"{name}.{field}: {value!r}"
        if kind is list and field in ("covariance", "p", "k"):
            assert len(value) == len(defaults[field]())
            assert all(type(number) is float for number in value)
        object.__setattr__(self, field, value)

    return type(name, (), {"__slots__": tuple(defaults), "__init__": init, "__setattr__": set_field})


Time = message("Time", sec=int, nanosec=int)
Header = message("Header", stamp=Time, frame_id=str)
Point, Vector3 = (message(name, x=float, y=float, z=float) for name in ("Point", "Vector3"))
Quaternion = message("Quaternion", x=float, y=float, z=float, w=float)
Pose = message("Pose", position=Point, orientation=Quaternion)
PoseWithCovariance = message("PoseWithCovariance", pose=Pose, covariance=lambda: [0.0] * 36)
Image = message("Image", header=Header, height=int, width=int, encoding=str, step=int, data=bytes, is_bigendian=int)
CameraInfo = message(
    "CameraInfo",
    header=Header,
    height=int,
    width=int,
    distortion_model=str,
    d=list,
    k=lambda: [0.0] * 9,
    p=lambda: [0.0] * 12,
)
PoseStamped = message("PoseStamped", header=Header, pose=Pose)
Point2D = message("Point2D", x=float, y=float)
Pose2D = message("Pose2D", position=Point2D, theta=float)
BoundingBox2D = message("BoundingBox2D", center=Pose2D, size_x=float, size_y=float)
BoundingBox3D = message("BoundingBox3D", center=Pose, size=Vector3)
ObjectHypothesis = message("ObjectHypothesis", class_id=str, score=float)
ObjectHypothesisWithPose = message("ObjectHypothesisWithPose", hypothesis=ObjectHypothesis, pose=PoseWithCovariance)
Detection2D = message("Detection2D", header=Header, results=list, bbox=BoundingBox2D, id=str)
Detection2DArray = message("Detection2DArray", header=Header, detections=list)
Detection3D = message("Detection3D", header=Header, results=list, bbox=BoundingBox3D, id=str)
Detection3DArray = message("Detection3DArray", header=Header, detections=list)


class Node:
    """rclpy's, as far as the example goes; ``heard`` and ``published`` are for the test to look at."""

    parameters: dict = {}  # noqa: RUF012

    def __init__(self, name):
        self.name, self.heard, self.published, self.logged = name, {}, [], []
        self.topics = {}

    def declare_parameter(self, name, default):
        return types.SimpleNamespace(value=self.parameters.get(name, default))

    def create_publisher(self, kind, topic, qos):
        if kind is PoseStamped:
            self.topics[topic] = []
            return types.SimpleNamespace(publish=self.topics[topic].append)
        assert (kind, topic) == (Detection3DArray, "poses")
        return types.SimpleNamespace(publish=self.published.append)

    def create_subscription(self, kind, topic, callback, qos):
        self.heard[topic] = kind, callback

    def get_logger(self):
        return types.SimpleNamespace(
            warning=lambda text: self.logged.append(("warning", text)),
            error=lambda text: self.logged.append(("error", text)),
        )

    def destroy_node(self):
        self.heard.clear()

    def hear(self, topic, given):
        kind, callback = self.heard[topic]
        assert type(given) is kind
        callback(given)


@pytest.fixture
def example(monkeypatch):
    """The module, imported among the stand-ins."""
    modules = {
        "rclpy": {"init": lambda: None, "try_shutdown": lambda: None},
        "rclpy.executors": {"ExternalShutdownException": type("ExternalShutdownException", (Exception,), {})},
        "rclpy.node": {"Node": Node},
        "rclpy.qos": {"qos_profile_sensor_data": object()},
        "geometry_msgs.msg": {
            "Point": Point,
            "Pose": Pose,
            "PoseStamped": PoseStamped,
            "Quaternion": Quaternion,
            "Vector3": Vector3,
        },
        "sensor_msgs.msg": {"Image": Image, "CameraInfo": CameraInfo},
        "vision_msgs.msg": {
            "Detection2DArray": Detection2DArray,
            "Detection3D": Detection3D,
            "Detection3DArray": Detection3DArray,
            "ObjectHypothesisWithPose": ObjectHypothesisWithPose,
        },
    }
    for name, content in modules.items():
        top = name.split(".")[0]
        if top not in modules:
            monkeypatch.setitem(sys.modules, top, types.ModuleType(top))
        module = types.ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    spec = importlib.util.spec_from_file_location("ros2_node", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def header(k: int):
    return Header(stamp=Time(sec=k, nanosec=7), frame_id="camera_optical")


def image_of(scene: Scene, k: int, encoding="bgr8"):
    """With rows that are padded, as drivers do it."""
    rows = np.ascontiguousarray(scene.image[..., ::-1] if encoding == "bgr8" else scene.image)
    height, width = rows.shape[:2]
    padded = np.concatenate([rows.reshape(height, -1), np.full((height, 5), 99, np.uint8)], axis=1)
    shape = {"height": height, "width": width, "step": 3 * width + 5}
    return Image(header=header(k), encoding=encoding, data=padded.tobytes(), **shape)


def info():
    return CameraInfo(
        header=header(0), width=320, height=240, p=np.hstack([SMALL.K, np.zeros((3, 1))]).ravel().tolist()
    )


def detections_of(scene: Scene, k: int, *more):
    found = [hit(d.object, d.bbox) for d in scene.detections()]
    return Detection2DArray(header=header(k), detections=[*found, *more])


def hit(name, bbox, score=0.9):
    x, y, w, h = bbox
    box = BoundingBox2D(center=Pose2D(position=Point2D(x=x + w / 2, y=y + h / 2)), size_x=w, size_y=h)
    worse = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id="something else", score=score / 2))
    best = ObjectHypothesisWithPose(hypothesis=ObjectHypothesis(class_id=name, score=score))
    return Detection2D(header=header(0), bbox=box, results=[worse, best])


def matrix(pose) -> np.ndarray:
    """[4,4] of a geometry_msgs/Pose, by SciPy."""
    q, p = pose.orientation, pose.position
    return se3.from_rt(Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix(), [p.x, p.y, p.z])


class TestQuaternion:
    def test_random_rotations(self, example):
        for R in se3.random_rotation(np.random.default_rng(0), (200,)):
            x, y, z, w = example.quaternion(R)
            assert w >= 0
            assert x * x + y * y + z * z + w * w == pytest.approx(1.0, abs=1e-12)
            np.testing.assert_allclose(Rotation.from_quat([x, y, z, w]).as_matrix(), R, atol=1e-9)

    @pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.6, 0.0, 0.8), (-0.6, 0.48, 0.64)])
    @pytest.mark.parametrize("angle", [0.0, 1e-9, 1e-4, np.pi / 2, np.pi - 1e-7, np.pi])
    def test_no_half_and_quarter_turns(self, example, axis, angle):
        R = Rotation.from_rotvec(angle * np.array(axis)).as_matrix()
        np.testing.assert_allclose(Rotation.from_quat(example.quaternion(R)).as_matrix(), R, atol=1e-9)

    def test_known_ones(self, example):
        assert example.quaternion(np.eye(3)) == pytest.approx((0, 0, 0, 1))
        quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])  # x to y
        assert example.quaternion(quarter) == pytest.approx((0, 0, np.sqrt(0.5), np.sqrt(0.5)))


class TestImages:
    @pytest.mark.parametrize(
        ("encoding", "pixel"),
        [
            ("rgb8", (1, 2, 3)),
            ("bgr8", (3, 2, 1)),
            ("rgba8", (1, 2, 3, 9)),
            ("bgra8", (3, 2, 1, 9)),
        ],
    )
    def test_encodings(self, example, encoding, pixel):
        rows = np.tile(np.array(pixel, np.uint8), (4, 6, 1)).reshape(4, -1)
        rows = np.concatenate([rows, np.full((4, 3), 77, np.uint8)], axis=1)
        given = Image(height=4, width=6, step=rows.shape[1], encoding=encoding, data=rows.tobytes())
        rgb = example.to_rgb(given)
        assert rgb.flags.c_contiguous
        np.testing.assert_array_equal(rgb, np.tile(np.array((1, 2, 3), np.uint8), (4, 6, 1)))

    def test_grey_and_what_is_no_image(self, example):
        grey = Image(height=2, width=3, step=3, encoding="mono8", data=bytes(range(6)))
        np.testing.assert_array_equal(example.to_rgb(grey)[..., 1], [[0, 1, 2], [3, 4, 5]])
        with pytest.raises(ValueError, match="encoding 'yuv422'; wanted one of rgb8, bgr8"):
            example.to_rgb(Image(height=2, width=3, step=6, encoding="yuv422", data=bytes(12)))
        with pytest.raises(ValueError, match="reshape"):
            example.to_rgb(Image(height=2, width=3, step=9, encoding="rgb8", data=bytes(12)))


class TestDepth:
    @pytest.mark.parametrize("bigendian", [0, 1])
    @pytest.mark.parametrize(("encoding", "dtype", "unit"), [("16UC1", np.uint16, "mm"), ("32FC1", np.float32, "m")])
    def test_encodings(self, example, encoding, dtype, unit, bigendian):
        wanted = (np.arange(12).reshape(3, 4) + 700).astype(dtype)
        raw = wanted.astype(np.dtype(dtype).newbyteorder(">" if bigendian else "<")).view(np.uint8).reshape(3, -1)
        rows = np.concatenate([raw, np.full((3, 5), 77, np.uint8)], axis=1)
        shape = {"height": 3, "width": 4, "step": rows.shape[1], "is_bigendian": bigendian}
        depth, found = example.to_depth(Image(encoding=encoding, data=rows.tobytes(), **shape))
        assert (found, depth.dtype) == (unit, dtype)
        np.testing.assert_array_equal(depth, wanted)

    def test_what_is_no_depth(self, example):
        with pytest.raises(ValueError, match="encoding 'rgb8' of depth; wanted one of 16UC1"):
            example.to_depth(Image(height=2, width=3, step=9, encoding="rgb8", data=bytes(18)))

    @pytest.mark.parametrize("first", ["image", "depth"])
    def test_an_image_waits_for_its_depth(self, example, monkeypatch, tmp_path, first):
        asked = []

        class Known:
            objects = {}  # noqa: RUF012
            warmup = add_object = close = lambda self, *_, **__: None

            def track(self, image, camera, results, *depth):
                asked.append((image.shape, *((d if isinstance(d, str) else float(d[0, 0])) for d in depth)))
                return []

        monkeypatch.setattr(example.Estimator, "from_engines", classmethod(lambda cls, engines, device: Known()))
        monkeypatch.setattr(Node, "parameters", {"depth": True})
        node = example.PoseNode()
        node.hear("camera_info", info())
        for k in range(3):
            depth = np.full((240, 320), 500 + k, np.uint16)
            shape = {"height": 240, "width": 320, "encoding": "16UC1", "step": 640}
            pair = {
                "image": Image(header=header(k), height=240, width=320, encoding="rgb8", step=960, data=bytes(230400)),
                "depth": Image(header=header(k), data=depth.tobytes(), **shape),
            }
            node.hear(first, pair.pop(first))
            assert len(asked) == k
            ((other, message),) = pair.items()
            node.hear(other, message)
        assert asked == [((240, 320, 3), 500.0 + k, "mm") for k in range(3)]
        assert node.waiting == {}
        assert node.logged == []


@pytest.mark.parametrize(
    ("model", "d", "fisheye"),
    [("plumb_bob", [-0.1, 0.01, 0.0, 0.0, 0.0], False), ("equidistant", [0.1, 0.0, 0.0, 0.0], True), ("", [], False)],
)
def test_cameras_of_raw_and_rectified_images(example, model, d, fisheye):
    K, P = SMALL.K.ravel().tolist(), np.hstack([0.9 * SMALL.K + np.diag([0, 0, 0.1]), np.zeros((3, 1))])
    given = CameraInfo(width=320, height=240, distortion_model=model, d=d, k=K, p=P.ravel().tolist())
    raw, rectified = (example.to_camera(given, flag) for flag in (False, True))
    np.testing.assert_array_equal(raw.K, SMALL.K)
    np.testing.assert_array_equal(rectified.K, P[:, :3])
    assert (raw.fisheye, rectified.fisheye, rectified.distortion) == (fisheye, False, None)
    assert (raw.distortion is None) == (not d)


def test_detections_are_the_best_hypothesis_of_what_is_known(example):
    known = hit("cube", (10.0, 20.0, 30.0, 40.0), score=0.8)
    nothing = Detection2D(bbox=BoundingBox2D(size_x=5.0, size_y=5.0))
    given = Detection2DArray(detections=[known, hit("cat", (0.0, 0.0, 5.0, 5.0)), nothing])
    (found,) = example.to_detections(given, {"cube"})
    assert (found.object, found.bbox, found.score) == ("cube", (10.0, 20.0, 30.0, 40.0), 0.8)
    assert example.to_detections(given, set()) == []
    assert example.to_detections(Detection2DArray(), {"cube"}) == []


def test_poses_boxes_and_covariances(example):
    mesh = colored_box((0.1, 0.2, 0.3), name="box", centre=(0.01, -0.02, 0.03))
    T = at(0.1, 0.2, 0.9, (0.3, -2.0, 0.5))
    covariance = np.diag(np.arange(1.0, 7.0)) + 0.1
    results = [
        PoseEstimate(True, T_camera_object=T, score=0.7, object="box", covariance=covariance),
        PoseEstimate(True, T_camera_object=T, score=0.6, object="box"),
    ]
    out = example.to_message(header(3), results, {"box": mesh})
    assert (out.header.stamp.sec, out.header.frame_id) == (3, "camera_optical")
    for each, score, wanted in zip(out.detections, (0.7, 0.6), (covariance, np.zeros((6, 6))), strict=True):
        assert (each.id, each.header.frame_id) == ("box", "camera_optical")
        (hypothesis,) = each.results
        assert (hypothesis.hypothesis.class_id, hypothesis.hypothesis.score) == ("box", score)
        np.testing.assert_allclose(matrix(hypothesis.pose.pose), T, atol=1e-9)
        np.testing.assert_array_equal(np.reshape(hypothesis.pose.covariance, (6, 6)), wanted)
        size = each.bbox.size
        np.testing.assert_allclose([size.x, size.y, size.z], [0.1, 0.2, 0.3], rtol=1e-6)
        np.testing.assert_allclose(matrix(each.bbox.center), T @ at(*mesh.centre), atol=1e-7)
    assert example.to_message(header(3), [], {}).detections == []


class TestNode:
    """With networks that know the truth: a cube that moves, is hidden in the images 4 and 5, and a bar."""

    @pytest.fixture
    def scenes(self):
        cube, board = colored_box(name="cube"), colored_box((0.3, 0.3, 0.01), name="board", seed=2)
        bar = colored_box((0.16, 0.06, 0.05), name="bar", seed=1)
        out = []
        for k in range(9):
            placed = [Placed(0, at(-0.1 + 0.006 * k, 0.03, 0.7, (0.5, 0.7, -0.3))), Placed(1, at(0.18, -0.1, 0.8))]
            hidden = [Placed(2, at(-0.06, 0.02, 0.45))] if k in (4, 5) else []
            out.append(Scene((cube, bar, board), tuple(placed + hidden), SMALL))
        return out

    @pytest.fixture
    def node(self, example, scenes, tmp_path, monkeypatch):
        with knowing(tmp_path, scenes[0], config=AS_REFINED) as (estimator, oracle):
            monkeypatch.setattr(Estimator, "from_engines", classmethod(lambda cls, engines, device: estimator))
            monkeypatch.setattr(Estimator, "warmup", lambda self: {})
            node = example.PoseNode()

            def see(k):
                show(oracle, scenes[k])
                node.hear("image", image_of(scenes[k], k))

            node.see = see
            yield node

    def poses(self, node):
        return {each.id: matrix(each.results[0].pose.pose) for each in node.published[-1].detections}

    def test_found_followed_lost_and_found_again(self, node, scenes):
        node.hear("camera_info", info())
        node.see(0)
        assert self.poses(node) == {}
        node.hear("detections", detections_of(scenes[0], 0, hit("cat", (0.0, 0.0, 9.0, 9.0))))
        for k in range(1, 7):
            node.see(k)
            poses = self.poses(node)
            assert list(poses) == (["cube", "bar"] if k < 4 else ["bar"])
            for name, T in poses.items():
                truth = scenes[k].placed[["cube", "bar"].index(name)].T
                np.testing.assert_allclose(T, truth, atol=2e-3)
            assert node.published[-1].header.stamp.sec == k
        assert [text.split(":")[:2] for level, text in node.logged if level == "warning"] == [["cube", " lost"]]
        node.hear("detections", detections_of(scenes[6], 6))
        node.see(7)
        np.testing.assert_allclose(self.poses(node)["cube"], scenes[7].placed[0].T, atol=2e-3)
        cube, bar = node.topics["pose/cube"], node.topics["pose/bar"]
        assert [[m.header.stamp.sec for m in topic] for topic in (cube, bar)] == [[1, 2, 3, 7], [1, 2, 3, 4, 5, 6, 7]]
        np.testing.assert_allclose(matrix(cube[-1].pose), scenes[7].placed[0].T, atol=2e-3)

    def test_what_is_followed_is_not_looked_for(self, node, scenes, monkeypatch):
        node.hear("camera_info", info())
        node.see(0)
        node.hear("detections", detections_of(scenes[0], 0))
        asked, estimate = [], Estimator.estimate

        def spy(self, image, camera, detections):
            asked.append([each.object for each in detections])
            return estimate(self, image, camera, detections)

        monkeypatch.setattr(Estimator, "estimate", spy)
        node.hear("detections", detections_of(scenes[0], 0))
        node.results.pop("bar")
        node.hear("detections", detections_of(scenes[0], 0))
        assert asked == [[], ["bar"]]

    def test_messages_that_come_too_early_too_late_or_broken(self, node, scenes, example):
        node.see(0)
        assert node.published == []  # no camera yet
        node.hear("camera_info", CameraInfo(header=header(0), width=320, height=240))
        assert node.logged[-1][0] == "error"  # an uncalibrated camera: P is zero
        assert node.logged[-1][1].startswith("camera_info: K:")
        node.hear("camera_info", info())
        node.hear("detections", detections_of(scenes[0], 0))
        assert node.logged[-1] == (
            "warning",
            "detections of an image that is not there (any more); are the stamps the same?",
        )
        for k in range(example.KEPT_IMAGES + 3):
            node.hear("image", image_of(scenes[0], k, "rgb8"))
        assert len(node.images) == example.KEPT_IMAGES
        assert (2, 7) not in node.images
        node.hear("image", Image(header=header(99), height=2, width=2, step=2, encoding="mono16", data=bytes(4)))
        assert node.logged[-1][1].startswith("image: encoding 'mono16'")
        node.hear("image", Image(header=header(99), height=2, width=2, step=2, encoding="mono8", data=bytes(4)))
        assert node.logged[-1][1].startswith("image: image: wanted RGB [240,320,3], got [2, 2, 3]")
        node.hear("detections", detections_of(scenes[0], 9, hit("cube", (900.0, 0.0, 5.0, 5.0))))
        assert "lies outside the 320x240 image" in node.logged[-1][1]

    def test_closing(self, node):
        node.destroy_node()
        assert node.heard == {}
        assert not node.estimator.objects


def test_parameters_and_main(example, tmp_path, monkeypatch):
    made, spun = [], []

    class Recorder:
        def __init__(self, engines, device):
            made.append((engines, device, self))
            self.added, self.warm, self.closed = [], False, False

        def add_object(self, name, mesh, *, unit):
            self.added.append((name, mesh, unit))

        def warmup(self):
            self.warm = True

        def close(self):
            self.closed = True

    monkeypatch.setattr(example.Estimator, "from_engines", Recorder)
    objects = ["cup=/meshes/cup.ply:mm", "", "box=box.obj:m"]
    monkeypatch.setattr(Node, "parameters", {"engines": "coop-s", "device": "cpu", "objects": objects})

    def spin(node):
        spun.append(set(node.heard))
        raise KeyboardInterrupt

    monkeypatch.setattr(example.rclpy, "spin", spin, raising=False)
    example.main()
    ((engines, device, recorder),) = made
    assert (engines, device) == ("coop-s", "cpu")
    assert recorder.added == [("cup", Path("/meshes/cup.ply"), "mm"), ("box", Path("box.obj"), "m")]
    assert recorder.warm
    assert recorder.closed
    assert spun == [{"camera_info", "image", "detections"}]
