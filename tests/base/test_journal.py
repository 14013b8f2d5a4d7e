"""Records of runs: what a kill or a full disk leaves, other options, files of another kind, and their size."""

from __future__ import annotations

import errno
import json
import os
import re
import subprocess
import sys
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coop_edge.base.journal import Journal, read_lines
from coop_edge.errors import InputError

HEADER = {"images": 3, "device": "cpu", "config": {"coarse": {"views": 5}}, "sources": ["/a", "/b"], "camera": None}
ADVICE = "give another folder"


def begun(path, *lines):
    """Write a record with these lines; returns its path."""
    with Journal(path, HEADER, ADVICE) as journal:
        for line in lines:
            journal.append(json.dumps(line))
    return path


def test_goes_on_where_it_was_and_cuts_half_a_line(tmp_path):
    path = begun(tmp_path / "new/folders/a.jsonl", {"index": 0})
    with path.open("ab") as file:
        file.write(b'{"index": 1')
    with Journal(path, HEADER, ADVICE) as journal:
        assert journal.count == 1
        journal.append('{"index": 1}')
        assert journal.count == 2
    assert list(read_lines(path)) == [{"index": 0}, {"index": 1}]


def test_files_of_earlier_versions(tmp_path):
    """The format, byte for byte."""
    written = json.dumps(HEADER).encode() + b'\n{"index": 0}\n{"index": 1}\n'
    assert begun(tmp_path / "a", {"index": 0}, {"index": 1}).read_bytes() == written
    (tmp_path / "b").write_bytes(written)
    with Journal(tmp_path / "b", HEADER, ADVICE) as journal:
        assert journal.count == 2
    assert (tmp_path / "b").read_bytes() == written


VALUES = st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text(max_size=20), max_size=3)


@settings(max_examples=60, deadline=None)
@given(lines=st.lists(VALUES, max_size=5), data=st.data())
def test_cut_at_any_byte_nothing_whole_is_lost_and_nothing_torn_is_kept(tmp_path_factory, lines, data):
    path = begun(tmp_path_factory.mktemp("cut") / "a", *lines)
    written = path.read_bytes()
    cut = data.draw(st.integers(0, len(written)))
    path.write_bytes(written[:cut])
    whole = max(written[:cut].count(b"\n") - 1, 0)
    found = []
    with Journal(path, HEADER, ADVICE, found.append) as journal:
        assert found == lines[:whole]
        assert journal.count == whole
        for line in lines[whole:]:
            journal.append(json.dumps(line))
        assert journal.count == len(lines)
    assert path.read_bytes() == written
    assert list(read_lines(path)) == lines


@pytest.mark.parametrize(
    ("now", "says"),
    [
        ({"images": 4, "device": "cuda"}, 'had other options: device was "cpu", now "cuda"; images was 3, now 4.'),
        ({"config": {"coarse": {"views": 1}}}, "config.coarse.views was 5, now 1"),
        ({"config": None}, 'config was {"coarse": {"views": 5}}, now null'),
        ({"sources": ["/a", "/c"]}, 'sources.1 was "/b", now "/c"'),
        ({"sources": ["/a"]}, 'sources.1 was "/b", now null'),
        ({"seed": 1}, "seed was null, now 1"),
    ],
)
def test_other_options(tmp_path, now, says):
    path = begun(tmp_path / "a", {"index": 0})
    with path.open("ab") as file:
        file.write(b'{"half')
    before = path.read_bytes()
    with pytest.raises(InputError, match=re.escape(says)) as raised:
        Journal(path, HEADER | now, ADVICE)
    assert str(raised.value).startswith(f"{path}: the earlier run had other")
    assert str(raised.value).endswith("to finish it, delete the file, or give another folder")
    assert path.read_bytes() == before


def test_the_same_options_in_another_guise(tmp_path):
    path = begun(tmp_path / "a", {"index": 0})
    same = {key: value for key, value in reversed(HEADER.items()) if key != "camera"}
    with Journal(path, same | {"sources": ("/a", "/b")}, ADVICE) as journal:
        assert journal.count == 1


