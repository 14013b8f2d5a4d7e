"""Bundles: what the manifest says is what is there, and every way of its not being so has an error of its own."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from pathlib import Path

import pytest

import coop_edge
from coop_edge.errors import BundleError, InputError
from coop_edge.runtime import bundle as rooms
from coop_edge.runtime import catalog
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.bundle import MANIFEST, ROLES, Bundle, available, find, sha256_of, specs, write_manifest
from tests.runtime.networks import tiny_bundle


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def folder(original, tmp_path) -> Path:
    copy = tmp_path / "tiny"
    copy.mkdir()
    for path in original.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    return copy


def change(folder: Path, edit) -> None:
    """Apply ``edit`` to the manifest's content."""
    content = json.loads((folder / MANIFEST).read_text())
    edit(content)
    (folder / MANIFEST).write_text(json.dumps(content))


def refused(folder: Path, message: str) -> None:
    """Loading raises a BundleError that names the manifest and says what was found, what was wanted, what to do."""
    with pytest.raises(BundleError, match=message) as caught:
        Bundle.load(folder)
    assert str(folder / MANIFEST) in str(caught.value)
    assert "wanted" in str(caught.value)
    assert "export it again" in str(caught.value)


@pytest.mark.parametrize(
    "sizes",
    [
        {},
        {"input_size": 64, "dim": 8, "stride": 8, "patch_size": 16},
        {"input_size": 48, "dim": 1, "stride": 1, "patch_size": 8},
        {"input_size": 32, "stride": 32, "patch_size": 32},
    ],
)
def test_what_was_written_is_what_is_read(sizes, tmp_path):
    bundle = Bundle.load(tiny_bundle(tmp_path / "b", **sizes))
    assert bundle.input_size == sizes.get("input_size", 32)
    assert bundle.patch_size == sizes.get("patch_size", 8)
    assert bundle.dim == sizes.get("dim", 16)
    assert bundle.stride == sizes.get("stride", 4)
    assert bundle.template.views == 42
    assert list(bundle.networks) == list(ROLES)
    for role in ROLES:
        network = bundle.network(role)
        assert network.sha256 == hashlib.sha256(network.path.read_bytes()).hexdigest()
        assert (network.inputs, network.outputs) == specs(
            role, input_size=bundle.input_size, patch_size=bundle.patch_size, dim=bundle.dim, stride=bundle.stride
        )
    before = bundle.manifest.read_text()
    assert write_manifest(bundle) == bundle.manifest
    assert bundle.manifest.read_text() == before
    assert Bundle.load(str(tmp_path / "b")) == bundle


def test_a_bundle_without_features_says_so(tmp_path):
    bundle = Bundle.load(tiny_bundle(tmp_path / "b", features=False))
    with pytest.raises(
        BundleError, match=r"no network for features; this bundle has coarse_encoder, coarse_decoder, ref"
    ):
        bundle.network("features")
    with pytest.raises(InputError, match=r"role: wanted one of coarse_encoder, .*, got 'encoder'"):
        bundle.network("encoder")


def test_the_shapes_are_those_of_the_design():
    sizes = {"input_size": 128, "patch_size": 16, "dim": 192, "stride": 4}
    shown = {role: [[str(spec) for spec in side] for side in specs(role, **sizes)] for role in ROLES}
    image = "[N,3,128,128] float32"
    assert shown == {
        "coarse_encoder": [[f"image {image}"], ["tokens [N,64,192] float32"]],
        "coarse_decoder": [
            ["query [N,64,192] float32", "template [N,64,192] float32"],
            ["probability [N,64] float32", "index [N,64] int32", "offset [N,64,2] float32"],
        ],
        "refiner": [
            [f"query {image}", f"render {image}"],
            [
                "flow [N,2,32,32] float32",
                "scale [N,1,32,32] float32",
                "certainty [N,1,32,32] float32",
                "sensitivity [N,1,32,32] float32",
            ],
        ],
        "features": [
            [f"image {image}"],
            ["s4 [N,24,32,32] float32", "s8 [N,40,16,16] float32", "s16 [N,112,8,8] float32"],
        ],
    }
    with pytest.raises(InputError, match="got 'detector'"):
        specs("detector", **sizes)
    with pytest.raises(InputError, match="features: wanted crops of a multiple of 16 pixels, got 120"):
        specs("features", **{**sizes, "input_size": 120})


def edit_role(role: str, **values):
    return lambda content: content["networks"][role].update(values)


def edit_shape(role: str, side: str, index: int, shape: list):
    def edit(content):
        content["networks"][role][side][index]["shape"] = shape

    return edit


def swap_roles(content):
    networks = content["networks"]
    networks["refiner"], networks["coarse_encoder"] = networks["coarse_encoder"], networks["refiner"]


