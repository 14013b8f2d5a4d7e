"""BOP's CSV file: there and back, and what is said of one that is none."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.accuracy.results import COLUMNS, ImageResult, Row, read_rows, write_rows
from coop_edge import InputError
from coop_edge.geometry import se3

HEADER = ",".join(COLUMNS)
EYE = "1 0 0 0 1 0 0 0 1"


def rows(count: int) -> list[Row]:
    rng = np.random.default_rng(0)
    return [
        Row(2, i, 1 + i % 3, rng.random(), se3.random_rotation(rng), rng.normal(size=3), time=rng.random())
        for i in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, 5])
def test_there_and_back(tmp_path, count):
    written = rows(count)
    write_rows(tmp_path / "new" / "a.csv", written)
    found = read_rows(tmp_path / "new" / "a.csv")
    assert len(found) == count
    for a, b in zip(written, found, strict=True):
        assert (a.scene_id, a.im_id, a.obj_id) == (b.scene_id, b.im_id, b.obj_id)
        assert (b.score, b.time) == pytest.approx((a.score, a.time), abs=1e-6)
        np.testing.assert_allclose(b.T_camera_object, a.T_camera_object, atol=1e-9)


def test_the_form_that_others_read(tmp_path):
    write_rows(tmp_path / "a.csv", [Row(2, 30, 4, 0.5, np.eye(3), np.array([0.1, -0.02, 1.5]), 0.25)])
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines == ["scene_id,im_id,obj_id,score,R,t,time", f"2,30,4,0.5,{EYE},100 -20 1500,0.250000"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "wanted the first line scene_id"),
        ("a,b\n", "wanted the first line scene_id"),
        (f"{HEADER}\n1,2,3,0.5,{EYE},1 2 3\n", "line 2: wanted 7 columns, got 6"),
        (f"{HEADER}\n1,2,3,0.5,{EYE},1 2 3,1\n1,2,x,0.5,{EYE},1 2 3,1\n", "line 3: .*'x'"),
        (f"{HEADER}\n1,2,3,0.5,1 0 0,1 2 3,1\n", "line 2: R: wanted 9"),
        (f"{HEADER}\n1,2,3,0.5,{EYE},1 2 nan,1\n", "line 2: t: wanted 3 finite"),
        (f"{HEADER}\n1,2,3,inf,{EYE},1 2 3,1\n", "line 2: score: wanted a finite number"),
        (f"{HEADER}\n1,2,3,1,1 0 0 0 1 0 0 0 -1,1 2 3,1\n", "line 2: R: not a rotation"),
        (f"{HEADER}\n1,2,3,1,0 0 0 0 0 0 0 0 0,1 2 3,1\n", "line 2: R: not a rotation"),
    ],
)
def test_what_is_none(tmp_path, text, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(InputError, match=says):
        read_rows(tmp_path / "a.csv")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(InputError, match="no such file; wanted results in BOP's form"):
        read_rows(tmp_path / "a.csv")


def test_detections_of_an_image():
    assert ImageResult(1, 2, 0.1).count == 0
    assert ImageResult(1, 2, 0.1, rows=tuple(rows(3))).count == 3
