"""Keeping a device's queue full while the host enqueues what is timed, so that no time between events is the host's.

A call of many short kernels is enqueued more slowly than it runs: between two events the device would mostly wait for
the host. So the stream is first given something long that takes one call to enqueue and leaves the cache alone: copies
of a small buffer to pinned host memory. What is timed is enqueued behind it, and runs without a gap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from edgekd.measure.device_events import DeviceCall, EventSource

#: The hold lasts so many times what enqueueing takes, and this much for the events' own part.
_MARGIN = 2.0
_EVENTS_NS = 20_000
#: A stream takes about a thousand operations before enqueueing itself waits; the hold leaves most to what is timed.
_MOST_COPIES = 256
_PROBE_COPIES = 8
_PROBES = 3
_ENQUEUE_CALLS = 5


@dataclass(slots=True)
class Hold:
    """What keeps one stream busy.

    Attributes:
        source: of the events, and of the copies; stream: as a number.
        copy_ns: what one copy takes on the device beyond what enqueueing it takes: so much lead each one gives.
        call_enqueue_ns: what the host takes to enqueue one call on an idle device.
    """

    source: EventSource
    stream: int
    clock: Callable[[], int]
    copy_ns: float = 0.0
    call_enqueue_ns: float = 0.0

    def calibrate(self, call: DeviceCall) -> None:
        """Measure a copy, and how long ``call`` takes to enqueue."""
        if not self.copy_ns:
            self.copy_ns = max(min(self._copy_ns() for _ in range(_PROBES)), 1.0)
        taken = []
        for _ in range(_ENQUEUE_CALLS):
            self.source.wait_for_stream(self.stream)
            begin = self.clock()
            call.launch()
            taken.append(self.clock() - begin)
        self.source.wait_for_stream(self.stream)
        self.call_enqueue_ns = float(sorted(taken)[_ENQUEUE_CALLS // 2])

    def _copy_ns(self) -> float:
        start, end = self.source.pair()
        self.source.hold(self.stream, 1)  # the first one makes the buffers
        self.source.record(start, self.stream)
        begin = self.clock()
        self.source.hold(self.stream, _PROBE_COPIES)
        host_ns = self.clock() - begin
        self.source.record(end, self.stream)
        self.source.wait(end)
        device_ns = self.source.elapsed_ns(start, end)
        # Copies no longer than their own launches cannot hold; what is late then says so.
        return max(device_ns - host_ns, device_ns / _PROBE_COPIES) / _PROBE_COPIES

    def copies(self, calls: int) -> int:
        """How many copies outlast the enqueueing of so many calls; none before :meth:`calibrate`."""
        if not self.copy_ns:
            return 0
        wanted = _MARGIN * calls * self.call_enqueue_ns + _EVENTS_NS
        return min(_MOST_COPIES, math.ceil(wanted / self.copy_ns))

    def begin(self, calls: int) -> None:
        """Enqueue the hold of one sample, behind which ``calls`` calls are enqueued."""
        if copies := self.copies(calls):
            self.source.hold(self.stream, copies)
