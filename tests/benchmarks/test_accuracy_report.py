"""The report's page: whole, self-contained, with the figures of the evaluation and pictures that show the outlines."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

from benchmarks.accuracy import report_cases
from benchmarks.accuracy.dataset import BopDataset
from benchmarks.accuracy.evaluate import Evaluation, evaluate
from benchmarks.accuracy.report import write_report
from benchmarks.accuracy.report_cases import Overlays, frame, typical, worst
from benchmarks.accuracy.results import Failure, ImageResult, Row
from coop_edge.errors import BackendUnavailable
from tests.benchmarks.bop import scene_of, write_dataset

pytest.importorskip("matplotlib")
VOID = {"meta", "img", "br", "path", "use", "rect"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory) -> BopDataset:
    images = {(1, i): scene_of(i) for i in range(3)}
    return BopDataset(write_dataset(tmp_path_factory.mktemp("bop"), images))


def rows_of(dataset: BopDataset, shift: float = 0.0) -> list[Row]:
    """The truth, object 1 moved sideways by ``shift`` metres; in image 2 there is no pose of object 2."""
    rows = []
    for scene_id, im_id in dataset.images:
        for truth in dataset.truth(scene_id, im_id):
            if (im_id, truth.obj_id) != (2, 2):
                T = truth.T_camera_object
                move = np.array([shift * (truth.obj_id == 1), 0.0, 0.0])
                rows.append(Row(scene_id, im_id, truth.obj_id, 0.5 + 0.1 * im_id, T[:3, :3], T[:3, 3] + move, 0.25))
    return rows


def results_of(rows: list[Row]) -> list[ImageResult]:
    stages = {"crop": 1.0, "coarse": 20.0, "refine": 0.0}
    failures = {2: (Failure(2, "too few <inliers> & none"),)}
    return [
        ImageResult(1, i, 0.25, tuple(r for r in rows if r.im_id == i), failures.get(i, ()), stages) for i in range(3)
    ]


class Balanced(HTMLParser):
    """Fails on an element that is not closed where it should be; keeps what the page refers to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_startendtag(self, tag, attrs):
        self.links += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        self.ids += [v for k, v in attrs if k == "id"]

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag


def parsed(path) -> tuple[str, Balanced]:
    text = path.read_text(encoding="utf-8")
    page = Balanced()
    page.feed(text)
    assert page.open == []
    return text, page


def test_the_page_says_what_was_measured_and_needs_nothing_else(dataset, tmp_path):
    rows = rows_of(dataset, 0.2)
    evaluation = evaluate(dataset, rows)
    path = tmp_path / "report.html"
    write_report(path, dataset, evaluation, images=results_of(rows), title="A <method> & more")
    text, page = parsed(path)
    assert text.startswith("<!doctype html>")
    assert "<h1>A &lt;method&gt; &amp; more</h1>" in text
    assert f"<b>{evaluation.total.ar:.3f}</b>" in text
    assert f"<b>{evaluation.total.ar_mspd:.3f}</b>" in text
    assert "too few &lt;inliers&gt; &amp; none" in text
    assert "125 ms" in text  # 0.25 s for two objects
    assert all(link.startswith(("data:image/jpeg;base64,", "#")) for link in page.links)
    remote = set(re.findall(r"https?://[^\s\"'<>)]+", text)) - {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }
    assert not remote  # the two are names of namespaces, nothing is fetched
    assert "url(http" not in text
    assert "<script" not in text
    assert text.count("<svg ") == 4  # two recalls, reliability, stages
    assert text.count("<img ") == 6  # of every target, once


def test_figures_take_the_pages_colours_and_do_not_share_ids(dataset, tmp_path):
    path = tmp_path / "report.html"
    write_report(path, dataset, evaluate(dataset, rows_of(dataset)))
    text, page = parsed(path)
    assert "currentColor" in text
    assert "#010203" not in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text
    clips = [
        name
        for name in page.ids
        if not re.fullmatch(
            r"(figure|axes|patch|line2d|matplotlib|xtick|ytick|text|LineCollection|legend|PolyCollection|PathCollection).*",
            name,
        )
    ]
    assert clips
    assert len(clips) == len(set(clips))


def test_no_target_at_all(dataset, tmp_path):
    nothing = evaluate(dataset, [])
    empty = Evaluation((), replace(nothing.total, count=0), {})
    path = tmp_path / "report.html"
    write_report(path, dataset, empty)
    text, _ = parsed(path)
    assert "No pose was given." in text
    assert "<img" not in text


