from __future__ import annotations

import dataclasses
import json
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.meshes import colored_torus, grey_box, textured_sphere
from coop_edge.errors import BundleError, InputError
from coop_edge.geometry import se3
from coop_edge.mesh import Mesh, Symmetries
from coop_edge.templates import TemplateSet, template_camera
from tests.templates.fake_renderer import SphereRenderer

SYMMETRIES = Symmetries((se3.from_rt(np.diag([-1.0, 1.0, -1.0]), (0.0, 0.0, 0.0)),), (([0.6, 0.0, 0.8], [0, 0.05, 0]),))


@pytest.fixture(scope="module")
def torus() -> Mesh:
    return colored_torus(sections=16)


@pytest.fixture(scope="module")
def templates(torus) -> TemplateSet:
    flip = Symmetries(continuous=(((0.0, 0.0, 1.0), (0.02, -0.01, 0.03)),))
    return TemplateSet.render(torus, 48, renderer=SphereRenderer, symmetries=flip)


@pytest.mark.parametrize(("margin", "field_of_view"), [(1.0, 15.0), (1.05, 15.0), (1.5, 60.0), (2.0, 5.0)])
def test_bounding_sphere_fills_the_crop_to_the_margin(torus, margin, field_of_view):
    """Analytic: the silhouette of the sphere is a disc whose diameter is size / margin, in the middle."""
    size = 201
    T, K = template_camera(torus, size, margin=margin, field_of_view=field_of_view)
    mask = SphereRenderer(torus).render(T, K, size).mask
    rows, columns = mask.any(axis=2), mask.any(axis=1)
    for line in (rows, columns):
        np.testing.assert_allclose(line.sum(axis=1), size / margin, atol=1.0)
        np.testing.assert_array_equal(line, line[:, ::-1])
    assert np.degrees(2 * np.arctan(0.5 * size / K[0, 0])) == pytest.approx(field_of_view)


def test_default_camera_is_eight_radii_away(torus):
    T, _ = template_camera(torus)
    distance = np.linalg.norm(se3.invert(T)[:, :3, 3] - torus.centre, axis=1)
    np.testing.assert_allclose(distance / torus.radius, 8.0, atol=0.1)


def test_render(torus, templates):
    assert templates.rgb.shape == (42, 48, 48, 3)
    assert templates.size == 48
    assert templates.mesh_hash == torus.hash
    assert templates.diameter == torus.diameter
    assert templates.name == torus.name
    on = templates.masks
    assert 0.5 < on.mean() < 0.9
    radius = np.linalg.norm(templates.object_points[on] - torus.centre, axis=-1)
    np.testing.assert_allclose(radius, torus.radius, rtol=1e-4)  # the object's own frame: about its off-centre middle
    assert np.isnan(templates.object_points[~on]).all()
    T, K = template_camera(torus, 48)
    np.testing.assert_array_equal(templates.T_camera_object, T)
    np.testing.assert_array_equal(templates.K, K)
    want = {"renderer": "SphereRenderer", "size": 48, "supersample": 3, "viewpoints": 1, "margin": 1.05}
    assert want.items() <= templates.settings.items()
    cameras = np.linalg.norm(se3.invert(T)[:, :3, 3] - torus.centre, axis=1)
    np.testing.assert_allclose(templates.settings["distance"], cameras, rtol=1e-9)


def test_points_project_to_their_own_pixels(templates):
    v, u = np.mgrid[:48, :48]
    for T, points, mask in zip(templates.T_camera_object, templates.object_points, templates.masks, strict=True):
        camera = se3.transform(T, points[mask].astype(float)) @ templates.K.T
        np.testing.assert_allclose(camera[:, 0] / camera[:, 2], u[mask], atol=1e-3)
        np.testing.assert_allclose(camera[:, 1] / camera[:, 2], v[mask], atol=1e-3)


@pytest.mark.parametrize("make", [textured_sphere, colored_torus, grey_box])
def test_cpu_renderer_fills_the_templates(make):
    mesh = make()
    templates = TemplateSet.render(mesh, 64)
    on = templates.masks
    assert on.any(axis=(1, 2)).all()
    assert not on[:, [0, -1]].any()
    assert not on[:, :, [0, -1]].any()
    points = templates.object_points[on] - mesh.centre
    assert np.linalg.norm(points, axis=-1).max() <= mesh.radius * 1.0001
    assert templates.rgb[on].mean() > 40
    assert templates.settings["renderer"] == "CpuRenderer"


