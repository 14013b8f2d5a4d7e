"""Reads ``bundle.json`` strictly (every key known, none twice, every type right), and writes it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from coop_edge.errors import BundleError
from coop_edge.runtime.base import TensorSpec
from coop_edge.runtime.covariance_map import CovarianceMap
from coop_edge.runtime.network import MANIFEST, REMEDY, Network, TemplateSettings
from coop_edge.runtime.score_map import DEPTH_EVIDENCE, EVIDENCE, OPTIONAL, ScoreMap

SCHEMA = 1
"""Of the manifest: raised when a reader of the old one would misread the new one."""

_BATCH = "N"
_DTYPES = ("float32", "int32")
_SIZES = {"input_size", "patch_size", "radius_px"}
_TOP = {"schema", "name", "version", "licence", "training", "template", "networks"} | _SIZES
_MAPS = {
    "score": "score_map",
    "score_grey": "grey_score_map",
    "score_depth": "depth_score_map",
    "covariance": "covariance_map",
    "covariance_depth": "depth_covariance_map",
}
"""Names of what a bundle may lack, in the file and in ``Bundle``."""
_TEMPLATE = {"views", "margin", "field_of_view"}
_NETWORK = {"file", "sha256", "precision", "inputs", "outputs"}
_TENSOR = {"name", "shape", "dtype"}
_KINDS = {str: "text", int: "an integer", float: "a number", dict: "an object", list: "a list"}
_MAX_BYTES = 16 << 20


def read_manifest(path: Path) -> dict[str, Any]:
    """Read the fields of a Bundle, except its folder, as the file gives them; the graphs are not looked at.

    Raises:
        BundleError: it is not a manifest of this schema, with every key known, there once, and of its type.
    """
    return _Reader(path).fields()


def manifest_text(path: Path, fields: Mapping[str, Any]) -> str:
    """Return a Bundle's fields as JSON that ``read_manifest`` takes.

    Raises:
        BundleError: it holds what JSON cannot.
    """
    plain = {key: fields[key] for key in ("name", "version", "licence", "training")}
    sizes = {key: fields[key] for key in ("input_size", "patch_size", "radius_px")}
    networks = {
        role: {
            "file": network.path.name,
            "sha256": network.sha256,
            "precision": network.precision,
            "inputs": [_tensor_json(spec) for spec in network.inputs],
            "outputs": [_tensor_json(spec) for spec in network.outputs],
        }
        for role, network in fields["networks"].items()
    }
    template = dataclasses.asdict(fields["template"])
    content = {"schema": SCHEMA, **plain, **sizes, "template": template, "networks": networks}
    content |= {key: fields[field].to_dict() for key, field in _MAPS.items() if fields[field] is not None}
    content["verification"] = fields["verification"]
    try:
        return json.dumps(content, indent=2, allow_nan=False, default=_plain) + "\n"
    except (TypeError, ValueError) as error:
        raise BundleError(f"{path}: cannot be written as JSON: {error}; wanted plain, finite data") from error


def _tensor_json(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "shape": [_BATCH if n is None else n for n in spec.shape], "dtype": spec.dtype}


def _plain(value: object) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


class _Reader:
    """Turns one file into the fields of a Bundle; every error names the file and the place in it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fail(self, where: str, wanted: str, found: object) -> NoReturn:
        place = f"{where}: " if where else ""
        raise BundleError(f"{self.path}: {place}wanted {wanted}, found {found}; {REMEDY}")

    def fields(self) -> dict[str, Any]:
        top = self.mapping({"": self.parse()}, "", "")
        schema = top.get("schema")
        if schema != SCHEMA or isinstance(schema, bool):  # before all else: another schema has other keys
            self.fail("schema", f"{SCHEMA}, the one this version of coop_edge reads", repr(schema))
        self.keys("", top, _TOP, {"verification", *_MAPS})
        template = self.mapping(top, "", "template")
        self.keys("template", template, _TEMPLATE)
        networks = self.mapping(top, "", "networks")
        return {
            **{key: self.take(top, "", key, str) for key in ("name", "version", "licence")},
            **{key: self.take(top, "", key, int) for key in ("input_size", "patch_size")},
            "radius_px": self.take(top, "", "radius_px", float),
            "training": self.mapping(top, "", "training"),
            "template": TemplateSettings(
                self.take(template, "template", "views", int),
                self.take(template, "template", "margin", float),
                self.take(template, "template", "field_of_view", float),
            ),
            "networks": {role: self.network(networks, role) for role in networks},
            "verification": self.mapping(top, "", "verification") if "verification" in top else {},
            "score_map": self.score_map(top, "score", EVIDENCE) if "score" in top else None,
            "grey_score_map": self.score_map(top, "score_grey", EVIDENCE) if "score_grey" in top else None,
            "depth_score_map": self.score_map(top, "score_depth", DEPTH_EVIDENCE) if "score_depth" in top else None,
            "covariance_map": self.covariance_map(top, "covariance") if "covariance" in top else None,
            "depth_covariance_map": (
                self.covariance_map(top, "covariance_depth") if "covariance_depth" in top else None
            ),
        }

    def score_map(self, top: Mapping[str, Any], key: str, evidence: tuple[str, ...]) -> ScoreMap:
        entry = self.mapping(top, "", key)
        self.keys(key, entry, {"intercept", "weights"})
        weights = self.mapping(entry, key, "weights")
        names = [name for name in evidence if name in weights or name not in OPTIONAL]
        self.keys(f"{key}.weights", weights, set(names))
        each = {name: self.take(weights, f"{key}.weights", name, float) for name in names}
        try:
            return ScoreMap(self.take(entry, key, "intercept", float), each)
        except BundleError as error:
            self.fail("", "a map from evidence to a probability", error)

    def covariance_map(self, top: Mapping[str, Any], key: str) -> CovarianceMap:
        entry = self.mapping(top, "", key)
        self.keys(key, entry, {"scale"})
        try:
            return CovarianceMap(self.take(entry, key, "scale", float))
        except BundleError as error:
            self.fail("", "a map of covariances", error)

    def parse(self) -> Any:
        if self.path.exists() and not self.path.is_file():  # a pipe would be waited for without end
            raise BundleError(
                f"{self.path}: cannot be read: not a regular file; wanted the manifest of a bundle; {REMEDY}"
            )
        try:
            with self.path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
        except FileNotFoundError as error:
            raise BundleError(f"{self.path}: missing; wanted the folder of a bundle, which holds {MANIFEST}") from error
        except OSError as error:
            raise BundleError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        if len(data) > _MAX_BYTES:
            self.fail("", f"at most {_MAX_BYTES} bytes", "more")
        try:
            return json.loads(data.decode("utf-8"), object_pairs_hook=self.pairs, parse_constant=self.constant)
        except (ValueError, RecursionError) as error:  # ValueError: malformed JSON and malformed UTF-8 alike
            self.fail("", "JSON", error)

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        """Make an object of the JSON; ``json`` alone would let the last of two equal keys win."""
        result: dict[str, Any] = {}
        for key, value in pairs:
            if key in result:
                self.fail(key, "it once", "it twice in one object")
            result[key] = value
        return result

    def constant(self, name: str) -> NoReturn:
        self.fail("", "finite numbers", name)

    def keys(self, where: str, found: Mapping[str, Any], required: set[str], optional: set[str] | None = None) -> None:
        if missing := required - set(found):
            self.fail(where, f"the keys {', '.join(sorted(required))}", f"no {', no '.join(sorted(missing))}")
        if unknown := set(found) - required - (optional or set()):
            self.fail(where, f"only the keys {', '.join(sorted(required))}", f"also {', '.join(sorted(unknown))}")

    def take(self, holder: Mapping[str, Any], where: str, key: str, kind: Any) -> Any:
        """Return ``holder[key]``, of the type ``kind``: int passes for float, bool for neither."""
        value = holder[key]
        fits = isinstance(value, (int, float) if kind is float else kind) and not isinstance(value, bool)
        if not fits:
            self.fail(f"{where}.{key}".strip("."), _KINDS[kind], repr(value)[:200])
        try:
            return float(value) if kind is float else value
        except OverflowError:  # JSON's integers have no end
            self.fail(f"{where}.{key}".strip("."), "a number that fits a double", "a larger one")

    def mapping(self, holder: Mapping[str, Any], where: str, key: str) -> Mapping[str, Any]:
        result: Mapping[str, Any] = self.take(holder, where, key, dict)
        return result

    def network(self, networks: Mapping[str, Any], role: str) -> Network:
        where = f"networks.{role}"
        entry = self.mapping(networks, "networks", role)
        self.keys(where, entry, _NETWORK)
        file = self.take(entry, where, "file", str)
        if file in ("", ".", "..") or any(mark in file for mark in ("/", "\\", "\0", ":")):
            self.fail(f"{where}.file", "the plain name of an .onnx file beside the manifest", repr(file))
        return Network(
            role=role,
            path=self.path.parent / file,
            sha256=self.take(entry, where, "sha256", str),
            precision=self.take(entry, where, "precision", str),
            inputs=self.tensors(entry, where, "inputs"),
            outputs=self.tensors(entry, where, "outputs"),
        )

    def tensors(self, entry: Mapping[str, Any], where: str, side: str) -> tuple[TensorSpec, ...]:
        found = self.take(entry, where, side, list)
        places = {f"{side}[{i}]": tensor for i, tensor in enumerate(found)}
        return tuple(self.tensor(self.mapping(places, where, place), f"{where}.{place}") for place in places)

    def tensor(self, entry: Mapping[str, Any], where: str) -> TensorSpec:
        self.keys(where, entry, _TENSOR)
        shape = self.take(entry, where, "shape", list)
        sizes = shape[1:]
        static = all(isinstance(n, int) and not isinstance(n, bool) and n >= 1 for n in sizes)
        if not shape or shape[0] != _BATCH or not static:
            self.fail(f"{where}.shape", f'"{_BATCH}" followed by positive integers', repr(shape)[:200])
        name, dtype = self.take(entry, where, "name", str), self.take(entry, where, "dtype", str)
        if not name or dtype not in _DTYPES:
            self.fail(where, f"a name and one of the dtypes {', '.join(_DTYPES)}", f"{name!r}, {dtype!r}")
        return TensorSpec(name, (None, *sizes), dtype)
