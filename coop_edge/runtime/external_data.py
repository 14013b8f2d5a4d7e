"""Looks into an ONNX file for weights that it keeps in other files, without the package onnx.

Such weights lie outside the SHA-256 of the graph, and a runtime that is given the graph's bytes reads them from the
working directory. The file is walked as protobuf's wire format has it; the numbers are those of onnx.proto3.
"""

from __future__ import annotations

from collections.abc import Iterator

from coop_edge.errors import BundleError

_LOCATION, _EXTERNAL_DATA = 14, 13  # of TensorProto
_CHILDREN: dict[str, dict[int, str]] = {  # message -> field -> what it holds
    "model": {7: "graph", 25: "function", 20: "training"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
_DEEPEST = 100


def has_external_data(graph: bytes) -> bool:
    """Return whether any tensor of an ONNX model lies in another file.

    Raises:
        BundleError: if it cannot be walked.
    """
    waiting = [("model", memoryview(graph), 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > _DEEPEST:
            raise BundleError("its graphs lie too deep in each other")
        children = _CHILDREN[kind]
        for number, value in _fields(message):
            if kind == "tensor" and (number == _EXTERNAL_DATA or (number == _LOCATION and value == 1)):
                return True
            if number in children and isinstance(value, memoryview):
                waiting.append((children[number], value, depth + 1))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield the number and the value of each field: an integer, or the bytes of a text, message or fixed number."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == 2:
            length, at = _varint(message, at)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise BundleError(f"it is not an ONNX model: wire type {wire} at byte {at}")
        if at + length > end:
            raise BundleError("it is not an ONNX model, or truncated")
        yield number, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(message) and shift < 70:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise BundleError("it is not an ONNX model, or truncated")
