"""The YAML of calibration tools: the same as PyYAML where that is installed, and refused where it is not understood."""

from __future__ import annotations

import pytest

from coop_edge.calibration.yaml import parse
from coop_edge.errors import InputError

TEXTS = {
    "nothing": "",
    "comments alone": "# a\n\n  # b\n",
    "a number": "3",
    "calibrator": "image_width: 640\ncamera_name: narrow/left\nK:\n  rows: 3\n  data: [1.5, 0., 2e2,\n    -0.5, 10.0]\n"
    "empty:\n",
    "sequence at its key's depth": "T:\n- [1.0, 2.0]\n- [3, 4]\nnext: 1\n",
    "sequence deeper": "T:\n  - 1\n  - - 2\n    - 3\n  -\n    4\n",
    "mappings in a sequence": "cams:\n  - name: a\n    f: [1]\n  - name: b\nlast: yes it is\n",
    "flow mapping": "roi: {x_offset: 3, 'do': \"a: b, c\", list: [1, {a: 2}]}\n",
    "words": "a: true\nb: False\nc: null\nd: ~\ne: .inf\nf: text # comment\ng: 'no # comment'\nh: http://a#b\n",
    "documents": "---\na: 1\n---\na: 2\n",
    "deep": "a:\n  b:\n    c:\n      - x: 1\n        y:\n          z: [2]\n    d: 4\n",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_is_what_pyyaml_reads(text):
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert parse(text.replace("2e2", "2.0e+2")) == next(yaml.safe_load_all(text.replace("2e2", "2.0e+2")), None)


def test_values():
    assert parse(TEXTS["calibrator"]) == {
        "image_width": 640,
        "camera_name": "narrow/left",
        "K": {"rows": 3, "data": [1.5, 0.0, 200.0, -0.5, 10.0]},
        "empty": None,
    }
    assert parse(TEXTS["sequence at its key's depth"]) == {"T": [[1.0, 2.0], [3, 4]], "next": 1}
    assert parse(TEXTS["sequence deeper"]) == {"T": [1, [2, 3], 4]}
    assert parse(TEXTS["mappings in a sequence"]) == {
        "cams": [{"name": "a", "f": [1]}, {"name": "b"}],
        "last": "yes it is",
    }
    assert parse(TEXTS["documents"]) == {"a": 1}
    assert parse("%YAML:1.0\n---\nK: !!opencv-matrix\n   rows: 1\n   dt: d\n   data: [ 1., 2. ]\n") == {
        "K": {"rows": 1, "dt": "d", "data": [1.0, 2.0]}
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a: [1, 2\nb: 3", "line 1: has a bracket that is never closed"),
        ("a: 1\na: 2", "line 2: gives the key 'a' a second time"),
        ("a: 1\n    b: 2", "line 2: is indented in a way"),
        ("a: &x 1", "begins with '&'"),
        ("a: |\n  text", "begins with '|'"),
        ("a:\n\t- 1", "line 2: wanted spaces as indentation, got a tab"),
        ("a: [1] 2", "goes on after its closing bracket"),
        ("a: {1}", "flow mapping without a key"),
        ("just text\nand more", "is indented in a way"),
    ],
)
def test_what_is_not_understood_is_refused(text, says):
    with pytest.raises(InputError) as error:
        parse(text)
    assert says in str(error.value)
