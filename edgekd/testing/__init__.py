"""For authors of plugins: a runtime and a meter that do nothing real, and the checks that every plugin passes.

A plugin's own test calls :func:`check_runtime`, :func:`check_exporter`, :func:`check_round_trip` or :func:`check_meter`; each rule that is broken
raises a :class:`ConformanceError` that names it.
"""

from edgekd.testing.conformance import HOSTILE_NAMES, ConformanceError, check_exporter, check_runtime
from edgekd.testing.fakes import FakeRuntime, FakeSession, spin, write_fake
from edgekd.testing.meters import FakeMeter, check_meter
from edgekd.testing.round_trip import check_round_trip

__all__ = [
    "HOSTILE_NAMES",
    "ConformanceError",
    "FakeMeter",
    "FakeRuntime",
    "FakeSession",
    "check_exporter",
    "check_meter",
    "check_round_trip",
    "check_runtime",
    "spin",
    "write_fake",
]
