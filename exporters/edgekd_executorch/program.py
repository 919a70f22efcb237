"""What is in a .pte, read without running it: boundary, instructions, operators and backends.

The flatbuffer is read by Python code, so that a damaged file ends in an exception and not in a crash. Layouts:
executorch/schema/program.fbs and extended_header.h, executorch/backends/xnnpack/serialization/runtime_schema.fbs.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.errors import ModelError
from edgekd.lfs_pointer import refuse_pointer_file
from edgekd_executorch.boundary import METHOD, Boundary, bare_boundary
from edgekd_executorch.library import RUNNING, load
from edgekd_onnx.writing import one_line

ENTRY = "model.pte"
#: For ExecuTorch's Inspector; it holds source paths of this machine and is no part of the artifact.
ETRECORD = "model.etrecord"
#: The one method of a program that is run.
FORWARD = "forward"
_DAMAGED = "the file is damaged or not an ExecuTorch program: export or copy it again"

#: ExecuTorch's ScalarType (torch's own numbers) in ONNX spelling; others cannot cross the boundary.
DTYPES = {
    0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64", 11: "bool",
    15: "bfloat16", 28: "uint16",
}  # fmt: skip

#: What Python's flatbuffer reader raises on bytes that are none.
_PARSE_ERRORS = (
    struct.error, IndexError, ValueError, KeyError, TypeError, AttributeError, AssertionError, OverflowError,
    UnicodeDecodeError, NotImplementedError, MemoryError, RecursionError,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Instruction:
    """One step of a method.

    Attributes:
        operator: ``aten::view_copy.out`` of a kernel call, else empty; backend: id of a delegate call, else empty.
        dtype: of what it writes, in ONNX spelling; empty where that is not a tensor.
    """

    operator: str
    backend: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A .pte as its file tells it.

    Attributes:
        boundary: the one that EdgeKD wrote, else what the file records.
        named: whether EdgeKD wrote it.
        instructions: of the forward method, in order.
        planned_bytes: memory planned for its activations, which share it; activation_bytes: of all of them together.
    """

    boundary: Boundary
    named: bool
    instructions: tuple[Instruction, ...]
    planned_bytes: int
    activation_bytes: int

    @property
    def backends(self) -> tuple[str, ...]:
        """Ids of the backends that it delegates to, sorted."""
        return tuple(sorted({i.backend for i in self.instructions if i.backend}))

    @property
    def operators(self) -> tuple[str, ...]:
        """Kernels that it calls itself, sorted."""
        return tuple(sorted({i.operator for i in self.instructions if i.operator}))


def read_program(path: Path) -> Program:
    """Parse a .pte.

    Raises:
        ModelError: missing, empty, truncated, not a .pte, without a forward method, or with other values than tensors
        at its boundary.
    """
    if not path.is_file():
        raise ModelError(f"{path} does not exist", "check the path")
    if path.stat().st_size == 0:
        raise ModelError(f"{path} is empty", _DAMAGED)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _parse(path, data)
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check the path and its permissions") from e


def _parse(path: Path, data: mmap.mmap) -> Program:
    size, base = _check_header(path, data)
    # Weights stay where they are: with a segment base of zero the reader restores none.
    head = bytearray(data[:size])
    if base:
        head[24:32] = bytes(8)
    serialize = load("executorch.exir._serialize._program", RUNNING)
    try:
        read = serialize.deserialize_pte_binary(bytes(head))
        program = getattr(read, "program", read)
        plans = {p.name: p for p in program.execution_plan}
        if FORWARD not in plans:
            raise ModelError(
                f"{path} has no method '{FORWARD}', only {', '.join(sorted(plans)) or 'none'}",
                "export the module's forward",
            )
        plan = plans[FORWARD]
        text = _constant_text(plans.get(METHOD))
        if text is not None:
            boundary = Boundary.from_text(text, path)
            _compare(path, boundary, plan)
        else:
            boundary = bare_boundary(
                [_tensor(path, plan, i) for i in plan.inputs],
                [_tensor(path, plan, i) for i in plan.outputs],
                _computing_dtype(data, base, program, plan),
            )
        return Program(
            boundary=boundary,
            named=text is not None,
            instructions=tuple(_instructions(plan)),
            planned_bytes=sum(plan.non_const_buffer_sizes),
            activation_bytes=sum(_bytes(v.val) for v in plan.values),
        )
    except _PARSE_ERRORS as e:
        raise ModelError(f"cannot read {path} as an ExecuTorch program ({one_line(e)})", _DAMAGED) from e


def _check_header(path: Path, data: mmap.mmap) -> tuple[int, int]:
    """Bytes of the flatbuffer, and where the segments start (0: there are none)."""
    if len(data) < 40 or data[4:6] != b"ET":
        refuse_pointer_file(path, ModelError)
        raise ModelError(f"{path} is not an ExecuTorch program (no 'ET' at byte 4)", _DAMAGED)
    if data[8:12] != b"eh00":
        return len(data), 0
    length, size, base = struct.unpack("<IQQ", data[12:32])
    segments = struct.unpack("<Q", data[32:40])[0] if length >= 32 else 0
    end = max(size, base + segments)
    if not 40 <= size <= len(data) or end > len(data):
        raise ModelError(f"{path} is truncated: {len(data)} bytes, its header says {end}", _DAMAGED)
    return size, base