def test_hash_depends_on_everything(torus, templates):
    same = TemplateSet.render(torus, 48, renderer=SphereRenderer, symmetries=templates.symmetries)
    assert same.hash == templates.hash
    rgb = templates.rgb.copy()
    rgb[41, 47, 47, 2] ^= 1
    others = [
        dataclasses.replace(templates, rgb=rgb),
        dataclasses.replace(templates, name="other"),
        dataclasses.replace(templates, mesh_hash="0" * 64),
        dataclasses.replace(templates, symmetries=Symmetries()),
        dataclasses.replace(templates, diameter=templates.diameter * 1.001),
        dataclasses.replace(templates, settings={**templates.settings, "supersample": 1}),
    ]
    assert len({templates.hash, *(t.hash for t in others)}) == len(others) + 1


def test_another_mesh_is_refused(torus, templates):
    templates.check_mesh(torus)
    with pytest.raises(BundleError, match=r"another mesh \(mesh hash .*grey_box.*coop-edge onboard"):
        templates.check_mesh(grey_box())


def test_frozen(templates):
    with pytest.raises(dataclasses.FrozenInstanceError):
        templates.name = "x"
    with pytest.raises(ValueError, match="read-only"):
        templates.rgb[0] = 0
    with pytest.raises(TypeError):
        templates.settings["size"] = 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rgb": np.zeros((0, 8, 8, 3), np.uint8)}, r"rgb: wanted uint8 \[42, "),
        ({"rgb": np.zeros((42, 8, 9, 3), np.uint8)}, "rgb"),
        ({"rgb": None}, "rgb.*NoneType"),
        ({"object_points": np.zeros((42, 48, 48, 3))}, "object_points.*float64"),
        ({"T_camera_object": np.zeros((42, 4, 4))}, "T_camera_object"),
        ({"K": np.full((3, 3), np.nan)}, "K and diameter"),
        ({"diameter": 0.0}, "diameter"),
        ({"symmetries": None}, "symmetries"),
        ({"settings": {"a": object()}}, "plain data"),
    ],
)
def test_fields_are_checked(templates, change, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(templates, **change)


@pytest.mark.parametrize(
    "arguments",
    [{"size": 0}, {"size": 2.5}, {"size": True}, {"margin": 0.9}, {"margin": np.nan}, {"field_of_view": 0}],
)
def test_camera_arguments_are_checked(torus, arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        template_camera(torus, **arguments)


def test_render_wants_a_mesh():
    with pytest.raises(InputError, match=r"Mesh\.load"):
        TemplateSet.render("mug.obj")


@pytest.mark.parametrize("symmetries", [Symmetries(), SYMMETRIES], ids=["none", "both kinds"])
def test_save_and_load(templates, symmetries, tmp_path):
    given = dataclasses.replace(templates, symmetries=symmetries, name="Tässe ☕")
    path = tmp_path / "new folder" / "a.npz"
    given.save(path)
    got = TemplateSet.load(str(path))
    for field in ("rgb", "object_points", "T_camera_object", "K"):
        np.testing.assert_array_equal(getattr(got, field), getattr(given, field))
    assert (got.name, got.mesh_hash, got.diameter) == (given.name, given.mesh_hash, given.diameter)
    assert dict(got.settings) == dict(given.settings)
    assert got.hash == given.hash
    np.testing.assert_array_equal(got.symmetries.group, given.symmetries.group)
    assert len(got.symmetries.continuous) == len(given.symmetries.continuous)
    assert [p.name for p in path.parent.iterdir()] == ["a.npz"]  # no temporary file is left


def test_descriptors_of_views_are_checked(templates):
    shapes = [(42, 8, 8), (43, 2, 8, 8), (0, 2, 8, 8)]
    for wrong in [*(np.zeros(shape, np.float32) for shape in shapes), np.zeros((84, 2, 8, 8)), "views"]:
        with pytest.raises(InputError, match="view_descriptors: wanted float32"):
            dataclasses.replace(templates, view_descriptors=wrong)
    given = dataclasses.replace(templates, view_descriptors=np.ones((84, 2, 8, 8), np.float32))
    assert not given.view_descriptors.flags.writeable


def test_a_failed_save_leaves_the_old_file(templates, tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    templates.save(path)
    before = path.read_bytes()

    def broken(file, **arrays):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(np, "savez_compressed", broken)
    with pytest.raises(OSError, match="disk full"):
        templates.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.fixture(scope="module")
def saved(templates, tmp_path_factory):
    path = tmp_path_factory.mktemp("saved") / "a.npz"
    templates.save(path)
    return path.read_bytes()


def _refused(tmp_path, data, message):
    path = tmp_path / "b.npz"
    path.write_bytes(data)
    with pytest.raises(BundleError, match=message) as caught:
        TemplateSet.load(path)
    assert "coop-edge onboard" in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(BundleError, match="no such template file"):
        TemplateSet.load(tmp_path / "absent.npz")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_truncated_file(saved, share, tmp_path):
    _refused(tmp_path, saved[: int(share * len(saved))], "truncated")


def test_flipped_bits_never_pass(saved, templates, tmp_path):
    """Anywhere in the file: refused, or (bits that carry nothing, such as time stamps) the same content."""
    rng = np.random.default_rng(0)
    path, refused = tmp_path / "b.npz", 0
    for position in [*rng.integers(0, len(saved), 60), *range(len(saved) - 100, len(saved), 5), *range(0, 60, 3)]:
        data = bytearray(saved)
        data[position] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            assert TemplateSet.load(path).hash == templates.hash
        except BundleError:
            refused += 1
    assert refused >= 60


def _rewritten(saved, tmp_path, change=None, **arrays):
    source = tmp_path / "source.npz"
    source.write_bytes(saved)
    with np.load(source) as file:
        contents = {name: file[name] for name in file.files}
    manifest = json.loads(bytes(contents["manifest"]))
    manifest.update(change or {})
    contents["manifest"] = np.frombuffer(json.dumps(manifest).encode(), np.uint8)
    contents.update(arrays)
    target = tmp_path / "target.npz"
    np.savez_compressed(target, **{k: v for k, v in contents.items() if v is not None})
    return target.read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 3}, "schema 3 is newer .* upgrade coop_edge"),
        ({"schema": 0}, "schema 0 is unknown"),
        ({"schema": "1"}, "schema '1' is unknown"),
        ({"format": "other"}, "not of templates"),
        ({"name": "another"}, "does not fit its hash"),
        ({"mesh_hash": "0" * 64}, "does not fit its hash"),
        ({"hash": "0" * 64}, "does not fit its hash"),
        ({"hash": None}, "does not fit its hash"),
        ({"settings": 3}, "damaged"),
        ({"diameter": "wide"}, "damaged"),
        ({"diameter": 10**400}, "damaged"),
        ({"diameter": True}, "damaged"),
        ({"name": ["cup"]}, "damaged.*name: wanted text, got list"),
        ({"mesh_hash": 3}, "damaged.*mesh_hash: wanted text, got int"),
        ({"settings": [["size", 3]]}, "damaged"),
        ({"settings": {"size": [[]]}}, "damaged"),
        ({"schema": [1]}, "schema .* is unknown"),
        ({"schema": True}, "schema True is unknown"),
    ],
)
def test_altered_manifest(saved, change, message, tmp_path):
    _refused(tmp_path, _rewritten(saved, tmp_path, change), message)


