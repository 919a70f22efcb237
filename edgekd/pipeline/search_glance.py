"""A glance at the times of mixtures in the children that evaluate them: tenths of a second instead of fresh processes."""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from edgekd.child import ChildProcess
from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError, TargetUnavailableError
from edgekd.evaluate import EvaluationRequest, OpenChildren
from edgekd.evaluate.evaluation import limits_of, place_of

_OPERATIONS = "edgekd.measure.glance"
#: Seconds of warm-up, rounds of one block of each, and the seed of their order.
PROTOCOL: Mapping[str, Any] = {"warm_s": 0.06, "rounds": 7, "seed": 0}


def glance(
    entries: Sequence[tuple[EvaluationRequest, Mapping[str, Array]]], children: OpenChildren
) -> list[float | None]:
    """Ratios of each model's time to the first one's: the median over rounds of the ratio of block minima.

    Args:
        entries: how each is evaluated, which says where, and the feeds of one call; the first is the reference.

    Returns:
        As many as ``entries``; None for what could not be opened.

    Raises:
        ChildError: a child was lost; ModelError, DataError, TargetUnavailableError: the reference does not open.
    """
    rng = random.Random(PROTOCOL["seed"])
    with ExitStack() as stack:
        opened: dict[int, ChildProcess] = {}
        for k, (request, feeds) in enumerate(entries):
            child = stack.enter_context(
                children.of(place_of(request), f"timing {request.label}", limits_of(request), request.search)
            )
            if child not in opened.values():
                stack.callback(child.request, f"{_OPERATIONS}:close_all", {})
            with contextlib.suppress(*(() if k == 0 else (ModelError, DataError, TargetUnavailableError))):
                _open(child, k, request, feeds)
                opened[k] = child
        times: dict[int, list[float]] = {k: [] for k in opened}
        for _ in range(PROTOCOL["rounds"]):
            turn = list(opened)
            rng.shuffle(turn)
            for k in turn:
                reply, _ = opened[k].request(f"{_OPERATIONS}:time_one", {"name": str(k)})
                times[k].append(math.log(reply["ns"]))
        first = np.asarray(times[0])
        return [
            float(np.exp(np.median(np.asarray(times[k]) - first))) if k in times else None
            for k in range(len(entries))
        ]


def _open(child: ChildProcess, k: int, request: EvaluationRequest, feeds: Mapping[str, Array]) -> None:
    artifact = request.artifact
    found, _ = child.request(
        f"{_OPERATIONS}:open_one",
        {
            "name": str(k),
            "runtime": request.runtime_paths[artifact.format],
            "path": str(artifact.path.resolve()),
            "device": request.target.device,
            "provider": request.target.provider,
            "threads": request.threads,
            "settings": dict(artifact.settings),
            "feeds": list(feeds),
            "warm_s": PROTOCOL["warm_s"],
        },
        list(feeds.values()),
    )
    if found["threads"] != request.threads:
        raise TargetUnavailableError(
            f"{request.label} was opened with {found['threads']} threads, {request.threads} were asked for",
            "the runtime overrides the setting: look for an environment variable",
        )
