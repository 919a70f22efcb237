"""Limits on timings: what a policy asks of one arm, whether its judges have seen enough, and whether they decided."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from edgekd.evidence.measurement import Measurement, level_of
from edgekd.gates.absolute import judge_absolute
from edgekd.gates.latency import judge_latency, should_stop
from edgekd.gates.looks import LOOKS
from edgekd.gates.quantiles import calls_by_restart
from edgekd.gates.tail import judge_tail, least_calls, tail_should_stop
from edgekd.statistics.binomial import least_count

#: An absolute limit is judged on so many calls that this many over it still pass (1,307 calls for a p99) ...
_OVER = 5
#: ... which are counted at the looks, and past the last one after every so many restarts.
_STEP = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TimingLimits:
    """What is asked of one arm's timings; None where nothing is.

    Attributes:
        max_ratio: of code speed to the baseline's (``latency``, ``regression``).
        absolute: percentile and milliseconds (``latency_absolute``).
        tail: percentile and ratio to the baseline's (``tail``).
    """

    max_ratio: float | None = None
    absolute: tuple[str, float] | None = None
    tail: tuple[str, float] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "max_ratio": self.max_ratio,
            "absolute": list(self.absolute) if self.absolute else None,
            "tail": list(self.tail) if self.tail else None,
        }

    @property
    def least_calls(self) -> int:
        """Calls in all that the absolute limit may need."""
        return 0 if self.absolute is None else least_count(level_of(self.absolute[0]), over=_OVER)

    @property
    def calls_per_restart(self) -> int:
        """Calls of every restart that the tail needs."""
        return 0 if self.tail is None else least_calls(level_of(self.tail[0]))

    def should_stop(self, measurement: Measurement, arm: str) -> bool:
        """Whether every asked judge has decided, or more restarts would not help it."""
        done = len(measurement.restarts)
        if done not in LOOKS and (done < LOOKS[-1] or done % _STEP):
            return False
        if self.max_ratio is not None and not should_stop(measurement, [(arm, self.max_ratio)]):
            return False
        if self.tail is not None and not tail_should_stop(
            measurement, arm, percentile=self.tail[0], max_ratio=self.tail[1]
        ):
            return False
        if self.absolute is None:
            return True
        # How many calls is fixed beforehand: a stop that looked at the answer would spend its 1 % at every look.
        if sum(map(len, calls_by_restart(measurement, arm))) >= self.least_calls:
            return True
        gate = judge_absolute(measurement, arm, percentile=self.absolute[0], max_ms=self.absolute[1])
        return gate.decision == "error"

    def decided(self, measurement: Measurement, arm: str) -> bool:
        """Whether every asked judge passes or rejects."""
        gates = []
        if self.max_ratio is not None:
            gates.append(judge_latency(measurement, arm, max_ratio=self.max_ratio))
        if self.absolute is not None:
            gates.append(
                judge_absolute(measurement, arm, percentile=self.absolute[0], max_ms=self.absolute[1])
            )
        if self.tail is not None:
            gates.append(judge_tail(measurement, arm, percentile=self.tail[0], max_ratio=self.tail[1]))
        return all(g.decision in ("pass", "reject") for g in gates)
