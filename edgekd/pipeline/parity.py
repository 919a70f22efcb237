"""``edgekd compare A B``: the same examples through two models, outputs side by side, then tensor by tensor."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.deviation import Deviation, LayerComparingRuntime, ProbingRuntime, deviation_of, first_deviation
from edgekd.errors import DataError
from edgekd.lazy import require
from edgekd.model import load_model
from edgekd.pipeline.opening import check_inputs, runnable
from edgekd.pipeline.sizes import Sizes
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.plugins import load_path
from edgekd.spec import draw_feeds, stack_feeds
from edgekd.stages import StageStore
from edgekd.tasks import ModelIO, TaskSpec, build_task

#: Feeds that inner tensors are compared on.
_LOOKED_INTO = 4
COMPARISON_SCHEMA = "edgekd.comparison/1"


def _feeds(
    artifact: Artifact,
    role: str,
    task: TaskSpec | None,
    rename: Mapping[str, str],
    examples: int,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
) -> list[dict[str, Array]]:
    if task is None:
        batch = artifact.fixed_batch or 1
        return [draw_feeds(artifact.inputs, seed=k, shapes=shapes, batch=batch) for k in range(examples)]
    io = ModelIO(
        role=role, inputs=artifact.inputs, outputs=artifact.outputs, prepare=artifact.prepare, rename=rename
    )
    built = build_task(task)
    size = artifact.fixed_batch or 1
    return [stack_feeds([built.prepare(e, io)], size) for e in islice(built.examples("test"), examples)]


def _run(
    artifact: Artifact, target: ResolvedTarget, feeds: Sequence[Mapping[str, Array]]
) -> list[dict[str, Array]]:
    made: list[dict[str, Array]] = []
    limits = Limits.on(target.target.device, timeout_s=Limits().timeout_s)
    with ChildProcess(f"running {artifact.path.name} on {target.target}", limits, (Path.cwd(),)) as child:
        child.request(
            "edgekd.child.sessions:open_for_runs",
            {
                "runtime": target.runtime_paths[artifact.format],
                "path": str(artifact.path.resolve()),
                "device": target.target.device,
                "provider": target.target.provider,
                "threads": 1,
                "settings": dict(artifact.settings),
            },
        )
        for feed in feeds:
            reply, arrays = child.request(
                "edgekd.child.sessions:run_once", {"feeds": list(feed)}, list(feed.values())
            )
            made.append(dict(zip(reply["names"], arrays, strict=True)))
    return made


def difference(name: str, a: Array, b: Array) -> dict[str, Any]:
    """How far ``b`` is from ``a``; both (n, ...) over n examples.

    SQNR is 10 log10(sum a^2 / sum (a - b)^2) in dB, None where they are equal.
    """
    x, y = a.astype(np.float64), b.astype(np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError(f"output '{name}' holds NaN or infinite values", "the model is broken for this input")
    gap = np.abs(x - y)
    noise, peak = float((gap * gap).sum()), float(np.abs(x).max(initial=0.0))
    signal = float((x * x).sum())
    classes = x.ndim == 2 and x.shape[1] > 1
    return {
        "name": name,
        "max_abs": float(gap.max(initial=0.0)),
        "mean_abs": float(gap.mean()) if gap.size else 0.0,
        "max_rel": float(gap.max(initial=0.0)) / peak if peak else None,
        "sqnr_db": 10 * math.log10(signal / noise) if noise > 0 and signal > 0 else None,
        "argmax_agreement": float((x.argmax(1) == y.argmax(1)).mean()) if classes else None,
    }


def compare_models(
    a: str,
    b: str,
    *,
    target: ResolvedTarget,
    target_b: ResolvedTarget | None = None,
    store: StageStore,
    data: str,
    task_kind: str,
    rename: Mapping[str, Mapping[str, str]],
    examples: int,
    tolerance: float,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
    weights: Mapping[str, Path],
) -> dict[str, Any]:
    """The document ``comparison.json``: outputs paired by name (by position where no name is shared).

    Args:
        target_b: where ``b`` runs; None: where ``a`` does.

    Raises:
        DataError: other numbers or shapes of outputs, or NaN; ModelError: one does not run.
    """
    sizes = Sizes(shapes=shapes)
    first = runnable(a, "teacher", weights, target, store, sizes=sizes)
    where_b = target_b or target
    second = runnable(b, "student", weights, where_b, store, sizes=sizes)
    check_inputs({"teacher": first, "student": second}, shapes=shapes, rename=rename)
    if len(first.inputs) != len(second.inputs) and not data:
        raise DataError(
            f"{a} has {len(first.inputs)} inputs, {b} has {len(second.inputs)}",
            "give --data that holds the inputs of both, and --map where names differ",
        )
    task = TaskSpec(kind=task_kind, data={"test": data}, base=str(Path.cwd())) if data else None
    feeds_a = _feeds(first, "teacher", task, rename.get("teacher", {}), examples, shapes)
    if task is None and [s.name for s in first.inputs] == [s.name for s in second.inputs]:
        feeds_b = feeds_a
    elif task is None and len(first.inputs) == len(second.inputs):
        names = [s.name for s in second.inputs]
        feeds_b = [dict(zip(names, f.values(), strict=True)) for f in feeds_a]
    else:
        feeds_b = _feeds(second, "student", task, rename.get("student", {}), examples, shapes)
    if not feeds_a:
        raise DataError(f"the data {data} is empty", "give at least one example")
    outputs_a, outputs_b = _run(first, target, feeds_a), _run(second, where_b, feeds_b)
    pairs = _pairs(list(outputs_a[0]), list(outputs_b[0]), a, b)
    rows = []
    for left, right in pairs:
        x = [o[left] for o in outputs_a]
        y = [o[right] for o in outputs_b]
        if any(p.shape != q.shape for p, q in zip(x, y, strict=True)):
            raise DataError(
                f"output '{left}' has shape {x[0].shape} in {a}, '{right}' has {y[0].shape} in {b}",
                "the models do not answer alike: compare their decisions with `edgekd gate`",
            )
        rows.append(difference(left, np.concatenate(x), np.concatenate(y)))
    tensors: list[dict[str, Any]] = []
    weights_lost: list[dict[str, Any]] = []
    deviation: dict[str, Any] | None = None
    same_inputs = [s.name for s in first.inputs] == [s.name for s in second.inputs]
    found = None
    if same_inputs:
        found = _inside((first, target), (second, where_b), feeds_a[:_LOOKED_INTO], tolerance)
    if found is not None:
        tensors = [t.to_json() for t in found.tensors]
        deviation = found.first.to_json() if found.first else None
        if first.format == second.format == "onnx" and second.dtype != first.dtype == "float32":
            lost = require("edgekd_onnx.weight_errors", extra="ort", purpose="comparing quantized weights")
            weights_lost = [w.to_json() for w in lost.weight_errors(first.path, second.path)]
    return {
        "schema": COMPARISON_SCHEMA,
        "a": {"reference": a, "artifact": first.digest, "dtype": first.dtype},
        "b": {"reference": b, "artifact": second.digest, "dtype": second.dtype},
        "target": str(target.target),
        "target_b": str(where_b.target),
        "inputs": "data" if task else "drawn",
        "n": len(feeds_a),
        "outputs": rows,
        "tensors": tensors,
        "first_deviation": deviation["name"] if deviation else None,
        "first_module": deviation["module"] if deviation else "",
        "weights": weights_lost,
        "tolerance": tolerance,
    }


def _inside(
    a: tuple[Artifact, ResolvedTarget],
    b: tuple[Artifact, ResolvedTarget],
    feeds: Sequence[Mapping[str, Array]],
    tolerance: float,
) -> Deviation | None:
    """The comparison of inner tensors; None where a runtime shows none, or the two share no name."""
    runtimes = [
        None if target.target.remote else load_path(target.runtime_paths[artifact.format])()
        for artifact, target in (a, b)
    ]
    if a[0].format == "torch" and isinstance(runtimes[1], LayerComparingRuntime):
        steps = runtimes[1].compare_layers(load_model(a[0].folder), b[0], feeds[0])
        return deviation_of(steps, tolerance=tolerance, feeds=1)
    if not (isinstance(runtimes[0], ProbingRuntime) and isinstance(runtimes[1], ProbingRuntime)):
        return None
    left, right = runtimes[0].open_probe(a[0].path), runtimes[1].open_probe(b[0].path)
    if not set(left.made_by) & set(right.made_by):
        return None
    return first_deviation(left, right, feeds, tolerance=tolerance)


def _pairs(left: list[str], right: list[str], a: str, b: str) -> list[tuple[str, str]]:
    if set(left) == set(right):
        return [(n, n) for n in left]
    if len(left) != len(right) or set(left) & set(right):
        raise DataError(
            f"{a} has {len(left)} outputs ({', '.join(left)}), {b} has {len(right)} ({', '.join(right)})",
            "compare models with the same outputs",
        )
    return list(zip(left, right, strict=True))
