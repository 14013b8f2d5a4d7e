"""Many images on one machine: order, a worker that dies, a corrupt image, going on after a stop, and the files."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge.annotate import local
from coop_edge.annotate.files import write_files
from coop_edge.annotate.items import Item, list_items
from coop_edge.annotate.worker import Setup, Worker
from coop_edge.base.journal import Journal
from coop_edge.cli.main import app
from coop_edge.errors import InputError, MeshError
from coop_edge.geometry.masks import decode_rle
from tests.annotate.runs import CAMERA, IDS, items_of, pictures, setup_of, video
from tests.recordings import read_recording

COUNT, CORRUPT = 24, (5,)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The items and setup of a small run, and its lines as one worker says them, image by image."""
    folder = tmp_path_factory.mktemp("small")
    setup = setup_of(folder)
    items = items_of(pictures(folder / "images", COUNT, CORRUPT))
    worker = Worker(setup)
    return items, setup, [worker(item) for item in items]


def test_a_line_says_all_of_an_image(small):
    items, _, lines = small
    line = json.loads(lines[0])
    assert (line["index"], line["scene"], line["image"], line["name"]) == (0, 0, 0, "0000.png")
    assert (line["width"], line["height"]) == (64, 48)
    (result,) = line["results"]
    assert result["object"] == "cube"
    assert "times" not in result
    assert any(r["success"] for each in lines if "error" not in each for r in json.loads(each)["results"])
    broken = json.loads(lines[5])
    assert "0005.png" in broken["error"]
    assert "results" not in broken
    assert Item.parse(items[3].plain()) == items[3]


def test_the_pool_says_the_same_in_the_same_order_though_a_worker_is_killed(small):
    items, setup, lines = small
    run = local.run_local(items, setup, 2)
    found = [next(run)]
    victim = next(p for p in multiprocessing.active_children() if p.is_alive())
    os.kill(victim.pid, signal.SIGKILL)
    found += list(run)
    assert found == lines


def test_an_image_that_no_worker_survives_is_named_and_the_others_are_done(small, monkeypatch):
    items, setup, _ = small
    monkeypatch.setattr(local, "Worker", Deadly)
    found = list(local.run_local(items[:6], setup, 2))
    assert [line for i, line in enumerate(found) if i != 3] == ["fine"] * 5
    assert "its worker died, 3 times" in json.loads(found[3])["error"]
    assert json.loads(found[3])["name"] == "0003.png"


class Deadly:
    """A worker that the fourth image kills."""

    def __init__(self, setup):
        assert setup.engines

    def __call__(self, item):
        if item.index == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return "fine"


def test_a_mesh_that_is_not_there_ends_the_run_and_says_so(small):
    items, setup, _ = small
    (name, _, unit, templates) = setup.objects[0]
    wrong = dataclasses.replace(setup, objects=((name, "/nowhere/cube.ply", unit, templates),))
    with pytest.raises(MeshError, match="nowhere"):
        list(local.run_local(items, wrong, 2))


def test_no_images(small):
    assert list(local.run_local([], small[1], 2)) == []