@pytest.mark.parametrize(
    "content", [b"hello\n", b"hello", b"[1]\n", b"\0\0\0\n", b"\xff\xd8\xff", b"{}", b'{"a": 1', b"\n"]
)
def test_a_file_of_another_kind_is_left_alone(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(InputError, match=r"a: line 1: not the record of an earlier run.* or give another folder"):
        Journal(tmp_path / "a", HEADER, ADVICE)
    assert (tmp_path / "a").read_bytes() == content


@pytest.mark.parametrize("damage", [b"\0" * 12, b'{"index": 1', b"", b"[1]", b'{"index": "\xff"}'])
def test_damaged_in_the_middle(tmp_path, damage):
    path = begun(tmp_path / "a", {"index": 0}, {"index": 1}, {"index": 2})
    path.write_bytes(path.read_bytes().replace(b'{"index": 1}', damage))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"a: line 3: .*damaged.*delete the file, or give another folder"):
        Journal(path, HEADER, ADVICE)
    assert path.read_bytes() == before
    lines = read_lines(path)
    assert next(lines) == {"index": 0}
    with pytest.raises(InputError, match=r"a: line 3: .*damaged"):
        next(lines)


def test_lines_that_the_reader_refuses(tmp_path):
    path = begun(tmp_path / "a", {"index": 0}, {"indices": 1})
    with pytest.raises(InputError, match=r"line 3: .*KeyError: 'index'"):
        Journal(path, HEADER, ADVICE, lambda line: line["index"])


def test_two_at_once(tmp_path):
    pytest.importorskip("fcntl", reason="files are locked on POSIX only")
    with Journal(tmp_path / "a", HEADER, ADVICE) as journal:
        with pytest.raises(InputError, match="another run is writing it; wait for it, or give another folder"):
            Journal(tmp_path / "a", HEADER, ADVICE)
        journal.append("{}")
    assert begun(tmp_path / "a", {}).read_bytes().endswith(b"}\n{}\n{}\n")


def test_a_folder(tmp_path):
    with pytest.raises(IsADirectoryError, match="cannot write"):
        Journal(tmp_path, HEADER, ADVICE)


def test_a_line_that_does_not_reach_the_disk_is_not_there(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = begun(tmp_path / "a", {"index": 0})
    before = path.read_bytes()
    with Journal(path, HEADER, ADVICE) as journal:
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="cannot write: No space left") as raised:
            journal.append('{"index": 1}')
        monkeypatch.undo()
        assert raised.value.filename == str(path)
        assert (journal.count, path.read_bytes()) == (1, before)
        journal.append('{"index": 2}')
    assert list(read_lines(path)) == [{"index": 0}, {"index": 2}]


def test_a_disk_with_room_for_half_a_line(tmp_path):
    resource = pytest.importorskip("resource", reason="files are limited on POSIX only")
    path = begun(tmp_path / "a", {"index": 0})
    size = path.stat().st_size
    code = (
        "import json, pathlib, resource, signal, sys\n"
        "from coop_edge.base.journal import Journal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 20},) * 2)\n"
        f"with Journal(pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), {ADVICE!r}) as journal:\n"
        "    try:\n"
        "        journal.append(json.dumps({'index': 'x' * 100}))\n"
        "    except OSError as error:\n"
        "        print(error)\n"
        "    journal.append('{\"index\": 1}')\n"
    )
    assert resource
    done = subprocess.run([sys.executable, "-c", code, path, json.dumps(HEADER)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "cannot write: File too large" in done.stdout
    assert str(path) in done.stdout
    assert list(read_lines(path)) == [{"index": 0}, {"index": 1}]


def test_lines_are_not_kept_in_memory(tmp_path):
    path, count = begun(tmp_path / "a"), 4000
    with path.open("ab") as file:
        for index in range(count):
            file.write(json.dumps({"index": index, "mask": "x" * 1000}).encode() + b"\n")
    tracemalloc.start()
    try:
        with Journal(path, HEADER, ADVICE) as journal:
            assert journal.count == count
        assert sum(line["index"] for line in read_lines(path)) == count * (count - 1) // 2
        assert tracemalloc.get_traced_memory()[1] < 300_000 < path.stat().st_size / 10
    finally:
        tracemalloc.stop()
