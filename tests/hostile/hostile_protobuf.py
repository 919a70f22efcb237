"""Protobuf written by hand, with and without its lies; field numbers are those of onnx.proto."""

from __future__ import annotations


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def number(field: int, value: int) -> bytes:
    """A field of wire type 0."""
    return varint(field << 3) + varint(value)


def message(field: int, *parts: bytes | str) -> bytes:
    """A field of wire type 2: bytes, text or a message of its own."""
    data = b"".join(p.encode() if isinstance(p, str) else p for p in parts)
    return varint(field << 3 | 2) + varint(len(data)) + data


def node(op: str, inputs: list[str], outputs: list[str], *rest: bytes, domain: str = "") -> bytes:
    named = b"".join(message(1, i) for i in inputs) + b"".join(message(2, o) for o in outputs)
    return message(1, named, message(4, op), *rest, message(7, domain) if domain else b"")


def entry(key: str, value: str) -> bytes:
    """One pair of ``external_data``."""
    return message(13, message(1, key), message(2, value))


def tensor(name: str, dims: list[int], *rest: bytes, kind: int = 1, field: int = 5) -> bytes:
    """An initializer."""
    return message(field, b"".join(number(1, d) for d in dims), number(2, kind), message(8, name), *rest)


def raw(data: bytes) -> bytes:
    return message(9, data)


def outside(**pairs: str) -> bytes:
    """A tensor's data in another file."""
    return b"".join(entry(k, v) for k, v in pairs.items()) + number(14, 1)


def value(field: int, name: str, dims: list[int] | None = None) -> bytes:
    shape = b"".join(message(1, number(1, d)) for d in (dims or [2]))
    return message(field, message(1, name), message(2, message(1, number(1, 1), message(2, shape))))


def opset(domain: str = "", version: int = 17) -> bytes:
    return message(8, message(1, domain) if domain else b"", number(2, version))


def model(*graph: bytes, opsets: bytes | None = None, rest: bytes = b"") -> bytes:
    """A model around the parts of a graph; sound where they are."""
    return number(1, 9) + message(7, *graph, message(2, "g")) + (opset() if opsets is None else opsets) + rest


def identity(*more: bytes) -> bytes:
    """A sound graph of one node."""
    return node("Add", ["x", "w"], ["y"]) + b"".join(more) + value(11, "x") + value(12, "y")
