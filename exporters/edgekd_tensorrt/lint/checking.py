"""The lint itself: every rule over one file."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from edgekd.errors import UsageError
from edgekd_onnx.reading import opset_of
from edgekd_tensorrt.lint.attention import attention_findings
from edgekd_tensorrt.lint.context import Asked, Context, Profile, parse_version
from edgekd_tensorrt.lint.control_flow import control_findings
from edgekd_tensorrt.lint.element_types import precision_findings, target_findings, type_findings
from edgekd_tensorrt.lint.findings import SEVERITIES, Finding, LintReport
from edgekd_tensorrt.lint.fp8 import fp8_findings
from edgekd_tensorrt.lint.fusion import fusion_findings
from edgekd_tensorrt.lint.graph import Graph, Node
from edgekd_tensorrt.lint.loading import Loaded, opened
from edgekd_tensorrt.lint.operators import operator_findings, opset_findings
from edgekd_tensorrt.lint.placement import pair_findings, weighted_findings
from edgekd_tensorrt.lint.scales import scale_findings
from edgekd_tensorrt.lint.shapes import shape_findings
from edgekd_tensorrt.lint.speed import speed_findings
from edgekd_tensorrt.lint.zero_points import value_findings

_CHECKS: Sequence[Callable[[Context], Iterator[Finding]]] = (
    opset_findings, operator_findings, type_findings, value_findings, scale_findings, pair_findings, weighted_findings,
    fusion_findings, speed_findings, attention_findings, fp8_findings, target_findings, precision_findings,
    shape_findings, control_findings,
)  # fmt: skip

#: Compute capabilities times ten that TensorRT 10 and 11 could meet: Turing (75) on, with room for those to come.
_SM = (70, 200)


def lint_file(
    path: Path,
    *,
    target_sm: int | None = None,
    tensorrt: str = "11",
    shapes: Mapping[str, Profile] | None = None,
    plugins: Sequence[str] = (),
    dtype: str | None = None,
) -> LintReport:
    """Check an ONNX file for TensorRT without TensorRT. Passing is necessary, never sufficient, for an engine to build.

    Weights are not loaded: of large tensors only scales and zero points are read, where they lie.

    Args:
        target_sm: compute capability times ten, e.g. 90 for an H100; rules about the GPU are left out without it.
        tensorrt: ``"11"`` or ``"10"`` for what every release of it takes, or one release: ``"10.16"``.
        shapes: input name -> (minimum, optimum, maximum) shape.
        plugins: operators that a plugin library brings: ``NAME`` or ``domain::NAME``.
        dtype: precision asked for in ONNX spelling: ``float16`` and ``bfloat16`` are looked for in the graph.

    Raises:
        ModelError: the file is missing or is no ONNX; everything else about it is a finding.
        UsageError: a version or compute capability that cannot be.
    """
    major, minor = parse_version(tensorrt)
    if target_sm is not None and not _SM[0] <= target_sm <= _SM[1]:
        raise UsageError(
            f"SM {target_sm} is no GPU that TensorRT runs on", "give the compute capability times ten: 89 for 8.9"
        )  # fmt: skip
    asked = Asked(
        major=major, minor=minor, target_sm=target_sm, shapes=dict(shapes or {}), plugins=frozenset(plugins), dtype=dtype
    )  # fmt: skip
    with opened(path) as loaded:
        graph = Graph(loaded.model.graph, loaded.typed.graph, loaded)
        context = Context(graph=graph, asked=asked, opset=opset_of(loaded.model))
        found = [*_file_findings(context, loaded)]
        for check in _CHECKS:
            found += check(context)
        order = {n.label: i for i, n in reversed(list(enumerate(context.nodes)))}
        found.sort(key=lambda f: (SEVERITIES.index(f.severity), order.get(f.node, -1)))
        return LintReport(
            findings=tuple(dict.fromkeys(found)), path=path, sha256=loaded.sha256, opset=context.opset, tensorrt=tensorrt,
            target_sm=target_sm,
        )  # fmt: skip


def _file_findings(context: Context, loaded: Loaded) -> Iterator[Finding]:
    """TRT005, TRT006."""
    for message, is_error in loaded.faults:
        node = _named(context, message)
        yield context.find("TRT005", node, message, severity="error" if is_error else "warning")
    for name, reason in loaded.unreadable.items():
        readers = context.graph.read_by(name)
        yield context.find("TRT006", readers[0][0] if readers else None, reason, tensor=name)


def _named(context: Context, message: str) -> Node | None:
    """The node that the checker or shape inference speaks of."""
    said = re.search(r"\bname\)?: ?(.+)", message, re.IGNORECASE)
    if said is None:
        return None
    # Names may hold anything; of those that fit, the longest is meant.
    fits = [n for n in context.nodes if n.proto.name and said[1].startswith(str(n.proto.name))]
    return max(fits, key=lambda n: len(n.proto.name), default=None)
