"""Opens a glTF 2.0 file: its JSON, its buffers, and its accessors as arrays (specification, section 3.6)."""

from __future__ import annotations

import base64
import binascii
import struct
from typing import Any
from urllib.parse import unquote_to_bytes

import numpy as np
from numpy.typing import NDArray

from coop_edge.base.plain import parse_json
from coop_edge.errors import MeshError
from coop_edge.mesh.source import Source

_JSON, _BIN = 0x4E4F534A, 0x004E4942
_COMPONENTS = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_EMPTY = 1 << 16  # entries that an accessor without data may have in any file
_AGAIN = "copy or export it again"


class GltfFile:
    """The JSON of a glTF file and the arrays that it describes."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.header, self._blob = _open(source)
        self._buffers: dict[int, bytes] = {}
        asset = self.section(self.header, "asset", dict)
        version, least = (str(asset.get(key, "")) for key in ("version", "minVersion"))
        if not version.startswith("2.") or least not in ("", "2.0"):
            which = least if version.startswith("2.") else version
            raise MeshError(f"glTF {which or 'of no version'} is not read; wanted glTF 2.0: convert or export it again")

    def section(self, holder: dict[str, Any], key: str, kind: type = list) -> Any:
        """Return a part of the JSON, empty if it is not there.

        Raises:
            MeshError: it is of another kind.
        """
        value = holder.get(key, kind())
        if not isinstance(value, kind):
            raise MeshError(f"glTF: {key}: wanted {_name(kind)}, found {_name(type(value))}; the file is damaged")
        return value

    def entry(self, section: str, index: Any) -> dict[str, Any]:
        """Return an object of a list of the JSON.

        Raises:
            MeshError: there is none of this number.
        """
        entries = self.section(self.header, section)
        if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < len(entries):
            raise MeshError(f"glTF: {section}[{index!r}] is not there ({len(entries)} are); the file is damaged")
        if not isinstance(entries[index], dict):
            raise MeshError(f"glTF: {section}[{index}]: wanted an object; the file is damaged")
        return entries[index]

    def accessor(self, index: Any) -> NDArray[Any]:
        """Return an accessor's numbers [count,width]; normalised integers as floats, others of their own type.

        Raises:
            MeshError: damaged, or of a kind that is not read.
        """
        entry = self.entry("accessors", index)
        where = f"accessors[{index}]"
        component, kind = entry.get("componentType"), entry.get("type")
        if component not in _COMPONENTS or kind not in _WIDTHS:
            raise MeshError(f"glTF: {where}: componentType {component!r}, type {kind!r} are not known")
        count = self.integer(entry, "count", where)
        dtype, width = np.dtype(_COMPONENTS[component]), _WIDTHS[kind]
        if kind.startswith("MAT") and dtype.itemsize < 4 and kind != "MAT4":
            raise MeshError(f"glTF: {where}: matrices of {dtype.name} are padded, which is not read")
        triangles = count // 3
        self.source.limits.check("triangles", triangles, f"glTF: {where} holds {count} entries, {triangles} triangles")
        if "bufferView" in entry:
            values = self._view(entry, where, dtype, width, count)
        else:
            values = self._zeros(where, count, width, dtype)
        if "sparse" in entry:
            values = self._sparse(entry, where, values, dtype, width)
        if entry.get("normalized", False) and dtype.kind in "iu":
            return np.maximum(values / float(np.iinfo(dtype).max), -1.0)
        return values

    def _zeros(self, where: str, count: int, width: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return what an accessor without data holds, so many entries at most as there are bytes, or few."""
        stored = sum(len(self._buffer(i)) for i in range(len(self.section(self.header, "buffers"))))
        if count > max(stored, _EMPTY):
            raise MeshError(
                f"glTF: {where} has {count} entries without data of its own, the buffers hold {stored} bytes; {_AGAIN}"
            )
        return np.zeros((count, width), dtype)

    def integer(self, entry: dict[str, Any], key: str, where: str, default: int | None = None) -> int:
        """Return an integer of at least 0 of the JSON.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        value = entry.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 1 << 62:
            raise MeshError(f"glTF: {where}.{key}: wanted an integer of at least 0, found {value!r:.40}")
        return value

    def numbers(self, value: Any, n: int, where: str) -> NDArray[np.float64]:
        """Return ``n`` finite numbers of the JSON.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        right = isinstance(value, list) and len(value) == n
        if right and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value):
            try:
                array = np.array(value, np.float64)
            except OverflowError:
                array = np.array([np.inf])
            if np.isfinite(array).all():
                return array
        raise MeshError(f"glTF: {where}: wanted {n} numbers, found {value!r:.60}; the file is damaged")

    def view_bytes(self, index: Any) -> bytes:
        """Return the bytes of a buffer view, such as a picture's.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        view = self.entry("bufferViews", index)
        where = f"bufferViews[{index}]"
        if "EXT_meshopt_compression" in self.section(view, "extensions", dict):
            raise MeshError("geometry is compressed with EXT_meshopt_compression, which is not read; export it without")
        buffer = self._buffer(self.integer(view, "buffer", where))
        start, length = self.integer(view, "byteOffset", where, 0), self.integer(view, "byteLength", where)
        if start + length > len(buffer):
            raise MeshError(f"glTF: {where} ends at byte {start + length} of {len(buffer)}: truncated; {_AGAIN}")
        return buffer[start : start + length]

    def _view(self, entry: dict[str, Any], where: str, dtype: np.dtype[Any], width: int, count: int) -> NDArray[Any]:
        data = self.view_bytes(entry["bufferView"])
        start = self.integer(entry, "byteOffset", where, 0)
        size = dtype.itemsize * width
        view = self.entry("bufferViews", entry["bufferView"])
        stride = self.integer(view, "byteStride", "bufferView", 0) or size
        if stride < size:
            raise MeshError(f"glTF: {where}: byteStride {stride} is less than the {size} bytes of an entry")
        end = start + stride * (count - 1) + size if count else start
        if end > len(data):
            raise MeshError(f"glTF: {where} ends at byte {end} of {len(data)}: truncated; {_AGAIN}")
        if count == 0:
            return np.zeros((0, width), dtype)
        table = np.ndarray((count, width), dtype, data, start, (stride, dtype.itemsize))
        return table.copy()

    def _sparse(
        self, entry: dict[str, Any], where: str, values: NDArray[Any], dtype: np.dtype[Any], width: int
    ) -> NDArray[Any]:
        sparse = self.section(entry, "sparse", dict)
        count = self.integer(sparse, "count", f"{where}.sparse")
        indices, changed = self.section(sparse, "indices", dict), self.section(sparse, "values", dict)
        component = indices.get("componentType")
        if component not in (5121, 5123, 5125):
            raise MeshError(f"glTF: {where}.sparse: indices of componentType {component!r} are not known")
        at = self._view(indices, f"{where}.sparse", np.dtype(_COMPONENTS[component]), 1, count).ravel().astype(np.int64)
        if at.size and at.max() >= len(values):
            raise MeshError(f"glTF: {where}.sparse changes entry {at.max()} of {len(values)}; the file is damaged")
        values[at] = self._view(changed, f"{where}.sparse", dtype, width, count)
        return values

    def _buffer(self, index: int) -> bytes:
        if index not in self._buffers:
            entry = self.entry("buffers", index)
            uri = entry.get("uri")
            if uri is None:
                if index or self._blob is None:
                    raise MeshError(f"glTF: buffers[{index}] has no data in the file; {_AGAIN}")
                data = self._blob
            else:
                data = self.uri_bytes(uri)
            wanted = self.integer(entry, "byteLength", f"buffers[{index}]", 0)
            if len(data) < wanted:
                raise MeshError(f"glTF: buffers[{index}]: truncated, {len(data)} of {wanted} bytes; {_AGAIN}")
            self._buffers[index] = data
        return self._buffers[index]

    def uses(self, extension: str) -> bool:
        """Tell whether the file says that it uses an extension."""
        names = [*self.section(self.header, "extensionsUsed"), *self.section(self.header, "extensionsRequired")]
        return extension in names

    def uri_bytes(self, uri: Any) -> bytes:
        """Return what a URI stands for: data inside it, or a file.

        Raises:
            MeshError: damaged, or it holds what is not read.
        """
        if not isinstance(uri, str):
            raise MeshError(f"glTF: uri: wanted text, found {uri!r:.40}")
        inside = data_uri(uri)
        return self.source.assets.read(uri) if inside is None else inside


def data_uri(uri: str) -> bytes | None:
    """Return the bytes of a ``data:`` URI, base64 or escaped, None if it is another.

    Raises:
        MeshError: damaged.
    """
    if uri[:5].lower() != "data:":
        return None
    head, comma, body = uri.partition(",")
    if not comma:
        raise MeshError("glTF: a data: URI without data; the file is damaged")
    if not head.lower().endswith(";base64"):
        return unquote_to_bytes(body)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise MeshError(f"glTF: a data: URI cannot be decoded ({error}); the file is damaged") from None


def _open(source: Source) -> tuple[dict[str, Any], bytes | None]:
    """Return the JSON and the binary chunk, None if there is none."""
    data, blob = source.data, None
    if source.path.suffix.lower() == ".glb" or data[:4] == b"glTF":
        data, blob = _chunks(data)
    try:
        header = parse_json(data.decode("utf-8-sig"))
    except ValueError as error:
        raise MeshError(f"its glTF header is not valid JSON ({error}); {_AGAIN}") from None
    if not isinstance(header, dict):
        raise MeshError("its glTF header is not a JSON object")
    return header, blob


def _chunks(data: bytes) -> tuple[bytes, bytes | None]:
    if len(data) < 20 or data[:4] != b"glTF":
        raise MeshError(f"not a binary glTF file (its first bytes are {data[:4]!r}, not b'glTF')")
    version, declared, length, kind = struct.unpack("<IIII", data[4:20])
    if version != 2:
        raise MeshError(f"glTF {version}.0 is not read; wanted glTF 2.0: convert or export it again")
    if len(data) < declared or 20 + length > len(data):
        raise MeshError(f"truncated, {len(data)} of {max(declared, 20 + length)} bytes; {_AGAIN}")
    if kind != _JSON:
        raise MeshError("its first chunk is not JSON; wanted glTF 2.0")
    at = 20 + length
    blob = None
    if at + 8 <= len(data):
        size, kind = struct.unpack("<II", data[at : at + 8])
        if at + 8 + size > len(data):
            raise MeshError(f"truncated, {len(data)} of {at + 8 + size} bytes; {_AGAIN}")
        if kind == _BIN:
            blob = data[at + 8 : at + 8 + size]
    return data[20 : 20 + length], blob


def _name(kind: type) -> str:
    return "a list" if kind is list else "an object" if kind is dict else kind.__name__