class TestFiles:
    @pytest.fixture
    def written(self, small, tmp_path):
        _, _, lines = small
        with Journal(tmp_path / "a.jsonl", {}, "give another folder") as journal:
            for line in lines:
                journal.append(line)
        return tmp_path, write_files(tmp_path / "a.jsonl", tmp_path, IDS), [json.loads(line) for line in lines]

    def test_bop(self, written):
        root, _, lines = written
        scene = root / "bop/000000"
        camera, gt, info, names = (
            json.loads((scene / f"{name}.json").read_text())
            for name in ("scene_camera", "scene_gt", "scene_gt_info", "images")
        )
        assert list(camera) == list(gt) == list(info) == [str(i) for i in range(COUNT) if i not in CORRUPT]
        assert names["7"] == "0007.png"
        rows = (root / "bop_results.csv").read_text().splitlines()
        assert rows[0] == "scene_id,im_id,obj_id,score,R,t,time"
        found = [(line, r) for line in lines if "error" not in line for r in line["results"] if r["success"]]
        assert len(rows) - 1 == len(found) > 0
        line, result = found[0]
        T = np.array(result["T_camera_object"])
        entry = gt[str(line["image"])][0]
        np.testing.assert_allclose(entry["cam_t_m2c"], 1000 * T[:3, 3])
        np.testing.assert_allclose(np.array(rows[1].split(",")[5].split(), float), 1000 * T[:3, 3], rtol=1e-9)
        assert len(info[str(line["image"])]) == len(gt[str(line["image"])])

    def test_coco(self, written):
        root, summary, _ = written
        coco = json.loads((root / "coco.json").read_text())
        assert [i["id"] for i in coco["images"]] == [i + 1 for i in range(COUNT) if i not in CORRUPT]
        assert len(coco["annotations"]) == summary.found
        for annotation in coco["annotations"]:
            mask = decode_rle(annotation["segmentation"])
            assert mask.shape == (48, 64)
            assert mask.sum() == annotation["area"]
        assert [a["id"] for a in coco["annotations"]] == list(range(1, summary.found + 1))

    def test_the_page_and_what_failed(self, written):
        root, summary, _ = written
        assert (summary.images, [name for name, _ in summary.failed]) == (COUNT, ["0005.png"])
        assert summary.found + summary.missed == COUNT - 1
        page = (root / "index.html").read_text()
        assert f"<h1>{COUNT} images</h1>" in page
        assert "0005.png" in page

    def test_nothing(self, tmp_path):
        with Journal(tmp_path / "a.jsonl", {}, "give another folder"):
            pass
        assert write_files(tmp_path / "a.jsonl", tmp_path, IDS).images == 0
        assert json.loads((tmp_path / "coco.json").read_text())["images"] == []


class TestItems:
    def test_bop_scenes_bring_cameras_and_boxes(self, tmp_path):
        scene = tmp_path / "test/000002"
        (scene / "rgb").mkdir(parents=True)
        K = [60.0, 0, 31.5, 0, 60, 23.5, 0, 0, 1]
        (scene / "scene_camera.json").write_text(json.dumps({"10": {"cam_K": K}, "9": {"cam_K": K, "depth_scale": 1}}))
        (scene / "scene_gt.json").write_text(json.dumps({"9": [{"obj_id": 5}, {"obj_id": 6}], "10": [{"obj_id": 5}]}))
        boxes = {"9": [{"bbox_visib": [1, 2, 3, 4]}] * 2, "10": [{"bbox_visib": [-1, -1, -1, -1]}]}
        (scene / "scene_gt_info.json").write_text(json.dumps(boxes))
        (scene / "rgb/000009.png").write_bytes(b"")
        for source in (tmp_path / "test", scene):
            first, second = list_items([source], None, None, {"cup": 5})
            assert (first.scene, first.image, first.name) == (2, 9, "000002/000009.png")
            assert first.detections == [{"object": "cup", "bbox": [1, 2, 3, 4]}]
            assert second.detections == []
            np.testing.assert_array_equal(first.camera_of(np.zeros((48, 64, 3), np.uint8)).K, np.reshape(K, (3, 3)))

    def test_detections_of_every_kind(self, tmp_path):
        folder = pictures(tmp_path / "images", 3)
        coco = {
            "images": [{"id": 4, "file_name": "0001.png"}],
            "categories": [{"id": 9, "name": "cube"}, {"id": 8, "name": "cat"}],
            "annotations": [
                {"image_id": 4, "category_id": 9, "bbox": [1, 2, 3, 4]},
                {"image_id": 4, "category_id": 8, "bbox": [1, 2, 3, 4]},
            ],
        }
        bop = [{"scene_id": 0, "image_id": 1, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 0.5}]
        for content, score in (
            (coco, 1.0),
            (bop, 0.5),
            ({"0001.png": [{"object": "cube", "bbox": [1, 2, 3, 4]}]}, 1.0),
        ):
            (tmp_path / "found.json").write_text(json.dumps(content))
            items = list_items([folder], CAMERA, tmp_path / "found.json", IDS)
            wanted = [{"object": "cube", "bbox": [1, 2, 3, 4], "score": score}]
            assert [item.detections for item in items] == [[], wanted, []]
        (tmp_path / "found.json").write_text(json.dumps({"nowhere.png": []}))
        with pytest.raises(InputError, match=r"has detections for 'nowhere\.png', which no source holds"):
            list_items([folder], CAMERA, tmp_path / "found.json", IDS)

    def test_several_sources_are_several_scenes(self, tmp_path):
        folders = [pictures(tmp_path / name / "images", 2) for name in "ab"]
        items = list_items(folders, CAMERA, None, IDS)
        assert [(item.index, item.scene, item.image) for item in items] == [(0, 0, 0), (1, 0, 1), (2, 1, 0), (3, 1, 1)]
        assert all(item.detections is None for item in items)

    @pytest.mark.parametrize(
        ("name", "camera", "says"),
        [
            ("nowhere", CAMERA, "no such image, folder"),
            ("", CAMERA, "no pictures in this folder"),
            ("", None, "--camera is"),
        ],
    )
    def test_wrong_sources(self, tmp_path, name, camera, says):
        with pytest.raises(InputError, match=says):
            list_items([tmp_path / name], camera, None, IDS)


