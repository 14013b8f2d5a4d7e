"""Files appear whole, at once, and in the place that was meant; what killed writers left goes away."""

from __future__ import annotations

import errno
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from coop_edge.base import files
from coop_edge.base.files import Replacement, atomic_write, exchange, temporary_beside, write_together
from coop_edge.cli.drawn_frames import open_output


def write(path, content: bytes = b"new") -> None:
    with atomic_write(path) as file:
        file.write(content)


def replace(path, suffix: str = "") -> None:
    """As programs do that are given a name."""
    file = Replacement(Path(path), suffix)
    file.temporary.write_bytes(b"new")
    file.finish()


def write_video(path) -> None:
    with open_output(Path(path), 10.0) as put:
        put("0", np.zeros((64, 64, 3), np.uint8))


def write_pack(path) -> None:
    from export.data.packs import PackWriter

    with PackWriter(path, 16):
        pass


class TestProgramsThatAreGivenAName:
    """The suffix is a video's, which all of them take."""

    @pytest.fixture(params=[write, replace, write_video, write_pack])
    def writer(self, request):
        return request.param

    @pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o440])
    def test_the_mode_stays(self, writer, tmp_path, mode):
        path = tmp_path / "a.mp4"
        path.write_bytes(b"old")
        path.chmod(mode)
        writer(path)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        assert path.read_bytes() != b"old"
        assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]

    def test_through_links(self, writer, tmp_path):
        (tmp_path / "real").mkdir()
        target = tmp_path / "real" / "a.mp4"
        target.write_bytes(b"old")
        target.chmod(0o600)
        for name, to in (("link.mp4", "real/a.mp4"), ("new.mp4", "real/b.mp4")):
            (tmp_path / name).symlink_to(to)
            writer(tmp_path / name)
            assert (tmp_path / name).is_symlink()
        assert target.read_bytes() != b"old"
        assert stat.S_IMODE(target.stat().st_mode) == 0o600
        assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a.mp4", "b.mp4"]

    def test_what_is_no_regular_file_is_refused(self, writer, tmp_path):
        os.mkfifo(tmp_path / "pipe.mp4")
        (tmp_path / "null.mp4").symlink_to("/dev/null")
        (tmp_path / "folder.mp4").mkdir()
        for name in ("pipe.mp4", "null.mp4", "folder.mp4"):
            with pytest.raises(OSError, match="cannot write: it is a") as caught:
                writer(tmp_path / name)
            assert caught.value.filename == str(tmp_path / name)
        assert stat.S_ISFIFO((tmp_path / "pipe.mp4").stat().st_mode)
        assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
        assert len(list(tmp_path.iterdir())) == 3

    def test_a_new_file_has_the_usual_mode(self, writer, tmp_path):
        writer(tmp_path / "a" / "b.mp4")
        (tmp_path / "usual").touch()
        assert (tmp_path / "a" / "b.mp4").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_video_without_frames_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"old")
    with open_output(path, 10.0):
        pass
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.mp4"]


def test_a_new_file_and_its_folders(tmp_path):
    write(tmp_path / "a" / "b" / "c.txt")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"new"
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["c.txt"]
    usual = tmp_path / "usual"
    usual.touch()
    assert (tmp_path / "a/b/c.txt").stat().st_mode == usual.stat().st_mode


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o440])
def test_the_mode_stays(tmp_path, mode):
    path = tmp_path / "a"
    path.write_bytes(b"old")
    path.chmod(mode)
    write(path)
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"new", mode)


def test_through_links(tmp_path):
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "a"
    target.write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/a")
    (tmp_path / "second").symlink_to("link")
    write(tmp_path / "second")
    assert target.read_bytes() == b"new"
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    (tmp_path / "dangling").symlink_to("real/b")
    write(tmp_path / "dangling")
    assert (tmp_path / "real" / "b").read_bytes() == b"new"
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["a", "b"]
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="cannot write") as caught:
        write(tmp_path / "loop")
    assert caught.value.filename == str(tmp_path / "loop")


