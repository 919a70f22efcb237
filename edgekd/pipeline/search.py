"""The search for the fastest mixture that keeps the accuracy: quantize, evaluate and measure, all through the store."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import edgekd
from edgekd.artifact import Artifact
from edgekd.data.sources import share_rows
from edgekd.errors import UsageError
from edgekd.gates.accuracy import judge_accuracy
from edgekd.gates.verdict import Decision, Gate
from edgekd.measure import ledger
from edgekd.model import Model
from edgekd.pipeline.search_oracle import StoreOracle
from edgekd.pipeline.search_times import Plan
from edgekd.pipeline.targets import ResolvedTarget
from edgekd.quantize.mixture import Trial
from edgekd.quantize.search import Outcome, find_mixture
from edgekd.quantize.searched import Search
from edgekd.stages import StageStore
from edgekd.tasks import TaskSpec
from edgekd.tasks.build import check_prepare


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRequest:
    """What is searched.

    Attributes:
        reference: what the user called the model.
        model: the float student.
        task: its ``data`` has ``select``, ``test`` and ``calibration`` (or ``train``).
        targets: of one device, the first one's float32 is the reference.
        max_drop: against it, in the metric's unit.
        options: format -> options of its export.
        output, rename: overrides of the student's own.
        base: folder of ``python:`` references.
    """

    reference: str
    model: Model | Artifact
    task: TaskSpec
    targets: Sequence[ResolvedTarget]
    max_drop: float
    budget_s: float = 600.0
    threads: int = 1
    batch: int = 1
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    output: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    remeasure: bool = False
    base: Path = field(default_factory=Path.cwd)


def search_student(
    request: SearchRequest, store: StageStore, progress: Callable[[str], None] = lambda text: None
) -> tuple[Search, Artifact]:
    """Search, and judge the winner once on the test split.

    Args:
        progress: told what is being done.

    Returns:
        The evidence, and the winner with its session settings; the float32 file where nothing better holds.

    Raises:
        UsageError: targets of several devices, splits that share rows, a format that cannot be searched; DataError:
        data that does not fit; else as the stages say.
    """
    with StoreOracle(_plan(request), store, progress) as oracle:
        return _search(request, oracle, progress)


def _search(
    request: SearchRequest, oracle: StoreOracle, progress: Callable[[str], None]
) -> tuple[Search, Artifact]:
    started = time.monotonic()
    found = _find(request, oracle)
    progress("the winner on the test split")
    winner = found.winner.mixture
    reference = found.trials[0].mixture
    gate = judge_accuracy(
        *oracle.evaluate_pair(reference, winner, "test"),
        max_drop=request.max_drop,
        against="float32",
        target=winner.target,
    )
    decision, note = _decide(found, gate)
    return (
        Search(
            model={"reference": request.reference, "artifact": oracle.artifact(reference).digest},
            targets=tuple(str(t.target) for t in request.targets),
            metric=gate.metric,
            unit=gate.unit,
            max_drop=request.max_drop,
            splits={
                split: {"reference": request.task.data[split], "data": oracle.plan.digests[split]}
                for split in ("select", "test")
            },
            budget_s=request.budget_s,
            seconds=round(time.monotonic() - started, 3),
            evaluations=found.evaluations,
            races=oracle.races,
            out_of_time=found.out_of_time,
            trials=found.trials,
            artifacts=oracle.digests(found.trials),
            winner=winner.label,
            layers=found.layers,
            gate=gate,
            decision=decision,
            note=note,
            environment=ledger.machine(),
            measurement=oracle.measured,
            collected_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            edgekd=edgekd.__version__,
        ),
        oracle.artifact(winner),
    )


def find_student(
    request: SearchRequest, store: StageStore, progress: Callable[[str], None] = lambda text: None
) -> tuple[Outcome, Artifact]:
    """The search alone, for a run that judges on the test split itself: what was tried, and the winner.

    Raises:
        As :func:`search_student`.
    """
    with StoreOracle(_plan(request), store, progress) as oracle:
        found = _find(request, oracle)
        return found, oracle.artifact(found.winner.mixture)


def _find(request: SearchRequest, oracle: StoreOracle) -> Outcome:
    started = time.monotonic()
    return find_mixture(
        oracle,
        floats=oracle.float_mixtures(),
        classes=oracle.classes(),
        expired=lambda: time.monotonic() - started > request.budget_s,
        max_drop=request.max_drop,
    )


def _plan(request: SearchRequest) -> Plan:
    devices = {t.target.device for t in request.targets}
    if len(devices) != 1:
        raise UsageError(
            f"--for names {len(devices)} devices ({', '.join(sorted(devices))})",
            "search one device at a time: times are measured side by side",
        )
    data = request.task.data
    if share_rows(data["select"], data["test"]):
        raise UsageError(
            f"the rows to choose by ({data['select']}) and to judge on ({data['test']}) overlap",
            "give --test-data other rows than --data",
        )
    digests = {split: request.task.split_digest(split) for split in ("select", "test")}
    if len(set(digests.values())) == 1:
        raise UsageError(
            "the data to choose by and to judge on hold the same rows", "give --test-data other rows"
        )
    check_prepare(request.task, request.model.prepare)
    return Plan(
        model=request.model,
        task=request.task,
        targets={str(t.target): t for t in request.targets},
        max_drop=request.max_drop,
        digests=digests,
        threads=request.threads,
        batch=request.batch,
        options=request.options,
        output=request.output,
        rename=request.rename,
        remeasure=request.remeasure,
        search=(request.base,),
    )


def _decide(found: Outcome, gate: Gate) -> tuple[Decision, str]:
    """The search's decision, and a sentence: the gate's, unless more rows might have found something faster."""
    winner, reference = found.winner, found.trials[0]
    if winner.mixture != reference.mixture:
        ratio = "" if winner.latency is None else f", {winner.latency.ratio:.3f}x of float32's time"
        return gate.decision, f"{winner.mixture.label}{ratio}"
    open_ = [t for t in found.trials if t.decision == "inconclusive" and _may_be_faster(t)]
    wanted = [t.wanted for t in open_ if t.wanted is not None]
    if open_:
        more = f"about {min(wanted):,} would decide" if wanted else "more of them may not decide either"
        return (
            "inconclusive",
            f"float32 is left: no faster mixture is shown to keep the accuracy on {open_[0].n:,} examples; {more}",
        )
    tried = [t for t in found.trials if t.mixture.config is not None]
    if tried and all(t.decision == "error" for t in tried):
        return "reject", f"float32 is left: nothing could be quantized ({tried[0].reason})"
    return gate.decision, "float32 is left: no mixture is faster and keeps the accuracy"


def _may_be_faster(trial: Trial) -> bool:
    return trial.latency is None or trial.latency.ratio < 1
