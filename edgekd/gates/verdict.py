"""The Gate and Verdict nouns: one question with its answer, and what a run's answers come to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast, get_args

from edgekd.errors import (
    EXIT_INCONCLUSIVE,
    EXIT_INFRASTRUCTURE,
    EXIT_INPUT,
    EXIT_PASS,
    EXIT_POLICY,
    EXIT_REJECT,
    EvidenceError,
    worst_exit,
)
from edgekd.files import read_json, write_json

VERDICT_SCHEMA = "edgekd.verdict/1"
VERDICT_FILE = "verdict.json"
#: The gate whose reject ends in exit 5.
PROVENANCE = "provenance"

Decision = Literal["pass", "reject", "inconclusive", "error", "not_run"]
ErrorKind = Literal["input", "infrastructure", "policy"]

#: Worst first. ``not_run`` is neutral: it neither passes nor fails anything.
_WORST_FIRST: tuple[Decision, ...] = ("error", "reject", "inconclusive", "pass")
_ERROR_EXITS: Mapping[str, int] = {
    "input": EXIT_INPUT,
    "infrastructure": EXIT_INFRASTRUCTURE,
    "policy": EXIT_POLICY,
}


def worst_decision(decisions: Iterable[Decision]) -> Decision:
    """The decision that wins: error > reject > inconclusive > pass; ``not_run`` only where there is nothing else.

    >>> worst_decision(["pass", "inconclusive", "not_run"])
    'inconclusive'
    """
    found = set(decisions)
    return next((d for d in _WORST_FIRST if d in found), "not_run")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """One question and its answer. Figures are fractions and ratios; nothing is rounded.

    Attributes:
        gate: ``accuracy``, ``fidelity``, ``slice:<name>``, ``latency``, ``regression``, ``latency_absolute``, ``tail`` or
            ``size``, ``placement`` or ``provenance``, which is the run's: without artifact and target.
        decision: the answer.
        metric: what was compared: ``top1``, ``flips``, ``latency``, ``size``.
        against: ``teacher``, ``naive``, ``float32`` or ``baseline``; empty for an absolute limit.
        artifact: digest of the judged artifact; empty where the target is absent.
        target: ``device:runtime[+provider]``.
        estimate, limit: in ``unit``; None where there is none.
        interval: the two one-sided bounds that were used to decide.
        confidence: one-sided level of each bound.
        n: examples (accuracy) or restarts (latency).
        reason: one sentence, percentages rounded for reading.
        error_kind: why it is an error; None for other decisions.
        detail: further figures of the method, plain JSON data.
    """

    gate: str
    decision: Decision
    metric: str
    against: str
    artifact: str
    target: str
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    limit: float | None = None
    unit: str = ""
    n: int | None = None
    method: str = ""
    reason: str = ""
    scenario: str | None = None
    slice: str | None = None
    split: str | None = None
    error_kind: ErrorKind | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        value: dict[str, Any] = {
            "gate": self.gate,
            "decision": self.decision,
            "metric": self.metric,
            "against": self.against,
            "artifact": self.artifact,
            "target": self.target,
            "estimate": _finite(self.estimate),
            "interval": None if self.interval is None else [_finite(x) for x in self.interval],
            "confidence": self.confidence,
            "limit": self.limit,
            "unit": self.unit,
            "n": self.n,
            "method": self.method,
            "reason": self.reason,
        }
        for name in ("scenario", "slice", "split", "error_kind"):
            if (extra := getattr(self, name)) is not None:
                value[name] = extra
        if self.detail:
            value["detail"] = dict(self.detail)
        return value


def _finite(value: float | None) -> float | None:
    """JSON has no infinity; a bound that does not exist is null."""
    return None if value is None or not math.isfinite(value) else value


def gate_from_json(value: Mapping[str, Any]) -> Gate:
    """Read a gate back; fields of a later version are ignored.

    Raises:
        EvidenceError: a key is missing or a decision unknown.
    """
    try:
        if value["decision"] not in get_args(Decision):
            raise EvidenceError(f"gate has the unknown decision {value['decision']!r}", "judge the run again")
        kind = value.get("error_kind")
        if kind is not None and kind not in _ERROR_EXITS:
            raise EvidenceError(f"gate has the unknown error kind {kind!r}", "judge the run again")
        interval = value["interval"]
        return Gate(
            gate=value["gate"],
            decision=value["decision"],
            metric=value["metric"],
            against=value["against"],
            artifact=value["artifact"],
            target=value["target"],
            estimate=value["estimate"],
            interval=None if interval is None else (interval[0], interval[1]),
            confidence=value["confidence"],
            limit=value["limit"],
            unit=value["unit"],
            n=value["n"],
            method=value["method"],
            reason=value["reason"],
            scenario=value.get("scenario"),
            slice=value.get("slice"),
            split=value.get("split"),
            error_kind=kind,
            detail=value.get("detail", {}),
        )
    except (KeyError, TypeError, IndexError) as e:
        raise EvidenceError(f"a gate of the verdict is not whole ({e!r})", "judge the run again") from e


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateVerdict:
    """What was decided about one candidate: the worst of its gates."""

    artifact: str
    baseline: str
    target: str
    dtype: str
    decision: Decision
    gates: tuple[Gate, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "artifact": self.artifact,
            "baseline": self.baseline,
            "target": self.target,
            "dtype": self.dtype,
            "decision": self.decision,
            "gates": [g.to_json() for g in self.gates],
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run's gates come to.

    Attributes:
        decision: the worst over the required targets' selected candidates.
        gates: those of the selected candidates, and of absent targets.
        candidates: every candidate with its own gates; those not selected are judged on the selection split.
        selected: target -> artifact digest.
        optional: targets whose gates are shown but do not decide.
        not_run: absent targets: ``{"target", "required", "reason"}``.
        policy: the gates block that was asked, so that the verdict can be judged again.
        environment, collected_at: the run's own; a verdict has no clock.
        evidence: path -> ``sha256:…`` of every evidence document that was read.
        edgekd: version that judged.
    """

    decision: Decision
    gates: tuple[Gate, ...]
    candidates: tuple[CandidateVerdict, ...]
    selected: Mapping[str, str]
    policy: Mapping[str, Any]
    environment: Mapping[str, Any]
    evidence: Mapping[str, str]
    collected_at: str
    edgekd: str
    optional: tuple[str, ...] = ()
    not_run: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": VERDICT_SCHEMA,
            "decision": self.decision,
            "gates": [g.to_json() for g in self.gates],
            "candidates": [c.to_json() for c in self.candidates],
            "selected": dict(self.selected),
            "optional": list(self.optional),
            "not_run": [dict(a) for a in self.not_run],
            "policy": dict(self.policy),
            "environment": dict(self.environment),
            "evidence": dict(self.evidence),
            "collected_at": self.collected_at,
            "edgekd": self.edgekd,
        }

    def save(self, path: Path) -> None:
        """Write ``verdict.json`` at ``path``; equal verdicts give equal bytes."""
        write_json(path, self.to_json())