def test_what_is_no_regular_file_stays_what_it_is(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        (tmp_path / "null").symlink_to("/dev/null")
        kinds = {path: path.stat().st_mode for path in (tmp_path / "pipe", tmp_path / "socket", Path("/dev/null"))}
        for path in (*kinds, tmp_path / "null"):
            with pytest.raises(OSError, match="it is a device, pipe or socket") as caught:
                write(path)
            assert caught.value.filename == str(path)
        assert {path: path.stat().st_mode for path in kinds} == kinds
    with pytest.raises(IsADirectoryError, match="cannot write: it is a folder"):
        write(tmp_path)
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, monkeypatch, code, where):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    if where == "fsync":
        monkeypatch.setattr(files.os, "fsync", full)

    def put():
        with atomic_write(path) as file:
            file.write(b"new")
            if where == "write":
                full()

    with pytest.raises(OSError, match=f"cannot write: {os.strerror(code)}") as caught:
        put()
    assert (caught.value.errno, caught.value.filename) == (code, str(path))
    assert path.read_bytes() == b"old"
    assert [each.name for each in tmp_path.iterdir()] == ["a"]


def test_a_really_full_disk(tmp_path):
    code = (
        "import resource, signal, sys\n"
        "from coop_edge.base.files import atomic_write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
        "with atomic_write(sys.argv[1]) as file:\n    file.write(bytes(5000))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "a"], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] cannot write: File too large: '{tmp_path / 'a'}'"
    assert not any(tmp_path.iterdir())


def test_other_errors_pass_as_they_are(tmp_path):
    other = OSError(errno.ENOSPC, "elsewhere", "other.txt")
    with pytest.raises(OSError, match="elsewhere") as caught, atomic_write(tmp_path / "a"):
        raise other
    assert caught.value is other
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a"):
        raise KeyboardInterrupt
    assert not any(tmp_path.iterdir())


KILLED = """
import sys, time
from coop_edge.base.files import atomic_write
with atomic_write(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(600)
"""


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    path = tmp_path / "a.txt"
    command = [sys.executable, "-c", KILLED, str(path)]
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as dead,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as living,
    ):
        try:
            assert dead.stdout.readline() == living.stdout.readline() == "writing\n"
            others = [tmp_path / name for name in (".a.txt.note.tmp", ".b.txt.0-1-00000000.tmp", ".a.txt.swp")]
            for other in others:
                other.touch()
            dead.send_signal(signal.SIGKILL)
            dead.wait()
            assert len(list(tmp_path.iterdir())) == 5
            write(path)
            left = {each.name for each in tmp_path.iterdir()} - {other.name for other in others}
            assert len(left) == 2
            assert any(f"-{living.pid}-" in name for name in left)
        finally:
            living.kill()
    write(path)
    assert {each.name for each in tmp_path.iterdir()} == {"a.txt", *(other.name for other in others)}


def test_folders_that_were_left_go_too_and_other_machines_stay(tmp_path, monkeypatch):
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    monkeypatch.setattr(files.os, "getpid", lambda: gone.pid)
    left = temporary_beside(tmp_path / "bundle")
    monkeypatch.setattr(files, "_MACHINE", "0badcafe")
    foreign = temporary_beside(tmp_path / "bundle", ".mp4")
    monkeypatch.undo()
    (left / "inside").mkdir(parents=True)
    foreign.touch()
    assert foreign.name.endswith(".tmp.mp4")
    temporary_beside(tmp_path / "bundle")
    assert [path.name for path in tmp_path.iterdir()] == [foreign.name]


class TestTogether:
    def test_all_or_none(self, tmp_path, monkeypatch):
        a, b = tmp_path / "a", tmp_path / "b"
        a.write_bytes(b"old a")
        b.write_bytes(b"old b")
        synced = []

        def full(handle):
            synced.append(handle)
            if len(synced) == 2:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            write_together({a: b"new a", b: b"new b"})
        assert caught.value.filename == str(b)
        assert (a.read_bytes(), b.read_bytes()) == (b"old a", b"old b")
        write_together({a: b"new a", b: b"new b"})
        assert (a.read_bytes(), b.read_bytes()) == (b"new a", b"new b")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_folders_swap_in_one_step(tmp_path):
    """A reader that looks all the time never finds the name without a whole folder."""
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / "name").write_text(folder.name)
    if not exchange(one, other):
        pytest.skip("this file system cannot swap names")
    assert ((one / "name").read_text(), (other / "name").read_text()) == ("other", "one")
    stop, seen = threading.Event(), []

    def look():
        while not stop.is_set():
            seen.append((one / "name").exists())

    reader = threading.Thread(target=look)
    reader.start()
    for _ in range(300):
        assert exchange(one, other)
    stop.set()
    reader.join()
    assert seen
    assert all(seen)
    with pytest.raises(OSError, match="No such file"):
        exchange(one, tmp_path / "nowhere")
