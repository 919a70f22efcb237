"""Checks an ONNX file for TensorRT, without TensorRT and without a GPU: see :func:`lint_file`."""

from edgekd_tensorrt.lint.checking import lint_file
from edgekd_tensorrt.lint.findings import Finding, LintReport
from edgekd_tensorrt.lint.report import run_lint
from edgekd_tensorrt.lint.rules import RULES, Rule

__all__ = ["RULES", "Finding", "LintReport", "Rule", "lint_file", "run_lint"]
