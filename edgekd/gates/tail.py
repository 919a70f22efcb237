"""The ``tail`` gate: how much longer do a user's slow calls take than with the baseline?

A verdict apart from code speed (METHOD 1, step 6): the ``latency`` gate compares block minima, which never see a call
that stalls. Per restart, the log ratio of the quantile over that restart's raw calls; then the t over restarts, looked
at as often and at the same levels as :mod:`edgekd.gates.latency`. A tail is made by the machine as much as by the
model, so only restarts with a quiet ledger are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.evidence.measurement import BASELINE, OFFLINE, SERVER, TWIN, Measurement, level_of
from edgekd.gates.looks import CONFIDENCE, LOOKS, Look, deciding_look
from edgekd.gates.quantiles import restart_quantiles
from edgekd.gates.quiet import READINGS, noise_of, worst_noise
from edgekd.gates.statistic import unusable
from edgekd.gates.verdict import Decision, Gate

GATE = "tail"
METHOD = "quantile of raw calls per restart, sequential t over quiet restarts"

#: Once this many restarts were not quiet, more of them are not worth their time (METHOD's number of redraws).
MAX_NOISY = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class _Quiet:
    """The effects of the quiet restarts, and what kept the others out."""

    effects: Array
    twins: Array
    noisy: tuple[str, ...]
    absent: tuple[str, ...]

    def look(self, limit: float) -> Look | None:
        """See :func:`edgekd.gates.looks.deciding_look`."""
        return deciding_look(self.effects, self.twins, limit)


def _quiet(measurement: Measurement, arm: str, level: float) -> _Quiet:
    noise = [noise_of(r.ledger) for r in measurement.restarts]
    keep = np.asarray([not text for text in noise], bool)
    base = np.log(restart_quantiles(measurement, BASELINE, level))
    # Calls of different batches: the ratio is of the time per example.
    scale = {a: math.log(float(measurement.arms[a].get("batch") or 1)) for a in (BASELINE, TWIN, arm)}

    def against_baseline(name: str) -> Array:
        logs = np.log(restart_quantiles(measurement, name, level)) - base
        return np.asarray(logs[keep] - scale[name] + scale[BASELINE], np.float64)

    absent = tuple(
        words
        for name, words in READINGS.items()
        if any(r.ledger.get(name) is None for r in measurement.restarts)
    )
    return _Quiet(
        effects=against_baseline(arm),
        twins=against_baseline(TWIN),
        noisy=tuple(text for text in noise if text),
        absent=absent,
    )


def least_calls(level: float) -> int:
    """Calls of a restart below which it has no such quantile: one call in expectation beyond it.

    >>> least_calls(0.99), least_calls(0.5)
    (100, 2)
    """
    return math.ceil(round(1 / (1 - level), 6))


def tail_should_stop(measurement: Measurement, arm: str, *, percentile: str, max_ratio: float) -> bool:
    """Whether more restarts would not help this gate; asked at any time, true only at a look or when all is spent."""
    if len(measurement.restarts) >= LOOKS[-1]:
        return True
    level = level_of(percentile)
    if _unusable(measurement, arm, level):
        return True
    quiet = _quiet(measurement, arm, level)
    if len(quiet.noisy) > MAX_NOISY:
        return True
    look = quiet.look(math.log(max_ratio))
    return look is not None and look.decision is not None


def judge_tail(
    measurement: Measurement,
    arm: str,
    *,
    percentile: str = "p99",
    max_ratio: float,
    against: str = "teacher",
    split: str | None = None,
) -> Gate:
    """Judge the ratio of a quantile of the raw latency, arm / baseline.

    Args:
        measurement: evidence with a baseline and its twin; its ``baseline`` arm is what ``against`` names.
        arm: the judged arm.
        percentile: ``p50``, ``p90``, ``p99``.
        max_ratio: greatest allowed ratio, > 0.

    Returns:
        A gate whose estimate and interval are ratios, and whose n counts the quiet restarts of the look that decided.
        Inconclusive where fewer than the first look's number were quiet, naming what was not.
    """

    def answer(decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate=GATE,
            decision=decision,
            metric=percentile,
            against=against,
            artifact=str(measurement.arms.get(arm, {}).get("artifact", "")),
            target=measurement.target,
            limit=max_ratio,
            unit="ratio",
            method=METHOD,
            scenario=measurement.scenario,
            split=split,
            reason=reason,
            **more,
        )

    try:
        level = level_of(percentile)
    except UsageError as e:
        return answer("error", str(e), error_kind="input")
    if not (math.isfinite(max_ratio) and max_ratio > 0):
        return answer(
            "error", f"a tail's limit is a ratio above 0, got {max_ratio}; give 1.2", error_kind="input"
        )
    if trouble := _unusable(measurement, arm, level):
        return answer("error", trouble, error_kind="input")

    quiet = _quiet(measurement, arm, level)
    done, used = len(measurement.restarts), len(quiet.effects)
    unseen = f"; the machine does not tell {', '.join(quiet.absent)}" if quiet.absent else ""
    detail: dict[str, Any] = {
        "restarts": done,
        "quiet": used,
        "not_quiet": list(quiet.noisy),
        "unavailable": list(quiet.absent),
    }
    look = quiet.look(math.log(max_ratio))
    if look is None:
        estimate = math.exp(float(np.mean(quiet.effects))) if used else None
        if quiet.noisy:
            text = (
                f"{used} of {done} restarts were quiet, a tail needs {LOOKS[0]}: up to {worst_noise(measurement)}; "
                "measure on a quieter machine"
            )
        else:
            text = f"{done} restarts, the first look needs {LOOKS[0]}: measure {LOOKS[0] - done} more"
        return answer("inconclusive", text + unseen, estimate=estimate, n=used, detail=detail)
    lower, upper = (math.exp(x) for x in look.bounds)
    decision: Decision = look.decision or "inconclusive"
    bound = f"at least {lower:.3f}x" if decision == "reject" else f"at most {upper:.3f}x"
    of = "" if used == done else f" of {done}"
    text = (
        f"student's {percentile} is {math.exp(look.effect):.3f}x the {against}'s, {bound} (limit {max_ratio:.3f}x) "
        f"over {look.restarts} quiet restarts{of}"
    )
    if look.decision == "inconclusive":
        text += (
            f": two copies of the {against} differed by {100 * abs(math.expm1(look.twin)):.1f} %, so this machine "
            "cannot decide it; measure on a quieter one"
        )
    elif look.decision is None:
        following = next((k for k in LOOKS if k > used), None)
        text += (
            ": undecided, the tail scatters too much for this limit"
            if following is None or done >= LOOKS[-1]
            else f": undecided, the next look needs {following - used} more quiet restarts"
        )
    return answer(
        decision,
        text + unseen,
        estimate=math.exp(look.effect),
        interval=(lower, upper),
        confidence=CONFIDENCE,
        n=look.restarts,
        detail={**detail, "a_a_ratio": math.exp(look.twin), "widened": look.widened},
    )


def _unusable(measurement: Measurement, arm: str, level: float) -> str:
    """Why the samples cannot be judged, as a sentence; empty when they can."""
    if measurement.scenario in (OFFLINE, SERVER):
        return (
            f"the {measurement.scenario} scenario has no calls of two models in turns; measure with --scenario "
            "single-stream or multi-stream"
        )
    if trouble := unusable(measurement, arm):
        return trouble
    least = least_calls(level)
    for i, restart in enumerate(measurement.restarts):
        for name in (BASELINE, TWIN, arm):
            calls = sum(len(b) for b in restart.single_calls(name))
            if calls < least:
                return (
                    f"restart {i} holds {calls} calls of '{name}', a quantile at {level:g} needs {least}; measure again "
                    "with more calls"
                )
    return ""
