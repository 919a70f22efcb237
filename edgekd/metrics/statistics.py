"""What a metric is made of, per example."""

from __future__ import annotations

from collections.abc import Mapping

from edgekd.data.example import Array

#: Name of the array of additive statistics, float64 (n, k).
SUMS = "sums"

#: What a metric is made of: ``{"sums": (n, k)}`` for additive metrics, arrays of their own for the others.
Statistics = Mapping[str, Array]
