"""`coop-edge estimate` and `demo`: answers, pictures, exit codes, and wrong use in one readable line."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge import CoarseConfig, Estimator, EstimatorConfig, InputError, PoseEstimate, TemplateSet
from coop_edge.cli.inputs import read_camera, read_detections, read_image
from coop_edge.cli.main import app
from coop_edge.demo import load_scene
from coop_edge.mesh import Mesh
from tests.recordings import read_recording
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import at

ROOT = Path(__file__).parents[2]
MUG = ROOT / "docs/examples/mug/mug.obj"
T_MUG = at(0.0, 0.0, 0.5, (0.3, 0.2, 0.1))


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "mug.npz"
    TemplateSet.render(Mesh.load(MUG, unit="m"), 32, supersample=1).save(path)
    return path


@pytest.fixture
def files(tmp_path):
    """An image, a camera and detections as files."""
    image = np.random.default_rng(0).integers(0, 255, (48, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "image.png"), image)
    (tmp_path / "camera.json").write_text(json.dumps({"fx": 60, "fy": 60, "cx": 31.5, "cy": 23.5}))
    (tmp_path / "found.json").write_text(json.dumps([{"object": "mug", "bbox": [20, 10, 20, 20], "score": 0.7}]))
    return tmp_path


@pytest.fixture
def command(files, folder, templates):
    """A whole command; later options take the place of earlier ones."""
    return [
        *("estimate", "--image", files / "image.png", "--camera", files / "camera.json", "--engines", folder),
        *("--object", f"mug={MUG}:m", "--templates", f"mug={templates}", "--detections", files / "found.json"),
        *("--device", "cpu", "--threads", 1),
    ]


@pytest.fixture
def answer(monkeypatch):
    """Let ``Estimator.estimate`` answer with what the test says, and look at what it was asked."""
    asked = []

    def answer_with(*results):
        def estimate(self, image, camera, detections):
            asked.append((self, image, camera, list(detections)))
            return list(results)

        monkeypatch.setattr(Estimator, "estimate", estimate)
        return asked

    return answer_with


FOUND = PoseEstimate(True, T_camera_object=T_MUG, score=0.8, n_inliers=40, object="mug")
FAILED = PoseEstimate(False, "coarse: nothing there", object="mug")


class TestEstimate:
    def test_random_networks_find_nothing_and_say_so(self, command, files):
        result = invoke(*command, "--json", "--overlay", files / "out.png")
        report = json.loads(result.stdout)
        assert result.exit_code == (0 if report["results"][0]["success"] else 1)
        assert report["engines"] == "tiny"
        assert report["backend"] == {"name": "cpu", "reason": "asked for"}
        assert [entry["object"] for entry in report["results"]] == ["mug"]
        assert report["results"][0]["times"]["coarse_ms"] > 0
        assert cv2.imread(str(files / "out.png")).shape == (48, 64, 3)

    @pytest.mark.parametrize(("results", "code"), [([FOUND], 0), ([FOUND, FAILED], 1), ([FAILED], 1), ([], 0)])
    def test_exit_codes(self, command, files, answer, results, code):
        answer(*results)
        entry = {"object": "mug", "bbox": [20, 10, 20, 20]}
        (files / "found.json").write_text(json.dumps([entry] * len(results)))
        result = invoke(*command)
        assert result.exit_code == code, result.output
        assert "tiny 0.0.1 on cpu (asked for)" in result.stdout
        assert result.stdout.count("found") == sum(each.success for each in results)
        assert result.stdout.count("coarse: nothing there") == sum(not each.success for each in results)

    @pytest.mark.parametrize("reason", ["coarse: too few inliers", "select: score 0.000 is below select.min_score", ""])
    def test_lines_below_the_table_say_what_to_do_next(self, command, files, answer, reason):
        """Once, not for each object: how to get whole poses, and what to check where there is none."""
        failed = PoseEstimate(False, reason, object="mug") if reason else FOUND
        answer(FOUND, failed, failed)
        (files / "found.json").write_text(json.dumps([{"object": "mug", "bbox": [20, 10, 20, 20]}] * 3))
        lines = invoke(*command).stdout.splitlines()
        assert lines.count("whole poses (4x4 matrices, covariances): --json") == 1
        checks = [
            line for line in lines if line.startswith("to check: a box is x, y, width, height and not two corners")
        ]
        assert len(checks) == bool(reason)
        assert all("K" in line and "unit" in line and "docs/guides/detections.md" in line for line in checks)
        answer(failed, failed, failed)
        assert ("--json" in invoke(*command).stdout) == (not reason)
        assert len(invoke(*command, "--json").stdout.splitlines()) == 1

    def test_a_recording(self, command, files, answer):
        pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra rerun)")
        answer(FOUND)
        assert invoke(*command, "--rerun", files / "out" / "run.rrd").exit_code == 0
        held = read_recording(files / "out" / "run.rrd")
        np.testing.assert_allclose(
            held["/world/objects/mug/0"]["Transform3D:translation"][0], [T_MUG[:3, 3]], atol=1e-6
        )
        assert held["/world/camera/image/boxes"]["Boxes2D:half_sizes"] == {0: [[10.0, 10.0]]}
        assert held["/scores/mug/0"]["Scalars:scalars"] == {0: [0.8]}

    def test_a_recording_without_rerun_is_refused_before_anything_is_done(self, command, files, answer, monkeypatch):
        monkeypatch.setitem(sys.modules, "rerun", None)
        asked = answer(FOUND)
        result = invoke(*command, "--rerun", files / "run.rrd")
        assert result.exit_code == 2
        assert "pip install '.[rerun]' in the folder of the checkout" in " ".join(result.output.split())
        assert not asked

    def test_files_and_options_arrive(self, command, files, answer, templates):
        asked = answer(FOUND)
        result = invoke(
            *command, "--hypotheses", 3, "--iterations", 4, "--effort", "best", "--json", "--overlay", files / "out.png"
        )
        assert result.exit_code == 0, result.output
        estimator, image, camera, detections = asked[0]
        assert (estimator.config.coarse.hypotheses, estimator.config.refine.iterations) == (3, 4)
        assert estimator.config.effort == "best"
        np.testing.assert_array_equal(image, cv2.imread(str(files / "image.png"))[..., ::-1])
        np.testing.assert_array_equal(camera.K, [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]])
        assert (detections[0].object, detections[0].bbox, detections[0].score) == ("mug", (20, 10, 20, 20), 0.7)
        np.testing.assert_allclose(json.loads(result.stdout)["results"][0]["T_camera_object"], T_MUG)
        assert (cv2.imread(str(files / "out.png")) != cv2.imread(str(files / "image.png"))).any()

    def test_any_option_can_be_set(self, command, answer):
        asked = answer(FOUND)
        assert invoke(*command, "--hypotheses", 2).exit_code == 0
        result = invoke(*command, "--set", "advanced.lm.loss=huber", "--set", "outline.iterations=0", "--hypotheses", 2)
        assert result.exit_code == 0, result.output
        plain, config = (estimator.config for estimator, *_ in asked)
        assert plain == EstimatorConfig(coarse=CoarseConfig(hypotheses=2))
        assert config == plain.updated(["advanced.lm.loss=huber", "outline.iterations=0"]) != plain

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--image", "nowhere.png"], "nowhere.png: no such image"),
            (["--image", MUG], "not an image that OpenCV reads"),
            (
                ["--camera", "60,60,31.5"],
                "--camera: wanted FX,FY,CX,CY or a calibration file, got '60,60,31.5', which is no file",
            ),
            (["--camera", "60,60,31.5,b"], "--camera: wanted four numbers FX,FY,CX,CY"),
            (["--camera", "60,-60,31.5,23.5"], "focal lengths are fx = 60, fy = -60"),
            (["--object", "mug"], "object 'mug': wanted MESH:UNIT or NAME=MESH:UNIT, such as cup.ply:mm"),
            (["--object", f"cup={MUG}:furlong"], "unit: wanted one of 'm', 'cm', 'mm', 'in'"),
            (["--object", f"cup={MUG}:mm"], "with unit='m' it would be 0.1231 m"),
            (["--object", f"mug={MUG}:m"], "there is an object 'mug' already"),
            (
                ["--templates", "mug=a.npz"],
                "--templates: wanted one file for 'mug', got",
            ),
            (
                ["--templates", "cup=a.npz"],
                "--templates: wanted NAME=TEMPLATES.npz with NAME one of mug, got 'cup=a.npz'",
            ),
            (
                ["--detections", "nowhere.json"],
                "--detections: wanted a JSON file, got 'nowhere.json', which is no file",
            ),
            (["--detections", MUG], "not JSON"),
            (["--overlay", "out.gif2"], "wanted a suffix among"),
            (["--engines", "coop-nowhere"], "no bundle 'coop-nowhere'"),
            (["--device", "npu"], "npu"),
            (["--hypotheses", "43"], "CoarseConfig.hypotheses = 43: wanted an integer in [0, 42]"),
            (["--hypotheses", "few"], "--hypotheses"),
            (["--effort", "most"], "'most'"),
            (["--effort", "fast", "--set", "effort=best"], "effort has been given already, as 'fast'"),
            (["--set", "refine.iteration=3"], "RefineConfig has no option 'iteration'; did you mean 'iterations'?"),
            (["--set", "refine.iterations"], "setting 'refine.iterations': wanted NAME=VALUE"),
            (["--iterations", 4, "--set", "refine.iterations=3"], "refine.iterations has been given already, as 4"),
        ],
    )
    def test_wrong_use_is_one_line_and_exit_code_2(self, command, options, says):
        result = invoke(*command, *options)
        assert result.exit_code == 2, result.output
        assert says in result.output
        assert "Traceback" not in result.output

    def test_one_line_per_object(self, command, answer):
        answer(FOUND)
        line = "mug: diameter 0.1231 m, 2388 faces, colours"
        result = invoke(*command)
        assert line in result.stderr
        result = invoke(*command, "--json")
        assert line in result.stderr
        (entry,) = json.loads(result.stdout)["objects"]
        assert (entry["mesh"], entry["faces"]) == ("mug", 2388)
        assert entry["diameter_m"] == pytest.approx(0.1231, abs=1e-4)
        assert entry["colours"].startswith("colours")

    def test_symmetries(self, command, files, answer, monkeypatch):
        """Of the only object by its number alone, or by name; in the unit of the mesh."""
        asked = answer(FOUND)
        seen, add = [], Estimator.add_object

        def watched(self, name, mesh, **options):
            seen.append(options["symmetries"])
            add(self, name, mesh, **options)

        monkeypatch.setattr(Estimator, "add_object", watched)
        entry = {"diameter": 0.1231, "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0.03, 0, 0]}]}
        (files / "info.json").write_text(json.dumps({"7": entry}))
        at = command.index("--templates")
        plain = [*command[:at], *command[at + 2 :], "--models-info", files / "info.json"]
        for value in ("7", "mug=7"):
            result = invoke(*plain, "--object-id", value)
            assert result.exit_code == 0, result.output
        assert len(seen) == len(asked) == 2
        for symmetries in seen:
            np.testing.assert_allclose(symmetries.continuous[0][1], [0.03, 0, 0])

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--object-id", "7"], "--models-info and --object-id: wanted both or neither"),
            (["--models-info", "info.json"], "--models-info and --object-id: wanted both or neither"),
            (["--models-info", "info.json", "--object-id", "cup=7"], "NAME=ID with NAME one of mug, got 'cup=7'"),
            (["--models-info", "info.json", "--object-id", "mug=x"], "got 'mug=x'"),
            (["--models-info", "info.json", "--object-id", "7", "--object-id", "8"], "one entry for 'mug'"),
            (["--models-info", "info.json", "--object-id", "7"], "templates carry the symmetries"),
            (
                ["--models-info", "info.json", "--object-id", "8"],
                "with unit='mm' object 7, 8 would fit|of this size: 7",
            ),
            (["--models-info", "info.json", "--object-id", "9"], "has no object 9"),
            (["--models-info", "nowhere.json", "--object-id", "9"], "nowhere.json is no file"),
        ],
    )
    def test_wrong_use_of_symmetries(self, command, files, monkeypatch, options, says):
        monkeypatch.chdir(files)
        (files / "info.json").write_text(json.dumps({"7": {"diameter": 0.1231}, "8": {"diameter": 0.3}}))
        result = invoke(*command, *options)
        assert result.exit_code == 2
        assert any(each in result.output for each in says.split("|")), result.output

    def test_templates_that_are_not_there(self, command):
        at = command.index("--templates")
        result = invoke(*command[:at], "--templates", "mug=a.npz", *command[at + 2 :])
        assert result.exit_code == 2
        assert "a.npz: no such template file" in result.output

    def test_an_unknown_object_and_a_box_outside(self, command, files):
        for entry, says in (
            ({"object": "mgu", "bbox": [0, 0, 5, 5]}, "unknown object 'mgu'; did you mean 'mug'?"),
            ({"object": "mug", "bbox": [70, 0, 5, 5]}, "lies outside the 64x48 image"),
        ):
            (files / "found.json").write_text(json.dumps([entry]))
            result = invoke(*command)
            assert result.exit_code == 2
            assert says in result.output


class TestInputs:
    IMAGE = np.zeros((48, 64, 3), np.uint8)
    K = [[60.0, 0.0, 31.5], [0.0, 61.0, 23.5], [0.0, 0.0, 1.0]]  # noqa: RUF012

    @pytest.mark.parametrize(
        "values",
        [
            {"K": K},
            {"cam_K": [60, 0, 31.5, 0, 61, 23.5, 0, 0, 1], "width": 64, "height": 48},
            {"fx": 60, "fy": 61, "cx": 31.5, "cy": 23.5, "distortion": [0, 0, 0, 0]},
            {"fx": 60, "fy": 61, "cx": 31.5, "cy": 23.5, "width": 64, "height": 48, "depth_scale": 0.1},  # BOP's
        ],
    )
    def test_cameras(self, tmp_path, values):
        (tmp_path / "camera.json").write_text(json.dumps(values))
        for text in (str(tmp_path / "camera.json"), "60,61,31.5,23.5"):
            camera = read_camera(text, self.IMAGE)
            np.testing.assert_array_equal(camera.K, self.K)
            assert camera.size == (64, 48)

    def test_a_camera_with_distortion(self, tmp_path):
        values = {"K": self.K, "distortion": [0.1, 0.02, 0, 0], "fisheye": True}
        (tmp_path / "camera.json").write_text(json.dumps(values))
        camera = read_camera(str(tmp_path / "camera.json"), self.IMAGE)
        assert camera.fisheye
        assert camera.distortion.tolist() == [0.1, 0.02, 0.0, 0.0]

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"K": K, "fx": 60}, "wanted either K or all of fx, fy, cx and cy, got K, fx"),
            ({"fx": 60, "fy": 60, "cx": 31.5}, "wanted either K or all of fx, fy, cx and cy, got fx, fy, cx"),
            ({}, "wanted either K or all of fx, fy, cx and cy, got nothing"),
            ({"K": K, "focal": 1}, "unknown key 'focal' (known: K, cam_K, fx"),
            ({"K": K, "width": 640, "height": 480}, "its camera has 640x480 pixels, the image 64x48"),
            ({"K": K, "distortion": [0.1, 0, 0]}, "wanted 4, 5, 8, 12 or 14"),
            ({"K": [1, 2, 3]}, "K: wanted a 3x3 matrix [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], got shape [3]"),
            ({"K": "eye"}, "K: wanted numbers"),
            ([1, 2], "wanted a JSON object with K"),
        ],
    )
    def test_cameras_that_are_none(self, tmp_path, values, says):
        (tmp_path / "camera.json").write_text(json.dumps(values))
        with pytest.raises(InputError) as error:
            read_camera(str(tmp_path / "camera.json"), self.IMAGE)
        assert says in str(error.value)

    def test_detections_with_masks(self, tmp_path):
        mask = np.zeros((48, 64), np.uint8)
        mask[10:20, 30:35] = 255
        cv2.imwrite(str(tmp_path / "mask.png"), mask)
        path = tmp_path / "found.json"
        path.write_text(json.dumps([{"object": "mug", "mask": "mask.png"}]))
        (detection,) = read_detections(path)
        np.testing.assert_array_equal(detection.mask, mask > 0)
        assert detection.bbox == (30, 10, 5, 10)
        path.write_text("[]")
        assert read_detections(path) == []

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"object": "mug"}, "wanted a JSON list"),
            ([3], "detection 0: wanted a JSON object, got 3"),
            (
                [{"object": "mug", "bbox": [0, 0, 5, 5]}, {"object": "mug"}],
                "detection 1: Detection 'mug': wanted bbox=",
            ),
            ([{"bbox": [0, 0, 5, 5]}], "detection 0: Detection.object: wanted a non-empty name, got ''"),
            (
                [{"object": "mug", "box": [0, 0, 5, 5]}],
                "detection 0: unknown key 'box' (known: object, bbox, mask, score)",
            ),
            ([{"object": "mug", "bbox": [0, 0, 5]}], "detection 0: bbox: wanted (x, y, width, height)"),
            ([{"object": "mug", "mask": [[1]]}], "detection 0: mask: wanted the path of a picture"),
            ([{"object": "mug", "mask": "nowhere.png"}], "nowhere.png: no such image"),
            ([{"object": "mug", "bbox": [0, 0, 5, 5], "score": 2}], "detection 0: Detection.score: wanted a number in"),
        ],
    )
    def test_detections_that_are_none(self, tmp_path, values, says):
        path = tmp_path / "found.json"
        path.write_text(json.dumps(values))
        with pytest.raises(InputError) as error:
            read_detections(path)
        assert says in str(error.value)

    def test_an_empty_image_file(self, tmp_path):
        (tmp_path / "empty.png").touch()
        with pytest.raises(InputError, match=r"empty\.png: the file is empty"):
            read_image(tmp_path / "empty.png")

    def test_an_image_is_read_as_the_sensor_saw_it(self, tmp_path):
        """A tag that asks viewers to turn the picture would make it another camera's."""
        from PIL import Image

        pixels = np.zeros((20, 30, 3), np.uint8)
        pixels[:, :10] = (250, 0, 0)
        exif = Image.Exif()
        exif[0x0112] = 6  # turned by 90 degrees
        Image.fromarray(pixels).save(tmp_path / "turned.png", exif=exif)
        np.testing.assert_array_equal(read_image(tmp_path / "turned.png"), pixels)


