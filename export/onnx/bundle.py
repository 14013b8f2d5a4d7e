"""Turns checkpoints into a model bundle: one ONNX graph per role and the manifest, or nothing at all."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coop_edge.base.files import atomic_write, exchange, temporary_beside
from coop_edge.errors import BundleError, InputError
from coop_edge.runtime.bundle import (
    MANIFEST,
    PRECISIONS,
    Bundle,
    Network,
    sha256_of,
    write_manifest,
)
from export.data.pairs import TEMPLATE
from export.networks import Net, RefinerNetConfig
from export.onnx.checks import checked
from export.onnx.precision import to_half
from export.onnx.trace import GRAPHS, specs_of, trace
from export.train.checkpoint import Checkpoint, load_network, read_metadata, save_network

Verify = Callable[[Path], Mapping[str, Any]]
_WANTED = ("coarse", "refiner")
_MADE_OF_GRAPHS = (".onnx", ".plan", ".json", ".engine", ".safetensors")
"""Files that belong to the networks of a bundle; a bundle that takes its place leaves them behind."""


@dataclass(frozen=True)
class Source:
    """A checkpoint that becomes part of a bundle."""

    path: Path
    info: Checkpoint


def export_bundle(
    checkpoints: Sequence[str | Path],
    name: str,
    precision: str,
    out: str | Path,
    *,
    version: str = "1.0.0",
    licence: str = "Apache-2.0",
    force: bool = False,
    verify: Verify | None = None,
    progress: Callable[[str], None] | None = None,
) -> Bundle:
    """Write the bundle ``out`` from one coarse and one refiner checkpoint.

    Beside the graphs lie the weights themselves, ROLE.safetensors in FP16, from which training can go on. Everything is
    written beside ``out`` and moved at the end.

    Args:
        checkpoints: network files, or folders of them.
        name: of the bundle.
        precision: "fp32", or "fp16" by the rules of ``export.onnx.precision``.
        out: folder of the bundle.
        version, licence: of the weights.
        force: replace the bundle that is there; its notes (files that are neither graphs, plans nor manifests) stay.
        verify: called with the folder of the finished bundle before it gets its name. The manifest keeps what it
            returns; if it raises, nothing is written.
        progress: called with the role that is being exported.

    Raises:
        InputError: roles are missing, doubled or of sizes that cannot go together; FP16 cannot hold a weight; ``out``
            exists.
        ConfigError: a checkpoint is of a newer version.
        BundleError: a graph fails a check.
        OSError: the folder cannot be written.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision: wanted one of {', '.join(PRECISIONS)}, got {precision!r}")
    sources = find_sources(checkpoints)
    out = Path(out)
    _check_target(out, force)
    nets = [load_network(source.path, role)[0] for role, source in sources.items()]
    trunk, refiner = sources["coarse"].info.config.trunk, sources["refiner"].info.config
    assert isinstance(refiner, RefinerNetConfig)
    plan = Bundle(  # checked before the graphs are made, which takes a while
        folder=out,
        name=name,
        version=version,
        licence=licence,
        training={role: _training(source) for role, source in sources.items()},
        input_size=trunk.image_size,
        patch_size=trunk.patch_size,
        radius_px=refiner.radius_px,
        template=TEMPLATE,
        networks={role: _planned(net, role, precision, out) for net in nets for role in GRAPHS[net.role]},
    )
    with _beside(out) as folder:
        bundle = replace(plan, folder=folder, networks=_write_graphs(nets, precision, folder, progress))
        for net in nets:
            save_network(folder / f"{net.role}.safetensors", net, sources[net.role].info.provenance, half=True)
        write_manifest(bundle)
        if verify is not None:
            bundle = replace(bundle, verification=dict(verify(folder)))
            write_manifest(bundle)
        _move(folder, out)
    return Bundle.load(out)


