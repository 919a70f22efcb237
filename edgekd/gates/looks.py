"""Sequential looks at effects per restart, held against the hidden twin: what the latency and tail gates share.

METHOD, section 1, steps 1 and 5: a one-sided t over restarts after 4, 6, 8, 12 and 16 of them, at alpha 0.016 per look
and side; where the two copies of the baseline differ at two-sided 0.001, the interval is widened by that difference.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgekd.data.example import Array
from edgekd.gates.verdict import Decision
from edgekd.statistics.student_t import t_interval

LOOKS = (4, 6, 8, 12, 16)
ALPHA = 0.016
CONFIDENCE = 1 - ALPHA
TWIN_ALPHA = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look saw; natural logarithms of ratios. Without a decision the next look may have one."""

    decision: Decision | None
    restarts: int
    effect: float
    bounds: tuple[float, float]
    twin: float
    twin_bounds: tuple[float, float]
    widened: bool


def _look(effects: Array, twins: Array, limit: float) -> Look:
    effect, lower, upper = t_interval(effects, CONFIDENCE)
    twin, twin_lower, twin_upper = t_interval(twins, 1 - TWIN_ALPHA / 2)
    decision: Decision | None = "pass" if upper < limit else "reject" if lower > limit else None
    widened = False
    if decision is not None and not twin_lower <= 0 <= twin_upper:
        # The machine favours one process over its twin by this much, so it may have favoured the student, too.
        lower, upper, widened = lower - abs(twin), upper + abs(twin), True
        if lower <= limit <= upper:
            decision = "inconclusive"
    return Look(
        decision=decision,
        restarts=len(effects),
        effect=effect,
        bounds=(lower, upper),
        twin=twin,
        twin_bounds=(twin_lower, twin_upper),
        widened=widened,
    )


def deciding_look(effects: Array, twins: Array, limit: float) -> Look | None:
    """The first look that decides, else the last one that was reached; None before the first.

    Args:
        effects, twins: log ratios to the baseline per restart, of the judged arm and of the twin, float64 (restarts,).
        limit: greatest log ratio.
    """
    found = None
    for restarts in LOOKS:
        if restarts > len(effects):
            break
        found = _look(effects[:restarts], twins[:restarts], limit)
        if found.decision is not None:
            break
    return found
