"""Evaluation: one row per example, in a child; apart from timing, as in MLPerf's accuracy mode."""

from edgekd.evaluate.evaluation import EvaluationRequest, OpenChildren, evaluate

__all__ = ["EvaluationRequest", "OpenChildren", "evaluate"]
