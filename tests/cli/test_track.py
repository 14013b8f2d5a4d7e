"""`coop-edge track`: what is followed, what is lost and stays so, frames of videos and folders, exit codes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge import Detection, Estimator, InputError, PoseEstimate, TemplateSet
from coop_edge.cli.frames import frame_rate, open_frames
from coop_edge.cli.main import app
from coop_edge.cli.track import _place, follow
from coop_edge.mesh import Mesh
from tests.estimators import AS_REFINED, SMALL, error_px, knowing, show
from tests.recordings import read_recording
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import Placed, Scene, at, colored_box

MUG = Path(__file__).parents[2] / "docs/examples/mug/mug.obj"
T_MUG = at(0.0, 0.0, 0.5, (0.3, 0.2, 0.1))
FOUND = PoseEstimate(True, T_camera_object=T_MUG, score=0.8, n_inliers=40, object="mug")
FAILED = PoseEstimate(False, "coarse: nothing there", object="mug")
LOST = PoseEstimate(False, "lost: it went away", object="mug")


def invoke(*arguments: object):
    return CliRunner().invoke(app, [*map(str, arguments)])


def pictures(count: int) -> list[np.ndarray]:
    """RGB [48,64,3], each of a colour of its own."""
    return [np.full((48, 64, 3), (200, 20 * i, 0), np.uint8) for i in range(count)]


def write_video(path: Path, count: int) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for picture in pictures(count):
        writer.write(picture[..., ::-1])
    writer.release()
    return path


def write_folder(path: Path, count: int) -> Path:
    path.mkdir()
    for i, picture in enumerate(pictures(count)):
        cv2.imwrite(str(path / f"{i}.png"), picture[..., ::-1])
    return path


class TestFrames:
    def test_a_video_in_red_green_and_blue(self, tmp_path):
        frames = list(open_frames(write_video(tmp_path / "video.avi", 5)))
        assert [name for name, _ in frames] == ["000000", "000001", "000002", "000003", "000004"]
        for (_, image), written in zip(frames, pictures(5), strict=True):
            assert image.dtype == np.uint8
            assert image.flags.c_contiguous
            np.testing.assert_allclose(image.astype(int), written, atol=4)  # JPEG

    def test_a_folder_in_the_order_of_its_numbers(self, tmp_path):
        folder = write_folder(tmp_path / "frames", 11)
        (folder / "notes.txt").write_text("no picture")
        (folder / ".0.png").write_text("hidden")
        frames = list(open_frames(folder))
        assert [name for name, _ in frames] == [f"{i}.png" for i in range(11)]
        for (_, image), written in zip(frames, pictures(11), strict=True):
            np.testing.assert_array_equal(image, written)

    def test_a_video_that_breaks_off_is_not_passed_over_in_silence(self, tmp_path, monkeypatch, caplog):
        path, left = write_video(tmp_path / "video.avi", 5), [True, True, False]
        capture = cv2.VideoCapture(str(path))

        class Broken:
            """OpenCV's, which says the same at the end and where it cannot go on."""

            def __getattr__(self, name):
                return getattr(capture, name)

            def read(self):
                return capture.read() if left.pop(0) else (False, None)

        monkeypatch.setattr(cv2, "VideoCapture", lambda name: Broken())
        assert len(list(open_frames(path))) == 2
        assert "only 2 of its 5 frames could be read" in caplog.text
        assert not capture.isOpened()

    def test_nothing_to_read(self, tmp_path):
        (tmp_path / "empty").mkdir()
        (tmp_path / "text.avi").write_text("hello")
        for name, says in (
            ("nowhere.avi", "nowhere.avi: no such video or folder"),
            ("empty", "empty: no pictures in this folder"),
            ("text.avi", "text.avi: not a video that OpenCV reads"),
        ):
            with pytest.raises(InputError, match=says):
                open_frames(tmp_path / name)

    def test_a_picture_that_cannot_be_read_comes_when_it_comes(self, tmp_path):
        folder = write_folder(tmp_path / "frames", 2)
        (folder / "1.png").write_text("hello")
        frames = open_frames(folder)
        next(frames)
        with pytest.raises(InputError, match=r"1\.png: not an image that OpenCV reads"):
            next(frames)

    def test_a_camera_by_its_number_and_a_stream_by_its_address(self, tmp_path, monkeypatch, caplog):
        opened, path = [], write_video(tmp_path / "video.avi", 3)
        real = cv2.VideoCapture

        def capture(source):
            opened.append(source)
            return real(str(path))

        monkeypatch.setattr(cv2, "VideoCapture", capture)
        monkeypatch.chdir(tmp_path)
        for source, asked in (("0", 0), ("12", 12), ("rtsp://user@host:554/a/b", "rtsp://user@host:554/a/b")):
            frames = list(open_frames(source))
            assert [name for name, _ in frames] == ["000000", "000001", "000002"]
            assert opened.pop() == asked
            assert f"{source}: gave no frame after 3" in caplog.text
        (tmp_path / "7").write_bytes(path.read_bytes())  # a file of that name comes first
        assert len(list(open_frames("7"))) == 3
        assert opened.pop() == "7"
        path.write_text("nothing")
        with pytest.raises(InputError, match="camera 0 gives no picture; is it connected"):
            open_frames("0")
        with pytest.raises(InputError, match="rtsp://nowhere: gives no picture"):
            open_frames("rtsp://nowhere")

    def test_the_rate_of_a_video(self, tmp_path):
        assert frame_rate(write_video(tmp_path / "video.avi", 2)) == 10.0
        assert frame_rate(write_folder(tmp_path / "frames", 1)) == 30.0
        assert frame_rate("0") == 30.0


