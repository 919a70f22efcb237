"""TensorRT as a format: engines from ONNX, built in a child process, compared with ONNX Runtime."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgekd.artifact import ARTIFACT_FILE, Artifact, load_artifact, record_file
from edgekd.child import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import write_json
from edgekd.model import Model
from edgekd.parity import Parity, check_parity
from edgekd.quantize.config import QuantConfig
from edgekd.spec import TensorSpec
from edgekd.stages import default_cache_root, tool_versions
from edgekd.target import SessionOptions
from edgekd.tolerance import read_tolerances
from edgekd_tensorrt.inspector import compare_builds, parse_inspection
from edgekd_tensorrt.options import OPTIONS, BuildOptions, read_options, refuse_unknown
from edgekd_tensorrt.plan import Ends, EngineRecord, read_record, record_path
from edgekd_tensorrt.profiles import fitting_profile, plan_profiles, plan_values, profile_feeds
from edgekd_tensorrt.remote import RemoteSession

ENTRY = "model.plan"
_ONNX_OPTIONS = ("opset", "dtype", "optimize")
_COMMON = ("shapes", "feeds", "atol", "rtol", "dtype", "opset")
_BUILDER = "edgekd_tensorrt.building:build_engine"


def plan_names(builds: int) -> tuple[str, ...]:
    """File names of the plans of ``builds`` builds; the first is the artifact's entry.

    >>> plan_names(2)
    ('model.plan', 'builds/2/model.plan')
    """
    return (ENTRY, *(f"builds/{i}/{ENTRY}" for i in range(2, builds + 1)))


class TensorRtExporter:
    """Writes ``.plan`` files on the machine and GPU that they are to run on."""

    format = "tensorrt"
    sources: tuple[str, ...] = ("onnx",)
    quantized_source = "onnx"
    quantized_variant = "tensorrt"
    OPTIONS: Mapping[str, str] = OPTIONS
    FILE_OPTIONS: tuple[str, ...] = ("timing_cache",)

    def export(self, model: Model, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Export to ONNX in a temporary folder, and build that.

        Raises:
            As :meth:`edgekd_onnx.exporter.OnnxExporter.export` and :meth:`convert`.
        """
        from edgekd_onnx.exporter import OnnxExporter

        options = {**options, "feeds": list(options.get("feeds") or ())}
        refuse_unknown(options, (*_COMMON, "optimize"))
        # A wrong option is said before anything is exported.
        _tolerances(str(options.get("dtype") or "float32"), read_options(options), options)
        first = {k: v for k, v in options.items() if k in _COMMON or k in _ONNX_OPTIONS}
        with tempfile.TemporaryDirectory(prefix="edgekd-onnx-") as folder:
            source = OnnxExporter().export(
                model, Path(folder), {k: v for k, v in first.items() if v is not None}
            )
            return self.convert(source, out, {k: v for k, v in options.items() if k not in _ONNX_OPTIONS})

    def quantize(
        self, artifact: Artifact, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path
    ) -> Artifact:
        """Refused: an engine's types are those of the ONNX graph that it was built from."""
        raise UsageError(
            "a TensorRT engine cannot be quantized, only built from a quantized ONNX file",
            f"quantize the ONNX first (variant {self.quantized_variant}), then export that to tensorrt",
        )

    def machine_key(self) -> Mapping[str, Any]:
        """TensorRT's version, the GPU and its driver: an engine for another is of no use here.

        Raises:
            MissingDependencyError, TargetUnavailableError: no TensorRT, or no GPU.
        """
        with ChildProcess("looking at the GPU", Limits(timeout_s=120.0)) as child:
            found, _ = child.request("edgekd_tensorrt.building:describe_machine", {})
        return found

    def convert(self, artifact: Artifact, out: Path, options: Mapping[str, Any]) -> Artifact:
        """Build ``artifact`` (ONNX) into the existing folder ``out``, checked against ONNX Runtime.

        Args:
            options: those of every exporter, and :data:`OPTIONS`. ``dtype`` may only be that of the graph.

        Raises:
            ModelError: what TensorRT refused, or beyond the tolerance (nothing is left in ``out``);
            TargetUnavailableError: no TensorRT or GPU; ChildError: the build crashed or took too long;
            UsageError: an option.
        """
        options = {**options, "feeds": list(options.get("feeds") or ())}
        refuse_unknown(options, _COMMON)
        asked = read_options(options)
        _tolerances(artifact.dtype, asked, options)  # before the build, which may take an hour
        _refuse_types(artifact, options)
        profiles = plan_profiles(artifact.inputs, options)
        values = plan_values(options, len(profiles))
        try:
            records = _build_all(artifact, out, asked, profiles, values)
            parities = [
                _parity(artifact, out / name, asked, options, profiles, values)
                for name in plan_names(asked.builds)
            ]
        except BaseException:
            _remove(out)
            raise
        files = [record_file(out, name) for name in sorted(_own_files(out / ENTRY))]
        engine = {k: v for k, v in records[0].items() if k != "inspection"}
        lineage: dict[str, Any] = {
            "source": artifact.digest,
            "opset": artifact.lineage.get("opset"),
            "options": {**asked.to_json(), "timing_cache": Path(asked.timing_cache).name},
            "engine": engine,
            "parity": parities[0].to_json(),
            "tools": tool_versions("tensorrt", "cuda-bindings", "onnxruntime"),
        }
        if asked.builds > 1:
            lineage["builds"] = _compared(out, records, parities)
            lineage["companions"] = _companions(out, asked.builds)
        return Artifact(
            folder=out, entry=ENTRY, format=self.format, dtype=artifact.dtype, files=tuple(files),
            inputs=artifact.inputs, outputs=artifact.outputs, prepare=dict(artifact.prepare),
            output=dict(artifact.output), lineage=lineage,
        )  # fmt: skip

    def read(self, path: Path, outputs: Sequence[str] = ()) -> Artifact:
        """An engine that EdgeKD built, identified by its header; TensorRT is not needed, and nothing is loaded.

        Raises:
            ModelError: not a plan, or one that no record names: plans are native code.
        """
        record = read_record(path)
        beside = path.parent / ARTIFACT_FILE
        if beside.is_file() and (known := load_artifact(path.parent)).entry == path.name:
            if known.format != self.format or path.name not in {f.path for f in known.files}:
                raise ModelError(f"{beside} does not name {path.name} as an engine", "build the engine again")
            return known
        chosen = {s.name: s for s in record.outputs}
        for name in outputs:
            if name not in chosen:
                raise ModelError(f"{path} has no output '{name}'", f"it has {', '.join(chosen)}")
        return Artifact(
            folder=path.parent,
            entry=path.name,
            format=self.format,
            dtype=record.dtype,
            files=tuple(record_file(path.parent, name) for name in sorted(_own_files(path))),
            inputs=record.inputs,
            outputs=tuple(chosen[name] for name in outputs) or record.outputs,
            lineage={"source_sha256": record.source_sha256, "tools": {"tensorrt": record.tensorrt}},
        )

    def probe(self) -> list[dict[str, str]]:
        """See :class:`edgekd.pipeline.doctor.ProbingPlugin`."""
        from edgekd_tensorrt.probe import probe

        return probe()


