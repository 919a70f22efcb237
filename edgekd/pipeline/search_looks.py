"""When a part of the selection rows says enough of a mixture.

Three looks at most, each as strict as a power of 80 % asks: what is assured there has a difference above minus the margin
at one-sided 99.4 % or more, so that all looks together err less often than one test at 5 %.
"""

from __future__ import annotations

import math

from edgekd.gates.accuracy import CONFIDENCE, POWER
from edgekd.gates.verdict import Gate
from edgekd.statistics.tango import normal_quantile

#: One-sided level at which something is clearly worse: each look may err, and costs a good mixture then.
_CLEARLY = 0.999


def is_assured(gate: Gate) -> bool:
    """Whether a test of as many other rows agrees with the power that METHOD plans with (80 %), if this is the truth."""
    error = standard_error(gate)
    if gate.decision != "pass" or gate.estimate is None or gate.limit is None or error is None:
        return False
    return gate.estimate - gate.limit >= _room() * error


def early_answer(gate: Gate, rows: int) -> str | None:
    """What the first ``gate.n`` of ``rows`` examples tell; None where the others have to be asked.

    Returns:
        ``clearly below float32``, ``assured``, or ``not to be assured``: all rows together would say so with a chance
        of under 5 %, if the others are like these (predictive probability: Spiegelhalter et al. 1986).
    """
    error = standard_error(gate)
    if gate.estimate is None or gate.limit is None or error is None or not gate.n:
        return None
    room = gate.estimate - gate.limit
    if room < -normal_quantile(_CLEARLY) * error:
        return "clearly below float32"
    if is_assured(gate):
        return "assured"
    share = gate.n / rows
    likely = room + normal_quantile(CONFIDENCE) * error * math.sqrt(1 - share)
    return "not to be assured" if likely < _room() * error * math.sqrt(share) else None


def standard_error(gate: Gate) -> float | None:
    """Of the difference, from the width of its interval; None without one."""
    if gate.interval is None:
        return None
    return (gate.interval[1] - gate.interval[0]) / (2 * normal_quantile(CONFIDENCE))


def _room() -> float:
    """Standard errors between the difference and the limit."""
    return normal_quantile(CONFIDENCE) + normal_quantile(POWER)