HIDDEN = (3, 4)


@pytest.fixture(scope="module")
def scenes():
    """A cube that moves and is hidden for two frames, and a bar that stands still."""
    meshes = (
        colored_box((0.1, 0.1, 0.1), name="cube"),
        colored_box((0.16, 0.06, 0.05), name="bar", seed=1),
        colored_box((0.3, 0.3, 0.01), name="board", seed=2),
    )
    scenes = []
    for k in range(8):
        placed = [Placed(0, at(-0.1 + 0.006 * k, 0.03, 0.7, (0.5, 0.7, -0.3))), Placed(1, at(0.18, -0.1, 0.8))]
        if k in HIDDEN:
            placed.append(Placed(2, at(-0.06, 0.02, 0.45)))
        scenes.append(Scene(meshes, tuple(placed), SMALL))
    return scenes


class TestFollow:
    """With networks that know the truth."""

    def run(self, scenes, folder, **options):
        with knowing(folder, scenes[0], config=AS_REFINED) as (estimator, oracle):

            def frames():
                for k, scene in enumerate(scenes[1:], 1):
                    show(oracle, scene)
                    yield str(k), scene.image

            first = ("0", scenes[0].image)
            return list(follow(estimator, SMALL, first, frames(), scenes[0].detections(), **options))

    def test_what_is_lost_stays_lost(self, scenes, tmp_path):
        tracked = self.run(scenes, tmp_path)
        assert [frame.name for frame in tracked] == [str(k) for k in range(8)]
        for k, frame in enumerate(tracked):
            cube, bar = frame.results
            assert bar.success
            assert error_px(bar, scenes[k], 1) < 0.3
            assert cube.success == (k < HIDDEN[0]), (k, cube.reason)
            assert frame.detections == ([None, None] if k else frame.detections)
            assert frame.ms > 0

    def test_it_is_found_again_if_asked_for(self, scenes, tmp_path):
        tracked = self.run(scenes, tmp_path, reregister=True)
        for k, frame in enumerate(tracked):
            cube, bar = frame.results
            assert bar.success
            assert frame.detections[1] is None or k == 0  # only what is lost is looked for
            assert (frame.detections[0] is not None) == (k in (0, *HIDDEN, HIDDEN[-1] + 1))
            if k in HIDDEN:
                assert cube.reason.startswith("lost: ")
            else:
                assert cube.success, (k, cube.reason)
                assert error_px(cube, scenes[k], 0) < 0.3

    def test_the_search_without_boxes_is_what_finds_it_again(self, scenes, tmp_path, monkeypatch):
        """It is followed from the frame in which the search finds it; each frame has the budget given."""
        budgets = []

        def relocate(self, frame, results, index, budget_s):
            budgets.append(budget_s)
            T, out = scenes[len(budgets)].placed[0].T, list(results)
            if not out[0].success and len(budgets) > HIDDEN[-1]:
                out[0] = PoseEstimate(True, T_camera_object=T, score=0.9, object="cube", recovered=True)
            return out

        monkeypatch.setattr("coop_edge.following.Follower.relocate", relocate)
        tracked = self.run(scenes, tmp_path, relocate=True, budget_s=3.0)
        assert budgets == [3.0] * 7
        cubes = [frame.results[0] for frame in tracked]
        assert [cube.success for cube in cubes] == [k not in HIDDEN for k in range(8)]
        assert [cube.recovered for cube in cubes] == [k == HIDDEN[-1] + 1 for k in range(8)]
        assert all(error_px(cubes[k], scenes[k], 0) < 0.3 for k in range(8) if k not in HIDDEN)
        assert all(frame.detections == [None, None] for frame in tracked[1:])

    def test_it_is_looked_for_where_it_was_last_seen(self, scenes, tmp_path):
        scene = scenes[2]
        before = Detection("cube", (1.0, 2.0, 3.0, 4.0))
        with knowing(tmp_path, scene) as (estimator, _):

            def place(T):
                return _place(estimator, SMALL, PoseEstimate(True, T_camera_object=T, object="cube"), before)

            np.testing.assert_allclose(place(scene.placed[0].T).bbox, scene.box(0))
            x, y, w, h = place(at(-0.4, 0.0, 0.7)).bbox  # half outside
            assert (x, y >= 0, x + w <= 320, y + h <= 240) == (0.0, True, True, True)
            for T in (at(5.0, 0.0, 0.7), at(0.0, 0.0, 0.05)):  # beside the image, around the camera
                assert place(T) is before
            failed = PoseEstimate(False, "lost", object="cube")
            assert _place(estimator, SMALL, failed, before) is before


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("tiny"), features=False)


