"""Time per layer from TensorRT's own profiler, in a run of its own: it changes the timing."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.workload import NodeTime, Profile, midmean
from edgekd_tensorrt.engine import Engine
from edgekd_tensorrt.execution import Execution
from edgekd_tensorrt.inspector import parse_inspection

#: Layers are timed by CUDA events, which resolve about half a microsecond (cudaEventElapsedTime).
_RESOLUTION_NS = 500


def profile_engine(loaded: Engine, feeds: Mapping[str, Array], *, calls: int, warm_up: int) -> Profile:
    """Profile ``calls`` calls after ``warm_up`` more.

    Raises:
        ModelError: TensorRT reports no times.
    """
    times: dict[str, list[float]] = {}
    execution = Execution(loaded)
    try:
        execution.set_inputs(feeds)
        for _ in range(warm_up):
            execution.run()
        profiler = _profiler(loaded.trt, times)
        context = execution.context
        context.profiler = profiler
        # Otherwise every enqueue waits for itself; now the times come when they are asked for.
        context.enqueue_emits_profile = False
        whole = []
        for _ in range(calls):
            started = time.perf_counter_ns()
            execution.run()
            whole.append(float(time.perf_counter_ns() - started))
            if not context.report_to_profiler():
                raise ModelError(
                    f"TensorRT {loaded.version} reports no layer times", "build the engine again"
                )
        kinds = _kinds(loaded, context)
    finally:
        execution.close()
    if not times:
        raise ModelError(
            f"TensorRT {loaded.version} named no layer", "build with detailed profiling verbosity"
        )
    return Profile(
        source=f"tensorrt {loaded.version} profiler",
        calls=calls,
        ns_per_call=midmean(whole),
        resolution_ns=_RESOLUTION_NS,
        nodes=tuple(
            NodeTime(name=name, op=kinds.get(name, ""), ns_per_call=midmean(own), provider="TensorRT")
            for name, own in times.items()
        ),
    )


def _profiler(trt: Any, times: dict[str, list[float]]) -> Any:
    """A ``trt.IProfiler`` that adds nanoseconds to ``times``."""

    class Times(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times.setdefault(str(layer_name), []).append(float(ms) * 1e6)

    return Times()


def _kinds(loaded: Engine, context: Any) -> dict[str, str]:
    inspector = loaded.engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(loaded.trt.LayerInformationFormat.JSON)
    return {layer.name: layer.kind for layer in parse_inspection(str(text)).layers}
