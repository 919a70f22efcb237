"""Every quantized student of a run beside its float twin, by the timings that the run has anyway where it can."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from edgekd.artifact import Artifact
from edgekd.errors import ChildError, DataError, EvidenceError, ModelError
from edgekd.evidence import Measurement
from edgekd.evidence.measurement import SERVER
from edgekd.gates.timing import TimingLimits
from edgekd.measure import Scenario
from edgekd.pipeline.speedup import arm_of, explain_timed, timed_contender, twin_of

if TYPE_CHECKING:
    from edgekd.pipeline.candidates import Job


def explain_student(
    job: Job,
    label: str,
    artifact: Artifact,
    students: Sequence[tuple[str, Artifact]],
    timings: Measurement | None,
    timing_path: str,
) -> str:
    """Whether a quantized student is faster than its float twin, and why not: a path in the run folder.

    Args:
        timings, timing_path: of all students beside the teacher; where the twin is not among them, and timings are
            asked at all, the two are measured by themselves.

    Returns:
        Empty of a float student, and where it has no twin or no timings; what went wrong is a note, never a failure.
    """
    known = [*students, *((r.label, r.artifact) for n, r in job.references.items() if n == "float32")]
    asked = job.explain and job.limits != TimingLimits()
    pair = twin_of(artifact, known, same_model=True) if asked else None
    if pair is None:
        return ""
    try:
        if timings is None or not arm_of(timings, pair[1]) or not arm_of(timings, artifact):
            named = job.measure.as_scenario
            scenario = Scenario() if named.name == SERVER else named
            timings = job.measure_against(pair, [(label, artifact)], {}, "speedup", "student", scenario)
            timing_path = job.folder.add_measurement(f"{label} beside {pair[0]}", timings)
        ran = [
            timed_contender(who, timings, functools.partial(job.feeds.of, who[1], "student"))
            for who in (pair, (label, artifact))
        ]
        found = explain_timed(ran[0], ran[1], job.setting, timings)
    except (DataError, ModelError, EvidenceError, ChildError) as e:
        job.notes.append(f"Whether {label} is faster than {pair[0]} is not known: {e}.")
        return ""
    return job.folder.add_speedup(label, replace(found, measurement=timing_path))
