"""Reading a FlatBuffer where nothing in it is believed: every offset is checked before it is followed.

Layout: tables point to a vtable (signed offset back), vtables list where each field is (u16, 0: absent), and vectors,
strings and other tables are reached by unsigned offsets forward (FlatBuffers, *Internals*).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from edgekd.inspect.limits import Limits
from edgekd.inspect.rules import Refusal, refuse

_U16, _U32, _I32, _U64 = (struct.Struct(f) for f in ("<H", "<I", "<i", "<Q"))


@dataclass(frozen=True, slots=True)
class Table:
    """A table within a buffer: where it starts, and where each field of its vtable is (0: absent)."""

    position: int
    fields: tuple[int, ...]

    def at(self, slot: int) -> int:
        """Position of a field in the buffer; 0 where the table has none."""
        offset = self.fields[slot] if slot < len(self.fields) else 0
        return self.position + offset if offset else 0


@dataclass(slots=True)
class FlatBuffer:
    """A buffer that refuses what lies outside it.

    Args:
        path: for messages.
        data: the buffer, which begins with the offset of the root table.
        limits: ``fields`` caps how many tables and vectors are looked at.
    """

    path: Path
    data: memoryview
    limits: Limits
    _seen: int = 0
    _vtables: dict[int, tuple[int, tuple[int, ...]]] = field(default_factory=dict)

    def malformed(self, what: str) -> Refusal:
        """The refusal of a damaged buffer."""
        return refuse("malformed", self.path, what, "export or copy it again")

    def _read(self, form: struct.Struct, position: int, what: str) -> int:
        if not 0 <= position <= len(self.data) - form.size:
            raise refuse(
                "truncated", self.path, f"{what} lies at byte {position} of {len(self.data)}", "copy it again"
            )
        return int(form.unpack_from(self.data, position)[0])

    def u8(self, position: int, what: str) -> int:
        """One byte."""
        return self._read(struct.Struct("<B"), position, what)

    def i32(self, position: int, what: str) -> int:
        """A signed number."""
        return self._read(_I32, position, what)

    def u32(self, position: int, what: str) -> int:
        """An unsigned number."""
        return self._read(_U32, position, what)

    def u64(self, position: int, what: str) -> int:
        """A long unsigned number."""
        return self._read(_U64, position, what)

    def root(self) -> Table:
        """The table that the buffer starts with."""
        return self.table(0, "the root table")

    def table(self, position: int, what: str) -> Table:
        """The table that the offset at ``position`` leads to."""
        self._count()
        start = position + self._read(_U32, position, what)
        vtable = start - self._read(_I32, start, what)
        inline, slots = self._vtable(vtable, what)
        if start + inline > len(self.data) or any(s >= inline for s in slots):
            raise self.malformed(f"{what} reaches behind its own end")
        return Table(start, slots)

    def _vtable(self, position: int, what: str) -> tuple[int, tuple[int, ...]]:
        known = self._vtables.get(position)
        if known is not None:
            return known
        size = self._read(_U16, position, what)
        inline = self._read(_U16, position + 2, what)
        if size < 4 or size % 2 or position + size > len(self.data) or inline < 4:
            raise self.malformed(f"{what} has a vtable of {size} bytes at byte {position}")
        slots = struct.unpack_from(f"<{size // 2 - 2}H", self.data, position + 4)
        self._vtables[position] = found = (inline, slots)
        return found

    def vector(self, table: Table, slot: int, width: int, what: str) -> tuple[int, int]:
        """Start and length of a vector of items of ``width`` bytes; (0, 0) where the table has none."""
        at = table.at(slot)
        if not at:
            return 0, 0
        self._count()
        start = at + self._read(_U32, at, what)
        length = self._read(_U32, start, what)
        if start + 4 + length * width > len(self.data):
            raise refuse(
                "truncated", self.path, f"{what} has {length} items, the file ends before", "copy it again"
            )
        return start + 4, length

    def tables(self, table: Table, slot: int, what: str) -> list[Table]:
        """The tables of a vector."""
        start, length = self.vector(table, slot, 4, what)
        self._count(length)
        return [self.table(start + 4 * i, f"{what} {i}") for i in range(length)]

    def numbers(self, table: Table, slot: int, what: str) -> tuple[int, ...]:
        """A vector of int32."""
        start, length = self.vector(table, slot, 4, what)
        self._count(length)
        return struct.unpack_from(f"<{length}i", self.data, start)

    def text(self, table: Table, slot: int, what: str) -> str:
        """A string; empty where the table has none."""
        start, length = self.vector(table, slot, 1, what)
        if length > self.limits.name_bytes:
            raise refuse(
                "name-text",
                self.path,
                f"{what} has {length} bytes, at most {self.limits.name_bytes} are read",
            )
        try:
            return bytes(self.data[start : start + length]).decode()
        except UnicodeDecodeError as e:
            raise refuse("name-text", self.path, f"{what} is not UTF-8") from e

    def _count(self, more: int = 1) -> None:
        self._seen += more
        if self._seen > self.limits.fields:
            raise refuse(
                "fields",
                self.path,
                f"it has more than {self.limits.fields} tables and vectors",
                "use a smaller model",
            )
