"""The bytes of ``.ort`` files: read without ONNX Runtime, and made the same for the same model.

An ``.ort`` file is a flatbuffer (onnxruntime/core/flatbuffers/schema/ort.fbs). ONNX Runtime writes its table of kernel
type strings in the order of a hash map that is seeded anew each time; here that table is written again, sorted.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.lazy import require

#: ``InferenceSession`` in ort.fbs: its field ``kernel_type_str_resolver`` is the fourth, at 4 + 2 x 3 in the vtable.
_RESOLVER_FIELD = 10
_IDENTIFIER = b"ORTM"
_DAMAGED = "the file is damaged or not in ORT format: convert it again"

Entries = list[tuple[bytes, list[tuple[bytes, list[tuple[int, int]]]]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a ``.ort`` file holds.

    Attributes:
        weights: ONNX element type (number) -> how many elements of it the initializers have.
        operators: operator -> how many nodes, those of subgraphs left out.
        domains: domains of its operators beside the default, sorted.
        version: the ONNX Runtime that wrote it.
    """

    weights: dict[int, int]
    operators: dict[str, int]
    domains: tuple[str, ...]
    version: str


def _schema(name: str) -> Any:
    require("onnxruntime.tools.ort_format_model", extra="ort", purpose="reading ORT format")
    module = require(f"ort_flatbuffers_py.fbs.{name}", extra="ort", purpose="reading ORT format")
    return getattr(module, name)


def read_contents(path: Path) -> Contents:
    """Read a ``.ort`` file that ONNX Runtime has already verified.

    Raises:
        ModelError: not of that format.
    """
    data = path.read_bytes()
    if data[4:8] != _IDENTIFIER:
        raise ModelError(f"{path} is not in ORT format", _DAMAGED)
    try:
        session = _schema("InferenceSession").GetRootAs(data, 0)
        graph = session.Model().Graph()
        weights: Counter[int] = Counter()
        for i in range(graph.InitializersLength()):
            tensor = graph.Initializers(i)
            elements = 1
            for axis in range(tensor.DimsLength()):
                elements *= int(tensor.Dims(axis))
            weights[int(tensor.DataType())] += elements
        nodes = [graph.Nodes(i) for i in range(graph.NodesLength())]
        return Contents(
            weights=dict(weights),
            operators=dict(Counter((n.OpType() or b"").decode() for n in nodes)),
            domains=tuple(sorted({(n.Domain() or b"").decode() for n in nodes} - {"", "ai.onnx"})),
            version=(session.OrtVersion() or b"").decode(),
        )
    except (struct.error, AttributeError, IndexError, UnicodeDecodeError, ValueError) as e:
        raise ModelError(f"cannot read {path} in ORT format ({e})", _DAMAGED) from e


def canonical(data: bytes) -> bytes:
    """The same model with its kernel type strings sorted.

    The old table is overwritten with zeros and the new one appended: a flatbuffer may hold its parts in any order.

    Raises:
        ModelError: a layout that is not known: the old table is not one run of bytes.
    """
    session = _schema("InferenceSession").GetRootAs(data, 0)
    resolver = session.KernelTypeStrResolver()
    if resolver is None:
        return data
    root, model = session._tab.Pos, session.Model()._tab.Pos
    table = _vtable(data, root)
    # The builder writes from the end: in the file the root comes first, then the resolver, then the model, which can
    # refer to nothing before it but its own vtable. What lies behind is the model's: the builder writes equal strings
    # (an argument "y_scale" and a tensor of that name) and equal vtables once.
    model = min(model, _vtable(data, model))
    own = [span for span in _spans(data, resolver) if span[0] < model]
    start, end = min(first for first, _ in own), max(stop for _, stop in own)
    field = root + struct.unpack_from("<H", data, table + _RESOLVER_FIELD)[0]
    if not (table < start and root < start and end <= model) or any(
        start <= kept < end for kept in _targets(data, root, but=_RESOLVER_FIELD)
    ):
        raise ModelError("the .ort file of this ONNX Runtime has an unknown layout", "use another version")
    made = bytearray(data)
    made[start:end] = bytes(end - start)
    made += bytes(-len(made) % 8)
    subtree = _build(sorted(_entries(resolver)))
    position = len(made) + struct.unpack_from("<I", subtree, 0)[0]
    struct.pack_into("<I", made, field, position - field)
    return bytes(made + subtree)


