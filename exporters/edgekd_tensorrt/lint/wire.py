"""An ONNX file without its weights: the protobuf is walked where it lies, and large tensors are stepped over.

``onnx.load`` reads a file whole and then parses it, and shape inference and the checker serialize it again: four
copies of the weights, none of which a lint needs. Here the file is mapped, messages that hold a large tensor are
written anew without its data, and where that data lies is kept, so that a scale can still be read.

Wire format: :mod:`edgekd.inspect.wire`. Field numbers: onnx/onnx.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgekd.inspect import wire
from edgekd.inspect.limits import LIMITS

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
        self._budget = wire.Budget(LIMITS.fields)
        self.left_out: dict[str, tuple[int, int]] = {}

    def rewrite(self, start: int, end: int, kind: int, depth: int) -> bytes:
        """The message in ``[start, end)``, without the data of large tensors."""
        if depth > _DEPTH:
            raise ValueError(f"messages nest deeper than {_DEPTH}")
        out = bytearray()
        inside = _INSIDE[kind]
        begin = start
        for number, wire_type, first, last in wire.fields(self._buffer, start, end, self._budget):
            inner = inside.get(number) if wire_type == wire.LENGTH else None
            if inner is None or last - first <= self._largest:
                out += self._buffer[begin:last]
            else:
                text = (
                    self._tensor(first, last)
                    if inner == _TENSOR
                    else self.rewrite(first, last, inner, depth + 1)
                )
                out += wire.encode(number << 3 | wire.LENGTH) + wire.encode(len(text)) + text
            begin = last
        return bytes(out)

    def _tensor(self, start: int, end: int) -> bytes:
        out, begin, external = bytearray(), start, False
        for number, _, _, last in wire.fields(self._buffer, start, end, self._budget):
            if number in _TENSOR_FIELDS:
                out += self._buffer[begin:last]
                external = external or number == _EXTERNAL
            begin = last
        if not external:
            mark = f"{_MARK}{len(self.left_out)}".encode()
            self.left_out[mark.decode()] = (start, end)
            out += wire.encode(_DOC_STRING << 3 | wire.LENGTH) + wire.encode(len(mark)) + mark
        return bytes(out)
