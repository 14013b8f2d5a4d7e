"""The examples run: the camera loop, and the demo object's script; the mug is small and without symmetry."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest

from coop_edge.demo import load_scene
from coop_edge.mesh import Mesh
from tests.estimators import AS_REFINED, SMALL, error_px, knowing, show
from tests.runtime.networks import tiny_bundle
from tests.stages.scene import Placed, Scene, at, colored_box

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def test_committed_mug_is_what_its_script_writes(tmp_path):
    make = runpy.run_path(str(EXAMPLES / "make_mug.py"))
    make["main"](tmp_path)
    assert (tmp_path / "mug.mtl").read_text() == (EXAMPLES / "mug" / "mug.mtl").read_text()
    made, kept = (Mesh.load(folder / "mug.obj", unit="m") for folder in (tmp_path, EXAMPLES / "mug"))
    np.testing.assert_array_equal(made.faces, kept.faces)
    np.testing.assert_allclose(made.vertices, kept.vertices, atol=1e-6)
    np.testing.assert_array_equal(made.textures[0], kept.textures[0])
    assert sum(p.stat().st_size for p in (EXAMPLES / "mug").iterdir()) < 400_000


def test_mug_exercises_both_kinds_of_color():
    mug = Mesh.load(EXAMPLES / "mug" / "mug.obj", unit="m")
    assert len(mug.faces) <= 3000
    assert mug.notes == ()
    assert len(mug.textures) == 1
    assert {-1, 0} == set(mug.face_texture.tolist())
    np.testing.assert_array_equal(
        np.unique(mug.corner_colors[mug.face_texture < 0].reshape(-1, 3), axis=0), [[214, 92, 40]]
    )
    assert 0.1 < mug.diameter < 0.15
    label = mug.textures[0][:200].astype(int)
    for turned in (label[:, ::-1], *(np.roll(label, label.shape[1] * k // 6, axis=1) for k in range(1, 6))):
        assert np.abs(label - turned).mean() > 5


class TestCameraLoop:
    PATH = EXAMPLES / "camera_loop.py"

    @pytest.fixture
    def loop(self):
        return runpy.run_path(str(self.PATH))

    def test_it_is_short(self):
        assert len(self.PATH.read_text().splitlines()) <= 40

    def test_objects_are_estimated_once_and_again_after_a_loss(self, loop, tmp_path):
        cube, board = colored_box(name="cube"), colored_box((0.3, 0.3, 0.01), name="board", seed=2)
        scenes, asked = [], []
        for k in range(7):
            placed = [Placed(0, at(-0.02 + 0.006 * k, 0.03, 0.7, (0.5, 0.7, -0.3)))]
            hidden = [Placed(1, at(0.0, 0.0, 0.45))] if k in (3, 4) else []
            scenes.append(Scene((cube, board), tuple(placed + hidden), SMALL))
        with knowing(tmp_path, scenes[0], config=AS_REFINED) as (estimator, oracle):

            def images():
                for scene in scenes:
                    show(oracle, scene)
                    yield scene.image

            def detect(image):
                (k,) = (k for k, scene in enumerate(scenes) if scene.image is image)
                asked.append(k)
                return scenes[k].detections()[:1]

            for k, (result,) in enumerate(loop["follow"](estimator, images(), SMALL, detect)):
                assert result.success == (k not in (3, 4)), (k, result.reason)
                assert not result.success or error_px(result, scenes[k], 0) < 0.3
        assert asked == [0, 3, 4, 5]

    @pytest.mark.parametrize("source", [None, "video.avi", "%02d.png"])
    def test_it_runs_on_the_scene_of_the_demo(self, loop, tmp_path, capsys, source):
        bundle, scene = tiny_bundle(tmp_path / "tiny", features=False), load_scene()
        bgr = cv2.cvtColor(scene.image, cv2.COLOR_RGB2BGR)
        if source == "video.avi":
            writer = cv2.VideoWriter(str(tmp_path / source), cv2.VideoWriter_fourcc(*"MJPG"), 10, scene.camera.size)
            for _ in range(3):
                writer.write(bgr)
            writer.release()
        elif source:
            for i in range(3):
                cv2.imwrite(str(tmp_path / (source % i)), bgr)
        loop["main"](str(tmp_path / source) if source else None, str(bundle))
        lines = capsys.readouterr().out.splitlines()
        assert len(lines) == (3 if source else 5)
        for line in lines:
            assert [part.split(":")[0] for part in line.split("; ")] == [d.object for d in scene.detections]

    def test_frames_are_red_green_and_blue(self, loop, tmp_path):
        cv2.imwrite(str(tmp_path / "00.png"), np.full((4, 6, 3), (30, 20, 10), np.uint8))
        (image,) = loop["frames"](str(tmp_path / "%02d.png"))
        np.testing.assert_array_equal(image, np.full((4, 6, 3), (10, 20, 30)))
