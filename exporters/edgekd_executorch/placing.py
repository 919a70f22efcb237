"""What ran where, as ExecuTorch's own event trace (ETDump) tells it."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.placement import PlacedOp
from edgekd_executorch.library import RUNNING, load, quiet
from edgekd_executorch.program import Program
from edgekd_executorch.runtime import PORTABLE, load_method

#: Calls of which the first warms up and the others are timed (their mean is told: XNNPACK counts whole microseconds).
_CALLS = 6

#: XNNPACK's names of types (xnnpack/operator-type-defs.inc) in ONNX spelling, the first of ``(NHWC, QS8, QC8W)``.
_XNNPACK_TYPES = {
    "F32": "float32", "F16": "float16", "QS8": "int8", "QU8": "uint8", "QD8": "int8", "QC8": "int8",
    "S8": "int8", "U8": "uint8",
}  # fmt: skip

#: Operators that move, copy or re-code values and compute nothing: in no precision. Words of XNNPACK
#: (xnnpack/operator-type-defs.inc), and of kernels without their namespace and overload.
_MOVING_INSIDE = frozenset({
    "Convert", "Copy", "Transpose", "Slice", "Split", "Concatenate", "Constant Pad", "Channel Shuffle",
    "Depth To Space", "Space To Depth", "Reshape",
})  # fmt: skip
_MOVING = re.compile(
    r"(\w+_copy|clone|cat|stack|split|constant_pad_nd|pixel_(un)?shuffle|index|index_select|gather|embedding|roll|flip"
    r"|repeat|full|et_view|_clone_dim_order|_empty_dim_order|(de)?quantize_per_\w+)"
)
#: Kernels that compute sizes or make views; they touch no tensor's values.
_SIZES = ("aten::sym_size", "aten::sym_numel", "aten::sym_storage_offset", "executorch_prim::")


def is_operator(operator: str) -> bool:
    """Whether a kernel call computes or moves a tensor's values.

    >>> is_operator("aten::mean.out"), is_operator("executorch_prim::et_view.default")
    (True, False)
    """
    return not operator.startswith(_SIZES) or operator.startswith("executorch_prim::et_copy")


def is_moving(operator: str) -> bool:
    """Whether a kernel moves or re-codes values and computes nothing.

    >>> is_moving("aten::view_copy.out"), is_moving("quantized_decomposed::quantize_per_tensor.out"), is_moving("aten::mm.out")
    (True, True, False)
    """
    return bool(_MOVING.fullmatch(operator.rpartition("::")[2].partition(".")[0]))


def place_program(path: Path, program: Program, feeds: Mapping[str, Array]) -> list[PlacedOp]:
    """Run a checked program with its event trace on; one entry per kernel, and per operator that a backend tells of.

    Raises:
        DataError: feeds that do not fit; ModelError: it fails, or its trace is not of its instructions.
    """
    program.boundary.check(feeds, str(path))
    torch = load("torch", RUNNING)
    inspector = load("executorch.devtools", RUNNING).Inspector
    tensors = [torch.from_numpy(np.array(feeds[s.name], order="C")) for s in program.boundary.inputs]
    loaded, method = load_method(path, enable_etdump=True)
    with tempfile.TemporaryDirectory() as folder:
        dump = str(Path(folder) / "run.etdump")
        try:
            with quiet() as log:
                for _ in range(_CALLS):
                    method.execute(tensors)
                loaded.write_etdump_result_to_file(dump, str(Path(folder) / "unused"))
                blocks = inspector(etdump_path=dump).event_blocks
        except RuntimeError as e:
            raise ModelError(f"{path} cannot be traced ({log.reason(e)})", "check that it runs") from e
    events = [e for b in blocks if b.name == "Execute" for e in b.events]
    return _placed(path, program, events)


def _placed(path: Path, program: Program, events: list[Any]) -> list[PlacedOp]:
    placed: list[PlacedOp] = []
    inside: list[Any] = []
    steps = iter(enumerate(program.instructions))
    for event in events:
        if event.is_delegated_op:
            inside.append(event)
            continue
        if event.name not in ("OPERATOR_CALL", "DELEGATE_CALL"):
            continue
        number, step = next(steps, (-1, None))
        if step is None or (event.name == "DELEGATE_CALL") != bool(step.backend):
            raise ModelError(f"the trace of {path} does not follow its instructions", "report it")
        if step.backend and inside:
            placed += [_inside(step.backend, number, e) for e in inside]
        elif step.backend:
            placed.append(
                PlacedOp(name=f"delegate {number}", op_type="delegate", place=step.backend, time_ns=_time_ns(event))
            )  # fmt: skip
        elif is_operator(step.operator):
            placed.append(
                PlacedOp(name=f"{step.operator} {number}", op_type=step.operator, place=PORTABLE,
                         dtype="" if is_moving(step.operator) else step.dtype, time_ns=_time_ns(event))
            )  # fmt: skip
        inside = []
    if next(steps, None) is not None:
        raise ModelError(f"the trace of {path} ends before its instructions", "report it")
    return placed


def _inside(backend: str, number: int, event: Any) -> PlacedOp:
    name = str(event.name)
    types = re.search(r"\(([^)]*)\)", name)
    found = (
        [_XNNPACK_TYPES[w.strip()] for w in types[1].split(",") if w.strip() in _XNNPACK_TYPES]
        if types
        else []
    )
    kind = name.partition("(")[0].strip() or name
    return PlacedOp(
        name=f"{number}: {name}",
        op_type=kind,
        place=backend,
        dtype=found[0] if found and kind not in _MOVING_INSIDE else "",
        time_ns=_time_ns(event),
    )


def _time_ns(event: Any) -> float | None:
    """Mean of the calls after the first; the trace is in milliseconds."""
    times = event.perf_data.raw if event.perf_data is not None else []
    return float(np.mean(times[1:] or times)) * 1e6 if len(times) else None
