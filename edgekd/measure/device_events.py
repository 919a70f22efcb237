"""Times of a call by events on the device's own stream: what a host clock would blur with launches and waiting.

Two conditions, both kept: *warm* (the same buffers again and again) and *cold* (the second-level cache flushed before
each sample). The flush lies outside of the pair of events. In both the stream is held (:mod:`edgekd.measure.device_queue`)
until the pair is enqueued, so that a sample is the device's time alone; samples for which the hold ended too early are
counted as late, and how long enqueueing took is kept beside each. Wall times are taken in calls of their own.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from edgekd.data.example import Array
from edgekd.measure.device_queue import Hold
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

#: What a block's arrays are; ``enqueue``: what the host took to enqueue a call of each warm sample.
DEVICE, COLD, WALL, ENQUEUE = "device", "cold", "wall", "enqueue"


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

    def pair(self) -> tuple[Any, Any]:
        """Two events, made once."""
        ...

    def record(self, event: Any, stream: int) -> None: ...

    def wait(self, event: Any) -> None: ...

    def done(self, event: Any) -> bool:
        """Whether the device has come past a recorded event, without waiting."""
        ...

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

    def hold(self, stream: int, copies: int) -> None:
        """Enqueue so many copies of a buffer of :func:`hold_bytes` to pinned host memory."""
        ...

    def close(self) -> None:
        """Give back events, buffers and streams; a second call does nothing."""
        ...


def flush_bytes(cache_bytes: int) -> int:
    """Size of the buffer whose zeroing leaves nothing else in a cache.

    >>> flush_bytes(60 << 20) >> 20, flush_bytes(128 << 20) >> 20
    (256, 512)
    """
    return max(FLUSH_BYTES, _FLUSH_CACHES * cache_bytes)


def hold_bytes(cache_bytes: int) -> int:
    """Size of the buffer whose copying holds a stream: an eighth of the cache, 4 MiB where the cache has no size.

    >>> hold_bytes(48 << 20) >> 20
    6
    """
    return max(1 << 16, cache_bytes // 8) if cache_bytes else 4 << 20


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """What was timed under one condition.

    Attributes:
        ns: nanoseconds per call; enqueue_ns: what the host took to enqueue a call, beside each.
        late: how many began on the device before they were wholly enqueued, and may hold some of the host's time.
    """

    ns: list[int]
    enqueue_ns: list[int]
    late: int


def time_warm(call: DeviceCall, source: EventSource, count: int, replays: int, hold: Hold) -> Samples:
    """``count`` pairs of events around ``replays`` calls each.

    A call that is not timed goes between the hold and the pair: it brings back what the hold took of the cache.
    """
    (start, end), stream, clock = source.pair(), call.stream, hold.clock
    samples, enqueue, late = [0] * count, [0] * count, 0
    for i in range(count):
        hold.begin(replays + 1)
        call.launch()
        source.record(start, stream)
        begin = clock()
        for _ in range(replays):
            call.launch()
        enqueue[i] = round((clock() - begin) / replays)
        source.record(end, stream)
        late += source.done(start)
        source.wait(end)
        samples[i] = round(source.elapsed_ns(start, end) / replays)
    return Samples(ns=samples, enqueue_ns=enqueue, late=late)


def time_cold(
    calls: Sequence[DeviceCall], source: EventSource, count: int, nbytes: int, hold: Hold
) -> Samples:
    """``count`` single calls, each after a flush of ``nbytes``, on one input set after another."""
    (start, end), clock = source.pair(), hold.clock
    samples, enqueue, late = [0] * count, [0] * count, 0
    for i in range(count):
        call = calls[i % len(calls)]
        hold.begin(1)
        source.flush(call.stream, nbytes)
        source.record(start, call.stream)
        begin = clock()
        call.launch()
        enqueue[i] = clock() - begin
        source.record(end, call.stream)
        late += source.done(start)
        source.wait(end)
        samples[i] = round(source.elapsed_ns(start, end))
    return Samples(ns=samples, enqueue_ns=enqueue, late=late)


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
    clock: Callable[[], int] = time.perf_counter_ns
    hold: Hold = field(init=False)
    _device_ns: list[int] = field(default_factory=list)
    _enqueue_ns: list[int] = field(default_factory=list)
    _late: dict[str, int] = field(default_factory=lambda: {DEVICE: 0, COLD: 0})

    def __post_init__(self) -> None:
        self.hold = Hold(self.source, self.calls[0].stream, self.clock)

    def warm_up(self, min_s: float, cap_s: float) -> tuple[dict[str, Any], float]:
        """Run for ``min_s`` and until the median stands still, at most ``cap_s``; then once cold on every set.

        Returns:
            What the evidence says, and nanoseconds per call.
        """
        begin = self.clock()
        call, calls, steady = self.calls[0], 0, False
        medians: list[float] = []
        while True:
            self.hold.calibrate(call)  # again in every window: the first calls are enqueued more slowly
            medians.append(float(np.median(time_warm(call, self.source, _WINDOW, 1, self.hold).ns)))
            calls += 2 * _WINDOW
            seconds = (self.clock() - begin) / 1e9
            if seconds >= cap_s:
                break
            if seconds >= min_s and len(medians) > 1:
                steady = abs(medians[-1] - medians[-2]) <= _DRIFT * medians[-2]
                if steady:
                    break
        time_cold(self.calls, self.source, len(self.calls), self.nbytes, self.hold)
        call_ns = max(medians[-1], 1.0)
        self.replays = replays_for(call_ns)
        return {
            "seconds": (self.clock() - begin) / 1e9,
            "calls": calls + len(self.calls),
            "steady": steady,
            "device": self.record(),
        }, call_ns

    def record(self) -> dict[str, Any]:
        """How samples are taken, for the evidence."""
        return {
            "events": self.source.name,
            "replays": self.replays,
            "hold_bytes": hold_bytes(self.source.cache_bytes()),
            "hold_copies": self.hold.copies(self.replays + 1),
            "flush_bytes": self.nbytes,
            "cache_bytes": self.source.cache_bytes(),
            "input_sets": len(self.calls),
            "input_sets_exceed_cache": self.sets_bytes > self.source.cache_bytes(),
        }

    def block(
        self, time_wall: Callable[[Callable[[], object], int], list[int]]
    ) -> tuple[dict[str, Any], list[Array]]:
        """One block: warm, its enqueueing, cold and wall, int64 (block_calls,) nanoseconds per call each.

        Args:
            time_wall: times so many calls that are each waited for, by the host's clock.
        """
        warm = time_warm(self.calls[0], self.source, self.block_calls, self.replays, self.hold)
        cold = time_cold(self.calls, self.source, self.block_calls, self.nbytes, self.hold)
        self._device_ns += warm.ns
        self._enqueue_ns += warm.enqueue_ns
        self._late[DEVICE] += warm.late
        self._late[COLD] += cold.late
        taken = {
            DEVICE: warm.ns,
            ENQUEUE: warm.enqueue_ns,
            COLD: cold.ns,
            WALL: time_wall(self.calls[0], self.block_calls),
        }
        return {"columns": list(taken)}, [np.asarray(ns, np.int64) for ns in taken.values()]

    def use(self) -> dict[str, Any]:
        """Of all blocks so far: medians per call, whether in use the host would be the slower one, and late samples."""
        if not self._device_ns:
            return {}
        device, enqueue = (float(np.median(ns)) for ns in (self._device_ns, self._enqueue_ns))
        return {
            "device_ns": device,
            "enqueue_ns": enqueue,
            "host_bound": enqueue >= device,
            "samples": len(self._device_ns),
            "late": self._late[DEVICE],
            "late_cold": self._late[COLD],
        }


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
