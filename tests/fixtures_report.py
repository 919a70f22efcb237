"""Views made by hand: any gates, without evidence behind them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.evidence.run import Run
from edgekd.gates.verdict import CandidateVerdict, Decision, Gate, Verdict, worst_decision
from edgekd.report.view import CandidateRow, View

ARTIFACT = "sha256:" + "b" * 64
TARGET = "cpu:onnxruntime"
AT = "2026-11-22T12:00:00Z"

#: What breaks formats: control characters, markup of every kind, mentions, lines, and not a single letter of ASCII.
NASTY = '\x00\x1b[31m<b a="1">&amp;|`x`*_~[l](u)$\\ @octocat #12 https://x.example :tada: 日本\n# head\r\n\u2028\ud800\ufffe'


def make_gate(gate: str = "accuracy", decision: Decision = "pass", **changes: Any) -> Gate:
    values: dict[str, Any] = {
        "gate": gate,
        "decision": decision,
        "metric": "top1" if gate == "accuracy" or gate.startswith("slice:") else gate,
        "against": "teacher",
        "artifact": ARTIFACT,
        "target": TARGET,
        "estimate": -0.0042,
        "interval": (-0.0081, -0.0003),
        "confidence": 0.95,
        "limit": -0.01,
        "unit": "fraction",
        "n": 5000,
        "method": "tango",
        "reason": f"the reason of {gate}",
        "error_kind": "input" if decision == "error" else None,
    }
    return Gate(**{**values, **changes})


def make_slices(count: int, failing: int = 0, name: str = "class") -> list[Gate]:
    """Slices of which the last ``failing`` are rejected."""
    return [
        make_gate(
            f"slice:{name}",
            "reject" if i >= count - failing else "pass",
            slice=f"value {i:03}",
            reason=f"{name} value {i:03} is so",
        )
        for i in range(count)
    ]


def make_view(
    gates: Sequence[Gate],
    *,
    name: str = "synthetic",
    decision: Decision | None = None,
    optional: Sequence[str] = (),
    size_bytes: int = 600,
    **changes: Any,
) -> View:
    """A view of one selected candidate per target of ``gates``."""
    targets = list(dict.fromkeys(g.target for g in gates if g.artifact))
    worst = worst_decision(g.decision for g in gates if g.target not in optional)
    candidates = tuple(
        CandidateVerdict(
            artifact=ARTIFACT,
            baseline="",
            target=target,
            dtype="int8",
            decision=worst_decision(g.decision for g in gates if g.target == target),
            gates=tuple(g for g in gates if g.target == target),
        )
        for target in targets
    )
    verdict = Verdict(
        decision=decision or ("inconclusive" if worst == "not_run" else worst),
        gates=tuple(gates),
        candidates=candidates,
        selected=dict.fromkeys(targets, ARTIFACT),
        policy={},
        environment={},
        evidence={},
        collected_at=AT,
        edgekd="0.1.0",
        optional=tuple(optional),
    )
    run = Run(
        name=name,
        policy={},
        artifacts={ARTIFACT: {"name": "student-int8", "size_bytes": size_bytes}},
        candidates=(),
        selected=verdict.selected,
        collected_at=AT,
    )
    values: dict[str, Any] = {
        "run": run,
        "verdict": verdict,
        "chain": None,
        "candidates": tuple(
            CandidateRow(name="student-int8", format="onnx", size_bytes=size_bytes, selected=True, verdict=c)
            for c in candidates
        ),
        "latencies": (),
        "notes": (),
    }
    return View(**{**values, **changes})