FAULTS = {
    "another schema": (lambda c: c.update(schema=2), "schema: wanted 1, the one .*, found 2"),
    "no schema": (lambda c: c.pop("schema"), "schema: wanted 1, .*, found None"),
    "a schema that equals 1": (lambda c: c.update(schema=True), "schema: wanted 1, .*, found True"),
    "a key missing": (lambda c: c.pop("radius_px"), "wanted the keys .*, found no radius_px"),
    "an unknown key": (lambda c: c.update(radius=2), "wanted only the keys .*, found also radius;"),
    "name of another type": (lambda c: c.update(name=3), "name: wanted text, found 3"),
    "a name that is a path": (lambda c: c.update(name="../x"), "name: wanted 1 to 64 of .*, found '../x'"),
    "no version": (lambda c: c.update(version=""), "version: wanted 1 to 64 letters.*, found ''"),
    "no licence": (lambda c: c.update(licence=" "), "licence: wanted the licence of the weights"),
    "training as text": (lambda c: c.update(training="ours"), "training: wanted an object, found 'ours'"),
    "a size with a fraction": (lambda c: c.update(input_size=32.5), "input_size: wanted an integer, found 32.5"),
    "a size that is a flag": (lambda c: c.update(patch_size=True), "patch_size: wanted an integer, found True"),
    "a size of zero": (lambda c: c.update(patch_size=0), r"patch_size: wanted a divisor of input_size \(32\), found 0"),
    "a patch that does not fit": (lambda c: c.update(patch_size=5), "patch_size: wanted a divisor .*, found 5"),
    "a negative radius": (lambda c: c.update(radius_px=-1), "radius_px: wanted a number above 0, found -1"),
    "an infinite radius": (lambda c: c.update(radius_px=10**400), "radius_px: wanted a number that fits a double"),
    "no template views": (lambda c: c["template"].update(views=0), "template.views: wanted at least 1, found 0"),
    "a template key": (lambda c: c["template"].update(fov=3), "template: wanted only the keys .*, found also fov"),
    "a template margin": (lambda c: c["template"].update(margin=0), r"template.margin: wanted a number in \(0, 10\]"),
    "field of view": (
        lambda c: c["template"].update(field_of_view=180),
        r"field_of_view: wanted degrees in \(0, 180\)",
    ),
    "networks as a list": (lambda c: c.update(networks=[]), r"networks: wanted an object, found \[\]"),
    "a role missing": (lambda c: c["networks"].pop("refiner"), "networks: wanted the roles .*, found no refiner"),
    "an unknown role": (
        lambda c: c["networks"].update(detector=c["networks"]["features"]),
        "networks: wanted only the roles .*, found also detector",
    ),
    "one graph for two roles": (
        edit_role("features", file="refiner.onnx"),
        "networks.features.file: wanted a graph of its own, found refiner.onnx, used for refiner too",
    ),
    "swapped roles": (swap_roles, "networks.coarse_encoder.outputs: wanted tokens of rank 3, found flow"),
    "a network key": (edit_role("refiner", size=3), "networks.refiner: wanted only the keys .*, found also size"),
    "half a hash": (edit_role("refiner", sha256="abc"), "networks.refiner.sha256: wanted 64 hex.*, found 'abc'"),
    "another precision": (edit_role("refiner", precision="int8"), "precision: wanted one of fp32, fp16, found 'int8'"),
    "inputs as an object": (edit_role("refiner", inputs={}), r"networks.refiner.inputs: wanted a list, found \{\}"),
    "no inputs": (
        edit_role("refiner", inputs=[]),
        r"networks.refiner.inputs: wanted query \[N,3,32,32\].*found nothing",
    ),
    "a tensor as text": (edit_role("refiner", inputs=["query"]), r"refiner.inputs\[0\]: wanted an object"),
    "shape without batch": (
        edit_shape("refiner", "inputs", 0, [1, 3, 32, 32]),
        r'inputs\[0\].shape: wanted "N" followed',
    ),
    "shape with a zero": (
        edit_shape("refiner", "outputs", 0, ["N", 2, 0, 8]),
        r'outputs\[0\].shape: wanted "N" followed',
    ),
    "shape with a name": (
        edit_shape("refiner", "outputs", 0, ["N", 2, "H", 8]),
        r'outputs\[0\].shape: wanted "N" follow',
    ),
    "an empty shape": (edit_shape("refiner", "outputs", 0, []), r'outputs\[0\].shape: wanted "N" followed'),
    "another input size": (
        lambda c: c.update(input_size=64, patch_size=16),
        r"networks.coarse_encoder.inputs: wanted image \[N,3,64,64\] float32, found image \[N,3,32,32\] float32",
    ),
    "D differs": (
        edit_shape("coarse_decoder", "inputs", 1, ["N", 16, 8]),
        r"coarse_decoder.inputs: wanted query .*, template \[N,16,16\] float32, found .*, template \[N,16,8\] float32",
    ),
    "the stride is no divisor": (
        edit_shape("refiner", "outputs", 0, ["N", 2, 7, 7]),
        r"flow: wanted \[N,2,H,W\] with H a divisor of input_size \(32\), found H = 7",
    ),
    "cells are not square": (edit_shape("refiner", "outputs", 0, ["N", 2, 8, 4]), r"outputs: wanted flow \[N,2,8,8\]"),
    "an output twice": (
        lambda c: c["networks"]["coarse_encoder"]["outputs"].append(c["networks"]["coarse_encoder"]["outputs"][0]),
        r"encoder.outputs: wanted tokens .* float32, found tokens \[N,16,16\] float32, tokens \[N,16,16\] float32",
    ),
    "a dtype of its own": (
        lambda c: c["networks"]["coarse_decoder"]["outputs"][1].update(dtype="int64"),
        "wanted a name and one of the dtypes float32, int32, found 'index', 'int64'",
    ),
    "a dtype that differs": (
        lambda c: c["networks"]["coarse_decoder"]["outputs"][1].update(dtype="float32"),
        r"coarse_decoder.outputs: wanted .*index \[N,16\] int32.*, found .*index \[N,16\] float32",
    ),
}


