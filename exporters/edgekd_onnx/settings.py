"""ONNX Runtime's session settings: which there are, which are worth trying, and what an opened session really uses.

Needs numpy and onnxruntime only. Keys and defaults are ONNX Runtime's own (onnxruntime_session_options_config_keys.h
and the thread-management page of its documentation), under names that say what they do.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Mapping
from typing import Any

from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.lazy import require
from edgekd.target import SessionOptions

GRAPH_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "layout": "ORT_ENABLE_LAYOUT",
    "all": "ORT_ENABLE_ALL",
}

#: Every setting and its default; booleans are true or false, the two counts are whole numbers.
DEFAULTS: Mapping[str, Any] = {
    "graph_level": "all",
    "layout": "auto",
    "arena": True,
    "mem_pattern": True,
    "prepacking": True,
    "denormals_as_zero": False,
    "spinning": True,
    "dynamic_block_base": 0,
    "inter_op_threads": 1,
    "cpu_nodes": "shapes",
    "tf32": False,
    "cuda_graph": False,
    "engine_cache": "",
}
_CHOICES = {
    "graph_level": tuple(GRAPH_LEVELS), "layout": ("auto", "plain"), "cpu_nodes": ("shapes", "none", "any"),
}  # fmt: skip
_PATHS = ("engine_cache",)
_LEAST = {"dynamic_block_base": 0, "inter_op_threads": 1}

#: These two rewrite the graph to blocked (NCHWc) and channels-last kernels. The header says that the names are
#: separated by commas; the code (InferenceSession::Initialize) splits at semicolons, and ignores what it does not know.
_LAYOUT_PASSES = "NchwcTransformer;NhwcTransformer"

#: Above "fatal": what matters arrives as an exception, and the log would put more lines beside our one.
_QUIET = 4


def resolve(settings: Mapping[str, Any], threads: int) -> dict[str, Any]:
    """Every setting with its value.

    Args:
        settings: those that differ from :data:`DEFAULTS`.
        threads: of the whole session, the calling one included.

    Raises:
        UsageError: an unknown setting, or a value that it cannot have.
    """
    if threads < 1:
        raise UsageError(f"threads is {threads}", "ask for 1 or more")
    for name, value in settings.items():
        if name not in DEFAULTS:
            close = difflib.get_close_matches(str(name), DEFAULTS, n=1)
            raise UsageError(
                f"onnxruntime has no setting '{name}'",
                f"did you mean '{close[0]}'?" if close else f"it knows {', '.join(DEFAULTS)}",
            )
        if name in _CHOICES:
            if value not in _CHOICES[name]:
                raise UsageError(f"{name} {value!r} is not known", f"choose {', '.join(_CHOICES[name])}")
        elif name in _LEAST:
            if not isinstance(value, int) or isinstance(value, bool) or value < _LEAST[name]:
                raise UsageError(f"{name} {value!r} is not a whole number from {_LEAST[name]} on", "")
        elif name in _PATHS:
            if not isinstance(value, str):
                raise UsageError(f"{name} {value!r} is not a path", "name a folder")
        elif not isinstance(value, bool):
            raise UsageError(f"{name} {value!r} is not true or false", f"write {name}=true or {name}=false")
    made = {**DEFAULTS, **settings}
    if made["inter_op_threads"] > threads:
        raise UsageError(
            f"inter_op_threads {made['inter_op_threads']} is more than the session's {threads} thread(s)",
            "raise --threads, or lower it",
        )
    return made


def session_options(ort: Any, options: SessionOptions, *, on_cpu: bool = True) -> Any:
    """``onnxruntime.SessionOptions`` for ``options``.

    Args:
        on_cpu: whether the CPU provider runs it; others are asked which nodes they took.

    Raises:
        UsageError: as :func:`resolve`.
    """
    asked = resolve(options.settings or {}, options.threads)
    inter = asked["inter_op_threads"]
    made = ort.SessionOptions()
    made.log_severity_level = _QUIET
    # `threads` counts the caller, the workers inside operators and those between operators together.
    made.intra_op_num_threads = options.threads - (inter - 1)
    made.inter_op_num_threads = inter
    made.execution_mode = ort.ExecutionMode.ORT_PARALLEL if inter > 1 else ort.ExecutionMode.ORT_SEQUENTIAL
    made.graph_optimization_level = getattr(ort.GraphOptimizationLevel, GRAPH_LEVELS[asked["graph_level"]])
    made.enable_cpu_mem_arena = asked["arena"]
    made.enable_mem_pattern = asked["mem_pattern"]
    for key, value in _entries(asked, options.threads, on_cpu=on_cpu).items():
        made.add_session_config_entry(key, value)
    return made


def tells_places(ort: Any) -> bool:
    """Whether this build tells which provider took which node (from 1.24 on)."""
    return hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")


def _entries(asked: Mapping[str, Any], threads: int, *, on_cpu: bool) -> dict[str, str]:
    """Config entries of the settings that have no attribute of their own."""
    spinning = "1" if asked["spinning"] and threads > 1 else "0"
    entries = {
        "session.intra_op.allow_spinning": spinning,
        "session.inter_op.allow_spinning": spinning,
        "session.disable_prepacking": "0" if asked["prepacking"] else "1",
        "session.set_denormal_as_zero": "1" if asked["denormals_as_zero"] else "0",
        "session.dynamic_block_base": str(asked["dynamic_block_base"]),
    }
    if asked["layout"] == "plain":
        entries["optimization.disable_specified_optimizers"] = _LAYOUT_PASSES
    if not on_cpu:
        ort = require("onnxruntime", extra="ort", purpose="running ONNX models")
        entries["session.record_ep_graph_assignment_info"] = "1"
        # A build that cannot tell who took a node must not give any to the CPU.
        strict = asked["cpu_nodes"] == "none" or (asked["cpu_nodes"] == "shapes" and not tells_places(ort))
        entries["session.disable_cpu_ep_fallback"] = "1" if strict else "0"
    return entries


def own_threads() -> frozenset[str] | None:
    """Thread ids of this process; None where the system does not tell."""
    try:
        return frozenset(entry.name for entry in os.scandir("/proc/self/task"))
    except OSError:
        return None


def read_back(
    session: Any, options: SessionOptions, before: frozenset[str] | None, *, on_cpu: bool
) -> tuple[int, dict[str, Any]]:
    """What an opened session uses: its threads, and the other settings.

    Args:
        session: an ``onnxruntime.InferenceSession``.
        before: :func:`own_threads` from before it was opened: the workers that it started are counted.
        on_cpu: whether the CPU provider runs it; other providers start threads of their own.

    Raises:
        TargetUnavailableError: something else than was asked for.
    """
    asked = resolve(options.settings or {}, options.threads)
    used = session.get_session_options()
    entries = _entries(asked, options.threads, on_cpu=on_cpu)
    found: dict[str, Any] = {
        "graph_level": used.graph_optimization_level.name,
        "arena": bool(used.enable_cpu_mem_arena),
        "mem_pattern": bool(used.enable_mem_pattern),
        "execution_mode": used.execution_mode.name,
        "intra_op_threads": int(used.intra_op_num_threads),
        "inter_op_threads": int(used.inter_op_num_threads),
        **{key: used.get_session_config_entry(key) for key in entries},
    }
    inter = asked["inter_op_threads"]
    wanted = {
        "graph_level": GRAPH_LEVELS[asked["graph_level"]],
        "arena": asked["arena"],
        "mem_pattern": asked["mem_pattern"],
        "execution_mode": "ORT_PARALLEL" if inter > 1 else "ORT_SEQUENTIAL",
        "intra_op_threads": options.threads - (inter - 1),
        "inter_op_threads": inter,
        **entries,
    }
    for name, value in wanted.items():
        if found[name] != value:
            raise TargetUnavailableError(
                f"onnxruntime uses {name} = {found[name]}, {value} was asked for",
                "this build overrides it: ask for what it uses",
            )
    after = own_threads()
    started = None if before is None or after is None else len(after - before)
    if on_cpu and started is not None and started < options.threads - 1:
        raise TargetUnavailableError(
            f"onnxruntime started {started} threads beside the calling one, {options.threads - 1} were asked for",
            "this build takes its threads from elsewhere (OpenMP?): look for an environment variable",
        )
    found["layout"] = asked["layout"]
    found["spinning"] = entries["session.intra_op.allow_spinning"] == "1"
    found["prepacking"], found["denormals_as_zero"] = asked["prepacking"], asked["denormals_as_zero"]
    found["threads_started"] = started
    return found["intra_op_threads"] + found["inter_op_threads"] - 1, found


def worth_trying(*, on_cpu: bool, cpus: int, cuda_graph: bool = False) -> dict[str, tuple[Any, ...]]:
    """Values that a sweep tries, the default first; settings that change answers by more than rounding are not in it.

    Args:
        on_cpu: the CPU provider; others only differ in graph level here, and in whether they replay a CUDA graph.
        cpus: threads that the session may have. What needs a pool is left out for 1, what needs several workers
            between operators for fewer than 4: in parallel execution the calling thread only waits, busily.
    """
    found: dict[str, tuple[Any, ...]] = {"graph_level": ("all", "extended", "basic")}
    if cuda_graph:
        found["cuda_graph"] = (False, True)
    if not on_cpu:
        return found
    if cpus > 1:
        found["threads"] = thread_counts(cpus)
    found |= {
        "layout": ("auto", "plain"),
        "arena": (True, False),
        "mem_pattern": (True, False),
        "prepacking": (True, False),
        "denormals_as_zero": (False, True),
    }
    if cpus > 1:
        found |= {"spinning": (True, False), "dynamic_block_base": (0, 4)}
    if cpus > 3:
        found["inter_op_threads"] = (1, 3)
    return found


def thread_counts(cpus: int) -> tuple[int, ...]:
    """1, 2, 4, 8, … up to ``cpus``, with ``cpus`` itself and half of it (one thread per core where cores have two).

    >>> thread_counts(12)
    (1, 2, 4, 6, 8, 12)
    """
    counts = {1, cpus, max(1, cpus // 2)}
    count = 2
    while count < cpus:
        counts.add(count)
        count *= 2
    return tuple(sorted(counts))
