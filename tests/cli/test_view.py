"""`coop-edge view` from the command line: where it listens, what it opens, and what it answers to wrong input."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from coop_edge import Estimator
from coop_edge.cli.image_list import VideoReader, list_pictures
from coop_edge.cli.main import app
from coop_edge.errors import InputError
from tests.annotate.runs import CAMERA, pictures, setup_of, video


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Tiny networks, a cube, and a folder of three pictures."""
    made = tmp_path_factory.mktemp("view")
    setup_of(made)
    pictures(made / "images", 3)
    return made


class Server:
    """Stands for viser's."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port, self.stopped = host, port, False

    def get_port(self) -> int:
        return self.port

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def opened(monkeypatch):
    """The servers that were started. Ctrl-C comes as soon as the page is open, after what ``opened.does`` does."""

    class Opened(list):
        does = staticmethod(lambda session: None)

    found, sessions = Opened(), []

    def make_server(host, port):
        found.append(Server(host, port))
        return found[-1]

    def sleep(seconds):
        found.does(sessions[-1])
        raise KeyboardInterrupt

    monkeypatch.setattr("coop_edge.view.page.make_server", make_server)
    monkeypatch.setattr("coop_edge.view.page.Page", lambda server, session: sessions.append(session))
    monkeypatch.setattr("time.sleep", sleep)
    return found


def view(folder: Path, source: object, *more: object, camera: str = CAMERA, cube: str = "cube.ply:m"):
    options = ["view", source, "--camera", camera, "--object", f"cube={folder}/{cube}", "--engines", folder / "tiny"]
    return CliRunner().invoke(app, [*map(str, options), "--device", "cpu", *map(str, more)])


@pytest.mark.parametrize("command", ["view", "live"])
def test_without_viser_the_command_ends_before_anything_is_loaded(folder, tmp_path, monkeypatch, command):
    monkeypatch.setitem(sys.modules, "viser", None)
    monkeypatch.setattr(Estimator, "from_engines", lambda *arguments, **more: pytest.fail("it was loaded"))
    options = [command, folder / "images", "--camera", CAMERA, "--object", f"cube={folder}/cube.ply:m"]
    result = CliRunner().invoke(app, [str(text) for text in options])
    assert result.exit_code == 2, result.output
    said = " ".join(result.output.split())
    assert re.search(r"^error: BackendUnavailable: the page needs viser .*pip install '\.\[view\]'", said)


def test_it_listens_on_this_machine_alone_unless_asked_otherwise(folder, opened, tmp_path):
    result = view(folder, folder / "images", "-o", tmp_path / "labels")
    assert result.exit_code == 0, result.output
    assert [(server.host, server.port, server.stopped) for server in opened] == [("127.0.0.1", 8080, True)]
    assert "open http://localhost:8080" in result.output
    assert "whoever reaches" not in result.output
    assert "0 of 3 images have labels" in " ".join(result.output.split())

    result = view(folder, folder / "images", "-o", tmp_path / "labels", "--host", "0.0.0.0", "--port", 8181)
    assert (opened[-1].host, opened[-1].port) == ("0.0.0.0", 8181)
    said = " ".join(result.output.split())
    assert "listening at 0.0.0.0: whoever reaches this address can use the page and write labels" in said


def test_the_server_is_bound_to_the_address_it_was_given():
    """By what the system says of the sockets that listen."""
    pytest.importorskip("viser", reason="viser is not installed (extra view)")
    from coop_edge.view.page import make_server

    for host, address in (("127.0.0.1", "0100007F"), ("0.0.0.0", "00000000")):
        server = make_server(host, 8147)
        try:
            rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
            listening = {row[1] for row in rows if row[3] == "0A"}
            assert f"{address}:{server.get_port():04X}" in listening
        finally:
            server.stop()


def test_ctrl_c_says_what_has_labels_and_what_was_not_accepted(folder, opened, tmp_path):
    from dataclasses import replace

    from coop_edge import PoseEstimate
    from coop_edge.view.item import Item
    from tests.stages.scene import at

    def work(session):
        session.accept()
        session.go(1)
        found = PoseEstimate(True, T_camera_object=at(0.0, 0.0, 0.7), score=0.5, object="cube")
        session.items = (Item(found), replace(Item(found), accepted=True))

    opened.does = work
    result = view(folder, folder / "images", "-o", tmp_path / "labels")
    said = " ".join(result.output.split())
    assert "1 of 3 images have labels" in said
    assert "0001.png: 1 poses were not accepted" in said


def test_a_folder_that_begins_with_a_broken_picture(folder, opened, tmp_path):
    images = pictures(tmp_path / "images", 3, corrupt=(0,))
    opened.does = lambda session: session.accept()
    result = view(folder, images, "-o", tmp_path / "labels")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "labels/images.json").read_text()) == {"1": "../images/0001.png"}


def test_frames_of_a_video_are_labelled_and_found_again(folder, opened, tmp_path):
    wanted = video(tmp_path / "clip.avi", 4)

    def work(session):
        assert [name for name, _ in session.pictures] == [f"{i:06d}" for i in range(4)]
        for i in (2, 0, 3, 1):
            session.go(i)
            np.testing.assert_array_equal(session.image, wanted[i])
        session.accept()

    opened.does = work
    result = view(folder, tmp_path / "clip.avi", "-o", tmp_path / "labels")
    assert result.exit_code == 0, result.output
    assert json.loads((tmp_path / "labels/images.json").read_text()) == {"1": "../clip.avi/000001"}
    kept = cv2.imread(str(tmp_path / "labels/train/000000/rgb/000001.png"))[..., ::-1]
    np.testing.assert_array_equal(kept, wanted[1])

    def again(session):
        assert (session.index, session.labelled) == (0, 1)

    opened.does = again
    result = view(folder, tmp_path / "clip.avi", "-o", tmp_path / "labels")
    assert "1 of 4 images have labels" in " ".join(result.output.split())


def test_frames_by_number(tmp_path):
    wanted = video(tmp_path / "clip.avi", 6)
    reader = VideoReader(tmp_path / "clip.avi")
    assert reader.count == 6
    for i in (0, 1, 4, 2, 2, 5, 0):
        np.testing.assert_array_equal(reader.read(i), wanted[i])
    with pytest.raises(InputError, match=r"clip\.avi: frame 6 cannot be read"):
        reader.read(6)
    np.testing.assert_array_equal(reader.read(3), wanted[3])
    listed = list_pictures(tmp_path / "clip.avi")
    assert [(each.name, each.path) for each in listed] == [
        (f"{i:06d}", tmp_path / f"clip.avi/{i:06d}") for i in range(6)
    ]
    np.testing.assert_array_equal(listed[5].read(), wanted[5])


def test_pictures_of_a_folder_in_the_order_of_their_numbers(tmp_path):
    for name in ("10.png", "2.png", "1.PNG", ".hidden.png", "notes.txt"):
        cv2.imwrite(str(tmp_path / f"{name}.png"), np.full((4, 4, 3), 7, np.uint8))
        (tmp_path / f"{name}.png").rename(tmp_path / name)
    listed = list_pictures(tmp_path)
    assert [each.name for each in listed] == ["1.PNG", "2.png", "10.png"]
    assert [each.path for each in listed] == [tmp_path / each.name for each in listed]
    assert listed[2].read().shape == (4, 4, 3)
    (one,) = list_pictures(tmp_path / "2.png")
    assert (one.name, one.path) == ("2.png", tmp_path / "2.png")


@pytest.mark.parametrize(
    ("source", "more", "given", "says"),
    [
        ("nowhere.png", (), {}, r"nowhere\.png: no such image, video or folder"),
        ("empty", (), {}, "no pictures in this folder"),
        ("notes.txt", (), {}, r"notes\.txt: not a video that OpenCV reads"),
        ("images", (), {"camera": "1,2,3"}, "--camera: wanted FX,FY,CX,CY"),
        ("images", (), {"camera": "60,60,0.5,x"}, "wanted four numbers"),
        ("images", (), {"cube": "cube.ply"}, "wanted MESH:UNIT"),
        ("images", (), {"cube": "nowhere.ply:m"}, r"nowhere\.ply"),
        ("images", ("--depth-unit", "mm"), {}, "--depth-unit mm: wanted with --depth"),
        ("images", ("--depth", "DEPTH", "--depth-unit", "mm"), {}, "depth images: 1, images in"),
        ("images", ("-o", "TAKEN"), {}, "holds files, but no labels of this kind"),
        ("images", ("--set", "nothing=1"), {}, "nothing"),
        ("images/broken.png", (), {}, r"broken\.png"),
    ],
)
def test_wrong_input_ends_in_one_line_before_a_page_is_opened(folder, opened, tmp_path, source, more, given, says):
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "notes.txt").write_text("mine")
    np.save(folder / "depth.npy", np.ones((48, 64), np.uint16))
    places = {"DEPTH": folder / "depth.npy", "TAKEN": folder / "images"}
    more = [places.get(text, text) for text in more]
    if source.endswith("broken.png"):
        source = str(tmp_path / "broken.png")
        Path(source).write_bytes(b"\x89PNG and no more")
    result = view(folder, folder / source, *([] if "-o" in more else ["-o", tmp_path / "labels"]), *more, **given)
    assert result.exit_code == 2, result.output
    lines = [line for line in result.output.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert "Traceback" not in result.output
    assert all(server.stopped for server in opened)
    assert "open http" not in result.output
    assert re.search(says, " ".join(result.output.split())), result.output
