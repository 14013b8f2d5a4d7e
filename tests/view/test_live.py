"""Live: found, followed, lost, found again; with networks that know the truth, and a stand-in for the search."""

from __future__ import annotations

import logging
import socket
import sys

import numpy as np
import pytest

from coop_edge import Estimator, PoseEstimate
from coop_edge.cli.frames import Shot
from coop_edge.errors import BackendUnavailable, InputError
from coop_edge.view.live import LiveDisplay, watch
from coop_edge.view.page import make_server
from tests.estimators import AS_REFINED, SMALL, knowing, show
from tests.stages.scene import Placed, Scene, at, colored_box

CUBE = colored_box((0.1, 0.1, 0.1), name="cube")


def scene(*placed) -> Scene:
    return Scene((CUBE,), tuple(placed), SMALL)


@pytest.fixture
def seen(tmp_path, monkeypatch):
    """An Estimator, its oracle, and the frames in which it was asked to find something."""
    here = scene(Placed(0, at(0.0, 0.0, 0.7, (0.5, 0.7, -0.3))))
    with knowing(tmp_path, here, config=AS_REFINED) as (estimator, oracle):
        asked = []

        def find(self, image, camera, names):
            asked.append(list(names))
            if oracle.scene is not here:
                return [PoseEstimate(False, "nowhere", object=name) for name in names]
            return self.estimate(image, camera, oracle.scene.detections())

        monkeypatch.setattr(Estimator, "find", find)
        yield estimator, oracle, here, asked


def test_found_followed_lost_and_found_again(seen):
    estimator, oracle, here, asked = seen
    empty = scene(Placed(0, at(3.0, 0.0, 0.7)))  # beside the image
    order = [here, here, empty, empty, empty, here, here, here]

    def frames():
        for i, each in enumerate(order):
            show(oracle, each)
            yield Shot(f"{i:06d}", each.image)

    states = [(frame.results[0].success, len(asked)) for frame in watch(estimator, SMALL, frames(), every=3)]
    assert [success for success, _ in states][:3] == [True, True, False]
    assert states[0][1] == states[1][1] == 1  # found once, then followed
    assert states[-1][0]  # found again, at most three frames after it came back
    assert len(asked) == 3  # at first, once in vain, and when it was back


def test_a_frame_of_another_size_is_named(seen):
    estimator, _, here, _ = seen
    frames = [Shot("000000", here.image), Shot("000001", here.image[:-1])]
    with pytest.raises(InputError, match="frame 000001: image: wanted RGB"):
        list(watch(estimator, SMALL, frames, every=1))


def test_the_display_shows_a_picture_and_a_line_for_each_object(seen):
    viser = pytest.importorskip("viser", reason="viser is not installed (extra view)")
    _, _, here, _ = seen
    server = viser.ViserServer(host="127.0.0.1", port=8127, verbose=False)
    try:
        display = LiveDisplay(server)
        results = [PoseEstimate(True, T_camera_object=np.eye(4), score=0.5, object="cube")]
        results.append(PoseEstimate(False, "lost: <gone>", object="bar"))
        display.show(here.image, results, 12.4)
        assert "**12 ms**" in display._said.content
        assert "score 0.50" in display._said.content
        assert "lost: &lt;gone&gt;" in display._said.content
    finally:
        server.stop()


def test_without_the_package_the_command_that_installs_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "viser", None)
    with pytest.raises(
        BackendUnavailable, match=r"needs viser .*pip install '\.\[view\]' in the folder of the checkout"
    ):
        make_server("127.0.0.1", 8137)


def test_a_connection_that_is_closed_unused_leaves_no_trace_in_the_terminal(caplog):
    """As browsers open them ahead of need; other errors of the server are still logged."""
    pytest.importorskip("viser", reason="viser is not installed (extra view)")
    server = make_server("127.0.0.1", 8137)
    try:
        for _ in range(3):
            socket.create_connection(("127.0.0.1", server.get_port()), timeout=10).close()
        with socket.create_connection(("127.0.0.1", server.get_port()), timeout=10) as asked:  # answered after these
            asked.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            assert asked.recv(12) == b"HTTP/1.1 200"
    finally:
        server.stop()
    logging.getLogger("websockets.server").error("connection handler failed")
    assert [record.getMessage() for record in caplog.records] == ["connection handler failed"]