def test_the_command_and_its_second_run(small, tmp_path):
    """It reports what failed with exit code 1, and a second run finds all there."""
    _, setup, lines = small
    folder = setup.objects[0][1].rpartition("/")[0]
    options = ["annotate", f"{folder}/images", "--camera", CAMERA, "--object", f"cube={setup.objects[0][1]}:m"]
    options += ["--detections", f"{folder}/boxes.json", "-o", str(tmp_path / "out"), "--engines", setup.engines]
    options += [part for each in setup.config for part in ("--set", each)] + ["--device", "cpu", "--workers", "2"]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 1, result.output
    assert f"{COUNT} images: " in result.output
    assert "failed: 0005.png" in result.output
    record = tmp_path / "out/annotations.jsonl"
    assert record.read_text().splitlines()[1:] == lines
    before = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:21]) + b"half")
    again = CliRunner().invoke(app, options)
    assert "20 of 24 images are there already" in again.output
    assert {path: path.read_bytes() for path in before} == before
    other = CliRunner().invoke(app, [*options, "--no-masks"])
    assert other.exit_code == 2
    assert "masks was true, now false" in " ".join(other.output.split())


def test_without_rerun_the_command_ends_before_it_does_anything(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rerun", None)
    folder = small[1].objects[0][1].rpartition("/")[0]
    options = ["annotate", f"{folder}/images", "--camera", CAMERA, "--object", f"cube={folder}/cube.ply:m"]
    result = CliRunner().invoke(app, [*options, "-o", str(tmp_path / "out"), "--rerun", str(tmp_path / "a.rrd")])
    assert result.exit_code == 2
    assert re.search(r"--rerun needs Rerun .*pip install '\.\[rerun\]'", " ".join(result.output.split()))
    assert not (tmp_path / "out").exists()


def test_a_folder_whose_pictures_were_exchanged_is_not_gone_on_with(small, tmp_path, monkeypatch):
    """As many as before, so that every image would have another one's poses."""
    _, setup, _ = small
    pictures(tmp_path / "images", 4)
    monkeypatch.setattr(local, "run_local", lambda items, setup, workers: (Named()(item) for item in items))
    options = ["annotate", str(tmp_path / "images"), "--camera", CAMERA, "--object", f"cube={setup.objects[0][1]}:m"]
    options += ["--engines", setup.engines, "-o", str(tmp_path / "out")]
    assert CliRunner().invoke(app, options).exit_code == 0
    record = tmp_path / "out/annotations.jsonl"
    record.write_bytes(b"".join(record.read_bytes().splitlines(keepends=True)[:-1]))
    kept = record.read_bytes()
    (tmp_path / "images/0000.png").rename(tmp_path / "images/0002b.png")
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert "the sources hold other images than in the earlier run: image 0 was 0000.png, now it is 0001.png" in said
    assert record.read_bytes() == kept
    for name in ("0001.png", "0002b.png"):
        (tmp_path / "images" / name).unlink()
    result = CliRunner().invoke(app, options)
    assert "the earlier run had other options: images was 4, now 2" in " ".join(result.output.split())


class Named:
    """A worker that finds nothing in any image."""

    def __call__(self, item):
        said = {"index": item.index, "scene": 0, "image": item.image, "name": item.name, "width": 64, "height": 48}
        return json.dumps({**said, "camera": {}, "results": []})


@pytest.mark.parametrize(
    ("given", "address"),
    [
        (["--ray"], None),
        (["--ray", "--no-masks"], None),
        (["--ray", "local"], None),
        (["--ray", "auto"], "auto"),
        (["--ray=10.0.0.1:6379"], "10.0.0.1:6379"),
        (["--ray", "-o", "OUT"], None),
    ],
)
def test_ray_with_and_without_an_address(small, tmp_path, monkeypatch, given, address):
    _, setup, lines = small
    asked = []

    def run(items, setup, workers, at):
        asked.append((len(items), workers, at))
        return lines

    monkeypatch.setattr("coop_edge.annotate.on_ray.run_on_ray", run)
    monkeypatch.setattr("coop_edge.annotate.on_ray.import_ray", lambda: None)
    folder = setup.objects[0][1].rpartition("/")[0]
    options = ["annotate", f"{folder}/images", "--camera", CAMERA, "--object", f"cube={folder}/cube.ply:m"]
    out = [] if "-o" in given else ["-o", str(tmp_path / "out")]
    end = [str(tmp_path / "out") if text == "OUT" else text for text in given]
    result = CliRunner().invoke(app, [*options, "--engines", setup.engines, *out, *end])
    assert result.exit_code == 1, result.output  # one image is corrupt
    assert asked == [(COUNT, 0, address)]


def test_without_ray_the_command_names_the_extra(small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    folder = small[1].objects[0][1].rpartition("/")[0]
    options = ["annotate", f"{folder}/images", "--camera", CAMERA, "--object", f"cube={folder}/cube.ply:m"]
    result = CliRunner().invoke(app, [*options, "-o", str(tmp_path / "out"), "--ray"])
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()
    assert re.search(
        r"error: BackendUnavailable: --ray needs Ray .*pip install '\.\[ray\]'", " ".join(result.output.split())
    )


@pytest.mark.parametrize(
    ("given", "gpu", "wanted"),
    [
        (["--device", "cuda"], True, 1),
        (["--device", "auto"], True, 1),
        (["--device", "auto"], False, 7),
        (["--device", "cpu"], True, 7),
        (["--device", "cuda", "--workers", "3"], True, 3),
    ],
)
def test_a_gpu_has_one_worker_unless_more_are_asked_for(small, tmp_path, monkeypatch, given, gpu, wanted):
    _, setup, lines = small
    asked = []
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    monkeypatch.setattr("coop_edge.backend.probe_cuda", lambda: None if gpu else "no GPU here")
    monkeypatch.setattr(local, "run_local", lambda items, setup, workers: asked.append(workers) or lines)
    folder = setup.objects[0][1].rpartition("/")[0]
    options = ["annotate", f"{folder}/images", "--camera", CAMERA, "--object", f"cube={folder}/cube.ply:m"]
    result = CliRunner().invoke(app, [*options, "--engines", setup.engines, "-o", str(tmp_path / "out"), *given])
    assert result.exit_code == 1, result.output
    assert asked == [wanted]


def test_videos_are_annotated_frame_by_frame(small, tmp_path):
    """The lines are those of the frames as pictures, but for their names."""
    _, setup, _ = small
    wanted = video(tmp_path / "clip.avi", 5)
    boxes = [{"object": "cube", "bbox": [20, 10, 20, 20]}]
    names = [f"clip.avi/{i:06d}" for i in range(5)]
    (tmp_path / "boxes.json").write_text(json.dumps(dict.fromkeys(names, boxes)))
    items = list_items([tmp_path / "clip.avi"], CAMERA, tmp_path / "boxes.json", IDS)
    assert [(item.name, item.frame) for item in items] == [(name, i) for i, name in enumerate(names)]
    for order in (range(5), (3, 1, 4)):
        for i in order:
            np.testing.assert_array_equal(items[i].read(), wanted[i])
    (tmp_path / "frames").mkdir()
    for i, image in enumerate(wanted):
        cv2.imwrite(str(tmp_path / f"frames/{i}.png"), image[..., ::-1])
    (tmp_path / "boxes.json").write_text(json.dumps({f"{i}.png": boxes for i in range(5)}))
    pictures = list_items([tmp_path / "frames"], CAMERA, tmp_path / "boxes.json", IDS)
    assert [len(item.detections) for item in pictures] == [1] * 5
    worker = Worker(setup)
    for frame, picture in zip(items, pictures, strict=True):
        one, other = (json.loads(worker(item)) for item in (frame, picture))
        assert {**one, "name": ""} == {**other, "name": ""}
        assert "results" in one
    (tmp_path / "no.avi").write_bytes(b"RIFF and no more")
    with pytest.raises(InputError, match=r"no\.avi: not a video that OpenCV reads"):
        list_items([tmp_path / "no.avi"], CAMERA, None, IDS)


def test_a_recording_has_all_images_of_a_resumed_run(small, tmp_path):
    pytest.importorskip("rerun", reason="rerun-sdk is not installed (extra rerun)")
    items, setup, lines = small
    mesh = setup.objects[0][1]
    folder = mesh.rpartition("/")[0]
    options = ["annotate", f"{folder}/images", "--camera", CAMERA, "--object", f"cube={mesh}:m", "--workers", "1"]
    options += ["--detections", f"{folder}/boxes.json", "-o", str(tmp_path / "out"), "--engines", setup.engines]
    options += [part for each in setup.config for part in ("--set", each)] + ["--device", "cpu"]
    header = {"images": COUNT, **setup.plain(), "sources": [str(Path(folder, "images").resolve())], "camera": CAMERA}
    header["detections"] = str(Path(folder, "boxes.json").resolve())
    with Journal(tmp_path / "out/annotations.jsonl", header, "give another folder") as journal:
        for line in lines[:-2]:
            journal.append(line)
    result = CliRunner().invoke(app, [*options, "--rerun", str(tmp_path / "run.rrd")])
    assert f"{COUNT - 2} of {COUNT} images are there already" in result.output, result.output
    held = read_recording(tmp_path / "run.rrd")
    assert set(held["/world/camera/image"]["EncodedImage:blob"]) == {i for i in range(COUNT) if i not in CORRUPT}
    assert list(held["/failures"]["TextLog:text"]) == list(CORRUPT)
    boxes = held["/world/camera/image/boxes"]["Boxes2D:centers"]
    assert boxes[3] == [[20.0 + 3 + 10, 20.0]]
    shown = held["/world/objects/cube/0"]["Transform3D:translation"]
    for item, text in zip(items, lines, strict=True):
        results = json.loads(text).get("results", [])
        assert (item.index in shown) == any(result["success"] for result in results)
        if item.index in shown:
            T = np.array(results[0]["T_camera_object"])
            np.testing.assert_allclose(shown[item.index], [T[:3, 3]], rtol=1e-5)


def test_setups_are_plain():
    setup = Setup("coop-xs", "cpu", ("effort=fast",), (("a", "/a.ply", "m", None),), 2, False)
    assert Setup.parse(setup.plain()) == setup
