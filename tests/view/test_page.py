"""The page in a real browser: a box drawn with the mouse on the demo's picture becomes a label on the disk."""

from __future__ import annotations

import json
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from coop_edge import Estimator
from coop_edge.demo import load_scene
from coop_edge.geometry import se3
from coop_edge.labels.store import LabelStore
from coop_edge.view.pictures import templates_picture
from coop_edge.view.session import Session

pytest.importorskip("viser", reason="viser is not installed (extra view)")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (extra dev)")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium (Debian: apt-get install chromium)")

SCENE = load_scene()
FLAGS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
FLAGS += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]  # as on a machine without a network


@pytest.fixture(scope="module")
def estimator():
    with Estimator.from_engines("coop-xs", device="cpu", threads=1) as made:
        for name, (mesh, unit) in SCENE.meshes.items():
            made.add_object(name, mesh, unit=unit)
        yield made


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        made = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield made
        made.close()


class Opened:
    """A page that a person has open."""

    def __init__(self, browser, estimator, folder: Path, depths=None) -> None:
        from coop_edge.view.page import Page, make_server

        self.folder = folder
        renderer = estimator.backend.renderer
        store = LabelStore(folder, list(SCENE.meshes), renderer=lambda name: renderer(estimator.objects[name]))
        pictures = [("scene.png", lambda: SCENE.image), ("again.png", lambda: SCENE.image)]
        self.session = Session(estimator, pictures, lambda image: SCENE.camera, store, depths)
        self.server = make_server("127.0.0.1", 8117)
        self.page = Page(self.server, self.session)
        self.tab = browser.new_page(viewport={"width": 1400, "height": 900})
        self.asked: list[str] = []
        self.tab.on("request", lambda request: self.asked.append(request.url))
        self.tab.on("websocket", lambda socket: self.asked.append(socket.url))
        self.tab.goto(f"http://127.0.0.1:{self.server.get_port()}")
        self.tab.get_by_role("button", name="Draw a box").wait_for(timeout=60_000)
        self.wait(lambda: self.fits())

    def close(self) -> None:
        self.tab.close()
        self.server.stop()
        here = f"//127.0.0.1:{self.server.get_port()}"
        assert any(url.startswith(f"ws:{here}") for url in self.asked)
        assert [url for url in self.asked if here not in url and not url.startswith(("data:", "blob:"))] == []

    def fits(self) -> bool:
        """Whether the whole image is on the canvas, by the place of its corners."""
        if not self.server.get_clients():
            return False
        corners = np.array([(-0.5, -0.5), np.array(SCENE.camera.size) - 0.5])
        places, (_, _, width, height) = self.places(corners), self.canvas()
        return bool((places > -1).all() and (places < np.array([width, height]) + 1).all())

    def canvas(self) -> tuple[float, float, float, float]:
        box = self.tab.locator("canvas").first.bounding_box()
        return box["x"], box["y"], box["width"], box["height"]

    def places(self, pixels: np.ndarray) -> np.ndarray:
        """Where the screen shows image pixels [N,2], by the view of the browser's own camera."""
        (client,) = self.server.get_clients().values()
        rays = np.c_[(pixels - SCENE.camera.K[:2, 2]) / np.diag(SCENE.camera.K)[:2], np.ones(len(pixels))]
        tangent = np.tan(client.camera.fov / 2)
        x, y, width, height = self.canvas()
        share = 0.5 + 0.5 * rays[:, :2] / (tangent * np.array([client.camera.aspect, 1.0]))
        return share * (width, height) + (x, y)

    def choose(self, name: str) -> None:
        """Choose the object in the list."""
        now = self.page._object.value
        self.tab.get_by_role("textbox", name="Object").or_(self.tab.locator(f"input[value={now}]")).first.click()
        self.tab.get_by_role("option", name=name).click()
        self.wait(lambda: self.page._object.value == name)

    def wait(self, what, seconds: float = 90.0) -> None:
        end = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < end, f"waited {seconds} s; the page says {self.page._said.content!r}"
            self.tab.wait_for_timeout(100)

    def click(self, name: str) -> None:
        """Click a button by its element, not by its place: pictures that arrive move the buttons meanwhile."""
        self.tab.get_by_role("button", name=name, exact=True).first.evaluate("button => button.click()")

    def press(self, name: str, done) -> None:
        self.click(name)
        self.wait(done)
        with self.page._turn:  # what was asked for is done when the page says so, too
            pass

    def draw(self, bbox) -> None:
        """Drag a box over (x, y, width, height), image pixels."""
        before = len(self.session._before)
        self.press("Draw a box", lambda: "Drag a box" in self.page._said.content)
        x, y, w, h = bbox
        (x0, y0), (x1, y1) = self.places(np.array([(x, y), (x + w, y + h)]) - 0.5)
        self.tab.mouse.move(x0, y0)
        self.tab.mouse.down()
        self.tab.mouse.move((x0 + x1) / 2, (y0 + y1) / 2, steps=4)
        self.tab.mouse.move(x1, y1, steps=4)
        self.tab.mouse.up()
        self.wait(lambda: len(self.session._before) > before and "..." not in self.page._said.content)

    def saved(self, image: int = 0) -> list[dict]:
        path = self.folder / "train/000000/scene_gt.json"
        return json.loads(path.read_text()).get(str(image), []) if path.is_file() else []