class TestWithoutJson:
    """The shortest command: a picture, a mesh with its unit, a box and four numbers."""

    @pytest.fixture
    def short(self, files, folder):
        return [
            *("estimate", files / "image.png", f"{MUG}:m", "--camera", "60,60,31.5,23.5"),
            *("--engines", folder, "--device", "cpu", "--threads", 1),
        ]

    def test_the_shortest_command(self, short, answer):
        asked = answer(FOUND)
        result = invoke(*short, "--box", "20,10,20,20")
        assert result.exit_code == 0, result.output
        _, _, camera, (detection,) = asked[0]
        assert (detection.object, detection.bbox) == ("mug", (20, 10, 20, 20))  # named by its file
        assert camera.K.tolist() == [[60, 0, 31.5], [0, 60, 23.5], [0, 0, 1]]

    def test_several_objects_boxes_and_a_file_of_detections(self, short, files, answer):
        asked = answer(*[FOUND] * 4)
        more = [f"cup={MUG}:m", "--box", "cup=1,2,3,4", "--box", "mug=5, 6, 7.5, 8", "--box", "cup=9 1 2 3"]
        result = invoke(*short, *more, "--detections", files / "found.json")
        assert result.exit_code == 0, result.output
        found = [(each.object, each.bbox) for each in asked[0][3]]
        assert found == [
            ("mug", (20, 10, 20, 20)), ("cup", (1, 2, 3, 4)), ("mug", (5, 6, 7.5, 8)), ("cup", (9, 1, 2, 3)),
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            ([], "engines tiny 0.0.1 have no network 'features', by which objects are found without boxes"),
            (["--box", "1,2,3"], "--box: wanted left, top, width and height in pixels, such as 120,80,200,150"),
            (["--box", "1,2,3,w"], "--box: wanted left, top, width and height"),
            (["--box", "1,2,0,4"], "width and height must be positive"),
            (["--box", "cup=1,2,3,4"], "unknown object 'cup'"),
            (
                [f"cup={MUG}:m", "--box", "1,2,3,4"],
                "--box: wanted NAME=X,Y,W,H with NAME one of mug, cup",
            ),
            ([f"{MUG}:m", "--box", "1,2,3,4"], "there is an object 'mug' already"),
            ([str(MUG), "--box", "1,2,3,4"], f"object {str(MUG)!r}: wanted MESH:UNIT or NAME=MESH:UNIT"),
        ],
    )
    def test_wrong_use(self, short, options, says):
        result = invoke(*short, *options)
        assert result.exit_code == 2, result.output
        assert says in result.output

    def test_neither_picture_nor_object(self):
        result = invoke("estimate", "--camera", "60,60,31.5,23.5")
        assert result.exit_code == 2
        assert "wanted IMAGE and an object, such as: IMAGE cup.ply:mm --box X,Y,W,H" in result.output
        result = invoke("estimate", "scene.png", "--camera", "60,60,31.5,23.5", "--box", "1,2,3,4")
        assert "wanted an object, such as" in result.output

    def test_the_help_shows_the_boxes_of_both_kinds(self):
        text = " ".join(CliRunner().invoke(app, ["estimate", "--help"], env={"COLUMNS": "200"}).output.split())
        assert '"bbox": [x, y, width, height]' in text
        assert "[NAME=]X,Y,W,H" in text


