"""LiteRT as a format: export from torch, quantize, and read ``.tflite`` files from outside."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.child.process import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import MissingDependencyError, ModelError, UsageError
from edgekd.lazy import require
from edgekd.model import MODEL_FILE, Model
from edgekd.parity import PARITY_ATOL, PARITY_RTOL, PARITY_SEED, batch_feeds, check_parity
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec, concrete_shape
from edgekd.stages import tool_versions
from edgekd.target import SessionOptions
from edgekd.tolerance import read_tolerances
from edgekd_litert.boundary import ENTRY

_OPTIONS = ("shapes", "feeds", "atol", "rtol", "dtype")
#: Seeded feeds that parity is checked on.
_PARITY_FEEDS = 3
#: Tracing and lowering take seconds for small networks; large ones are given an hour.
_CONVERT_S = 3600.0


def fixed_inputs(
    inputs: Sequence[TensorSpec], shapes: Mapping[str, tuple[tuple[int, ...], ...]]
) -> tuple[TensorSpec, ...]:
    """Inputs with every size fixed: as ``shapes`` say, a leading symbol that they leave open is 1.

    Raises:
        UsageError: a range of sizes, one symbol with two sizes, or another dimension that nothing fixes.
    """
    for name, (low, opt, high) in shapes.items():
        if low != high:
            raise UsageError(
                f"a .tflite has fixed sizes, the shapes of '{name}' go from {_sizes(low)} to {_sizes(high)}",
                f"give one: --shape {name}={_sizes(opt)}",
            )
    known: dict[str, int] = {}
    for spec in inputs:
        if spec.name not in shapes:
            continue
        for dim, size in zip(spec.shape, concrete_shape(spec, shapes), strict=True):
            if isinstance(dim, str) and known.setdefault(dim, size) != size:
                raise UsageError(f"the shapes give '{dim}' as {known[dim]} and as {size}", "give one size")
    made = []
    for spec in inputs:
        partly = replace(spec, shape=tuple(known.get(d, d) if isinstance(d, str) else d for d in spec.shape))
        made.append(replace(spec, shape=concrete_shape(partly, {})))
    return tuple(made)


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


class LiteRtExporter:
    """Writes and reads ``.tflite``."""

    format = "litert"
    fixed_sizes = True

    def machine_key(self) -> Mapping[str, Any]:
        """The converter that would be used: another one writes other files.

        Raises:
            MissingDependencyError: the interpreter that EDGEKD_LITERT_PYTHON names has none.
        """
        from edgekd_litert.environment import converter_key

        return converter_key()

    def probe(self) -> list[dict[str, str]]:
        """See :class:`edgekd.pipeline.doctor.ProbingPlugin`."""
        from edgekd_litert.environment import converter_packages

        try:
            found = converter_packages(make=False)
        except MissingDependencyError as e:
            return [{"name": "litert-torch", "state": "missing", "evidence": e.what, "fix": e.fix}]
        where = str(found[0]) if found else "this environment"
        return [
            {"name": "litert-torch", "state": "ok", "evidence": f"in {where}, for writing .tflite", "fix": ""}
        ]

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Write ``model`` into the existing folder ``out`` as ``model.tflite``, checked against torch.

        Every size in the file is fixed: litert-torch lowers networks with open sizes only in part. Batch is 1 unless
        ``shapes`` give another. Names and layout are the torch module's (an NCHW module stays NCHW at its boundary).

        Args:
            model: a ``model.json`` folder.
            out: where to write; equal models and options give equal bytes.
            options: ``shapes`` (of :func:`edgekd.spec.parse_shapes`, one size per input), ``feeds`` (real feeds that
                parity is checked on as well as seeded ones), ``atol``, ``rtol``, ``dtype`` (``float32``).

        Raises:
            ModelError: in training mode, not convertible, or beyond the tolerance (nothing is left in ``out``);
            UsageError: an option; MissingDependencyError: litert-torch is nowhere and cannot be installed.
        """
        from edgekd_litert.environment import converter_packages
        from edgekd_litert.reading import open_to_compare
        from edgekd_torch.runtime import TorchRuntime

        _check_options(options)
        sized = fixed_inputs(model.inputs, options.get("shapes") or {})
        atol, rtol = read_tolerances(options, PARITY_ATOL, PARITY_RTOL)
        torch = require("torch", extra="torch", purpose="exporting to LiteRT")
        require("ai_edge_litert", extra="litert", purpose="running LiteRT models")
        threads = SessionOptions(threads=torch.get_num_threads())
        sessions: list[Any] = []
        try:
            # First, because it refuses what is in training mode before anything slow starts.
            sessions.append(TorchRuntime().open(model.folder / MODEL_FILE, threads))
            tools = _convert(model, sized, out / ENTRY, converter_packages(), threads.threads)
            sessions.append(open_to_compare(out / ENTRY, threads=threads.threads))
            _refuse_other_boundary(model, sized, sessions[1])
            parity = check_parity(
                sessions[0],
                sessions[1],
                [batch_feeds(sized, {}, PARITY_SEED + i, 1) for i in range(_PARITY_FEEDS)],
                atol=atol,
                rtol=rtol,
                real=(f for given in options.get("feeds") or () for f in _in_batches(model, sized, given)),
                batches=(int(sized[0].shape[0]),) if sized and sized[0].shape else (1,),
            )
            inputs, outputs, dtype = sessions[1].inputs, sessions[1].outputs, sessions[1].dtype
            operators = len(sessions[1].operators)
        except BaseException:
            with contextlib.suppress(OSError):
                (out / ENTRY).unlink()
            raise
        finally:
            for session in sessions:
                session.close()
        return Artifact(
            folder=out,
            entry=ENTRY,
            format=self.format,
            dtype=dtype,
            files=(record_file(out, ENTRY),),
            inputs=inputs,
            outputs=outputs,
            prepare=dict(model.prepare),
            output=dict(model.output),
            lineage={
                "model": model.as_artifact().digest,
                "factory": model.factory,
                "operators": operators,
                "fixed_sizes": {s.name: list(s.shape) for s in sized},
                "stored_as": {},
                "parity": {**parity.to_json(), "kernels": sessions[1].placement.provider},
                "tools": {**tools, **tool_versions("ai-edge-litert")},
            },
        )

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Write a statically quantized INT8 twin of ``artifact`` into the existing folder ``out``.

        The boundary stays float32; :func:`edgekd_litert.quantizing.quantize_artifact` also writes integer boundaries.

        Args:
            artifact: float32 LiteRT.
            config: ``granularity`` of the weights; ``calibration`` must be ``minmax``, ``variant`` ``cpu``.
            feeds: calibration feeds of the file's own sizes; read once, at most ``config.examples`` calls.
            out: where to write; equal inputs give equal bytes.

        Raises:
            DataError: no feeds, feeds that do not fit, NaN or infinity; ModelError: nothing to quantize;
            UsageError: a configuration that LiteRT does not have.
        """
        from edgekd_litert.quantizing import quantize_artifact

        return quantize_artifact(artifact, config, feeds, out)

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """A ``.tflite`` file from outside as an artifact; nothing is written. It is opened in a child.

        A quantized boundary is given as float32, as :class:`edgekd_litert.runtime.LiteRtRuntime` opens it; what is
        stored is in ``lineage["stored_as"]``.

        Args:
            path: the file.
            outputs: the outputs that matter, in order; empty for all.

        Raises:
            ModelError: missing, damaged, or with operators that this build does not have; ChildError: it crashed.
        """
        from edgekd_litert.reading import read_artifact

        return read_artifact(path, outputs)


def _check_options(options: Mapping[str, Any]) -> None:
    unknown = [k for k, v in options.items() if k not in _OPTIONS and not (k == "opset" and v is None)]
    if unknown:
        raise UsageError(
            f"the litert exporter has no option '{unknown[0]}'", f"it knows {', '.join(_OPTIONS)}"
        )
    dtype = options.get("dtype") or "float32"
    if dtype != "float32":
        raise UsageError(
            f"the litert exporter writes float32, not {dtype}",
            "quantize the export for int8: edgekd quantize",
        )


def _convert(
    model: Model, sized: Sequence[TensorSpec], path: Path, packages: Sequence[Path], threads: int
) -> dict[str, str]:
    """Run the conversion in a child; the versions of what did it."""
    feeds = batch_feeds(sized, {}, PARITY_SEED, 1)
    args = {
        "packages": [str(p) for p in packages],
        "model": str(model.folder.resolve()),
        "out": str(path.resolve()),
        "threads": threads,
    }
    with ChildProcess(f"converting {model.name} to LiteRT", Limits(timeout_s=_CONVERT_S)) as child:
        reply, _ = child.request("edgekd_litert.converting:convert", args, [feeds[s.name] for s in sized])
    return dict(reply["tools"])


def _in_batches(
    model: Model, sized: Sequence[TensorSpec], feeds: Mapping[str, Array]
) -> Iterator[Mapping[str, Array]]:
    """Real feeds in calls of the file's own batch; the last is filled up with its last example."""
    if not all(s.dynamic_batch for s in model.inputs):
        yield feeds
        return
    batch = int(sized[0].shape[0])
    rows = min((len(feeds[s.name]) for s in sized if s.name in feeds), default=0)
    for start in range(0, rows, batch):
        yield {
            name: array[[min(i, rows - 1) for i in range(start, start + batch)]]
            for name, array in feeds.items()
        }


def _refuse_other_boundary(model: Model, sized: Sequence[TensorSpec], session: Any) -> None:
    if tuple(session.inputs) != tuple(sized):
        raise ModelError(
            f"{model.name} was exported with inputs {', '.join(map(str, session.inputs))}, "
            f"expected {', '.join(map(str, sized))}",
            "an input that the module never uses is lost: remove it",
        )
    names = [s.name for s in model.outputs]
    if [s.name for s in session.outputs] != names:
        raise ModelError(
            f"{model.name} was exported with outputs {[s.name for s in session.outputs]}, expected {names}",
            "return each output once, and none that is an input as it came",
        )