@pytest.fixture
def opened(browser, estimator, tmp_path):
    page = Opened(browser, estimator, tmp_path / "labels")
    yield page
    page.close()


@pytest.fixture
def measured(browser, estimator, tmp_path, monkeypatch):
    """A page with depth, in mm: the objects where they are, and a wall behind them. Fewer points than usual, as the
    browser draws them without a GPU."""
    monkeypatch.setattr("coop_edge.view.cloud.MOST", 20_000)
    width, height = SCENE.camera.size
    depth = np.full((height, width), 1.1)
    for name, T in SCENE.truth.items():
        renderer = estimator.backend.renderer(estimator.objects[name])
        seen = renderer.render(T[None], SCENE.camera.K, (height, width)).depth[0]
        depth = np.where(seen > 0, np.minimum(seen, depth), depth)
    steps = np.rint(1000 * depth).astype(np.uint16)
    page = Opened(browser, estimator, tmp_path / "labels", lambda i: {"depth": steps, "depth_unit": "mm"})
    yield page, depth
    page.close()


def off(entry: dict, name: str, estimator) -> float:
    """Mean distance of the vertices from the truth, in diameters, of an entry of scene_gt.json."""
    R, t = np.reshape(entry["cam_R_m2c"], (3, 3)), 1e-3 * np.array(entry["cam_t_m2c"])
    mesh = estimator.objects[name]
    points = mesh.vertices.astype(float) + mesh.centre
    gap = points @ R.T + t - se3.transform(SCENE.truth[name], points)
    return float(np.linalg.norm(gap, axis=1).mean() / mesh.diameter)


def test_a_box_drawn_nudged_refined_and_accepted_is_a_label(opened, estimator):
    house = next(d for d in SCENE.detections if d.object == "house")
    opened.choose("house")
    opened.draw(house.bbox)
    item = opened.session.item
    assert item.name == "house"
    assert item.T is not None, item.result.reason
    np.testing.assert_allclose(item.detection.bbox, house.bbox, atol=2.5)  # a screen pixel is up to 0.7 of the image's
    opened.wait(lambda: "score" in opened.tab.inner_text("body") and "centre ±" in opened.tab.inner_text("body"))
    assert opened.saved() == []

    before = item.T.copy()
    opened.click("+")
    opened.wait(lambda: opened.session.item.moved)
    np.testing.assert_allclose(opened.session.item.T[:3, 3] - before[:3, 3], [0.002, 0, 0], atol=1e-9)

    opened.press("Refine from here", lambda: not opened.session.item.moved)
    opened.press("Accept", lambda: opened.session.item.accepted and bool(opened.saved()))
    (entry,) = opened.saved()
    assert entry["obj_id"] == opened.session.store.ids["house"]
    assert off(entry, "house", estimator) < 0.05

    opened.press("Undo", lambda: not opened.session.item.accepted and opened.saved() == [])
    opened.press("Accept", lambda: bool(opened.saved()))
    opened.press("Next", lambda: opened.session.index == 1)
    opened.wait(lambda: "again.png" in opened.tab.inner_text("body"))


def test_a_click_waits_for_a_quick_action_and_is_refused_during_a_long_one(opened, monkeypatch):
    page, begun, end, done = opened.page, threading.Event(), threading.Event(), []

    def first():
        begun.set()
        end.wait(30)

    def together(wait_to_end: bool) -> None:
        begun.clear()
        end.clear()
        worker = threading.Thread(target=page._do, args=("first", first))
        worker.start()
        assert begun.wait(30)
        if not wait_to_end:
            threading.Timer(0.2, end.set).start()
        page._do("second", lambda: done.append("second"))
        end.set()
        worker.join()

    monkeypatch.setattr("coop_edge.view.page.PATIENCE", 30.0)
    together(wait_to_end=False)
    assert done == ["second"]
    assert page._said.content == "*second: done*"
    monkeypatch.setattr("coop_edge.view.page.PATIENCE", 0.05)
    together(wait_to_end=True)
    assert done == ["second"]
    assert page._said.content == "*first: done*"


