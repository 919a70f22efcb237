"""Slice gates by the column they are of: a hundred of them are a sentence and a few rows, not a hundred lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgekd.gates.verdict import Decision, Gate, worst_decision

#: Worst first, as a reader wants to see them.
ORDER: tuple[Decision, ...] = ("error", "reject", "inconclusive", "pass", "not_run")
#: How many slices that did not pass are shown, per column and target.
SHOWN = 10

_SAID: Mapping[Decision, str] = {
    "error": "could not be judged",
    "reject": "rejected",
    "inconclusive": "undecided",
    "pass": "passed",
    "not_run": "reported, not gated",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SliceGroup:
    """The values of one slice column on one target, against one reference.

    Attributes:
        gate: ``slice:<name>``.
        gates: the worst first; of equal decisions the one that lost most first.
    """

    gate: str
    target: str
    against: str
    gates: tuple[Gate, ...]

    @property
    def decision(self) -> Decision:
        return worst_decision(g.decision for g in self.gates)

    @property
    def counts(self) -> dict[Decision, int]:
        """Decision -> how many, worst first; none that is zero."""
        found = {d: sum(g.decision == d for g in self.gates) for d in ORDER}
        return {d: n for d, n in found.items() if n}

    @property
    def failing(self) -> tuple[Gate, ...]:
        """Those that hold the run up."""
        return tuple(g for g in self.gates if g.decision in ("error", "reject", "inconclusive"))

    @property
    def told(self) -> str:
        """``97 passed, 2 rejected, 1 reported, not gated``."""
        return ", ".join(f"{n:,} {_SAID[d]}" for d, n in self.counts.items())


def group_slices(gates: Sequence[Gate]) -> tuple[list[Gate], list[SliceGroup]]:
    """Gates that are of no slice, in order, and the others by column, target and reference."""
    plain: list[Gate] = []
    found: dict[tuple[str, str, str], list[Gate]] = {}
    for gate in gates:
        if gate.gate.startswith("slice:"):
            found.setdefault((gate.gate, gate.target, gate.against), []).append(gate)
        else:
            plain.append(gate)
    return plain, [
        SliceGroup(gate=name, target=target, against=against, gates=tuple(sorted(own, key=_worst_first)))
        for (name, target, against), own in found.items()
    ]


def _worst_first(gate: Gate) -> tuple[int, float, str]:
    estimate = 0.0 if gate.estimate is None else gate.estimate
    return ORDER.index(gate.decision), estimate, gate.slice or ""
