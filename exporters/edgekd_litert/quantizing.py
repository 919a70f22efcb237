"""Static INT8 quantization of ``.tflite`` files with ai-edge-quantizer, in a child."""

from __future__ import annotations

import contextlib
import io as streams
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgekd.artifact import Artifact, record_file
from edgekd.child.process import ChildProcess, Limits
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error, write_bytes
from edgekd.lazy import require
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.damage import output_sqnr
from edgekd.spec import TensorSpec
from edgekd.stages import tool_versions
from edgekd_litert.boundary import ENTRY
from edgekd_litert.flatbuffer import with_open_sizes, with_signature
from edgekd_litert.reading import ChildSession, open_to_compare
from edgekd_litert.runtime import one_line
from edgekd_onnx.quantizing import CalibrationSpool

Reply = tuple[dict[str, Any], list[Array]]

_PURPOSE = "quantizing LiteRT models"
_QUANTIZE_S = 3600.0
#: The boundary of the quantized file: floats, with one operator more at either end, or integers as they are inside.
BOUNDARIES = ("float32", "int8")


def quantize_artifact(
    artifact: Artifact,
    config: QuantConfig,
    feeds: Iterable[Mapping[str, Array]],
    out: Path,
    *,
    boundary: str = "float32",
) -> Artifact:
    """See :meth:`edgekd_litert.exporter.LiteRtExporter.quantize`.

    Args:
        boundary: ``float32``, or ``int8``: inputs and outputs are stored as integers (what microcontrollers want).
            EdgeKD's runtime feeds floats to either.
    """
    _check(artifact, config, boundary)
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        spool = CalibrationSpool(folder=Path(name), inputs=artifact.inputs)
        spool.fill(feeds, config.examples)
        args = {
            "source": str(artifact.path.resolve()),
            "out": str((out / ENTRY).resolve()),
            "spool": name,
            "batches": spool.batches,
            "inputs": [s.to_json() for s in artifact.inputs],
            "granularity": config.granularity,
            "boundary": boundary,
        }
        try:
            with ChildProcess(f"quantizing {artifact.path}", Limits(timeout_s=_QUANTIZE_S)) as child:
                reply, _ = child.request("edgekd_litert.quantizing:quantize_file", args)
            sqnr, session = _compare(artifact, out / ENTRY, spool)
        except BaseException:
            with contextlib.suppress(OSError):
                (out / ENTRY).unlink()
            raise
    return Artifact(
        folder=out,
        entry=ENTRY,
        format="litert",
        dtype=config.dtype,
        files=(record_file(out, ENTRY),),
        inputs=session.inputs,
        outputs=session.outputs,
        prepare=dict(artifact.prepare),
        output=dict(artifact.output),
        lineage={
            **artifact.lineage,
            "quantized_from": artifact.digest,
            # LiteRT has one variant: int8 activations with a zero point, symmetric int8 weights.
            "quantization": {**config.to_json(), "activation": "int8", "weight": "int8", "boundary": boundary},
            "calibration": {
                "examples": spool.examples, "batches": spool.batches, "digest": spool.digest,
                "constant_inputs": spool.constant,
            },
            "quantized_nodes": reply["quantized"],
            "float_operators": reply["float"],
            "operators": len(session.operators),
            "stored_as": session.stored_as,
            "sqnr_db": sqnr,
            "tools": {
                **artifact.lineage.get("tools", {}), **tool_versions("ai-edge-litert", "ai-edge-quantizer"),
            },
        },
    )  # fmt: skip


def _check(artifact: Artifact, config: QuantConfig, boundary: str) -> None:
    config.check()
    if artifact.format != "litert" or artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.format} of {artifact.dtype}, only float32 litert can be quantized",
            "give the float32 export",
        )
    if config.calibration != "minmax":
        raise UsageError(
            f"LiteRT is calibrated by minmax, not by {config.calibration}", "use --method minmax"
        )
    if config.variant != "cpu":
        raise UsageError(f"LiteRT has no quantization variant '{config.variant}'", "leave --for out")
    if boundary not in BOUNDARIES:
        raise UsageError(f"boundary {boundary!r} is not known", f"choose {' or '.join(BOUNDARIES)}")


