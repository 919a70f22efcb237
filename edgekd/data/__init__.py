"""Data sources: ``open_source("digits.npz")`` and friends, streamed as :class:`Example` rows."""

from edgekd.data.example import Example, Source
from edgekd.data.sources import open_source

__all__ = ["Example", "Source", "open_source"]
