"""What a compiled model executes, as OpenVINO tells it: operators, their precision, and their time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.placement import PlacedOp
from edgekd.target import SessionOptions
from edgekd.workload import NodeTime, Profile, midmean
from edgekd_openvino.specs import DTYPES

#: Ends of the graph and constants: they hold data, and execute nothing.
_NOT_OPERATORS = ("Input", "Output", "Const", "Constant")
#: Operators that move, copy or re-code values and compute nothing: in no precision. In lower case, of the CPU plugin
#: (openvino/src/plugins/intel_cpu/src/cpu_types.cpp) and of the GPU's where it has other words.
_MOVING = frozenset({
    "reorder", "convert", "fakequantize", "reshape", "transpose", "permute", "concatenation", "split", "crop",
    "pad", "stridedslice", "strided_slice", "slice", "tile", "broadcast", "gather", "gatherelements", "gathernd",
    "shapeof", "shape_of", "spacetobatch", "batchtospace", "depthtospace", "spacetodepth", "shufflechannels",
    "roll", "border", "reversesequence", "scatterupdate", "scatterelementsupdate", "scatterndupdate", "memoryinput",
    "memoryoutput", "quantize",
})  # fmt: skip
#: What an ONNX convolution with a bias is called after OpenVINO has split it.
SPLIT = "/WithoutBiases"
#: OpenVINO's profiler counts whole microseconds (ov::ProfilingInfo).
_RESOLUTION_NS = 1000
#: Calls before the one whose times are told: the first ones allocate.
_WARM_UP = 2


def place_file(
    runtime: Any, path: Path, options: SessionOptions, feeds: Mapping[str, Array]
) -> tuple[PlacedOp, ...]:
    """What ran where on ``feeds``, in execution order; see :class:`edgekd.placement.PlacingRuntime`.

    Args:
        runtime: has ``open_profiling(path, options)``.
    """
    session = runtime.open_profiling(path, options)
    try:
        run = session.bind(feeds)
        for _ in range(_WARM_UP):
            run()
        return read_graph(session.executed_model(), session.placement.provider)
    finally:
        session.close()


def read_graph(model: Any, place: str) -> tuple[PlacedOp, ...]:
    """Operators of an executed graph; those that ran once, while it was compiled, are not among them.

    Args:
        model: an ``openvino.Model`` whose nodes carry ``layerType``, ``runtimePrecision`` and their like
            (openvino/runtime/exec_model_info.hpp).
        place: device that it ran on.
    """
    found: list[tuple[int, PlacedOp]] = []
    for node in model.get_ops():
        told = {key: node.rt_info[key].astype(str) for key in node.rt_info}
        kind, took = told.get("layerType", ""), told.get("execTimeMcs", "")
        if kind in _NOT_OPERATORS or not took.isdecimal():
            continue
        precision = told.get("runtimePrecision", "").lower()
        placed = PlacedOp(
            name=str(node.get_friendly_name()),
            op_type=kind,
            place=place,
            dtype="" if kind.lower() in _MOVING else DTYPES.get(precision, precision),
            time_ns=float(took) * 1000,
            sources=_sources(told.get("originalLayersNames", "")),
        )
        found.append((int(told.get("execOrder", "0")), placed))
    return tuple(placed for _, placed in sorted(found, key=lambda f: f[0]))


def _sources(names: str) -> tuple[str, ...]:
    """OpenVINO separates names by commas; one in a name cannot be told from them."""
    return tuple(dict.fromkeys(n.removesuffix(SPLIT) for n in names.split(",") if n))


def profile_file(
    runtime: Any,
    path: Path,
    options: SessionOptions,
    feeds: Mapping[str, Array],
    *,
    calls: int,
    warm_up: int,
) -> Profile:
    """Profile ``calls`` calls after ``warm_up`` more; see :class:`edgekd.workload.ProfilingRuntime`.

    Args:
        runtime: has ``open_profiling(path, options)``.

    Raises:
        ModelError: OpenVINO timed nothing.
    """
    session = runtime.open_profiling(path, options)
    try:
        run = session.bind(feeds)
        for _ in range(warm_up):
            run()
        totals: list[int] = []
        times: dict[tuple[str, str], list[float]] = {}
        for call in range(calls):
            start = time.perf_counter_ns()
            run()
            totals.append(time.perf_counter_ns() - start)
            for name, op, took_ns in _executed(run.times()):
                times.setdefault((name, op), [0.0] * calls)[call] += took_ns
        if not times:
            raise ModelError(f"{session.placement.runtime} timed no operator of {path}", "profile more calls")
        return Profile(
            source=f"{session.placement.runtime} profiler",
            calls=calls,
            ns_per_call=midmean(totals),
            resolution_ns=_RESOLUTION_NS,
            nodes=tuple(
                NodeTime(name=name, op=op, ns_per_call=midmean(own), provider=session.placement.provider)
                for (name, op), own in times.items()
            ),
        )
    finally:
        session.close()


def _executed(infos: Sequence[Any]) -> list[tuple[str, str, float]]:
    """(name, operator, nanoseconds) of those that ran."""
    return [
        (str(i.node_name), str(i.node_type), i.real_time.total_seconds() * 1e9)
        for i in infos
        if str(i.status).endswith(".EXECUTED") and str(i.node_type) not in _NOT_OPERATORS
    ]