def _refuse_types(artifact: Artifact, options: Mapping[str, Any]) -> None:
    if artifact.format != "onnx":
        raise UsageError(f"engines are built from onnx, not from {artifact.format}", "export to onnx first")
    if options.get("opset"):
        raise UsageError("opset belongs to the ONNX export, the file is there already", "leave it out")
    dtype = options.get("dtype")
    if dtype and dtype != artifact.dtype:
        raise UsageError(
            f"dtype {dtype} was asked for, {artifact.path.name} is {artifact.dtype}: a strongly typed engine computes "
            "in the graph's own types",
            f"export or quantize the ONNX to {dtype} first",
        )


def _own_files(plan: Path) -> list[str]:
    return [plan.name, record_path(plan).name, *read_record(plan).files]


def _build_all(
    artifact: Artifact,
    out: Path,
    asked: BuildOptions,
    profiles: Sequence[Mapping[str, Ends]],
    values: Sequence[Mapping[str, Ends]],
) -> list[dict[str, Any]]:
    """Build as often as asked, each in a child of its own and from the same timing cache."""
    records: list[dict[str, Any]] = []
    before: list[Array] = []
    for i, name in enumerate(plan_names(asked.builds)):
        plan = out / name
        plan.parent.mkdir(parents=True, exist_ok=True)
        dump = plan.with_name(plan.name + ".inspector.json")
        args = {
            "onnx": str(artifact.path.resolve()), "dtype": artifact.dtype, "plan": str(plan), "inspector": str(dump) if asked.inspector else "",
            "options": asked.to_json(), "profiles": [dict(p) for p in profiles],
            "values": [dict(v) for v in values], "inputs": [s.to_json() for s in artifact.inputs],
            "outputs": [s.to_json() for s in artifact.outputs],
            "cache_root": str(default_cache_root(os.environ)), "keep_cache": i == 0,
        }  # fmt: skip
        with ChildProcess(f"building {plan.name}", Limits(timeout_s=asked.timeout_s)) as child:
            made, arrays = child.request(_BUILDER, args, before)
        # An empty array is a start as well: a later build must not see what the first one learned.
        before = before or arrays
        files = [dump.name] if asked.inspector else []
        if asked.strip:
            files += _carry_source(artifact, plan.parent)
        record = _record(artifact, plan, made, asked, profiles, values, files)
        write_json(record_path(plan), record.to_json())
        records.append(made)
    return records


