"""Which provider ran each operator of one call, from ONNX Runtime's profiler."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.placement import PlacedOp
from edgekd.target import SessionOptions
from edgekd.workload import midmean
from edgekd_onnx.profile import NODE_SUFFIX, ORT_DTYPES, own_times

#: Calls whose times are averaged, after one that warms up.
_CALLS = 3

#: Operators that compute in 8 bits although their output is not (onnxruntime, ContribOperators.md; onnx, Operators.md).
_INT8_OPS = frozenset(
    {"MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "QGemm", "QMoE"}
    | {"QEmbedLayerNormalization", "QOrderedMatMul", "QOrderedAttention"}
)
_EIGHT_BITS = ("int8", "uint8")
#: Operators that move, copy or re-code values and compute nothing: in no precision (onnx, Operators.md; Reorder* are
#: onnxruntime's layout changes, Memcpy* its copies between devices).
_MOVING = frozenset({
    "QuantizeLinear", "DequantizeLinear", "Cast", "CastLike", "Identity", "Reshape", "Flatten", "Squeeze",
    "Unsqueeze", "Transpose", "Concat", "Split", "Slice", "Pad", "Tile", "Expand", "DepthToSpace", "SpaceToDepth",
    "ReverseSequence", "Gather", "GatherElements", "GatherND", "ScatterElements", "ScatterND", "Shape", "Size",
    "Constant", "ConstantOfShape", "ReorderInput", "ReorderOutput", "MemcpyToHost", "MemcpyFromHost",
    "QLinearConcat",
})  # fmt: skip


def place_file(
    runtime: Any, path: Path, options: SessionOptions, feeds: Mapping[str, Array]
) -> tuple[PlacedOp, ...]:
    """See :class:`edgekd.placement.PlacingRuntime`.

    Args:
        runtime: has ``open_profiling(path, options, prefix)``.

    Raises:
        ModelError, DataError, TargetUnavailableError: as opening and running; ModelError also where the profiler
        wrote nothing that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="edgekd-place-") as folder:
        session = runtime.open_profiling(path, options, str(Path(folder) / "profile"))
        run = session.bind(feeds)
        for _ in range(1 + _CALLS):
            run()
        trace = Path(session.end_profiling())
        try:
            events = json.loads(trace.read_bytes())
        except (OSError, ValueError) as e:
            raise ModelError(
                f"the profile of {path} cannot be read ({e})", "free space in the temporary folder"
            ) from e
        session.close()
        return placed_ops(events, path)


def placed_ops(events: Iterable[Mapping[str, Any]], path: Path) -> tuple[PlacedOp, ...]:
    """Operators in the order in which the first call after the warm-up ran them.

    A node that runs several times in a call (in a loop) counts once, with the time of all its turns.

    Raises:
        ModelError: no call after the warm-up was recorded.
    """
    whole = [e for e in events if e.get("ph") == "X"]
    starts = sorted(int(e["ts"]) for e in whole if e.get("name") == "model_run")[1:]
    if not starts:
        raise ModelError(f"the profiler recorded no call of {path}", "its buffer was full: use smaller feeds")
    nodes = [e for e in whole if e.get("cat") == "Node" and str(e["name"]).endswith(NODE_SUFFIX)]
    times: dict[tuple[str, str], list[int]] = {}
    first: dict[tuple[str, str], Mapping[str, Any]] = {}
    for event, own_us in sorted(own_times(nodes), key=lambda pair: int(pair[0]["ts"])):
        call = sum(int(event["ts"]) >= start for start in starts) - 1
        if call < 0:
            continue
        args = event.get("args", {})
        key = (str(event["name"]).removesuffix(NODE_SUFFIX), str(args.get("op_name", "")))
        times.setdefault(key, [0] * len(starts))[call] += own_us
        first.setdefault(key, args)
    return tuple(
        PlacedOp(
            name=name, op_type=op, place=str(first[name, op].get("provider", "")),
            dtype=_dtype(op, first[name, op]), time_ns=midmean(own) * 1000,
        )
        for (name, op), own in times.items()
    )  # fmt: skip


def _dtype(op: str, args: Mapping[str, Any]) -> str:
    """What an operator computed in: 8 bits where it is one of the integer kernels or writes 8 bits, else its output.

    Empty of one that computes nothing: what QuantizeLinear writes says nothing of what the model computes in.
    """
    if op in _MOVING:
        return ""
    if op.startswith("QLinear") or op.endswith("Integer") or op in _INT8_OPS:
        return "int8"
    written = _types(args.get("output_type_shape")) or _types(args.get("input_type_shape"))
    if not written:
        return ""
    return "int8" if written[0] in _EIGHT_BITS else written[0]


def _types(entries: object) -> list[str]:
    found = entries if isinstance(entries, list) else []
    return [ORT_DTYPES.get(t, str(t)) for entry in found if isinstance(entry, Mapping) for t in entry]
