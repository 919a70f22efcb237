"""Which candidate of a target is judged: chosen by looking, so on the selection split and with timings of its own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from edgekd.errors import EvidenceError
from edgekd.evidence.run import Candidate
from edgekd.gates.verdict import Gate


def select_candidate(
    judged: Sequence[tuple[Candidate, Sequence[Gate]]], size_bytes: Mapping[str, int]
) -> str:
    """Choose among one target's candidates.

    A candidate qualifies when its accuracy is not rejected and its point estimate is within the margin, its size
    passes, and neither latency nor regression is rejected; a gate that is an error disqualifies. Of those that
    qualify the fastest is chosen (least latency ratio), else the smallest. Where none qualifies: the least accuracy
    violation, then the fewest rejected gates, then as before. Ties go to the smaller file, then to the digest.

    Args:
        judged: each candidate with the gates of its selection evidence.
        size_bytes: artifact digest -> bytes.

    Returns:
        The chosen artifact's digest.

    Raises:
        EvidenceError: no candidate.
    """
    if not judged:
        raise EvidenceError("there is no candidate to select from", "ask at least one precision and format")

    def rank(entry: tuple[Candidate, Sequence[Gate]]) -> tuple[bool, float, int, float, float, str]:
        # The first three are 0 for exactly those that qualify.
        candidate, gates = entry
        by_name = {g.gate: g for g in gates}
        failed = any(g.decision == "error" for g in gates)
        violation = max((_violation(g) for g in gates if g.gate == "accuracy"), default=0.0)
        rejected = sum(g.decision == "reject" for g in gates)
        return (
            failed,
            violation,
            rejected,
            _ratio(by_name),
            size_bytes.get(candidate.artifact, math.inf),
            candidate.artifact,
        )

    return min(judged, key=rank)[0].artifact


def _violation(gate: Gate) -> float:
    """How far an accuracy estimate lies beyond its limit, a fraction; 0 within it."""
    if gate.estimate is not None and not math.isfinite(gate.estimate):
        return math.inf
    if gate.estimate is None or gate.limit is None:
        # Asked but not evaluated: behind every candidate that was, level with the others that were not.
        return 1.0 if gate.decision == "error" else 0.0
    return max(0.0, gate.limit - gate.estimate)


def _ratio(by_name: Mapping[str, Gate]) -> float:
    for name in ("latency", "regression", "tail", "latency_absolute"):
        gate = by_name.get(name)
        if gate is not None and gate.estimate is not None:
            return gate.estimate
    return math.inf
