"""The study itself: trials in random order, one after the other, each on disk as soon as it is done."""

from __future__ import annotations

import os
import platform
import random
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgekd.gates import looks
from edgekd.measure import ledger
from edgekd.stages import StageStore, tool_versions
from gate_power.calibrate import Models, machine, prepare, setting
from gate_power.frozen import commit_of_code
from gate_power.journal import Journal, JournalError, open_journal
from gate_power.load import Load, cpu_seconds, load
from gate_power.peers import run_peers
from gate_power.plan import schedule, schedule_together
from gate_power.sources import source_digest
from gate_power.trial import protocol_record, run_trials


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the command line asked.

    Attributes:
        out: the study's folder; models: the folder of the models.
        calls: ``short`` or ``long``; condition: of ``load.CONDITIONS``.
        trials: effect -> how many.
        minutes: no trial is begun after so many; None for no such limit.
        peers_every: the peers run in every so-manieth trial; 0 leaves them out.
        keep_evidence: of the first so many trials.
        calibration: restarts.
        together: a trial's effects are candidates of one measurement, each judged by itself: hours become minutes.
    """

    out: Path
    models: Path
    calls: str
    condition: str
    trials: Mapping[str, int]
    limit: float = 1.02
    minutes: float | None = None
    peers_every: int = 2
    keep_evidence: int = 5
    calibration: int = 40
    seed: int = 1
    together: bool = False


def study_key(request: Request, models: Models) -> dict[str, Any]:
    """What may not change within one file of trials."""
    return {
        "calls": request.calls,
        "condition": request.condition,
        "limit": request.limit,
        "seed": request.seed,
        "together": request.together,
        "models": models.digests,
        "protocol": protocol_record(),
        "looks": list(looks.LOOKS),
        "alpha": looks.ALPHA,
        "sources_sha256": source_digest(),
        "machine": machine(),
        "affinity": sorted(os.sched_getaffinity(0)),
        "tools": tool_versions("edgekd", "numpy", "onnxruntime", "pytest", "pytest-benchmark"),
    }


def study_info(models: Models, command: Sequence[str]) -> dict[str, Any]:
    """What is recorded of each start."""
    return {
        "command": list(command),
        "commit": commit_of_code(),
        "python": platform.python_version(),
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "nice": os.nice(0),
        "side": models.side,
        "call_ms": models.call_ms,
        "calibration_restarts": models.restarts,
        "planted": {
            e: {"built": p.built, "ratio": p.ratio, "error": p.error} for e, p in models.planted.items()
        },
    }


def run_study(request: Request, *, say: Callable[[str], None]) -> Journal:
    """Make every trial that is not there yet.

    Raises:
        JournalError: the folder holds another study, or the code was changed meanwhile; ValueError: the models do.
    """
    begin = time.monotonic()
    effects = [e for e, n in request.trials.items() if n]
    work = request.out / "work"
    models = prepare(
        request.models, request.calls, restarts=request.calibration, effects=effects, store=StageStore(work / "store"), say=say,
    )  # fmt: skip
    journal = open_journal(request.out, study_key(request, models), study_info(models, sys.argv))
    groups = (
        schedule_together(request.trials, request.seed)
        if request.together
        else [(e,) for e in schedule(request.trials, request.seed)]
    )
    order = [e for group in groups for e in group]
    _check_order(journal, order)
    cpus = sorted(os.sched_getaffinity(0))
    with load(request.condition, seed=request.seed * 1000 + len(journal.trials), cpus=cpus) as running:
        while len(journal.trials) < len(order):
            if request.minutes is not None and time.monotonic() - begin > 60 * request.minutes:
                say(f"{request.minutes:g} minutes are over: {len(journal.trials)} of {len(order)} trials")
                break
            running.check()
            left = _rest(groups, len(journal.trials))
            made = _group(request, models, len(journal.trials), left, work, running, cpus)
            if source_digest() != journal.key["sources_sha256"]:
                raise JournalError(
                    "edgekd's code was changed while the study ran; the last trial is not kept: run it from a copy"
                )
            for trial in made:
                journal.append(trial)
                say(_line(trial, len(order)))
    shutil.rmtree(work, ignore_errors=True)
    return journal


def _rest(groups: Sequence[Sequence[str]], done: int) -> Sequence[str]:
    """What is left of the group that the next trial belongs to."""
    for group in groups:
        if done < len(group):
            return group[done:]
        done -= len(group)
    raise IndexError("every trial is made")


def _check_order(journal: Journal, order: Sequence[str]) -> None:
    """More trials may be asked for than before only where the ones made are still the plan's first ones."""
    made = [t["effect"] for t in journal.trials]
    if made != list(order[: len(made)]):
        raise ValueError(f"{journal.path} was made with other --trials; give the same, or another --out")


def _group(
    request: Request,
    models: Models,
    index: int,
    effects: Sequence[str],
    work: Path,
    running: Load,
    cpus: Sequence[int],
) -> list[dict[str, Any]]:
    """The trials of one measurement; ``index`` is the first one's."""
    seed = random.Random(f"{request.seed}/{index}").randrange(1 << 30)
    base = models.artifacts["base"]
    keep = request.out / "evidence" / f"{index:04d}" if index < request.keep_evidence else None
    began, busy = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), cpu_seconds(running.pids)
    begin_s = time.monotonic()
    before = ledger.snapshot(cpus)
    made = run_trials(
        base,
        {e: models.artifacts[e] for e in effects},
        setting=setting(),
        limit=request.limit,
        seed=seed,
        work=work / "trial",
        keep=keep,
    )
    state = ledger.ledger_between(before, ledger.snapshot(cpus))
    state["load_average"] = list(os.getloadavg())
    state["load_cpu_s"] = cpu_seconds(running.pids) - busy if running.pids else None
    injected = running.injected(begin_s, time.monotonic())
    trials: list[dict[str, Any]] = [
        {
            "index": index + k,
            "group": index,
            "effect": effect,
            "seed": seed,
            "began_at": began,
            "edgekd": made[effect],
            "machine": state,
            "injected": asdict(injected) if injected else None,
        }
        for k, effect in enumerate(effects)
    ]
    for trial in trials:
        if request.peers_every and trial["index"] % request.peers_every == 0:
            trial["peers"] = run_peers(base.path, models.artifacts[trial["effect"]].path, seed)
    return trials


def _line(trial: Mapping[str, Any], total: int) -> str:
    made = trial["edgekd"]
    effect = "null" if trial["effect"] == "null" else f"+{trial['effect']} %"
    estimate = f"{100 * (made['estimate'] - 1):+.2f} %" if made.get("estimate") else made["reason"]
    seconds = f"{made['wall_s']:.1f} s" + (f" for {made['candidates']}" if made["candidates"] > 1 else "")
    return f"{trial['index'] + 1}/{total} {effect}: {made['decision']} ({estimate}), {made['restarts']} restarts, {seconds}"