def _constant_text(plan: Any) -> str | None:
    """What a constant method returns, if that is one text."""
    if plan is None or len(plan.outputs) != 1:
        return None
    text = getattr(plan.values[plan.outputs[0]].val, "string_val", None)
    return text if isinstance(text, str) else None


def _tensor(path: Path, plan: Any, index: int) -> tuple[str, tuple[int, ...], bool]:
    value = plan.values[index].val
    kind = getattr(value, "scalar_type", None)
    if kind is None or int(kind) not in DTYPES:
        raise ModelError(
            f"{path} takes or gives a {type(value).__name__}{'' if kind is None else f' of {kind.name}'}, "
            f"only tensors of {', '.join(sorted(DTYPES.values()))} can be compared",
            "export a module of such tensors",
        )
    return DTYPES[int(kind)], tuple(int(n) for n in value.sizes), int(value.shape_dynamism) != 0


def _bytes(value: Any) -> int:
    if getattr(value, "allocation_info", None) is None:
        return 0
    size = np.dtype(DTYPES.get(int(value.scalar_type), "float64").replace("bfloat16", "float16")).itemsize
    return size * math.prod(int(n) for n in value.sizes)


def _compare(path: Path, boundary: Boundary, plan: Any) -> None:
    """Refuse a boundary that is not the program's: a changed file must not answer under another's names."""
    for specs, indices in ((boundary.inputs, plan.inputs), (boundary.outputs, plan.outputs)):
        found = [_tensor(path, plan, i) for i in indices]
        wanted = [
            (s.dtype, tuple(boundary.limits.get(str(d), (0, d))[1] if isinstance(d, str) else d for d in s.shape))
            for s in specs
        ]  # fmt: skip
        fits = len(found) == len(wanted) and all(
            have[0] == want[0]
            and len(have[1]) == len(want[1])
            # A size computed from others has a name and no limit of its own.
            and all(isinstance(w, str) or w == h for w, h in zip(want[1], have[1], strict=True))
            for have, want in zip(found, wanted, strict=True)
        )
        if not fits:
            raise ModelError(
                f"{path} has tensors {[(d, s) for d, s, _ in found]}, its boundary says {wanted}",
                "export it again",
            )


def _instructions(plan: Any) -> list[Instruction]:
    made = []
    for chain in plan.chains:
        for step in chain.instructions:
            call = step.instr_args
            if not hasattr(call, "args"):
                continue
            written = plan.values[call.args[-1]].val if call.args else None
            several = getattr(written, "items", None)
            if isinstance(several, list) and several:
                written = plan.values[several[0]].val  # several outputs: the first is the answer
            kind = getattr(written, "scalar_type", None)
            dtype = "" if kind is None else DTYPES.get(int(kind), "")
            if hasattr(call, "op_index"):
                op = plan.operators[call.op_index]
                name = f"{op.name}.{op.overload}" if op.overload else op.name
                made.append(Instruction(operator=name, backend="", dtype=dtype))
            else:
                backend = plan.delegates[call.delegate_index].id
                made.append(Instruction(operator="", backend=backend, dtype=dtype))
    return made


def _computing_dtype(data: mmap.mmap, base: int, program: Any, plan: Any) -> str:
    """Precision of a program that does not say it: that of the quantized values in its XNNPACK graphs, if any."""
    table = load("flatbuffers.table", RUNNING)

    def indirect(position: int) -> int:
        return position + int(struct.unpack_from("<I", blob, position)[0])

    found: set[int] = set()
    for delegate in plan.delegates:
        if delegate.id != "XnnpackBackend":
            continue
        blob = _payload(data, base, program, delegate)
        if blob[4:8] == b"XH00":
            start, size = struct.unpack("<II", blob[10:18])
            blob = blob[start : start + size]
        root = table.Table(blob, indirect(0))
        slot = root.Offset(8)  # XNNGraph.xvalues
        for i in range(root.VectorLen(slot) if slot else 0):
            value = table.Table(blob, indirect(root.Vector(slot) + 4 * i))
            kind, union = value.Offset(4), value.Offset(6)
            if not kind or not union:
                continue
            tensor = table.Table(blob, indirect(value.Pos + union))
            if blob[value.Pos + kind] == 2:  # XNNQuantizedTensorValue.tensor_value
                tensor = table.Table(blob, indirect(tensor.Pos + tensor.Offset(4)))
            field = tensor.Offset(4)
            if field:
                found.add(int(struct.unpack_from("<h", blob, tensor.Pos + field)[0]))
    # enum XNNDatatype: 3, 4, 6, 9, 11 are 8-bit integers, 8 and 10 are 4-bit ones, 2 is fp16.
    if found & {8, 10}:
        return "int4"
    if found & {3, 4, 6, 9, 11}:
        return "int8"
    return "float16" if 2 in found else "float32"


def _payload(data: mmap.mmap, base: int, program: Any, delegate: Any) -> bytes:
    where = delegate.processed
    if int(where.location) == 0:  # DataLocation.INLINE
        return bytes(program.backend_delegate_data[where.index].data)
    segment = program.segments[where.index]
    return data[base + segment.offset : base + segment.offset + segment.size]