@pytest.fixture(scope="module")
def templates(tmp_path_factory):
    path = tmp_path_factory.mktemp("templates") / "mug.npz"
    TemplateSet.render(Mesh.load(MUG, unit="m"), 32, supersample=1).save(path)
    return path


@pytest.fixture
def options(tmp_path, folder, templates):
    """All but the frames; later options take the place of earlier ones."""
    (tmp_path / "found.json").write_text(json.dumps([{"object": "mug", "bbox": [20, 10, 20, 20]}]))
    return [
        *("--camera", "60,60,31.5,23.5", "--engines", folder, "--device", "cpu", "--threads", 1),
        *("--object", f"mug={MUG}:m", "--templates", f"mug={templates}", "--detections", tmp_path / "found.json"),
    ]


@pytest.fixture
def answer(monkeypatch):
    """Let the Estimator answer the first frame, the others in turn, and what is looked for again."""

    def answer_with(first, *others, again=()):
        calls, first_call, left, found = [], [True], list(others), list(again)

        def estimate(self, image, camera, detections):
            if first_call:
                first_call.clear()
                calls.append(("first", self, image, [d.bbox for d in detections]))
                return list(first)
            calls.append(("again", self, image, [d.bbox for d in detections]))
            return [found.pop(0) for _ in detections]

        def track(self, image, camera, results):
            calls.append(("track", self, image, list(results)))
            return list(left.pop(0))

        monkeypatch.setattr(Estimator, "estimate", estimate)
        monkeypatch.setattr(Estimator, "track", track)
        monkeypatch.setattr(Estimator, "warmup", lambda self: {})
        return calls

    return answer_with


