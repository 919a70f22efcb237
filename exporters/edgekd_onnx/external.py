"""Where an ``.onnx`` file keeps weights outside itself, read from its bytes: a board has no onnx package.

Nothing is loaded: the file is mapped, and what holds weights is stepped over. Message and field numbers are those of
onnx.proto; the encoding is https://protobuf.dev/programming-guides/encoding/.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from edgekd.errors import PolicyError

Bytes = bytes | mmap.mmap

#: Message -> field number -> message within it, of those that lead to a tensor.
_INSIDE: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_TENSOR_NAME, _KEY, _VALUE = 8, 1, 2
_LOCATION = b"location"
#: Wire types: a number of 1 to 10 bytes, 8 bytes, a length and so many bytes, 4 bytes.
_VARINT, _EIGHT, _LENGTH, _FOUR = 0, 1, 2, 5


def refuse_outside_data(path: Path) -> None:
    """Refuse an ``.onnx`` file that would have a runtime read weights outside its folder; a damaged file passes.

    Raises:
        PolicyError: names the tensor and the location.
    """
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = list(locations(data))
    except (OSError, ValueError):  # missing, or empty: the runtime says so
        return
    for tensor, location in found:
        refuse_location(path, location, tensor)


def refuse_location(path: Path, location: str, tensor: str) -> None:
    """Refuse a location that is not inside the folder of ``path``, by its name or by a link on its way.

    Raises:
        PolicyError: names the tensor and the location.
    """
    pure = PurePosixPath(location)
    outside = not location or "\\" in location or pure.is_absolute() or ".." in pure.parts
    if not outside:
        outside = path.parent.resolve() not in (path.parent / location).resolve().parents
    if outside:
        raise PolicyError(
            f"{path}: tensor '{tensor}' keeps its data at {location!r}, outside the model's folder",
            "do not use this file",
        )


def locations(data: Bytes) -> Iterator[tuple[str, str]]:
    """(tensor, location) of every tensor whose data is in another file, subgraphs and functions included.

    What is no protobuf ends the search within that message.
    """
    waiting = [("Model", 0, len(data))]
    while waiting:
        kind, start, end = waiting.pop()
        if kind == "Tensor":
            yield from _of_tensor(data, start, end)
            continue
        inside = _INSIDE[kind]
        waiting += [(inside[n], first, last) for n, first, last in _fields(data, start, end) if n in inside]


def _of_tensor(data: Bytes, start: int, end: int) -> Iterator[tuple[str, str]]:
    name, entries = "", []
    for number, first, last in _fields(data, start, end):
        if number == _TENSOR_NAME:
            name = data[first:last].decode(errors="replace")
        elif number in _INSIDE["Tensor"]:
            entries.append((first, last))
    for first, last in entries:
        texts = {n: data[a:b] for n, a, b in _fields(data, first, last) if n in (_KEY, _VALUE)}
        if texts.get(_KEY) == _LOCATION:
            yield name, texts.get(_VALUE, b"").decode(errors="replace")


def _fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, start, end) of the fields of a message that have a length."""
    for number, value, first, last in numbers_and_fields(data, start, end):
        if value is None:
            yield number, first, last


def numbers_and_fields(data: Bytes, start: int, end: int) -> Iterator[tuple[int, int | None, int, int]]:
    """(number, value, start, end) of a message's fields: those that are a varint have a value, those with a length None."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        wire = tag & 7
        if wire == _VARINT:
            first = at
            value, at = _varint(data, at, end)
            yield tag >> 3, value, first, at
        elif wire == _EIGHT:
            at += 8
        elif wire == _FOUR:
            at += 4
        elif wire == _LENGTH:
            size, at = _varint(data, at, end)
            if at + size > end:
                return
            yield tag >> 3, None, at, at + size
            at += size
        else:
            return


def _varint(data: Bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        value |= (byte & 127) << shift
        at += 1
        if byte < 128:
            return value, at
        shift += 7
    return 7, end  # cut off: a wire type that there is none of
