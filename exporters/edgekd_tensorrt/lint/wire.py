"""An ONNX file without its weights: the protobuf is walked where it lies, and large tensors are stepped over.

``onnx.load`` reads a file whole and then parses it, and shape inference and the checker serialize it again: four
copies of the weights, none of which a lint needs. Here the file is mapped, messages that hold a large tensor are
written anew without its data, and where that data lies is kept, so that a scale can still be read.

Wire format: protobuf.dev, "Encoding" (tag = field number << 3 | wire type; 0 varint, 1 64-bit, 2 length-delimited,
5 32-bit). Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

#: A message, by its number: 0 is a tensor, whose data is left out; others are walked through.
_TENSOR, _MODEL, _GRAPH, _NODE, _ATTRIBUTE, _FUNCTION = range(6)

#: Message -> field number -> kind of message in it.
_INSIDE: Mapping[int, Mapping[int, int]] = {
    _MODEL: {7: _GRAPH, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 11: _GRAPH},
    _FUNCTION: {7: _NODE},
}

#: Of a tensor: dims, data_type, name, external_data, data_location. Segments (3) are unused; the rest is data or prose.
_TENSOR_FIELDS = (1, 2, 8, 13, 14)
_EXTERNAL, _DOC_STRING = 13, 12
#: In a tensor's ``doc_string``: names need not be unique, or there at all.
_MARK = "edgekd:left-out:"
_DEPTH = 40


@dataclass(slots=True)
class Slim:
    """What is left of a file.

    Attributes:
        data: a serialized ModelProto whose large tensors hold no values.
        left_out: ``doc_string`` of such a tensor -> its ``(first byte, end)`` in the file, a whole TensorProto.
    """

    data: bytes
    left_out: dict[str, tuple[int, int]] = field(default_factory=dict)


def slim(buffer: memoryview, *, largest: int) -> Slim:
    """Walk a serialized ModelProto.

    Args:
        buffer: the file.
        largest: bytes of the largest tensor message that is kept whole.

    Raises:
        ValueError: not the encoding of a protobuf message.
    """
    walker = _Walker(buffer, largest)
    return Slim(walker.rewrite(0, len(buffer), _MODEL, 0), walker.left_out)


class _Walker:
    def __init__(self, buffer: memoryview, largest: int) -> None:
        self._buffer, self._largest = buffer, largest
        self.left_out: dict[str, tuple[int, int]] = {}

    def rewrite(self, start: int, end: int, kind: int, depth: int) -> bytes:
        """The message in ``[start, end)``, without the data of large tensors."""
        if depth > _DEPTH:
            raise ValueError(f"messages nest deeper than {_DEPTH}")
        out = bytearray()
        inside = _INSIDE[kind]
        at = start
        while at < end:
            begin = at
            tag, at = self._varint(at, end)
            if tag & 7 != 2:
                at = self._skip(tag, at, end)
                out += self._buffer[begin:at]
                continue
            size, at = self._varint(at, end)
            last = at + size
            if last > end:
                raise ValueError(f"a message at byte {begin} reaches beyond its end")
            inner = inside.get(tag >> 3)
            if inner is None or size <= self._largest:
                out += self._buffer[begin:last]
            else:
                text = (
                    self._tensor(at, last) if inner == _TENSOR else self.rewrite(at, last, inner, depth + 1)
                )
                out += _encode(tag) + _encode(len(text)) + text
            at = last
        return bytes(out)

    def _tensor(self, start: int, end: int) -> bytes:
        out, at, external = bytearray(), start, False
        while at < end:
            begin = at
            tag, at = self._varint(at, end)
            if tag & 7 == 2:
                size, at = self._varint(at, end)
                at += size
                if at > end:
                    raise ValueError(f"a tensor at byte {start} reaches beyond its end")
            else:
                at = self._skip(tag, at, end)
            if tag >> 3 in _TENSOR_FIELDS:
                out += self._buffer[begin:at]
                external = external or tag >> 3 == _EXTERNAL
        if not external:
            mark = f"{_MARK}{len(self.left_out)}".encode()
            self.left_out[mark.decode()] = (start, end)
            out += _encode(_DOC_STRING << 3 | 2) + _encode(len(mark)) + mark
        return bytes(out)

    def _skip(self, tag: int, at: int, end: int) -> int:
        kind = tag & 7
        if kind == 0:
            return self._varint(at, end)[1]
        after = at + {1: 8, 5: 4}.get(kind, end)  # groups (3, 4) are not in ONNX
        if after > end:
            raise ValueError(f"wire type {kind} at byte {at} is not protobuf's, or its value is cut off")
        return after

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = shift = 0
        while at < end and shift < 64:
            byte = self._buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
            shift += 7
        raise ValueError(f"a number at byte {at} is cut off")


def _encode(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