def quantize_file(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """In the child: calibrate ``source`` on the spooled feeds and write the quantized file.

    Raises:
        ModelError: nothing in it can be quantized, or the quantizer fails on it.
    """
    inputs = tuple(TensorSpec.from_json(s) for s in args["inputs"])
    spool = CalibrationSpool(folder=Path(args["spool"]), inputs=inputs, batches=args["batches"])
    source = Path(args["source"])
    require("ai_edge_quantizer", extra="litert", purpose=_PURPOSE)
    with contextlib.redirect_stdout(streams.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            data = _quantize(source, spool, args["granularity"], args["boundary"])
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as e:
            raise ModelError(
                f"ai-edge-quantizer cannot quantize {source} ({one_line(e)})", "leave it in float32"
            ) from e
    write_bytes(Path(args["out"]), data)
    quantized, kept = _count(Path(args["out"]))
    if not quantized:
        Path(args["out"]).unlink()
        raise ModelError(
            f"{source} has no operator that can be quantized", "leave it in float32 (quantize: [float32])"
        )
    return {"quantized": quantized, "float": kept}, []


class _Batches:
    """Spooled feeds as the calibrator reads them: twice, once only to count."""

    def __init__(self, spool: CalibrationSpool) -> None:
        self._spool = spool

    def __iter__(self) -> Iterator[dict[str, Array]]:
        return (self._spool.batch(i) for i in range(self._spool.batches))


def _quantize(source: Path, spool: CalibrationSpool, granularity: str, boundary: str) -> bytes:
    quantizers = require("ai_edge_quantizer.quantizer", extra="litert", purpose=_PURPOSE)
    types = require("ai_edge_quantizer.qtyping", extra="litert", purpose=_PURPOSE)
    recipes = require("ai_edge_quantizer.recipe_manager", extra="litert", purpose=_PURPOSE)
    calibrators = require("ai_edge_quantizer.calibrator", extra="litert", purpose=_PURPOSE)
    updates = require("ai_edge_quantizer.utils.qsv_utils", extra="litert", purpose=_PURPOSE)
    weights = (
        types.QuantGranularity.CHANNELWISE if granularity == "channel" else types.QuantGranularity.TENSORWISE
    )
    recipe = recipes.RecipeManager()
    recipe.add_static_config(".*", types.TFLOperationName.ALL_SUPPORTED, 8, 8, weights)
    if boundary == "float32":
        for end in (types.TFLOperationName.INPUT, types.TFLOperationName.OUTPUT):
            recipe.add_quantization_config(".*", end, algorithm_key="no_quantize")
    # Not Quantizer.calibrate: its ranges are moving averages, which depend on the order of the examples.
    data = with_signature(source.read_bytes())
    calibrator = calibrators.Calibrator(data, num_threads=1, qsv_update_func=updates.min_max_update)
    (signature,) = calibrator.get_signature_list()
    calibrator.calibrate({signature: _Batches(spool)}, recipe)
    quantizer = quantizers.Quantizer(data, recipe.get_quantization_recipe())
    made = quantizer.quantize(
        calibrator.get_model_qsvs(), enable_progress_bar=False, enable_progress_report=False
    )
    return with_open_sizes(bytes(made.quantized_model), data)


def _count(path: Path) -> tuple[int, list[str]]:
    """How many operators compute in int8, and which kinds still compute in floats."""
    from edgekd.target import SessionOptions
    from edgekd_litert.runtime import LiteRtRuntime

    session = LiteRtRuntime().open(path, SessionOptions(provider="builtin"))
    own = [n for n in session.operators() if n.op_type not in ("QUANTIZE", "DEQUANTIZE")]
    session.close()
    return sum(n.dtype == "int8" for n in own), sorted({n.op_type for n in own if n.dtype == "float32"})


def _compare(
    artifact: Artifact, path: Path, spool: CalibrationSpool
) -> tuple[dict[str, float | None], ChildSession]:
    """Run both on the first calibration batch; signal to noise of each output in dB, None where it is exact.

    Raises:
        ModelError: the quantized model does not run, has another boundary, or gives NaN or infinity of its own.
    """
    feeds = spool.batch(0)
    results: list[dict[str, Array]] = []
    for file in (artifact.path, path):
        session = open_to_compare(file)
        try:
            results.append(session.run(feeds))
        finally:
            session.close()
    if session.inputs != artifact.inputs or session.outputs != artifact.outputs:
        raise ModelError(
            f"quantized, {artifact.path} has the boundary {', '.join(map(str, (*session.inputs, *session.outputs)))}",
            "leave it in float32",
        )
    return output_sqnr(*results, fix="calibrate on more examples"), session