def find_sources(checkpoints: Sequence[str | Path]) -> dict[str, Source]:
    """Return the checkpoints by role, as their files say; ``checkpoints`` are network files or folders that hold some.

    Raises:
        InputError: there is no file, roles are missing or doubled, or crops or patches have different sizes.
        ConfigError: a file is of a newer version.
    """
    found: dict[str, Source] = {}
    for path in [file for given in checkpoints for file in _files(Path(given))]:
        source = Source(path, read_metadata(path))
        other = found.setdefault(source.info.role, source)
        if other.path.resolve() != path.resolve():
            raise InputError(
                f"two {source.info.role} checkpoints: {other.path} and {path}; wanted one per role "
                f"({', '.join(_WANTED)})"
            )
    if missing := [role for role in _WANTED if role not in found]:
        given = ", ".join(f"{s.path} ({role})" for role, s in found.items()) or "none"
        raise InputError(f"no {' and no '.join(missing)} checkpoint; given: {given}; a bundle needs {_WANTED}")
    coarse = found["coarse"]
    for role, source in found.items():
        for option, what in (("image_size", "crops"), ("patch_size", "patches")):
            wanted, given = (getattr(s.info.config.trunk, option) for s in (coarse, source))
            if wanted != given:
                raise InputError(
                    f"{source.path} ({role}) works on {what} of {given} px, {coarse.path} (coarse) on {wanted} px; "
                    "one bundle has one size: train them with the same --size"
                )
    return {role: found[role] for role in GRAPHS if role in found}


def _files(given: Path) -> list[Path]:
    if not given.is_dir():
        return [given]
    if files := sorted(given.glob("*.safetensors")):
        return files
    raise InputError(f"checkpoint {given}: a folder without a .safetensors file; wanted one that training wrote")


def _planned(net: Net, role: str, precision: str, folder: Path) -> Network:
    """Describe a graph that is not there yet."""
    return Network(role, folder / f"{role}.onnx", "0" * 64, precision, *specs_of(net, role))


def _write_graphs(
    nets: Sequence[Net], precision: str, folder: Path, progress: Callable[[str], None] | None
) -> dict[str, Network]:
    networks = {}
    owners = {role: net for net in nets for role in GRAPHS[net.role]}
    for role, net in owners.items():
        if progress is not None:
            progress(role)
        graph = trace(net, role)
        if precision == "fp16":
            graph = to_half(graph)
        planned = _planned(net, role, precision, folder)
        model = checked(graph.model(), role, planned.inputs, planned.outputs, precision)
        with atomic_write(planned.path) as file:
            file.write(model.SerializeToString(deterministic=True))
        networks[role] = replace(planned, sha256=sha256_of(planned.path))
    return networks


def _training(source: Source) -> dict[str, Any]:
    """State where the weights of a checkpoint come from, as plain data."""
    p = source.info.provenance
    return {
        "data": p.data,
        "licences": dict(p.licences),
        "samples": p.samples,
        "commit": p.code,
        "steps": p.step,
        "seed": p.seed,
        "minutes": round(p.minutes, 2),
        "hardware": p.hardware,
        "checkpoint_sha256": sha256_of(source.path),
        "network": source.info.config.to_dict(),
    }


def _check_target(out: Path, force: bool) -> None:
    if not out.exists() and not out.is_symlink():
        return
    if not force:
        raise InputError(f"{out} exists; give --force to replace the bundle, or another name")
    if out.is_symlink() or not (out / MANIFEST).is_file():
        raise InputError(f"{out} is not a bundle (a folder with {MANIFEST}): it is not replaced, not even with --force")
    if folders := sorted(p.name for p in out.iterdir() if p.is_dir()):
        raise InputError(f"{out} holds folders ({', '.join(folders)}), which no bundle has: it is not replaced")


@contextmanager
def _beside(out: Path) -> Iterator[Path]:
    """Make a folder beside ``out`` that is removed at the end if it is still there."""
    folder = temporary_beside(out)
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise OSError(error.errno, f"cannot write: {error.strerror}", str(out)) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, out: Path) -> None:
    """Give the folder its name. A bundle of that name goes in the same step; where the system knows no such step, it
    steps aside for the moment between two renames, and comes back if the second fails."""
    if not out.exists():
        _rename(folder, out)
        return
    for note in out.iterdir():
        if note.suffix not in _MADE_OF_GRAPHS:
            shutil.copy2(note, folder / note.name)
    if exchange(folder, out):
        return  # the old one has the temporary name now, and is removed with it
    old = temporary_beside(out, ".old")
    _rename(out, old)
    try:
        _rename(folder, out)
    except BaseException:
        old.rename(out)
        raise
    shutil.rmtree(old)


def _rename(source: Path, target: Path) -> None:
    try:
        source.rename(target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            raise BundleError(f"{target}: appeared while the bundle was being written; it is left as it is") from error
        raise