def test_altered_or_missing_arrays(saved, templates, tmp_path):
    rgb = templates.rgb.copy()
    rgb[0, 0, 0, 0] ^= 1
    _refused(tmp_path, _rewritten(saved, tmp_path, rgb=rgb), "does not fit its hash")
    _refused(tmp_path, _rewritten(saved, tmp_path, rgb=None), "incomplete, without rgb")
    _refused(tmp_path, _rewritten(saved, tmp_path, rgb=rgb[:5]), "damaged")
    objects = np.array([{}], object)
    _refused(tmp_path, _rewritten(saved, tmp_path, rgb=objects), "truncated or damaged")


def test_foreign_files(tmp_path):
    np.savez(tmp_path / "foreign.npz", a=np.zeros(3))
    _refused(tmp_path, (tmp_path / "foreign.npz").read_bytes(), "not of templates")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("readme.txt", "hello")
    _refused(tmp_path, (tmp_path / "x.zip").read_bytes(), "not of templates")
    np.save(tmp_path / "x.npy", np.zeros(3))
    _refused(tmp_path, (tmp_path / "x.npy").read_bytes(), "not a template file")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"renderer": "cpu"}, "Renderer class"),
        ({"symmetries": 3}, "wanted Symmetries"),
        ({"margin": "wide"}, "margin"),
        ({"margin": np.nan}, "margin"),
        ({"field_of_view": None}, "field_of_view"),
    ],
)
def test_options_of_the_wrong_kind(options, message):
    with pytest.raises(InputError, match=message):
        TemplateSet.render(grey_box(), 16, **options)


