"""From folders and archives of meshes to an asset pack."""

from __future__ import annotations

import contextlib
import fnmatch
import hashlib
import logging
import os
import re
import shutil
import subprocess
import tempfile
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import trimesh

from coop_edge.errors import CoopEdgeError, InputError, MeshError
from coop_edge.mesh.mesh import Mesh
from export.data.assets_vrml import read_vrml
from export.data.packs import PackWriter

SUFFIXES = (".obj", ".ply", ".glb", ".gltf", ".stl", ".off", ".dae", ".wrl")
ARCHIVES = (".zip", ".sh3f", ".whl", ".deb")
LARGEST_FILE = 40_000_000
"""Bytes; larger mesh files are left out."""
THINNEST = 0.06
"""Second longest side of the box over the diameter; a rod or a wire shows too few pixels to learn from."""
RESERVED = ("ycb", "linemod", "lm-o", "lmo_", "tless", "t-less", "tudl", "tud-l", "icbin", "ic-bin", "itodd", "handal",
            "homebrew", "hopedata", "hope_", "hope-")  # fmt: skip
"""Parts of paths that name objects of pose benchmarks: those stay out of training."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A folder or archive (.zip, .sh3f, .whl, .deb) of mesh files."""

    path: str | os.PathLike[str]
    name: str = ""  # the file's stem if empty
    licence: str | Callable[[str], str | None] = ""  # one for all, or by path inside; None leaves the file out
    pattern: str = "*"  # of paths inside, as in ``fnmatch``


@dataclass
class Report:
    """What became of the files."""

    added: Counter[str] = field(default_factory=Counter)  # by source
    failed: dict[str, str] = field(default_factory=dict)  # path: why
    reserved: list[str] = field(default_factory=list)
    bytes: int = 0

    @property
    def count(self) -> int:
        return sum(self.added.values())


