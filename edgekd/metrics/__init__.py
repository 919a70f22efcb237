"""Metrics as functions of stored per-example statistics: what lets a judge resample a metric without the library.

A task scores with a well-kept library and keeps, beside the value, what the metric is made of per example. The
functions here give the same value from those statistics under any weighting of the examples.
"""

from edgekd.metrics.aggregate import ADDITIVE, metric_value, metric_values, take_statistics
from edgekd.metrics.statistics import SUMS, Statistics

__all__ = ["ADDITIVE", "SUMS", "Statistics", "metric_value", "metric_values", "take_statistics"]
