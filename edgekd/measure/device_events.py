"""Times of a call by events on the device's own stream: what a host clock would blur with launches and waiting.

Two conditions, both kept: *warm* (the same buffers again and again) and *cold* (the second-level cache flushed before
each sample). The flush lies outside of the pair of events, and the queue is never empty when a pair begins, so that
no sample holds the host's way to the device. Wall times are taken beside, in calls of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.data.example import Array
from edgekd.target import Session

#: A call shorter than this is timed R times in one pair of events, and the sample is their mean.
SHORT_CALL_NS = 50_000
#: Such a pair lasts about so long: an event's resolution is about half a microsecond (CUDA runtime API,
#: cudaEventElapsedTime).
_PAIR_NS = 500_000
_MOST_REPLAYS = 200

#: The flush zeroes a buffer of four times the cache, and at least this.
FLUSH_BYTES = 256 << 20
_FLUSH_CACHES = 4

#: Warm when the median of so many samples is within this share of the median of as many before them.
_WINDOW = 20
_DRIFT = 0.01

#: Most input sets that cold calls rotate over.
_MOST_SETS = 4

#: Begins the message of an error about the device's memory, in which the fix names a smaller batch.
OUT_OF_DEVICE_MEMORY = "out of device memory"

#: What a block's arrays are.
DEVICE, COLD, WALL = "device", "cold", "wall"


@runtime_checkable
class DeviceCall(Protocol):
    """A bound call whose work can be enqueued without waiting for it; calling it enqueues and waits.

    Attributes:
        stream: the stream it enqueues on, as a number (``cudaStream_t``).
    """

    stream: int

    def launch(self) -> None:
        """Enqueue once, and return."""
        ...

    def __call__(self) -> object: ...


class EventSource(Protocol):
    """Events of one device; see :mod:`edgekd.measure.gpu_events`.

    Attributes:
        name: of the library, for the record.
    """

    name: str

    def event(self) -> Any: ...

    def record(self, event: Any, stream: int) -> None: ...

    def wait(self, event: Any) -> None: ...

    def elapsed_ns(self, start: Any, end: Any) -> float: ...

    def cache_bytes(self) -> int:
        """Size of the device's second-level cache."""
        ...

    def new_stream(self) -> int:
        """A stream that waits for no other, for as long as this object lives."""
        ...

    def wait_for_stream(self, stream: int) -> None: ...

    def flush(self, stream: int, nbytes: int) -> None:
        """Enqueue the zeroing of a buffer of ``nbytes``, which is made once."""
        ...


def flush_bytes(cache_bytes: int) -> int:
    """Size of the buffer whose zeroing leaves nothing else in a cache.

    >>> flush_bytes(60 << 20) >> 20, flush_bytes(128 << 20) >> 20
    (256, 512)
    """
    return max(FLUSH_BYTES, _FLUSH_CACHES * cache_bytes)


def replays_for(call_ns: float) -> int:
    """How many calls share one pair of events.

    >>> replays_for(60_000.0), replays_for(10_000.0), replays_for(100.0)
    (1, 50, 200)
    """
    return 1 if call_ns >= SHORT_CALL_NS else min(_MOST_REPLAYS, math.ceil(_PAIR_NS / max(call_ns, 1.0)))