def test_no_pose_at_all(dataset, tmp_path):
    path = tmp_path / "report.html"
    write_report(path, dataset, evaluate(dataset, []))
    text, _ = parsed(path)
    assert "no pose: no estimate" in text
    assert "Missed: 6 of 6" in text


def test_matplotlib_is_missing(dataset, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(BackendUnavailable, match="pip install matplotlib"):
        write_report(tmp_path / "report.html", dataset, evaluate(dataset, []))
    assert not (tmp_path / "report.html").exists()


def test_worst_are_the_missed_and_objects_take_turns(dataset):
    evaluation = evaluate(dataset, rows_of(dataset, 0.2))
    found = worst(evaluation, 24)
    assert [t.obj_id for t in found] == [1, 2, 1, 1]  # of object 2 only image 2 was missed
    assert all(t.ar < 1.0 for t in found)
    assert len(worst(evaluation, 2)) == 2
    rest = typical(evaluation, 12, without=found)
    assert {id(t) for t in rest} | {id(t) for t in found} == {id(t) for t in evaluation.targets}
    assert [t.ar for t in rest] == [1.0, 1.0]


def test_typical_targets_are_spread_over_the_order_of_errors(dataset):
    (first, *_) = evaluate(dataset, rows_of(dataset)).targets
    many = tuple(replace(first, mssd=0.001 * i * first.diameter) for i in range(45))
    chosen = typical(Evaluation(many[::-1], None, {}), 5)
    assert [round(t.mssd / t.diameter * 1000) for t in chosen] == [4, 13, 22, 31, 40]


def test_outlines_lie_where_the_object_is(dataset):
    """The truth's outline of a picture, taken back to the image, is the boundary of the object's silhouette."""
    evaluation = evaluate(dataset, rows_of(dataset, 0.02))
    target = next(t for t in evaluation.targets if t.obj_id == 1)
    picture = Overlays(dataset).picture(target)
    assert picture.shape == (report_cases.PICTURE, report_cases.PICTURE, 3)
    centres = {}
    for name, color in (("truth", report_cases.TRUTH), ("estimate", report_cases.ESTIMATE)):
        near = np.abs(picture.astype(int) - color).max(axis=2) < 12
        assert near.sum() > 100
        v, u = np.nonzero(near)
        centres[name] = (u.min() + u.max()) / 2, (v.min() + v.max()) / 2
    camera = dataset.camera(target.scene_id, target.im_id)
    truth = target.truth
    _, _, w, h = truth.bbox_obj
    depth = truth.T_camera_object[2, 3]
    both = 1.1 * max(w + 0.02 * camera.K[0, 0] / depth, h)
    scale = report_cases.PICTURE / max(report_cases.ROOM * max(w, h), both)
    moved = centres["estimate"][0] - centres["truth"][0]
    assert moved == pytest.approx(scale * 0.02 * camera.K[0, 0] / depth, rel=0.25)
    assert abs(centres["estimate"][1] - centres["truth"][1]) < 0.1 * report_cases.PICTURE


def masks(*boxes: tuple[int, int, int, int]) -> np.ndarray:
    out = np.zeros((len(boxes), 100, 120), bool)
    for mask, (x, y, w, h) in zip(out, boxes, strict=True):
        mask[y : y + h, x : x + w] = True
    return out


def test_what_is_shown():
    left, top, side = frame(masks((40, 30, 20, 10)), None, (120, 100))
    assert (left, top, side) == (35, 20, 30)  # 1.5 times 20, about (50, 35)
    left, top, side = frame(masks((40, 30, 20, 10), (55, 30, 20, 10)), None, (120, 100))
    assert (left, side) == (38, 38)  # both, 35 wide, and a tenth more
    assert top <= 30
    assert top + side >= 40
    left, _, side = frame(masks((0, 30, 20, 10), (110, 30, 10, 10)), None, (120, 100))
    assert side == 60  # too far away: the truth stays in the middle
    assert left == 10 - 30
    assert frame(masks((0, 0, 0, 0)), (10.0, 20.0, 40.0, 20.0), (120, 100)) == (0, 0, 60)
    assert frame(masks((0, 0, 0, 0)), None, (120, 100))[2] == 180


def test_a_picture_within_an_address():
    picture = np.full((16, 16, 3), (200, 60, 20), np.uint8)
    kind, content = report_cases.data_uri(picture).split(",")
    back = cv2.imdecode(np.frombuffer(base64.b64decode(content), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert kind == "data:image/jpeg;base64"
    np.testing.assert_allclose(back, picture, atol=6)
