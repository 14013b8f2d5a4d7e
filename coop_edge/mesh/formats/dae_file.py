"""Opens a COLLADA file: its elements by id, and its sources as arrays."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from typing import Any

import numpy as np
from numpy.typing import NDArray

from coop_edge.errors import MeshError
from coop_edge.mesh.source import Source
from coop_edge.mesh.text import floats, integers

Element = ET.Element
_AGAIN = "copy or export it again"


class DaeFile:
    """The elements of a COLLADA file, without their namespace."""

    def __init__(self, source: Source) -> None:
        self.source = source
        if re.search(rb"<!(DOCTYPE|ENTITY)", source.data.replace(b"\0", b"")):
            raise MeshError("has a document type of its own, which is not read; export it again")
        try:
            self.root = ET.fromstring(source.data)
        except (ET.ParseError, ValueError, LookupError) as error:
            raise MeshError(f"is not valid XML ({error}): truncated or damaged; {_AGAIN}") from None
        for element in self.root.iter():
            if isinstance(element.tag, str):
                element.tag = element.tag.rpartition("}")[2]
        if self.root.tag != "COLLADA":
            raise MeshError(f"not a COLLADA file: its root is <{self.root.tag}>")
        self._by_id: dict[str, Element] = {}
        for element in self.root.iter():
            if "id" in element.attrib:
                self._by_id.setdefault(element.attrib["id"], element)
        self._arrays: dict[str, NDArray[np.float64]] = {}

    def target(self, reference: str | None, tag: str) -> Element:
        """Return the element that ``#id`` stands for.

        Raises:
            MeshError: missing, elsewhere, or of another kind.
        """
        if reference is None or not reference.startswith("#"):
            raise MeshError(f"<{tag}>: {reference!r} lies in another file or nowhere, which is not read")
        found = self._by_id.get(reference[1:])
        if found is None or found.tag != tag:
            raise MeshError(
                f"<{tag}>: {reference!r} is not in the file; it is damaged, or a part was left out: {_AGAIN}"
            )
        return found

    def array(self, reference: str | None, least: int) -> NDArray[np.float64]:
        """Return the named columns of a source [count,width].

        Raises:
            MeshError: fewer than ``least``.
        """
        element = self.target(reference, "source")
        key = element.attrib["id"]
        if key not in self._arrays:
            self._arrays[key] = self._read_source(element, key)
        rows = self._arrays[key]
        if rows.shape[1] < least:
            raise MeshError(f"source {key!r} has {rows.shape[1]} numbers per entry; wanted {least}; {_AGAIN}")
        return rows

    def _read_source(self, element: Element, key: str) -> NDArray[np.float64]:
        accessor = element.find("technique_common/accessor")
        if accessor is None:
            raise MeshError(f"source {key!r} has no accessor; {_AGAIN}")
        count, stride = _integer(accessor, "count", None), _integer(accessor, "stride", 1)
        offset = _integer(accessor, "offset", 0)
        array = self.target(accessor.get("source"), "float_array")
        numbers = floats((array.text or "").split(), f"source {key!r}")
        wanted = _integer(array, "count", len(numbers))
        end = offset + stride * (count - 1) + 1 if count else 0
        if len(numbers) < wanted or (count and (stride < 1 or end > len(numbers))):
            raise MeshError(f"source {key!r}: truncated, {len(numbers)} of {max(wanted, end)} numbers; {_AGAIN}")
        params = [(i, p) for i, p in enumerate(accessor.findall("param")) if p.get("name")]
        columns = [i for i, _ in params] or list(range(stride))
        if max(columns, default=0) >= stride:
            raise MeshError(f"source {key!r}: more columns than its stride of {stride}; {_AGAIN}")
        padded = np.concatenate([numbers[offset:], np.zeros(stride)])
        return padded[: count * stride].reshape(count, stride)[:, columns] if count else np.zeros((0, len(columns)))


def indices(element: Element | None, what: str) -> NDArray[np.int64]:
    """Return the integers of an element's text.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    return integers((element.text or "").split() if element is not None else [], what)


def numbers(element: Element, n: int) -> NDArray[np.float64]:
    """Return the ``n`` finite numbers of an element's text.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    values = floats((element.text or "").split(), f"<{element.tag}>")
    if len(values) != n or not np.isfinite(values).all():
        raise MeshError(f"<{element.tag}>: wanted {n} finite numbers, found {(element.text or '').strip()[:60]!r}")
    return values


def attribute(element: Element, name: str) -> str:
    """Return an attribute.

    Raises:
        MeshError: it is missing.
    """
    value = element.get(name)
    if value is None:
        raise MeshError(f"<{element.tag}> has no {name}; {_AGAIN}")
    return value


def _integer(element: Element, name: str, default: int | None) -> int:
    text = element.get(name)
    if text is None and default is not None:
        return default
    try:
        value = int(text or "")
    except ValueError:
        value = -1
    if not 0 <= value < 1 << 40:
        raise MeshError(f"<{element.tag}>: {name}={text!r:.40}: wanted an integer of at least 0; {_AGAIN}")
    return value


def integer(element: Element, name: str, default: Any = None) -> int:
    """Return an attribute that is an integer of at least 0.

    Raises:
        MeshError: damaged, or it holds what is not read.
    """
    return _integer(element, name, default)
