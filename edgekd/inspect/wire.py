"""The protobuf wire format, walked where it lies: no schema, no package, no copies.

Encoding: protobuf.dev, "Encoding" (tag = field number << 3 | wire type; 0 varint, 1 64-bit, 2 length-delimited,
5 32-bit; a varint has at most 10 bytes, a tag at most 32 bits). Groups (3, 4) are in no format that is read here.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, EIGHT, LENGTH, FOUR = 0, 1, 2, 5

_LARGEST_TAG = (1 << 32) - 1
_FIXED = {EIGHT: 8, FOUR: 4}


class WireError(ValueError):
    """Bytes that are no protobuf message.

    Attributes:
        rule: ``malformed``, ``truncated`` or ``fields``.
    """

    def __init__(self, rule: str, what: str) -> None:
        self.rule = rule
        super().__init__(what)


class Budget:
    """How many fields may still be looked at, in all messages of one file together."""

    __slots__ = ("left",)

    def __init__(self, fields: int) -> None:
        self.left = fields

    def take(self, fields: int) -> None:
        """Count fields.

        Raises:
            WireError: there are none left.
        """
        self.left -= fields
        if self.left < 0:
            raise WireError("fields", "it has more protobuf fields than the limit")


def fields(data: memoryview, at: int, end: int, budget: Budget) -> Iterator[tuple[int, int, int, int]]:
    """The fields of the message in ``data[at:end]``: (number, wire type, value or first byte, end of the field).

    The third is a varint's value, and else the offset of the first byte of the value.

    Raises:
        WireError: not a protobuf message, or the budget is spent.
    """
    while at < end:
        budget.left -= 1
        if budget.left < 0:
            budget.take(0)
        begin = at
        tag = data[at]
        at += 1
        if tag >= 0x80:
            tag, at = varint(data, begin, end)
            if tag > _LARGEST_TAG:
                raise WireError("malformed", f"the tag at byte {begin} has more than 32 bits")
        kind, number = tag & 7, tag >> 3
        if not number:
            raise WireError("malformed", f"field 0 at byte {begin} is no protobuf field")
        if kind == LENGTH:
            size, at = varint(data, at, end)
            last = at + size
            if last > end:
                raise WireError(
                    "truncated", f"field {number} at byte {begin} reaches to byte {last}, beyond {end}"
                )
            yield number, kind, at, last
            at = last
        elif kind == VARINT:
            value, at = varint(data, at, end)
            yield number, kind, value, at
        elif kind in _FIXED:
            last = at + _FIXED[kind]
            if last > end:
                raise WireError("truncated", f"field {number} at byte {begin} is cut off")
            yield number, kind, at, last
            at = last
        else:
            raise WireError(
                "malformed", f"field {number} at byte {begin} has wire type {kind}, which is not in use"
            )


def varint(data: memoryview, at: int, end: int) -> tuple[int, int]:
    """The number at ``at``, unsigned, and where it ends.

    Raises:
        WireError: cut off, more than 10 bytes, or more than 64 bits.
    """
    if at < end and (byte := data[at]) < 0x80:
        return byte, at + 1
    value = shift = 0
    for i in range(at, min(at + 10, end)):
        byte = data[i]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >> 64:
                break
            return value, i + 1
        shift += 7
    else:
        if end < at + 10:
            raise WireError("truncated", f"the number at byte {at} is cut off")
    raise WireError("malformed", f"the number at byte {at} has more than 64 bits")


def signed(value: int) -> int:
    """A varint as int64 reads it."""
    return value - (1 << 64) if value >> 63 else value


def encode(value: int) -> bytes:
    """A varint, in as few bytes as it needs.

    >>> encode(300)
    b'\\xac\\x02'
    """
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
