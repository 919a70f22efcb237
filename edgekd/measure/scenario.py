"""Scenarios in LoadGen's words: how queries arrive, what is reported, and how long a run lasts at least.

Defaults are those of MLCommons' LoadGen (``mlperf.conf``: 90th percentile for SingleStream, 99th for MultiStream and
Server, 8 samples per MultiStream query, at least 662 of them). Its 600 s of least duration are made for leaderboards;
here the default is short (LoadGen's own, outside a submission, is 10 s and 100 queries: ``test_settings.h``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from edgekd.errors import UsageError
from edgekd.evidence.measurement import (
    MULTI_STREAM,
    OFFLINE,
    SERVER,
    SINGLE_STREAM,
    TWIN,
    Measurement,
    level_of,
)
from edgekd.measure.arm import Protocol

__all__ = [
    "BOUNDS_PER_TRIAL",
    "MULTI_STREAM",
    "OFFLINE",
    "SCENARIOS",
    "SERVER",
    "SINGLE_STREAM",
    "Scenario",
    "scenario_from",
]

SCENARIOS = (SINGLE_STREAM, MULTI_STREAM, OFFLINE, SERVER)

_PERCENTILES = {SINGLE_STREAM: "p90", MULTI_STREAM: "p99", OFFLINE: "p90", SERVER: "p99"}
#: What shows a percentile within a limit with one query beyond it (METHOD 1, step 6) ...
_COUNTS = {"p90": 64, "p99": 662}
#: ... and for other percentiles, where P(X <= 1) = 1 % for a Poisson count X of this mean.
_MEAN_BEYOND = 6.6384
_DURATIONS_S = {SINGLE_STREAM: 0.5, MULTI_STREAM: 0.5, OFFLINE: 0.5, SERVER: 1.0}
_SAMPLES = 8
#: A server trial lasts at least so many bounds: a load of 5 % (the search's resolution) beyond what the server can do
#: then shows as a queue longer than the bound before the trial ends.
BOUNDS_PER_TRIAL = 20

#: Which field belongs to which scenario only; None everywhere else.
_OWN = {
    "samples_per_query": MULTI_STREAM,
    "max_batch": OFFLINE,
    "sessions": OFFLINE,
    "bound_ms": SERVER,
    "target_qps": SERVER,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """How a model is used. Fields left at None take the scenario's own default.

    Attributes:
        name: ``single-stream``, ``multi-stream``, ``offline`` or ``server``.
        percentile: what is reported: ``p90`` for one stream, ``p99`` for several and for the server.
        min_duration_s: every arm runs at least so long (the sum of its calls; the server's trials, each), and
        min_count: answers at least so many queries (samples when offline). Both must hold before a run ends.
        samples_per_query: examples of one multi-stream query.
        max_batch: greatest batch that the offline sweep tries, over all sessions.
        sessions: of the same model, offline, side by side on one device's CPUs; a batch is divided among them.
        bound_ms: of the server: the percentile of latency, arrival to completion, stays within it.
        target_qps: of the server: queries per second; None searches for the highest rate within the bound.
        seed: of the server's arrivals.

    Raises:
        UsageError: a field that this scenario does not have, or a value that means nothing.
    """

    name: str = SINGLE_STREAM
    percentile: str | None = None
    min_duration_s: float | None = None
    min_count: int | None = None
    samples_per_query: int | None = None
    max_batch: int | None = None
    sessions: int | None = None
    bound_ms: float | None = None
    target_qps: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in SCENARIOS:
            raise UsageError(f"no scenario is called '{self.name}'", f"choose {', '.join(SCENARIOS)}")
        for field, owner in _OWN.items():
            if getattr(self, field) is not None and self.name != owner:
                option = "--" + field.replace("_", "-")
                raise UsageError(
                    f"{field} ({option}) belongs to the {owner} scenario, {self.name} was asked for",
                    f"leave it out, or choose {owner}",
                )
        if self.name == OFFLINE and self.percentile is not None:
            raise UsageError(
                f"offline reports samples per second, {self.percentile} was asked for",
                "leave the percentile out, or choose another scenario",
            )
        level_of(self.reported)
        for field in ("min_duration_s", "bound_ms", "target_qps"):
            value = getattr(self, field)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UsageError(f"{field} is {value:g}", "it must be above 0")
        for field in ("min_count", "samples_per_query", "max_batch", "sessions"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise UsageError(f"{field} is {value}", "it must be 1 or more")
        if self.max_batch is not None and self.max_batch < self.side_by_side:
            raise UsageError(
                f"max_batch (--max-batch) is {self.max_batch}, {self.side_by_side} sessions take an example each",
                f"raise it to {self.side_by_side} or more",
            )
        if self.name == SERVER and self.bound_ms is None and self.target_qps is None:
            raise UsageError(
                "the server scenario needs a latency bound to find the highest rate within, or a rate",
                "give bound_ms (--bound-ms 10), or target_qps (--target-qps 100)",
            )

    @property
    def reported(self) -> str:
        """The percentile that is reported."""
        return self.percentile or _PERCENTILES[self.name]

    @property
    def level(self) -> float:
        return level_of(self.reported)

    @property
    def duration_s(self) -> float:
        """The least duration, with its default."""
        return self.min_duration_s or _DURATIONS_S[self.name]

    @property
    def count(self) -> int:
        """The least count, with its default."""
        found = _COUNTS.get(self.reported) or math.ceil(_MEAN_BEYOND / (1 - self.level))
        return self.min_count or found

    @property
    def samples(self) -> int:
        """Examples of one query."""
        return (self.samples_per_query or _SAMPLES) if self.name == MULTI_STREAM else 1

    @property
    def side_by_side(self) -> int:
        """Sessions of each model."""
        return self.sessions or 1

    def check_batch(self, asked: int) -> None:
        """Refuse a batch where the scenario finds its own.

        Raises:
            UsageError: any but 1, but for one stream.
        """
        if self.name == SINGLE_STREAM or asked == 1:
            return
        instead = {MULTI_STREAM: "see --samples-per-query", OFFLINE: "cap its sweep with --max-batch"}
        raise UsageError(
            f"batch {asked} was asked for, {self.name} has batches of its own",
            f"leave it out; {instead.get(self.name, 'a query of the server is one sample')}",
        )

    def to_json(self) -> dict[str, Any]:
        """The rules as evidence keeps them, defaults filled in."""
        rules: dict[str, Any] = {"min_duration_s": self.duration_s, "min_count": self.count}
        if self.name != OFFLINE:
            rules["percentile"] = self.reported
        if self.name == MULTI_STREAM:
            rules["samples_per_query"] = self.samples
        if self.name == OFFLINE:
            rules["max_batch"] = self.max_batch
            rules |= {"sessions": self.sessions} if self.sessions else {}
        if self.name == SERVER:
            rules |= {"bound_ms": self.bound_ms, "target_qps": self.target_qps, "seed": self.seed}
        return rules

    def stretched(self, protocol: Protocol, *, least_calls: int = 0, calls_per_restart: int = 0) -> Protocol:
        """A protocol whose last restart is sure to satisfy the least duration and count.

        Blocks have a least length and a least number of calls, so enough rounds of them do. Long calls make blocks of
        fewer calls; for those there may be more restarts.

        Args:
            least_calls: further calls that a judge will need in all; calls_per_restart: and in each restart.
        """
        count = max(self.count if self.name != OFFLINE else 0, least_calls)
        restarts, calls = protocol.max_restarts, protocol.block_calls
        rounds = max(
            protocol.rounds,
            math.ceil(count / (restarts * calls)),
            math.ceil(calls_per_restart / protocol.min_block_calls),
            # A block may end a little early: its length is an estimate of the warm-up.
            math.ceil(1.1 * self.duration_s * 1000 / (restarts * protocol.block_ms)),
        )
        more = math.ceil(count / (rounds * protocol.min_block_calls))
        return replace(protocol, rounds=rounds, max_restarts=max(restarts, more))

    def held(self, measurement: Measurement) -> bool:
        """Whether least duration and least count hold for every arm of a measurement made of blocks."""
        for arm, record in measurement.arms.items():
            if arm == TWIN:
                continue
            calls = measurement.calls_ns(arm)
            each = int(record.get("batch") or 1) if self.name == OFFLINE else 1
            if len(calls) * each < self.count or float(calls.sum()) / 1e9 < self.duration_s:
                return False
        return True


def scenario_from(value: str | Mapping[str, Any]) -> Scenario:
    """A scenario from its word, or from a block with ``name`` and fields.

    Raises:
        UsageError: see :class:`Scenario`.
    """
    return Scenario(name=value) if isinstance(value, str) else Scenario(**value)