def build_pack(
    sources: Sequence[str | os.PathLike[str] | Source],
    out: str | os.PathLike[str],
    max_faces: int = 5000,
    texture: int = 256,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Make an asset pack at ``out``.

    Meshes are brought to unit diameter, since files do not say their unit. Files that cannot be read are left out,
    counted and logged.

    Args:
        sources: folders and archives, searched to the bottom, archives inside them too. Licences that are not given are
            looked for in files named LICENSE, LICENCE, COPYING or copyright.
        out: file to write, .npz.
        max_faces: meshes with more triangles are simplified.
        texture: longest side of a texture, pixels.
        limit: largest number of objects, in equal shares from the sources as far as they last, and within one spread
            over its folders. None takes all.
        progress: called with (files done, files in all).

    Returns:
        What was added and what was left out, by source.

    Raises:
        InputError: a source does not exist or cannot be unpacked, or none of the files could be used.
    """
    wanted = [s if isinstance(s, Source) else Source(s) for s in sources]
    for source in wanted:
        if not Path(source.path).exists():
            raise InputError(f"assets: {os.fspath(source.path)!r} does not exist; wanted a folder or an archive")
    report = Report()
    with tempfile.TemporaryDirectory(prefix="coop_edge_assets_") as work, PackWriter(out, texture) as writer:
        queues = [_files(source, Path(work) / str(k), report) for k, source in enumerate(wanted)]
        total = sum(len(q) for q in queues) if limit is None else min(limit, sum(len(q) for q in queues))
        for done, file in enumerate(_in_turn(queues)):
            if limit is not None and report.count >= limit:
                break
            try:
                writer.add(load_unit(file.path, max_faces, file.name), file.name, file.source, file.licence)
                report.added[file.source] += 1
            except (CoopEdgeError, OSError) as error:
                report.failed[file.name] = str(error)
                logger.warning("%s", error)
            if progress is not None:
                progress(min(done + 1, total), total)
        if not report.count:
            raise InputError(
                f"assets: none of {len(report.failed)} files could be used; wanted meshes ({', '.join(SUFFIXES)})"
            )
    report.bytes = Path(out).stat().st_size
    return report


def load_unit(path: Path, max_faces: int, name: str) -> Mesh:
    """Read a mesh file of unknown unit as a Mesh of a diameter of about 1 m.

    Raises:
        MeshError: the file is too large or cannot be read, or its mesh has no extent or is as thin as a wire.
    """
    if path.stat().st_size > LARGEST_FILE:
        raise MeshError(
            f"{path}: {path.stat().st_size / 1e6:.0f} MB; larger than {LARGEST_FILE / 1e6:.0f} MB is left out"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if path.suffix.lower() == ".wrl":
                scene = trimesh.Scene(read_vrml(path))
            else:
                scene = trimesh.load(path, force="scene", process=False)
            extent = float(np.linalg.norm(scene.extents)) if scene.extents is not None else 0.0
            if not (np.isfinite(extent) and extent > 0):
                raise MeshError(f"{path}: has no extent")
            scene.apply_transform(np.diag([1 / extent, 1 / extent, 1 / extent, 1.0]))
    except MeshError:
        raise
    except Exception as error:  # readers meet any kind of bytes, and fail in any kind of way
        raise MeshError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error
    with _quiet():
        mesh = Mesh.load(scene, unit="m", max_faces=max_faces, name=name)
    if np.sort(np.ptp(mesh.vertices, axis=0))[1] < THINNEST * mesh.diameter:
        raise MeshError(f"{path}: thinner than {THINNEST} of its length in two directions: too little to be seen of it")
    return mesh


def debian_licences(copyright_file: Path) -> Callable[[str], str | None]:
    """Return a function from paths to licences, read from a Debian copyright file (format 1.0).

    Of the Files paragraphs that match a path the last one holds.
    """
    rules: list[tuple[set[str], list[str], str]] = []  # paths as they are, patterns, licence
    for paragraph in copyright_file.read_text(errors="replace").split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line[:1] in (" ", "\t"):
                fields[key] = fields.get(key, "") + " " + line.strip()
            elif ":" in line:
                key, value = line.split(":", 1)
                fields[key] = value.strip()
        if "Files" in fields and "License" in fields:
            files = fields["Files"].split()
            patterns = [f for f in files if set(f) & set("*?")]
            rules.append((set(files).difference(patterns), patterns, fields["License"].split()[0]))

    def licence(path: str) -> str | None:
        for exact, patterns, name in reversed(rules):
            if path in exact or any(fnmatch.fnmatchcase(path, pattern) for pattern in patterns):
                return name
        return None

    return licence


@dataclass(frozen=True)
class _File:
    path: Path
    name: str
    source: str
    licence: str


def _files(source: Source, work: Path, report: Report) -> list[_File]:
    """Mesh files of a source, its archives unpacked below ``work``, in an order that goes round its folders."""
    name = source.name or Path(source.path).stem
    root = _unpacked(Path(source.path), work, re.split(r"[*?[]", source.pattern)[0])
    note = source.licence if source.licence else _licence_note(root)
    found = []
    for path in sorted(p for p in root.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
        inside = path.relative_to(root).as_posix()
        if not fnmatch.fnmatch(inside, source.pattern):
            continue
        if any(word in f"{name}/{inside}".lower() for word in RESERVED):
            report.reserved.append(f"{name}/{inside}")
            continue
        licence = note(inside) if callable(note) else note
        if licence is not None:
            found.append(_File(path, f"{name}/{inside}", name, licence))
    by_folder: dict[Path, list[_File]] = {}
    for file in sorted(found, key=lambda f: hashlib.sha256(f.name.encode()).digest()):
        by_folder.setdefault(file.path.parent, []).append(file)
    return list(_in_turn(list(by_folder.values())))


def _in_turn(queues: Sequence[Sequence[_File]]) -> Iterator[_File]:
    """One of each queue after the other, until all are empty."""
    for k in range(max((len(q) for q in queues), default=0)):
        for queue in queues:
            if k < len(queue):
                yield queue[k]


def _unpacked(path: Path, work: Path, prefix: str = "") -> Path:
    """A folder with the source's content; the folder itself if it holds no archives. Of a ZIP archive only what begins
    with ``prefix``."""
    if path.is_dir():
        inner = sorted(p for p in path.rglob("*") if p.suffix.lower() in ARCHIVES and p.is_file())
        if not inner:
            return path
        shutil.copytree(path, work, ignore=shutil.ignore_patterns(*(f"*{suffix}" for suffix in ARCHIVES)))
        for k in inner:
            _unpacked(k, work / k.relative_to(path).with_suffix(""))
        return work
    if path.suffix.lower() == ".deb":
        if shutil.which("dpkg-deb") is None:
            raise InputError(f"{path}: dpkg-deb is needed to unpack it; unpack it elsewhere and give the folder")
        subprocess.run(["dpkg-deb", "-x", str(path), str(work)], check=True, capture_output=True)
    elif path.suffix.lower() in ARCHIVES:
        try:
            with zipfile.ZipFile(path) as archive:
                archive.extractall(work, [name for name in archive.namelist() if name.startswith(prefix)])
        except zipfile.BadZipFile as error:
            raise InputError(f"{path}: cannot be unpacked ({error})") from error
    else:
        raise InputError(f"{path}: wanted a folder or an archive ({', '.join(ARCHIVES)})")
    return _unpacked(work, work.with_name(work.name + "_inner"))


def _licence_note(root: Path) -> str:
    for path in sorted(root.rglob("*")):
        if path.stem.lower() in ("license", "licence", "copying", "copyright") and path.is_file():
            lines = [line.strip() for line in path.read_text(errors="replace").splitlines() if line.strip()]
            return f"see {path.relative_to(root).as_posix()}: {lines[0][:80] if lines else ''}"
    return "not stated"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the loader's notes: of a thousand assets nobody reads them."""
    loader = logging.getLogger("coop_edge.mesh.load")
    level = loader.level
    loader.setLevel(logging.ERROR)
    try:
        yield
    finally:
        loader.setLevel(level)