def test_find_and_leave_without_accepting_and_find_again(opened, estimator):
    opened.choose("house")
    opened.press("Find", lambda: "Found 1" in opened.page._said.content)
    assert opened.session.item.name == "house"
    opened.press("Next", lambda: "scene.png: 1 pose is not accepted yet" in opened.page._said.content)
    opened.press("Previous", lambda: opened.session.index == 0 and "done" in opened.page._said.content)
    opened.press("Accept", lambda: bool(opened.saved()))
    assert off(opened.saved()[0], "house", estimator) < 0.1
    opened.press("Find", lambda: "Nothing found" in opened.page._said.content)  # it is known already
    assert len(opened.session.items) == 1


def test_the_templates_are_those_of_the_object_that_is_chosen(opened, estimator):
    sheets = {}
    for name in ("carton", "house"):
        opened.choose(name)
        opened.page._do("Templates", opened.page._show_templates)  # its section is closed at first
        assert opened.page._said.content == f"*The 42 templates of {name}*"
        sheets[name] = np.asarray(opened.page._sheet.image)
        made = templates_picture(estimator.objects[name], estimator.backend.renderer)
        np.testing.assert_array_equal(sheets[name], made)
    assert not np.array_equal(sheets["carton"], sheets["house"])
    opened.choose("all objects")
    opened.page._do("Templates", opened.page._show_templates)
    assert "Choose which object" in opened.page._said.content


def test_the_handles_move_the_object(opened, estimator):
    """Dragging the handle's x axis moves the object along the object's own x, and the page keeps it."""
    mug = next(d for d in SCENE.detections if d.object == "mug")
    opened.session.estimate("mug", mug.bbox)
    opened.page.refresh()
    before = opened.session.item.T.copy()
    mesh = estimator.objects["mug"]
    centre = se3.transform(before, mesh.centre[None])[0]
    opened.tab.wait_for_timeout(1500)
    # Somewhere along each arrow: its length is that of the handles.
    for share in (0.75, 0.9, 0.6, 0.45):
        for axis in range(3):
            tip = centre + share * 0.9 * mesh.diameter * before[:3, axis]
            ends = np.stack([tip, 1.15 * tip - 0.15 * centre])
            start, end = opened.places(SCENE.camera.project(ends))
            opened.tab.mouse.move(*start)
            opened.tab.wait_for_timeout(200)
            opened.tab.mouse.down()
            opened.tab.mouse.move(*end, steps=6)
            opened.tab.mouse.up()
            opened.tab.wait_for_timeout(500)
            if opened.session.item.moved:
                after = opened.session.item.T
                assert np.linalg.norm(after[:3, 3] - before[:3, 3]) < mesh.diameter
                assert not np.allclose(after, before, atol=1e-5)
                return
    pytest.fail("no handle could be dragged")


def test_boxes_beside_the_image_and_wrong_steps_are_said(opened):
    opened.press("Refine from here", lambda: "no object is chosen" in opened.page._said.content)
    opened.press("Previous", lambda: "there is no image -1" in opened.page._said.content)
    opened.press("Undo", lambda: "nothing to undo" in opened.page._said.content)
    opened.wait(lambda: "nothing to undo" in opened.tab.inner_text("body"))


def test_depth_goes_into_the_pose_and_is_seen_as_coloured_points(measured):
    """From aside, the browser's picture has the points' colours where its own camera sees them."""
    opened, depth = measured
    mug = next(d for d in SCENE.detections if d.object == "mug")
    opened.session.estimate("mug", mug.bbox)
    opened.page.refresh()
    assert opened.session.item.result.used_depth
    opened.wait(lambda: "with depth" in opened.tab.inner_text("body"))

    opened.tab.get_by_text("View", exact=True).scroll_into_view_if_needed()
    opened.press("From aside", lambda: opened.page.scene.meshes_shown)
    (client,) = opened.server.get_clients().values()
    opened.wait(lambda: client.camera.position[0] < -0.1)
    width, height = 400, 300
    rows, columns = np.nonzero((np.ptp(SCENE.image.astype(int), axis=2) > 60) & (depth < 1.0))  # colours of the objects
    points = SCENE.camera.rays(np.stack([columns, rows], axis=1).astype(float)) * depth[rows, columns][:, None]
    seen = (points - client.camera.position) @ viser_matrix(client.camera.wxyz)
    tangent = np.tan(client.camera.fov / 2)
    share = 0.5 + 0.5 * seen[:, :2] / seen[:, 2:] / (tangent * np.array([width / height, 1.0]))
    x, y = (share * (width, height)).astype(int).T

    def alike() -> float:
        """Share of the objects' pixels whose points the browser shows in their colour; some hide others."""
        shot = np.asarray(client.get_render(height, width, transport_format="png", timeout=200))[..., :3].astype(int)
        return float((np.abs(shot[y, x] - SCENE.image[rows, columns]).max(axis=1) < 40).mean())

    with_points = alike()
    opened.page.scene._handles["cloud"].visible = False
    assert with_points > max(0.4, 2.0 * alike())


def viser_matrix(wxyz) -> np.ndarray:
    w, x, y, z = wxyz
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
