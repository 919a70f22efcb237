"""Whether two ways to open one model give the same answers."""

from __future__ import annotations

import numpy as np

from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.measure.arm import Arm, Setting


def _answers(arm: Arm, setting: Setting) -> dict[str, Array]:
    limits = Limits.on(
        setting.target.device,
        timeout_s=setting.timeout_s,
        memory_bytes=setting.memory_bytes,
        threads=arm.threads or setting.threads,
    )
    with ChildProcess(f"running {arm.label} on {setting.target}", limits, setting.search) as child:
        child.request(
            "edgekd.child.sessions:open_for_runs",
            {
                "runtime": setting.runtime_paths[arm.artifact.format],
                "path": str(arm.artifact.path.resolve()),
                "device": setting.target.device,
                "provider": setting.target.provider,
                "threads": arm.threads or setting.threads,
                "settings": dict(arm.artifact.settings if arm.settings is None else arm.settings),
            },
        )
        reply, arrays = child.request(
            "edgekd.child.sessions:run_once", {"feeds": list(arm.feeds)}, list(arm.feeds.values())
        )
    return dict(zip(reply["names"], arrays, strict=True))


def largest_difference(reference: Arm, other: Arm, setting: Setting) -> float:
    """Largest difference between two arms' answers on the first one's feeds.

    Each output's largest absolute difference is taken relative to its largest absolute value; integers and booleans
    that differ at all count as 1. Infinite where shapes differ, or where one holds NaN or infinity and the other not.

    Raises:
        ChildError, ModelError, DataError: one of them does not run.
    """
    first, second = _answers(reference, setting), _answers(other, setting)
    return max((_difference(a, second[name]) for name, a in first.items()), default=0.0)


def _difference(a: Array, b: Array) -> float:
    if a.shape != b.shape or a.dtype != b.dtype:
        return float("inf")
    if not a.size:
        return 0.0
    if a.dtype.kind not in "fc":
        return float((a != b).any())
    x, y = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(x)
    if (finite != np.isfinite(y)).any() or not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return float("inf")
    if not finite.any():
        return 0.0
    peak = float(np.abs(x[finite]).max())
    gap = float(np.abs(x[finite] - y[finite]).max())
    return gap / peak if peak else float(gap > 0)
