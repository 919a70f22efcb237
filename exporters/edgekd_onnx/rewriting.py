"""Graph optimisation and opset conversion of an ONNX model in memory; what was done is returned for the record."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd_onnx import writing
from edgekd_onnx.reading import DEFAULT_DOMAIN, opset_of
from edgekd_onnx.writing import one_line, quiet, strip_provenance, weight_bytes

_LEVELS = {"ort-basic": "ORT_ENABLE_BASIC", "ort-extended": "ORT_ENABLE_EXTENDED"}


def optimise(proto: Any, how: str) -> tuple[Any, dict[str, Any] | None]:
    """An optimised copy of ``proto``, and which tool made it; the same proto and None for ``none``.

    Args:
        how: of :data:`edgekd_onnx.export_options.OPTIMIZERS`. ``onnxslim`` and ``ort-basic`` keep to standard
            operators; ``ort-extended`` brings in operators that only ONNX Runtime has.

    Raises:
        ModelError: the tool fails on it, or the model is too large for it.
    """
    if how == "none":
        return proto, None
    before = len(proto.graph.node)
    made, tool = _slim(proto) if how == "onnxslim" else _by_runtime(proto, _LEVELS[how])
    strip_provenance(made)
    own = sorted({n.domain for n in made.graph.node if n.domain not in DEFAULT_DOMAIN})
    _drop_unused_domains(made)
    return made, {
        "tool": tool, "version": str(require(tool, extra="ort", purpose="optimising ONNX graphs").__version__), "how": how, "nodes_before": before,
        "nodes_after": len(made.graph.node), "domains": own,
    }  # fmt: skip


def _slim(proto: Any) -> tuple[Any, str]:
    onnxslim = require("onnxslim", extra="optimize", purpose="optimising ONNX graphs")
    if weight_bytes(proto) > writing.EXTERNAL_BYTES:
        raise ModelError(
            f"onnxslim cannot hold a model of {weight_bytes(proto)} bytes", "optimise with ort-basic instead"
        )
    # A copy, because slim works in place.
    copy = type(proto)()
    copy.CopyFrom(proto)
    # It stumbles over graphs that it does not know with plain Python errors, and some end the process.
    failures = (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError, SystemExit)
    try:
        with quiet():
            made = onnxslim.slim(copy)
    except failures as e:
        raise ModelError(
            f"onnxslim cannot optimise this model ({one_line(e)})", "use ort-basic or none"
        ) from e
    if made is None or not made.graph.output:
        raise ModelError("onnxslim left nothing of this model", "use ort-basic or none")
    return made, "onnxslim"


def _by_runtime(proto: Any, level: str) -> tuple[Any, str]:
    onnx = require("onnx", extra="ort", purpose="optimising ONNX graphs")
    ort = require("onnxruntime", extra="ort", purpose="optimising ONNX graphs")
    from edgekd_onnx.runtime import ort_errors, reason

    large = weight_bytes(proto) > writing.EXTERNAL_BYTES
    with tempfile.TemporaryDirectory(prefix="edgekd-optimise-") as name:
        folder = Path(name)
        source, target = folder / "source", folder / "optimised.onnx"
        source.mkdir()
        files = writing.write_proto(proto, source, large=large)
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
        options.optimized_model_filepath = str(target)
        if large:
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "optimised.data"
            )
        try:
            ort.InferenceSession(
                str(source / files[0]), options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except ort_errors() as e:
            raise ModelError(
                f"onnxruntime cannot optimise this model ({reason(e)})", "check that it runs: edgekd bench"
            ) from e
        return onnx.load(str(target)), "onnxruntime"


def _drop_unused_domains(proto: Any) -> None:
    """ONNX Runtime declares every operator set it knows; a model should declare those it uses."""
    used = {n.domain for n in _all_nodes(proto)} | {f.domain for f in proto.functions}
    kept = [o for o in proto.opset_import if o.domain in used or o.domain in DEFAULT_DOMAIN]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)


def _all_nodes(proto: Any) -> list[Any]:
    found: list[Any] = []
    waiting = [*proto.graph.node, *(n for f in proto.functions for n in f.node)]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for attribute in node.attribute:
            for graph in [attribute.g] if attribute.HasField("g") else attribute.graphs:
                waiting += graph.node
    return found


def convert_opset(proto: Any, opset: int) -> tuple[Any, int | None]:
    """``proto`` at another opset, checked whole, and the one that it had; itself and None where it is there already.

    Raises:
        ModelError: onnx cannot convert it, or the model is too large for it.
    """
    onnx = require("onnx", extra="ort", purpose="converting opsets")
    before = opset_of(proto)
    if before == opset:
        return proto, None
    if weight_bytes(proto) > writing.EXTERNAL_BYTES:
        raise ModelError(
            f"onnx cannot convert the opset of a model of {weight_bytes(proto)} bytes",
            f"export it anew with --opset {opset}",
        )
    fix = f"keep opset {before}, or export it anew with --opset {opset}"
    try:
        made = onnx.version_converter.convert_version(proto, opset)
        onnx.checker.check_model(made, full_check=True)
    except (
        # IndexError is what an operator that it does not know ends in.
        RuntimeError, ValueError, IndexError, onnx.checker.ValidationError, onnx.shape_inference.InferenceError,
    ) as e:  # fmt: skip
        raise ModelError(f"onnx cannot convert opset {before} to {opset} ({one_line(e)})", fix) from e
    if opset_of(made) != opset:
        raise ModelError(f"onnx made opset {opset_of(made)} of {before}, asked for {opset}", fix)
    return made, before