class TestDemo:
    SCENE = load_scene()

    @pytest.fixture
    def demo(self, folder, tmp_path):
        return ["demo", "--engines", folder, "--device", "cpu", "--threads", 1, "--output", tmp_path / "demo.png"]

    def results(self, **poses):
        truth = {**self.SCENE.truth, **poses}
        return [
            PoseEstimate(False, "coarse: nothing there", object=d.object)
            if truth[d.object] is None
            else PoseEstimate(True, T_camera_object=truth[d.object], score=0.9, object=d.object)
            for d in self.SCENE.detections
        ]

    def test_examples_are_written_and_the_command_that_is_said_reads_them(self, tmp_path, monkeypatch, answer):
        monkeypatch.chdir(tmp_path)
        said = invoke("demo", "--files", "my examples")
        assert said.exit_code == 0, said.output
        program, *command = shlex.split(said.stdout)
        assert program == "coop-edge"
        asked = answer(*self.results())
        monkeypatch.setattr(Estimator, "warmup", lambda self: {})
        result = invoke(*command, "--device", "cpu", "--threads", 1)
        assert result.exit_code == 0, result.output
        _, image, camera, detections = asked[0]
        np.testing.assert_array_equal(image, self.SCENE.image)
        np.testing.assert_array_equal(camera.K, self.SCENE.camera.K)
        assert [(d.object, d.bbox, d.score) for d in detections] == [
            (d.object, d.bbox, d.score) for d in self.SCENE.detections
        ]
        assert (tmp_path / "my examples" / "poses.png").is_file()
        again = invoke("demo", "--files", "my examples")
        assert again.exit_code == 2
        assert "is there already; give a new folder" in again.output

    def test_the_true_poses_pass(self, demo, tmp_path, answer):
        answer(*self.results())
        result = invoke(*demo, "--json")
        assert result.exit_code == 0, result.output
        report = json.loads(result.stdout)
        assert report["right"]
        assert [entry["object"] for entry in report["results"]] == [d.object for d in self.SCENE.detections]
        assert all(entry["error"]["metres"] < 1e-9 for entry in report["results"])
        assert set(report["seconds"]) == {"load", "objects", "warmup"}
        picture = cv2.imread(str(tmp_path / "demo.png"))[..., ::-1]
        assert 0.02 < (picture != self.SCENE.image).any(axis=2).mean() < 0.2

    @pytest.mark.parametrize(("share", "code"), [(0.09, 0), (0.11, 1)])
    def test_a_pose_off_by_a_tenth_of_the_diameter_is_wrong(self, demo, answer, share, code):
        path, unit = self.SCENE.meshes["house"]
        diameter = Mesh.load(path, unit=unit).diameter
        moved = self.SCENE.truth["house"].copy()
        moved[0, 3] += share * diameter
        answer(*self.results(house=moved))
        result = invoke(*demo)
        assert result.exit_code == code, result.output
        assert f"{share:.1%} of the" in " ".join(result.stdout.split())
        assert ("not every object within 10%" in result.stdout) == bool(code)

    def test_a_turned_object_is_wrong_though_its_middle_is_right(self, demo, answer):
        """A quarter turn about the middle moves a point by sqrt(2) times its distance from the axis."""
        path, unit = self.SCENE.meshes["mug"]
        mesh = Mesh.load(path, unit=unit)
        assert np.linalg.norm(mesh.centre) > 0.01  # not its own frame's origin
        turn = at(0, 0, 0, (0, np.pi / 2, 0))
        turn[:3, 3] = mesh.centre - turn[:3, :3] @ mesh.centre
        answer(*self.results(mug=self.SCENE.truth["mug"] @ turn))
        result = invoke(*demo, "--json")
        assert result.exit_code == 1, result.output
        (error,) = [entry["error"] for entry in json.loads(result.stdout)["results"] if entry["object"] == "mug"]
        moved = np.sqrt(2) * np.hypot(mesh.vertices[:, 0], mesh.vertices[:, 2]).mean()
        assert error["metres"] == pytest.approx(moved, rel=1e-4)
        assert error["diameters"] == pytest.approx(moved / mesh.diameter, rel=1e-4)
        assert error["degrees"] == pytest.approx(90.0, abs=1e-3)

    def test_a_missing_object_fails(self, demo, answer, tmp_path):
        answer(*self.results(mug=None))
        result = invoke(*demo, "--json")
        assert result.exit_code == 1
        report = json.loads(result.stdout)
        assert not report["right"]
        assert [entry["error"] is None for entry in report["results"]] == [
            d.object == "mug" for d in self.SCENE.detections
        ]
        assert (tmp_path / "demo.png").is_file()

    def test_random_networks_do_not_pass(self, demo):
        result = invoke(*demo)
        assert result.exit_code == 1, result.output
        assert "milliseconds: crop" in result.stdout
        assert "Traceback" not in result.output

    def test_any_option_can_be_set(self, demo, answer):
        asked = answer(*self.results())
        assert invoke(*demo, "--set", "coarse.hypotheses=3", "--effort", "fast").exit_code == 0
        assert asked[0][0].config == EstimatorConfig(effort="fast", coarse=CoarseConfig(hypotheses=3))
        result = invoke(*demo, "--set", "hypotheses=3")
        assert result.exit_code == 2
        assert "no option 'hypotheses'; did you mean 'coarse.hypotheses'" in result.output

    def test_engines_that_are_not_there(self, demo):
        result = invoke(*demo, "--engines", "coop-nowhere")
        assert result.exit_code == 2
        assert "no bundle 'coop-nowhere'" in result.output