def _record(
    artifact: Artifact,
    plan: Path,
    made: Mapping[str, Any],
    asked: BuildOptions,
    profiles: Sequence[Mapping[str, Ends]],
    values: Sequence[Mapping[str, Ends]],
    files: Sequence[str],
) -> EngineRecord:
    return EngineRecord(
        plan=plan.name,
        plan_sha256=str(made["plan_sha256"]),
        files=tuple(sorted(files)),
        tensorrt=str(made["tensorrt"]),
        gpu=str(made["device"]["name"]),
        sm=str(made["device"]["sm"]),
        hardware=asked.hardware,
        version_compatible=asked.version_compatible,
        lean_runtime=asked.lean_runtime,
        dtype=artifact.dtype,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        profiles=tuple(profiles),
        values=tuple(values),
        source_sha256=next(f.sha256 for f in artifact.files if f.path == artifact.entry),
        refit=artifact.entry if asked.strip else "",
        weight_streaming=asked.weight_streaming,
    )


def _carry_source(artifact: Artifact, folder: Path) -> list[str]:
    """Copy the ONNX file with its external data: what a stripped plan gets its weights from."""
    prepared = {str(v) for v in artifact.prepare.values() if isinstance(v, str)}
    names = [f.path for f in artifact.files if str(artifact.file_path(f.path)) not in prepared]
    for name in names:
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(artifact.file_path(name), target)
    return names


def _tolerances(dtype: str, asked: BuildOptions, options: Mapping[str, Any]) -> tuple[float, float]:
    """``atol`` and ``rtol`` as asked for, else those of the graph's dtype; of one without an entry those of int8.

    TF32 keeps as many bits as float16 (NVIDIA A100 whitepaper, *TensorFloat-32*).

    Raises:
        UsageError: not a number >= 0.
    """
    from edgekd_onnx.export_options import TOLERANCES

    if asked.tf32 and dtype == "float32":
        dtype = "float16"
    return read_tolerances(options, *TOLERANCES.get(dtype, TOLERANCES["int8"]))


def _parity(
    artifact: Artifact,
    plan: Path,
    asked: BuildOptions,
    options: Mapping[str, Any],
    profiles: Sequence[Mapping[str, Ends]],
    values: Sequence[Mapping[str, Ends]],
) -> Parity:
    """Compare a plan, run in a child, with ONNX Runtime on the CPU.

    Raises:
        ModelError: beyond the tolerance.
    """
    from edgekd_onnx.runtime import OnnxRuntime

    atol, rtol = _tolerances(artifact.dtype, asked, options)
    feeds = list(profile_feeds(artifact.inputs, profiles, values))
    real = [fed for fed in options.get("feeds") or () if fitting_profile(profiles, fed) is not None]
    reference = OnnxRuntime().open(artifact.path, SessionOptions(threads=1))
    try:
        with RemoteSession(plan, artifact.inputs, artifact.outputs) as candidate:
            return check_parity(
                reference, candidate, feeds, batches=_batches(artifact.inputs, feeds),
                atol=atol, rtol=rtol, real=real, dtype=artifact.dtype,
            )  # fmt: skip
    finally:
        reference.close()


def _batches(inputs: Sequence[TensorSpec], feeds: Sequence[Mapping[str, Array]]) -> tuple[int, ...]:
    sizes = {len(fed[s.name]) for fed in feeds for s in inputs if s.dynamic_batch}
    return tuple(sorted(sizes)) or (1,)


def _compared(out: Path, records: Sequence[Mapping[str, Any]], parities: Sequence[Parity]) -> dict[str, Any]:
    """How the builds differ, and where each is: the gate measures all of them and takes the worst."""
    names = plan_names(len(records))
    found = compare_builds(
        [str(r["plan_sha256"]) for r in records], [parse_inspection(str(r["inspection"])) for r in records]
    )
    return {
        **found,
        "files": [
            {
                "path": name,
                "sha256": record["plan_sha256"],
                "size_bytes": record["plan_bytes"],
                "seconds": record["seconds"],
                "timing_cache": record["timing_cache"],
                "histogram": record["histogram"],
                "max_abs_error": parity.max_abs_error,
            }
            for name, record, parity in zip(names, records, parities, strict=True)
        ],
    }


def _companions(out: Path, builds: int) -> list[dict[str, str]]:
    """The files of every build but the first, which do not belong to the artifact."""
    plans = [out / name for name in plan_names(builds)[1:]]
    files = [(plan.parent / name).relative_to(out).as_posix() for plan in plans for name in _own_files(plan)]
    return [{"path": name, "sha256": record_file(out, name).sha256} for name in sorted(files)]


def _remove(out: Path) -> None:
    """Leave nothing of a build that failed; what was in ``out`` before has other names."""
    plan = out / ENTRY
    left = {plan.name, record_path(plan).name, f"{ENTRY}.inspector.json"}
    with contextlib.suppress(ModelError):
        left |= set(_own_files(plan))
    for name in left:
        with contextlib.suppress(OSError):
            (out / name).unlink()
    shutil.rmtree(out / "builds", ignore_errors=True)