def input_sets(feeds: Mapping[str, Array], cache_bytes: int) -> list[dict[str, Array]]:
    """The feeds, and as many shifted copies as rotate them out of a cache (two to four sets).

    Floating-point inputs are rolled along their last axis; others (ids, masks) are the same values in other buffers.
    """
    size = max(1, sum(a.nbytes for a in feeds.values()))
    count = min(_MOST_SETS, max(2, cache_bytes // size + 1))
    return [
        {
            name: np.roll(a, k, axis=-1) if k and a.ndim and a.dtype.kind == "f" else a
            for name, a in feeds.items()
        }
        for k in range(count)
    ]


def time_warm(call: DeviceCall, source: EventSource, count: int, replays: int = 1) -> list[int]:
    """Nanoseconds per call of ``count`` pairs of events around ``replays`` calls each.

    A call that is not timed goes first, so that the device is busy while the host enqueues the pair.
    """
    start, end, stream = source.event(), source.event(), call.stream
    samples = [0] * count
    for i in range(count):
        call.launch()
        source.record(start, stream)
        for _ in range(replays):
            call.launch()
        source.record(end, stream)
        source.wait(end)
        samples[i] = round(source.elapsed_ns(start, end) / replays)
    return samples


def time_cold(calls: Sequence[DeviceCall], source: EventSource, count: int, nbytes: int) -> list[int]:
    """Nanoseconds of ``count`` single calls, each after a flush, on one input set after another."""
    start, end = source.event(), source.event()
    samples = [0] * count
    for i in range(count):
        call = calls[i % len(calls)]
        source.flush(call.stream, nbytes)
        source.record(start, call.stream)
        call.launch()
        source.record(end, call.stream)
        source.wait(end)
        samples[i] = round(source.elapsed_ns(start, end))
    return samples


@dataclass(slots=True)
class DeviceTiming:
    """One opened arm that is timed by events.

    Attributes:
        calls: the bound call on each input set; the first is the one of warm and of wall samples.
        replays: calls per pair of events of a warm sample; above 1 a sample is a mean.
        block_calls: samples per block and condition.
    """

    calls: list[DeviceCall]
    source: EventSource
    nbytes: int
    sets_bytes: int
    replays: int = 1
    block_calls: int = 0
    _call_ns: float = field(default=0.0)

    def warm_up(self, min_s: float, cap_s: float) -> tuple[dict[str, Any], float]:
        """Run for ``min_s`` and until the median stands still, at most ``cap_s``; then once cold on every set.

        Returns:
            What the evidence says, and nanoseconds per call.
        """
        begin = time.perf_counter_ns()
        call, calls, steady = self.calls[0], 0, False
        medians: list[float] = []
        while True:
            medians.append(float(np.median(time_warm(call, self.source, _WINDOW))))
            calls += 2 * _WINDOW
            seconds = (time.perf_counter_ns() - begin) / 1e9
            if seconds >= cap_s:
                break
            if seconds >= min_s and len(medians) > 1:
                steady = abs(medians[-1] - medians[-2]) <= _DRIFT * medians[-2]
                if steady:
                    break
        time_cold(self.calls, self.source, len(self.calls), self.nbytes)
        self._call_ns = max(medians[-1], 1.0)
        self.replays = replays_for(self._call_ns)
        return {
            "seconds": (time.perf_counter_ns() - begin) / 1e9,
            "calls": calls + len(self.calls),
            "steady": steady,
            "device": self.record(),
        }, self._call_ns

    def record(self) -> dict[str, Any]:
        """How samples are taken, for the evidence."""
        return {
            "events": self.source.name,
            "replays": self.replays,
            "flush_bytes": self.nbytes,
            "cache_bytes": self.source.cache_bytes(),
            "input_sets": len(self.calls),
            "input_sets_exceed_cache": self.sets_bytes > self.source.cache_bytes(),
        }

    def block(
        self, time_wall: Callable[[Callable[[], object], int], list[int]]
    ) -> tuple[dict[str, Any], list[Array]]:
        """One block: warm, cold and wall, int64 (block_calls,) nanoseconds each.

        Args:
            time_wall: times so many calls that are each waited for, by the host's clock.
        """
        taken = {
            DEVICE: time_warm(self.calls[0], self.source, self.block_calls, self.replays),
            COLD: time_cold(self.calls, self.source, self.block_calls, self.nbytes),
            WALL: time_wall(self.calls[0], self.block_calls),
        }
        return {"columns": list(taken)}, [np.asarray(ns, np.int64) for ns in taken.values()]


def device_timing(
    session: Session, run: object, feeds: Mapping[str, Array], source: Callable[[], EventSource]
) -> DeviceTiming | None:
    """How an opened arm is timed on its device; None where its bound call cannot be enqueued without waiting.

    Args:
        run: the bound call of ``feeds``.
        source: makes the events; asked only where they are wanted.

    Raises:
        MissingDependencyError: no library that has events.
    """
    if session.placement.device != "cuda" or not isinstance(run, DeviceCall):
        return None
    events = source()
    cache = events.cache_bytes()
    own = {spec.name: feeds[spec.name] for spec in session.inputs}
    sets = input_sets(own, cache)
    calls: list[DeviceCall] = [run]
    for other in sets[1:]:
        bound = session.bind(other)
        if not isinstance(bound, DeviceCall):  # the first was one
            break
        bound()
        calls.append(bound)
    return DeviceTiming(
        calls=calls,
        source=events,
        nbytes=flush_bytes(cache),
        sets_bytes=sum(a.nbytes for s in sets for a in s.values()),
    )