def test_another_order_of_viewpoints_is_refused(templates, tmp_path):
    old = dataclasses.replace(templates, settings={**templates.settings, "viewpoints": 0})
    old.save(tmp_path / "old.npz")
    with pytest.raises(BundleError, match="viewpoints are of version 0, wanted 1"):
        TemplateSet.load(tmp_path / "old.npz")


def test_settings_of_any_type_are_another_bundles_settings(templates, tmp_path):
    """Settings are hashed, and so may be anything where somebody else wrote the file."""
    from coop_edge.registry import check_templates
    from coop_edge.runtime.network import TemplateSettings

    bundle = SimpleNamespace(
        name="engines", input_size=templates.size, template=TemplateSettings(42, templates.settings["margin"], 30.0)
    )
    for odd in ("1.2", [1.2], None, True, 10**400, {}, 1e308):
        changed = dataclasses.replace(templates, settings={**templates.settings, "margin": odd})
        changed.save(tmp_path / "x.npz")
        with pytest.raises(BundleError, match="were not made for the engines"):
            check_templates("cup", TemplateSet.load(tmp_path / "x.npz"), bundle)


WRONG = [None, True, 3, 1e300, "x", [], [1, 2], {}, {"a": {}}, float("inf")]


@pytest.mark.parametrize("key", ["format", "schema", "hash", "mesh_hash", "diameter", "settings", "name"])
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_manifest_of_other_types(saved, key, value, tmp_path):
    _refused(tmp_path, _rewritten(saved, tmp_path, {key: value}), "schema|damaged|not of templates")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mesh_hash": 3}, "mesh_hash: wanted text"),
        ({"name": None}, "name: wanted text"),
        ({"diameter": "wide"}, "diameter: wanted a number"),
        ({"diameter": True}, "diameter: wanted a number"),
        ({"diameter": [0.1]}, "diameter: wanted a number"),
        ({"settings": [1]}, "settings: wanted a mapping"),
    ],
)
def test_a_file_of_other_types_whose_hash_fits(templates, change, message, tmp_path):
    """Written by somebody else's code: the hash says nothing against it."""
    with pytest.raises(InputError, match=message):
        dataclasses.replace(templates, **change)


def test_a_bound_on_what_a_file_unpacks_to(templates, saved, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(saved)
    with zipfile.ZipFile(path) as archive:
        total = sum(info.file_size for info in archive.infolist())
    assert TemplateSet.load(path, max_bytes=total).hash == templates.hash
    with pytest.raises(BundleError, match=rf"unpacks to {total} bytes, more than max_bytes={total - 1}; if you trust"):
        TemplateSet.load(path, max_bytes=total - 1)


def test_a_small_file_of_gigabytes_is_refused_before_it_is_unpacked(saved, tmp_path):
    """3 GB of zeros in 3 MB: written piece by piece, as its reader would have to unpack it."""
    path = tmp_path / "a.npz"
    path.write_bytes(saved)
    shape = (42, 5000, 5000, 3)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            if info.filename != "rgb.npy":
                new.writestr(info.filename, old.read(info.filename))
        with new.open("rgb.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for _ in range(1100):
                member.write(bytes(1 << 20))
    with pytest.raises(BundleError, match="more than max_bytes="):
        TemplateSet.load(tmp_path / "b.npz")


def test_a_header_that_promises_more_than_there_is(saved, tmp_path):
    path = tmp_path / "a.npz"
    path.write_bytes(saved)
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "b.npz", "w") as new:
        for info in old.infolist():
            if info.filename != "rgb.npy":
                new.writestr(info.filename, old.read(info.filename))
        with new.open("rgb.npy", "w") as member:
            header = {"descr": "|u1", "fortran_order": False, "shape": (42, 10**6, 10**6, 3)}
            np.lib.format.write_array_header_1_0(member, header)
            member.write(b"few")
    with pytest.raises(BundleError, match=r"rgb\.npy is not what its header says"):
        TemplateSet.load(tmp_path / "b.npz")