def _entries(resolver: Any) -> Iterator[tuple[bytes, list[tuple[bytes, list[tuple[int, int]]]]]]:
    for i in range(resolver.OpKernelTypeStrArgsLength()):
        entry = resolver.OpKernelTypeStrArgs(i)
        kinds = []
        for k in range(entry.KernelTypeStrArgsLength()):
            kind = entry.KernelTypeStrArgs(k)
            args = [kind.Args(a) for a in range(kind.ArgsLength())]
            kinds.append((bytes(kind.KernelTypeStr()), [(int(a.ArgType()), int(a.Index())) for a in args]))
        yield bytes(entry.OpId()), sorted(kinds)


def _spans(data: bytes, resolver: Any) -> Iterator[tuple[int, int]]:
    """(start, end) of every table, vector and string of the resolver; its vtables lie between them."""
    yield from _table(data, resolver)
    yield _vector(data, resolver, 0)
    for i in range(resolver.OpKernelTypeStrArgsLength()):
        entry = resolver.OpKernelTypeStrArgs(i)
        yield from _table(data, entry)
        yield _string(data, entry, 0)
        yield _vector(data, entry, 1)
        for k in range(entry.KernelTypeStrArgsLength()):
            kind = entry.KernelTypeStrArgs(k)
            yield from _table(data, kind)
            yield _string(data, kind, 0)
            yield _vector(data, kind, 1)
            for a in range(kind.ArgsLength()):
                yield from _table(data, kind.Args(a))


def _vtable(data: bytes, table: int) -> int:
    return int(table - struct.unpack_from("<i", data, table)[0])


def _targets(data: bytes, table: int, *, but: int) -> Iterator[int]:
    """Where the fields of a table, all of them offsets, point to; ``but`` is the vtable slot of one to leave out."""
    vtable = _vtable(data, table)
    for slot in range(4, struct.unpack_from("<H", data, vtable)[0], 2):
        place = struct.unpack_from("<H", data, vtable + slot)[0]
        if place and slot != but:
            yield table + place + struct.unpack_from("<I", data, table + place)[0]


def _table(data: bytes, table: Any) -> Iterator[tuple[int, int]]:
    position = table._tab.Pos
    yield position, position + struct.unpack_from("<H", data, _vtable(data, position) + 2)[0]


def _target(data: bytes, table: Any, field: int) -> int:
    position = table._tab.Pos
    slot = position + struct.unpack_from("<H", data, _vtable(data, position) + 4 + 2 * field)[0]
    return int(slot + struct.unpack_from("<I", data, slot)[0])


def _vector(data: bytes, table: Any, field: int) -> tuple[int, int]:
    start = _target(data, table, field)
    return start, start + 4 + 4 * struct.unpack_from("<I", data, start)[0]


def _string(data: bytes, table: Any, field: int) -> tuple[int, int]:
    start = _target(data, table, field)
    # With the zero that ends it, filled up to four bytes.
    return start, start + (4 + struct.unpack_from("<I", data, start)[0] + 1 + 3) // 4 * 4


def _build(entries: Entries) -> bytes:
    flatbuffers = require("flatbuffers", extra="ort", purpose="writing ORT format")
    builder = flatbuffers.Builder(4096)

    def vector(offsets: list[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return int(builder.EndVector())

    def table(*fields: int) -> int:
        builder.StartObject(len(fields))
        for slot, offset in enumerate(fields):
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        return int(builder.EndObject())

    ops = []
    for op_id, kinds in entries:
        made = []
        for kind, args in kinds:
            places = []
            for arg_type, index in args:
                # ArgTypeAndIndex: arg_type (byte), index (uint32).
                builder.StartObject(2)
                builder.PrependInt8Slot(0, arg_type, 0)
                builder.PrependUint32Slot(1, index, 0)
                places.append(int(builder.EndObject()))
            words = builder.CreateString(kind)
            made.append(table(words, vector(places)))
        name = builder.CreateString(op_id)
        ops.append(table(name, vector(made)))
    builder.Finish(table(vector(ops)))
    return bytes(builder.Output())
