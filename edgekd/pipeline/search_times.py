"""Times of mixtures beside the float model: a glance that orders them, and the race that decides."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.evaluate import EvaluationRequest, OpenChildren
from edgekd.evidence import Measurement
from edgekd.evidence.measurement import BASELINE, CANDIDATE
from edgekd.files import digest_of
from edgekd.gates.latency import ratio_of
from edgekd.measure import Protocol, Setting, ledger
from edgekd.model import Model
from edgekd.pipeline.collect import Comparison, Feeds, measure_comparison
from edgekd.pipeline.search_glance import PROTOCOL, glance
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.quantize.mixture import Latency
from edgekd.stages import StageStore, tool_versions
from edgekd.tasks import TaskSpec

#: A glance where the children that evaluate cannot take it.
_GLANCE = Protocol(min_restarts=1, max_restarts=1, rounds=8, warm_s=0.1)
#: METHOD 1's protocol, in its least numbers: four restarts of ten rounds of 8 ms. Nothing is judged that needs a second
#: look.
_FINAL = Protocol(min_restarts=4, max_restarts=4, rounds=10, block_ms=8.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What does not change during a search; see :class:`edgekd.pipeline.search.SearchRequest`.

    Attributes:
        targets: by name; digests: of the rows of ``select`` and ``test``.
    """

    model: Model | Artifact
    task: TaskSpec
    targets: Mapping[str, ResolvedTarget]
    max_drop: float
    digests: Mapping[str, str]
    threads: int
    batch: int
    options: Mapping[str, Mapping[str, Any]]
    output: Mapping[str, str]
    rename: Mapping[str, str]
    remeasure: bool
    search: tuple[Path, ...]


def race(
    plan: Plan,
    entries: Sequence[tuple[str, Artifact]],
    targets: Sequence[ResolvedTarget],
    store: StageStore,
    *,
    final: bool,
) -> tuple[list[Latency | None], dict[str, Any]]:
    """One interleaved race on one device, each arm in its own runtime and fresh processes.

    Args:
        entries: (label, artifact); the first is the reference.
        targets: of each.
        final: four restarts; else one.

    Returns:
        Ratios to the reference of all others, and what the evidence keeps.
    """
    paths = {a.format: t.runtime_paths[a.format] for (_, a), t in zip(entries, targets, strict=True)}
    comparison = Comparison(
        baseline=entries[0],
        candidates=entries[1:],
        limits={},
        feeds=_feeds(plan),
        setting=Setting(
            target=targets[0].target, runtime_paths=paths, threads=plan.threads, batch=plan.batch,
            search=plan.search,
        ),
        occasion="search" if final else "glance",
        baseline_role="student",
        own_settings=False,
    )  # fmt: skip
    made = measure_comparison(
        comparison, store, remeasure=plan.remeasure, decided=lambda m: True,
        protocol=_FINAL if final else _GLANCE,
    )  # fmt: skip
    found: list[Latency | None] = []
    for k in range(len(entries) - 1):
        ratio, lower, upper = ratio_of(made, CANDIDATE if k == 0 else f"{CANDIDATE}_{k + 1}")
        found.append(Latency(ratio=ratio, lower=lower, upper=upper))
    return found, _record(made)


def stored_glance(
    plan: Plan, requests: Sequence[EvaluationRequest], store: StageStore, children: OpenChildren
) -> list[Latency | None]:
    """:func:`edgekd.pipeline.search_glance.glance` through the store, as long as the machine has not been started anew.

    Returns:
        Ratios to the first request's model of all others; without bounds, since one process is one draw.
    """
    key = {
        "models": [[r.artifact.digest, dict(r.artifact.settings), str(r.target)] for r in requests],
        "threads": plan.threads,
        "batch": plan.batch,
        "data": plan.digests["select"],
        "protocol": PROTOCOL,
        "machine": digest_of(ledger.machine()),
        "tools": tool_versions("edgekd", "numpy", "onnxruntime", "openvino"),
    }

    def build(out: Path, resume: Path) -> None:
        batches: dict[str, Mapping[str, Any]] = {}
        for request in requests:
            if request.artifact.format not in batches:
                batches[request.artifact.format] = _feeds(plan).of(request.artifact, "student", plan.batch)
        entries = [(r, batches[r.artifact.format]) for r in requests]
        (out / "ratios.json").write_text(json.dumps(glance(entries, children)))

    folder = store.run(
        "glance", f"glance at {len(requests) - 1} beside {requests[0].label}", key, build,
        reuse=not plan.remeasure,
    ).folder  # fmt: skip
    ratios = json.loads((folder / "ratios.json").read_text())[1:]
    return [None if r is None else Latency(ratio=r, lower=0.0, upper=float("inf")) for r in ratios]


def _feeds(plan: Plan) -> Feeds:
    return Feeds(task=plan.task, split="select", rename={"student": plan.rename})


def _record(made: Measurement) -> dict[str, Any]:
    """What the evidence keeps of the race that decided."""
    blocks = [int(b.min()) for r in made.restarts for b in r.blocks[BASELINE]]
    return {
        "threads": made.threads,
        "batch": made.batch,
        "restarts": len(made.restarts),
        "redrawn": len(made.redrawn),
        "float32_ms": float(np.median(blocks)) / 1e6 if blocks else None,
        "runtimes": sorted(
            {str(c["placement"]["runtime"]) for r in made.restarts for c in r.children.values()}
        ),
        "collected_at": made.collected_at,
    }
