"""One measurement under a scenario: the interleaved race, with what each scenario puts before or around it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import DataError, UsageError
from edgekd.evidence.measurement import MULTI_STREAM, OFFLINE, SERVER, TWIN, Measurement
from edgekd.measure.arm import Arm, Protocol, Setting, arms_of
from edgekd.measure.interleave import measure
from edgekd.measure.offline import Sweep, sweep_batches
from edgekd.measure.scenario import Scenario
from edgekd.measure.serving import measure_server
from edgekd.target import usable_cpus

#: Feeds of so many examples.
FeedsAt = Callable[[int], Mapping[str, Array]]
Entry = tuple[str, Artifact, FeedsAt]


def measure_scenario(
    scenario: Scenario,
    baseline: Entry,
    candidates: Sequence[Entry],
    setting: Setting,
    *,
    record: Callable[[Mapping[str, Array]], Mapping[str, Any]],
    most_over: Callable[[int], int],
    stop: Callable[[Measurement], bool] | None = None,
    protocol: Protocol | None = None,
    progress: Callable[[int, int], None] | None = None,
    tune: Callable[[Arm, str], Arm] | None = None,
) -> Measurement:
    """Measure models side by side under a scenario, until its least duration and count hold.

    Args:
        baseline, candidates: (label, artifact, feeds of so many examples).
        setting: its ``batch`` is that of single-stream and of the server; the others find their own.
        record: what the evidence says of feeds.
        most_over: the judge's rule for a server trial, see :func:`edgekd.measure.serving.measure_server`.
        stop: whether the judges have seen enough; None: as soon as the scenario holds.
        protocol: already long enough for the scenario (:meth:`Scenario.stretched`).
        tune: gives an arm the session settings that were found best for its label; one with a batch of its own is
            measured offline at that, without another sweep.

    Raises:
        UsageError, DataError: the scenario does not fit the models; else as :func:`edgekd.measure.measure`.
    """
    protocol = protocol or scenario.stretched(Protocol())
    sweeps: dict[str, Sweep] = {}
    arms = _arms(scenario, baseline, candidates, setting, sweeps, tune or (lambda arm, label: arm))
    inputs = {a.label: dict(record(a.feeds)) for a in arms if a.name != TWIN}
    if scenario.name == SERVER:
        return measure_server(
            [a for a in arms if a.name != TWIN], setting, scenario=scenario, most_over=most_over, inputs=inputs,
            stop=stop, protocol=protocol, progress=progress,
        )  # fmt: skip
    found = measure(
        arms, replace(setting, batch=arms[0].batch or setting.batch), inputs=inputs,
        stop=lambda m: _enough(m, scenario, stop), protocol=protocol, progress=progress,
    )  # fmt: skip
    detail: dict[str, Any] = {**scenario.to_json(), "held": scenario.held(found)}
    if sweeps:
        detail["sweep"] = {name: sweep.to_json() for name, sweep in sweeps.items()}
    return replace(found, scenario=scenario.name, scenario_detail=detail)


def _enough(measurement: Measurement, scenario: Scenario, stop: Callable[[Measurement], bool] | None) -> bool:
    seen = replace(measurement, scenario=scenario.name)
    return scenario.held(seen) and (stop is None or stop(seen))


def _arms(
    scenario: Scenario,
    baseline: Entry,
    candidates: Sequence[Entry],
    setting: Setting,
    sweeps: dict[str, Sweep],
    tune: Callable[[Arm, str], Arm],
) -> list[Arm]:
    """The arms, each with the feeds and the batch that the scenario gives it; fills ``sweeps`` when offline."""
    made = arms_of((*baseline[:2], {}), [(label, artifact, {}) for label, artifact, _ in candidates])
    sources = [baseline, *([baseline] if candidates else []), *candidates]
    arms: list[Arm] = []
    for plain, (label, artifact, feeds_at) in zip(made, sources, strict=True):
        arm = tune(replace(plain, sessions=scenario.side_by_side), label)
        _check_sessions(arm, setting)
        if scenario.name == OFFLINE:
            if arm.name == TWIN:
                batch = arms[0].batch or 1
            elif arm.batch is not None:
                batch = arm.batch * arm.sessions
            else:
                fixed = artifact.fixed_batch
                sweeps[arm.name] = sweep_batches(
                    functools.partial(_arm_at, arm, feeds_at), setting, fixed=fixed and fixed * arm.sessions,
                    max_batch=scenario.max_batch, first=arm.sessions,
                )  # fmt: skip
                batch = sweeps[arm.name].best
            arms.append(replace(arm, feeds=feeds_at(batch), batch=batch))
        elif scenario.name == MULTI_STREAM:
            samples = scenario.samples
            calls = _calls_per_query(label, artifact, samples)
            arms.append(replace(arm, feeds=feeds_at(samples), batch=samples, calls_per_query=calls))
        else:
            arms.append(replace(arm, feeds=feeds_at(setting.batch)))
    return arms


def _check_sessions(arm: Arm, setting: Setting) -> None:
    """Refuse sessions side by side where they would only wait for each other.

    Raises:
        UsageError: another device than a CPU; fewer CPUs than their threads.
    """
    if arm.sessions == 1:
        return
    if setting.target.device != "cpu":
        raise UsageError(
            f"{arm.sessions} sessions (--sessions) were asked for on {setting.target}: they share a CPU's cores",
            "leave it out, and raise --max-batch",
        )
    threads, cpus = arm.threads or setting.threads, usable_cpus()
    if threads * arm.sessions > cpus:
        raise UsageError(
            f"{arm.sessions} sessions (--sessions) of {threads} thread(s) were asked for, this process has {cpus} CPUs",
            "lower either",
        )


def _arm_at(arm: Arm, feeds_at: FeedsAt, batch: int) -> Arm:
    return replace(arm, feeds=feeds_at(batch))


def _calls_per_query(label: str, artifact: Artifact, samples: int) -> int:
    """How many calls answer one query: one, or several of a model whose batch is fixed.

    Raises:
        DataError: its batch does not divide the query's samples.
    """
    fixed = artifact.fixed_batch
    if fixed is None:
        return 1
    if samples % fixed:
        raise DataError(
            f"{label} takes batches of {fixed} only, which do not make up a query of {samples} samples",
            f"ask for a multiple of {fixed} (--samples-per-query {fixed * (samples // fixed + 1)})",
        )
    return samples // fixed