def test_features_need_a_size_that_all_their_maps_divide(tmp_path):
    folder = tiny_bundle(tmp_path / "b", input_size=40, features=False)
    assert Bundle.load(folder).input_size == 40
    maps = [{"name": "s4", "shape": ["N", 24, 10, 10], "dtype": "float32"}]
    network = {"file": "refiner2.onnx", "sha256": "0" * 64, "precision": "fp32", "inputs": maps, "outputs": maps}
    change(folder, lambda content: content["networks"].update(features=network))
    refused(folder, "networks.features: features: wanted crops of a multiple of 16 pixels, got 40; ")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_manifest_that_does_not_fit_together_is_refused(fault, folder):
    edit, message = FAULTS[fault]
    change(folder, edit)
    refused(folder, message)


@pytest.mark.parametrize(
    "file",
    ["../refiner.onnx", "/etc/passwd", "a/../../x.onnx", "..\\x.onnx", "..", "", "x\0.onnx", "C:x.onnx", "x.plan"],
)
def test_a_graph_outside_the_folder_is_refused(file, folder):
    (folder.parent / "refiner.onnx").write_bytes((folder / "refiner.onnx").read_bytes())
    change(folder, edit_role("refiner", file=file))
    refused(folder, r"networks.refiner.file: wanted the (plain )?name of an .onnx file")


TEXTS = {
    "nothing": (b"", "wanted JSON, found Expecting value"),
    "half a file": (b'{"schema": 1, "name": "ti', "wanted JSON, found Unterminated string"),
    "not UTF-8": (b'{"schema": "\xff"}', "wanted JSON, found 'utf-8' codec can't decode"),
    "a list": (b"[1]", r"wanted an object, found \[1\]"),
    "NaN": (b'{"schema": NaN}', "wanted finite numbers, found NaN"),
    "a key twice": (b'{"networks": {"refiner": 1, "refiner": 1}}', "refiner: wanted it once, found it twice"),
    "a bottomless file": (b"[" * 200_000, "wanted JSON, found"),
}


@pytest.mark.parametrize("case", TEXTS)
def test_what_is_not_a_manifest_is_refused(case, folder):
    text, message = TEXTS[case]
    (folder / MANIFEST).write_bytes(text)
    refused(folder, message)