class TestCommand:
    def test_random_networks_lose_everything_and_say_so(self, options, tmp_path):
        result = invoke("track", write_video(tmp_path / "video.avi", 3), *options, "--json")
        lines = [json.loads(line) for line in result.stdout.splitlines()]
        assert [line["frame"] for line in lines] == ["000000", "000001", "000002"]
        assert all(line["ms"] > 0 for line in lines)
        assert all([each["object"] for each in line["results"]] == ["mug"] for line in lines)
        assert result.exit_code == (0 if lines[-1]["results"][0]["success"] else 1)

    @pytest.mark.parametrize(
        ("frames", "code"),
        [
            ([[]], 0),
            ([[FOUND]], 0),
            ([[FAILED]], 1),
            ([[FOUND], [FOUND], [FOUND]], 0),
            ([[FOUND], [FOUND], [LOST]], 1),
            ([[FAILED, FOUND], [LOST, FOUND]], 1),
        ],
    )
    def test_a_line_per_frame_and_exit_codes(self, options, tmp_path, answer, frames, code):
        answer(*frames)
        boxes = [{"object": "mug", "bbox": [20, 10, 20, 20]}] * len(frames[0])
        (tmp_path / "found.json").write_text(json.dumps(boxes))
        result = invoke("track", write_folder(tmp_path / "frames", len(frames)), *options)
        assert result.exit_code == code, result.output
        lines = result.stdout.splitlines()
        assert [line.split("  ")[0] for line in lines] == [f"{i}.png" for i in range(len(frames))]
        for line, results in zip(lines, frames, strict=True):
            assert line.endswith(" ms")
            assert line.count("mug 0.800 found") == sum(each.success for each in results)
            assert all(each.reason in line for each in results)
            assert ("no detections" in line) == (not results)

    def test_files_and_options_arrive(self, options, tmp_path, answer):
        calls = answer([FOUND], [FOUND])
        frames, out = write_folder(tmp_path / "frames", 2), tmp_path / "out"
        more = ["--hypotheses", 3, "--iterations", 4, "--track-iterations", 7, "--overlay", out]
        more += ["--min-score", 0.25, "--effort", "fast"]
        result = invoke("track", frames, *options, *more)
        assert result.exit_code == 0, result.output
        (_, estimator, first, boxes), (_, _, second, before) = calls
        assert (estimator.config.coarse.hypotheses, estimator.config.effort) == (3, "fast")
        assert (estimator.config.refine.iterations, estimator.config.refine.track_iterations) == (4, 7)
        assert estimator.config.select.min_score == 0.25
        assert boxes == [(20, 10, 20, 20)]
        assert before == [FOUND]
        np.testing.assert_array_equal([first, second], pictures(2))
        assert sorted(path.name for path in out.iterdir()) == ["0.png", "1.png"]
        for i, picture in enumerate(pictures(2)):
            drawn = cv2.imread(str(out / f"{i}.png"))[..., ::-1]
            assert drawn.shape == picture.shape
            assert (drawn != picture).any()
            np.testing.assert_array_equal(cv2.imread(str(frames / f"{i}.png"))[..., ::-1], picture)

    def test_a_recording(self, options, tmp_path, answer):
        pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra rerun)")
        answer([FOUND], [FOUND], [LOST])
        frames, out = write_folder(tmp_path / "frames", 3), tmp_path / "out" / "run.rrd"
        assert invoke("track", frames, *options, "--rerun", out).exit_code == 1
        held = read_recording(out)
        assert set(held["/world/objects/mug/0"]["Transform3D:translation"]) == {0, 1}
        assert held["/reasons/mug/0"]["TextLog:text"] == {2: ["mug/0: lost: it went away"]}
        assert held["/world/camera/image/boxes"]["Boxes2D:labels"] == {0: ["mug"], 1: [], 2: []}
        images = held["/world/camera/image"]["EncodedImage:blob"]
        for i, picture in enumerate(pictures(3)):
            decoded = cv2.imdecode(np.array(images[i][0], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            np.testing.assert_allclose(decoded.astype(int), picture, atol=4)  # JPEG

    @pytest.mark.parametrize("suffix", [".mp4", ".avi", ".mkv"])
    def test_a_video_for_the_drawn_frames(self, options, tmp_path, answer, suffix):
        answer([FOUND], [FOUND], [LOST])
        frames, out = write_video(tmp_path / "video.avi", 3), tmp_path / "new" / f"out{suffix}"
        assert invoke("track", frames, *options, "--overlay", out).exit_code == 1
        capture = cv2.VideoCapture(str(out))
        assert capture.get(cv2.CAP_PROP_FPS) == pytest.approx(10.0)
        assert sum(1 for _ in iter(capture.grab, False)) == 3
        assert [path.name for path in out.parent.iterdir()] == [out.name]

    def test_no_json_and_a_camera_that_is_ended_by_ctrl_c(self, options, tmp_path, answer, monkeypatch):
        calls = answer([FOUND], [FOUND])
        path, real = write_video(tmp_path / "video.avi", 3), cv2.VideoCapture
        monkeypatch.setattr(cv2, "VideoCapture", lambda source: real(str(path)))
        left = [True, False]
        track = Estimator.track

        def interrupted(self, *arguments):
            if not left.pop(0):
                raise KeyboardInterrupt
            return track(self, *arguments)

        monkeypatch.setattr(Estimator, "track", interrupted)
        monkeypatch.chdir(tmp_path)
        at = options.index("--object")
        plain = [*options[:at], "--templates", options[at + 3]]
        result = invoke("track", "0", f"{MUG}:m", *plain, "--box", "20,10,20,20", "--overlay", "out.avi")
        assert result.exit_code == 0, result.output
        assert len(result.stdout.splitlines()) == 2
        assert calls[0][3] == [(20, 10, 20, 20)]
        assert sum(1 for _ in iter(real("out.avi").grab, False)) == 2  # what was drawn until then is there

    def test_nothing_is_looked_for_again_unless_asked_for(self, options, tmp_path, answer):
        frames = write_video(tmp_path / "video.avi", 4)
        calls = answer([FAILED], [LOST], [LOST], [LOST])
        assert invoke("track", frames, *options).exit_code == 1
        assert [what for what, *_ in calls if what == "again"] == []
        # Looked for in vain, found, followed.
        calls = answer([FAILED], [LOST], [LOST], [FOUND], again=[FAILED, FOUND])
        result = invoke("track", frames, *options, "--reregister", "--json", "--overlay", tmp_path / "out")
        assert result.exit_code == 0, result.output
        assert [boxes for what, *_, boxes in calls if what == "again" and boxes] == [[(20, 10, 20, 20)]] * 2
        said = [json.loads(line)["results"][0]["reason"] for line in result.stdout.splitlines()]
        assert said == ["coarse: nothing there", "lost: it went away", "", ""]
        assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [f"{i:06d}.png" for i in range(4)]

    def test_a_pose_that_is_not_trusted_neither_ends_the_search_nor_moves_it(self, options, tmp_path, answer):
        frames = write_video(tmp_path / "video.avi", 4)
        doubtful = dataclasses.replace(FOUND, score=0.9, presence=0.5, T_camera_object=at(0.05, 0.0, 0.5))
        calls = answer([FOUND], [doubtful], [LOST], [LOST], again=[doubtful, FOUND])
        result = invoke("track", frames, *options, "--reregister", "--json")
        assert result.exit_code == 0, result.output
        said = [json.loads(line)["results"][0] for line in result.stdout.splitlines()]
        assert [each["reason"] for each in said] == ["", "", "lost: it went away", ""]
        assert said[1]["presence"] == 0.5  # followed still
        (one,), (two,) = [boxes for what, *_, boxes in calls if what == "again"]
        assert one == two  # around the trusted pose of the first frame, not around the doubtful one beside it
        assert one[0] < 31.5 < one[0] + one[2]
        assert abs(one[0] + one[2] / 2 - 31.5) < 4.0

    def test_how_much_trust_is_asked_for_is_an_option(self, options, tmp_path, answer):
        doubtful = dataclasses.replace(FOUND, score=0.1, presence=0.5)
        answer([FOUND], [LOST], again=[doubtful])
        more = ["--reregister", "--set", "advanced.select.trusted_presence=0.5"]
        result = invoke("track", write_video(tmp_path / "video.avi", 2), *options, *more)
        assert result.exit_code == 0, result.output

    @pytest.mark.parametrize(
        ("more", "given"),
        [
            ([], {}),
            (["--relocate"], {"relocate": True}),
            (["--relocate", "--budget", "0.5"], {"relocate": True, "budget_s": 0.5}),
        ],
    )
    def test_what_is_lost_is_looked_for_without_boxes(self, options, tmp_path, answer, monkeypatch, more, given):
        answer([FOUND])
        again = dataclasses.replace(FOUND, recovered=True)
        asked, answers = [], [[LOST], [again]]

        def track(self, image, camera, results, **search):
            asked.append(search)
            return answers.pop(0)

        monkeypatch.setattr(Estimator, "track", track)
        result = invoke("track", write_video(tmp_path / "video.avi", 3), *options, *more)
        assert result.exit_code == 0, result.output
        assert asked == [given, given]
        assert ["found again" in line for line in result.stdout.splitlines()] == [False, False, True]

    @pytest.mark.parametrize(
        ("more", "says"),
        [
            (["--budget", "2"], "--budget 2: only with --relocate"),
            (["--relocate", "--budget", "-1"], "--budget: wanted seconds >= 0, got -1"),
            (["--relocate", "--budget", "nan"], "--budget: wanted seconds >= 0, got nan"),
            (["--relocate", "--reregister"], "leave one of the two out"),
            (["--min-score", "2"], "SelectConfig.min_score = 2.0: wanted a number in [0, 1]"),
            (["--camera", "60,60,31.5"], "--camera: wanted FX,FY,CX,CY or a calibration file"),
            (["--object", "mug"], "object 'mug': wanted MESH:UNIT or NAME=MESH:UNIT"),
            (["--detections", "nowhere.json"], "--detections: wanted a JSON file, got 'nowhere.json'"),
            (["--engines", "coop-nowhere"], "no bundle 'coop-nowhere'"),
            (["--track-iterations", "0"], "RefineConfig.track_iterations = 0: wanted an integer in [1, 100]"),
            (["--track-iterations", "2.5"], "--track-iterations"),
            (["--set", "refine.track_iterations=few"], "wanted an integer, got 'few'"),
            (["--set", "tracking=1"], "EstimatorConfig has no option 'tracking' (options: advanced, coarse, "),
            (["--overlay", "frames"], "is the folder of the frames themselves"),
        ],
    )
    def test_wrong_use_is_one_line_and_exit_code_2(self, options, tmp_path, monkeypatch, more, says):
        monkeypatch.chdir(tmp_path)
        write_folder(tmp_path / "frames", 1)
        result = invoke("track", "frames", *options, *more)
        assert result.exit_code == 2, result.output
        assert says in result.output
        assert "Traceback" not in result.output

    def test_symmetries_and_a_line_per_object(self, options, answer, tmp_path):
        """The line goes to stderr: with --json each line of stdout is a frame."""
        answer([FOUND], [FOUND])
        write_folder(tmp_path / "frames", 2)
        entry = {"diameter": 0.1231, "symmetries_continuous": [{"axis": [0, 0, 1], "offset": [0, 0, 0]}]}
        (tmp_path / "info.json").write_text(json.dumps({"7": entry, "8": {"diameter": 0.5}}))
        at = options.index("--templates")
        command = ["track", tmp_path / "frames", *options[:at], *options[at + 2 :], "--json"]
        command += ["--models-info", tmp_path / "info.json", "--object-id"]
        result = invoke(*command, "7")
        assert result.exit_code == 0, result.output
        assert len([json.loads(line) for line in result.stdout.splitlines()]) == 2
        assert "mug: diameter 0.1231 m, 2388 faces" in result.stderr
        result = invoke(*command, "mug=8")
        assert result.exit_code == 2
        assert "objects of this size: 7" in result.output

    def test_frames_that_are_none(self, options, tmp_path):
        result = invoke("track", tmp_path / "nowhere.avi", *options)
        assert result.exit_code == 2
        assert "nowhere.avi: no such video or folder" in result.output

    def test_a_frame_of_another_size(self, options, tmp_path):
        frames = write_folder(tmp_path / "frames", 2)
        cv2.imwrite(str(frames / "1.png"), np.zeros((40, 64, 3), np.uint8))
        result = invoke("track", frames, *options)
        assert result.exit_code == 2
        assert "frame 1.png: image: wanted RGB [48,64,3], got [40, 64, 3]" in result.output