def load_verdict(path: Path) -> Verdict:
    """Read a ``verdict.json`` back.

    Raises:
        EvidenceError: missing, of another version, or not whole.
    """
    value = read_json(path, VERDICT_SCHEMA)
    try:
        if value["decision"] not in get_args(Decision):
            raise EvidenceError(
                f"{path} has the unknown decision {value['decision']!r}", "judge the run again"
            )
        return Verdict(
            decision=cast(Decision, value["decision"]),
            gates=tuple(gate_from_json(g) for g in value["gates"]),
            candidates=tuple(
                CandidateVerdict(
                    artifact=c["artifact"],
                    baseline=c["baseline"],
                    target=c["target"],
                    dtype=c["dtype"],
                    decision=c["decision"],
                    gates=tuple(gate_from_json(g) for g in c["gates"]),
                )
                for c in value["candidates"]
            ),
            selected=value["selected"],
            optional=tuple(value["optional"]),
            not_run=tuple(value["not_run"]),
            policy=value["policy"],
            environment=value["environment"],
            evidence=value["evidence"],
            collected_at=value["collected_at"],
            edgekd=value["edgekd"],
        )
    except (KeyError, TypeError, AttributeError) as e:
        raise EvidenceError(f"{path} is not a whole verdict ({e!r})", "judge the run again") from e


def exit_code(verdict: Verdict) -> int:
    """The exit code of a verdict: pass 0, reject 1, inconclusive 3; an error by its kinds, the worst of them first.

    Refused by provenance is 5, whatever else was found. Gates of optional targets do not count. A verdict in which nothing was judged is inconclusive, never 0.
    """
    if any(g.gate == PROVENANCE and g.decision == "reject" for g in verdict.gates):
        return EXIT_POLICY
    if verdict.decision == "error":
        kinds = [
            _ERROR_EXITS[g.error_kind or "infrastructure"]
            for g in verdict.gates
            if g.decision == "error" and g.target not in verdict.optional
        ]
        return worst_exit(kinds) if kinds else EXIT_INFRASTRUCTURE
    return {"pass": EXIT_PASS, "reject": EXIT_REJECT}.get(verdict.decision, EXIT_INCONCLUSIVE)