def test_a_folder_without_manifest_and_a_folder_that_is_none(tmp_path):
    with pytest.raises(BundleError, match=f"{MANIFEST}: missing; wanted the folder of a bundle"):
        Bundle.load(tmp_path)
    for missing in (tmp_path / "nowhere", str(tmp_path / "nowhere")):
        with pytest.raises(BundleError, match="nowhere: no such folder; wanted a bundle's folder"):
            Bundle.load(missing)
    (tmp_path / MANIFEST).mkdir()
    with pytest.raises(BundleError, match=f"{MANIFEST}: cannot be read"):
        Bundle.load(tmp_path)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_damaged_graph_is_found_by_its_hash_unless_hashes_are_left_out(folder):
    path = folder / "refiner.onnx"
    wanted = sha256_of(path)
    for damage in (flip, lambda p: os.truncate(p, p.stat().st_size // 2), lambda p: p.write_bytes(b"")):
        damage(path)
        with pytest.raises(BundleError, match="damaged or replaced") as caught:
            Bundle.load(folder)
        for part in (str(path), "for refiner", wanted, sha256_of(path), "export it again"):
            assert part in str(caught.value)
        assert Bundle.load(folder, check_hashes=False).network("refiner").sha256 == wanted


def test_a_missing_graph_is_named_even_without_hashes(folder):
    (folder / "features.onnx").unlink()
    with pytest.raises(BundleError, match=r"features\.onnx: missing; .* names it for features"):
        Bundle.load(folder, check_hashes=False)


def test_sha256_is_that_of_the_bytes(tmp_path):
    for size in (0, 1, (1 << 20) - 1, 1 << 20, (1 << 21) + 3):
        data = bytes(range(256)) * (size // 256 + 1)
        (tmp_path / "f").write_bytes(data[:size])
        assert sha256_of(tmp_path / "f") == hashlib.sha256(data[:size]).hexdigest()
    with pytest.raises(BundleError, match="cannot be read: No such file"):
        sha256_of(tmp_path / "none")


def test_a_manifest_that_would_not_load_is_not_written(folder):
    bundle = Bundle.load(folder)
    before = (folder / MANIFEST).read_bytes()
    for training in ({"loss": float("nan")}, {"when": object()}, {"data": {1, 2}}):
        with pytest.raises(BundleError, match=r"cannot be written as JSON: .*; wanted plain, finite data"):
            write_manifest(dataclasses.replace(bundle, training=training))
    flip(folder / "refiner.onnx")
    with pytest.raises(BundleError, match="damaged or replaced"):
        write_manifest(bundle)
    with pytest.raises(BundleError, match="radius_px: wanted a number above 0, found 0"):
        dataclasses.replace(bundle, radius_px=0)
    elsewhere = dataclasses.replace(bundle.network("refiner"), path=folder.parent / "refiner.onnx")
    with pytest.raises(BundleError, match=r"networks.refiner.file: wanted the name of an .onnx file in"):
        dataclasses.replace(bundle, networks={**bundle.networks, "refiner": elsewhere})
    other = dataclasses.replace(bundle.network("refiner"), role="features")
    with pytest.raises(BundleError, match=r"networks.refiner: wanted the role refiner, found the role features"):
        dataclasses.replace(bundle, networks={**bundle.networks, "refiner": other})
    assert (folder / MANIFEST).read_bytes() == before
    assert not list(folder.glob(".*"))  # and no half-written file is left


def test_a_report_travels_with_the_bundle(folder):
    report = {"coarse_encoder": {"max_relative": 1.5e-6}, "poses": {"median_px": 0.02, "rows": [1, 2]}}
    write_manifest(dataclasses.replace(Bundle.load(folder), verification=report))
    assert Bundle.load(folder).verification == report


def test_bundles_are_found_by_name_and_the_error_lists_what_there_is(tmp_path, monkeypatch):
    installed, checkout = tmp_path / "installed", tmp_path / "checkout"
    monkeypatch.setattr(catalog, "_roots", lambda: [installed, checkout])
    with pytest.raises(BundleError, match=r"no bundle 'a' in .*; there: none; give one of these"):
        find("a")
    for root, name in ((installed, "b"), (checkout, "a"), (checkout, "b")):
        tiny_bundle(root / name, name=name)
    (checkout / "no-bundle").mkdir()
    tiny_bundle(checkout / ".a.0123abcd.tmp", name="a")  # what a killed export leaves
    assert available() == [checkout / "a", installed / "b"]  # by name; what is installed comes first
    assert find("b") == installed / "b"
    assert Bundle.load("a").folder == checkout / "a"
    with pytest.raises(BundleError, match=f"no bundle 'c' in {installed} or {checkout}; there: a, b;"):
        Bundle.load("c")
    monkeypatch.chdir(tiny_bundle(tmp_path / "here" / "a", name="mine").parent)
    assert Bundle.load("a").name == "mine"  # an existing folder comes first


def test_the_real_rooms_are_searched():
    engines = Path(coop_edge.__file__).resolve().parents[1] / "engines"
    roots = catalog._roots()
    assert all(root.is_dir() and root.name == "engines" for root in roots)
    if engines.is_dir():
        assert engines in roots
    there = {m.parent for root in roots for m in root.glob(f"*/{MANIFEST}") if m.parent.name[0] != "."}
    assert available() == sorted(there, key=lambda p: p.name)


def test_every_name_of_the_room_is_there():
    assert all(hasattr(rooms, name) for name in rooms.__all__)
    assert re.fullmatch(r"[0-9a-f]{64}", sha256_of(rooms.__file__))
    assert TensorSpec("s8", (None, 40, 4, 4)) in specs("features", input_size=32, patch_size=8, dim=4, stride=4)[1]
