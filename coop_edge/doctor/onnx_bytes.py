"""An ONNX graph of one node, put together byte by byte: the smallest thing that shows whether a provider computes.

The runtime does not depend on the ``onnx`` package. ONNX files are protocol buffers: a message is a sequence of fields,
each a key (number * 8 + wire type) and a value, either a variable-length integer (wire type 0) or a length and as many
bytes (wire type 2; strings and messages). Field numbers are those of onnx.proto (ONNX 1.x, IR version 8).
"""

from __future__ import annotations

FLOAT = 1
IR_VERSION, OPSET = 8, 17


def doubling_model() -> bytes:
    """``y = Add(x, x)`` with x, y float32 [N]: an operator that every provider computes with a kernel of its own."""
    node = _text(1, "x") + _text(1, "x") + _text(2, "y") + _text(4, "Add")
    graph = _block(1, node) + _text(2, "doubling") + _block(11, _vector("x")) + _block(12, _vector("y"))
    return _integer(1, IR_VERSION) + _block(7, graph) + _block(8, _text(1, "") + _integer(2, OPSET))


def _vector(name: str) -> bytes:
    """ValueInfoProto of a float32 vector with the symbolic length N."""
    shape = _block(1, _text(2, "N"))
    return _text(1, name) + _block(2, _block(1, _integer(1, FLOAT) + _block(2, shape)))


def _varint(value: int) -> bytes:
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*groups, value))


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _block(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _text(field: int, text: str) -> bytes:
    return _block(field, text.encode())
