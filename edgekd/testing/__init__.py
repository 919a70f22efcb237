"""For authors of plugins: a runtime that does nothing real, and the checks that every runtime and exporter passes.

A plugin's own test calls :func:`check_runtime` or :func:`check_exporter`; each rule that is broken raises a
:class:`ConformanceError` that names it.
"""

from edgekd.testing.conformance import HOSTILE_NAMES, ConformanceError, check_exporter, check_runtime
from edgekd.testing.fakes import FakeRuntime, FakeSession, spin, write_fake

__all__ = [
    "HOSTILE_NAMES",
    "ConformanceError",
    "FakeRuntime",
    "FakeSession",
    "check_exporter",
    "check_runtime",
    "spin",
    "write_fake",
]
