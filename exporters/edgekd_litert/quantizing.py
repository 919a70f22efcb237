"""INT8 quantization of ``.tflite`` files with ai-edge-quantizer, in a child: static, dynamic, or the weights alone."""

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
from edgekd.quantize.damage import Damage
from edgekd.quantize.record import CHECKED_EXAMPLES, check_against, quantization_lineage
from edgekd.quantize.spool import CalibrationSpool, spooled
from edgekd.quantize.support import Support
from edgekd.spec import TensorSpec
from edgekd_litert.boundary import ENTRY
from edgekd_litert.flatbuffer import with_open_sizes, with_signature
from edgekd_litert.reading import ChildSession, open_to_compare
from edgekd_litert.runtime import one_line

Reply = tuple[dict[str, Any], list[Array]]

_PURPOSE = "quantizing LiteRT models"
_QUANTIZE_S = 3600.0
#: What is written here; a weight-only file holds a DEQUANTIZE per weight and computes in floats.
SUPPORT = Support(
    writer="LiteRT",
    granularities={("int8", mode): ("channel", "tensor") for mode in ("static", "dynamic", "weight-only")},
)
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
        draw = 0 if config.calibrated else CHECKED_EXAMPLES
        spool = spooled(feeds, Path(name), artifact.inputs, config.examples, draw=draw)
        args = {
            "source": str(artifact.path.resolve()),
            "out": str((out / ENTRY).resolve()),
            "spool": str(spool.folder.resolve()),
            "batches": spool.batches,
            "inputs": [s.to_json() for s in artifact.inputs],
            "mode": config.mode,
            "granularity": config.granularity,
            "boundary": boundary,
        }
        try:
            with ChildProcess(f"quantizing {artifact.path}", Limits(timeout_s=_QUANTIZE_S)) as child:
                reply, _ = child.request("edgekd_litert.quantizing:quantize_file", args)
            damage, session = _compare(artifact, out / ENTRY, spool)
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
        lineage=quantization_lineage(
            artifact, config, spool, damage,
            nodes=reply["quantized"], tools=("ai-edge-litert", "ai-edge-quantizer"),
            # LiteRT has one variant: int8 activations with a zero point, symmetric int8 weights.
            choices={
                "activation": "float32" if config.mode == "weight-only" else "int8", "weight": "int8",
                "boundary": boundary,
            },
        ) | {
            "float_operators": reply["float"],
            "operators": len(session.operators),
            "stored_as": session.stored_as,
        },
    )  # fmt: skip


def _check(artifact: Artifact, config: QuantConfig, boundary: str) -> None:
    SUPPORT.check(config)
    if artifact.format != "litert" or artifact.dtype != "float32":
        raise ModelError(
            f"{artifact.path} is {artifact.format} of {artifact.dtype}, only float32 litert can be quantized",
            "give the float32 export",
        )
    if boundary not in BOUNDARIES:
        raise UsageError(f"boundary {boundary!r} is not known", f"choose {' or '.join(BOUNDARIES)}")
    if boundary == "int8" and not config.calibrated:
        raise UsageError(
            f"boundary int8 was asked for, and inputs of int8 {config.mode} are floats",
            "leave it out, or use static",
        )


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
            data = _quantize(source, spool, args["mode"], args["granularity"], args["boundary"])
        except (RuntimeError, ValueError, KeyError, TypeError, IndexError, NotImplementedError) as e:
            raise ModelError(
                f"ai-edge-quantizer cannot quantize {source} ({one_line(e)})", "leave it in float32"
            ) from e
    write_bytes(Path(args["out"]), data)
    quantized, kept = _count(Path(args["out"]), args["mode"])
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


def _quantize(source: Path, spool: CalibrationSpool, mode: str, granularity: str, boundary: str) -> bytes:
    quantizers = require("ai_edge_quantizer.quantizer", extra="litert", purpose=_PURPOSE)
    types = require("ai_edge_quantizer.qtyping", extra="litert", purpose=_PURPOSE)
    recipes = require("ai_edge_quantizer.recipe_manager", extra="litert", purpose=_PURPOSE)
    calibrators = require("ai_edge_quantizer.calibrator", extra="litert", purpose=_PURPOSE)
    updates = require("ai_edge_quantizer.utils.qsv_utils", extra="litert", purpose=_PURPOSE)
    weights = (
        types.QuantGranularity.CHANNELWISE if granularity == "channel" else types.QuantGranularity.TENSORWISE
    )
    recipe = recipes.RecipeManager()
    every, data, ranges = types.TFLOperationName.ALL_SUPPORTED, with_signature(source.read_bytes()), None
    if mode == "dynamic":
        recipe.add_dynamic_config(".*", every, 8, weights)
    elif mode == "weight-only":
        recipe.add_weight_only_config(".*", every, 8, weights)
    else:
        recipe.add_static_config(".*", every, 8, 8, weights)
        if boundary == "float32":
            for end in (types.TFLOperationName.INPUT, types.TFLOperationName.OUTPUT):
                recipe.add_quantization_config(".*", end, algorithm_key="no_quantize")
        # Not Quantizer.calibrate: its ranges are moving averages, which depend on the order of the examples.
        calibrator = calibrators.Calibrator(data, num_threads=1, qsv_update_func=updates.min_max_update)
        (signature,) = calibrator.get_signature_list()
        calibrator.calibrate({signature: _Batches(spool)}, recipe)
        ranges = calibrator.get_model_qsvs()
    quantizer = quantizers.Quantizer(data, recipe.get_quantization_recipe())
    made = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return with_open_sizes(bytes(made.quantized_model), data)


def _count(path: Path, mode: str) -> tuple[int, list[str]]:
    """How many operators compute with int8 weights or values, and which kinds still compute in floats alone."""
    from edgekd.target import SessionOptions
    from edgekd_litert.runtime import LiteRtRuntime

    session = LiteRtRuntime().open(path, SessionOptions(provider="builtin"))
    nodes = session.operators()
    session.close()
    if mode == "weight-only":  # the weights are made floats again before each operator
        return sum(n.op_type == "DEQUANTIZE" for n in nodes), []
    own = [n for n in nodes if n.op_type not in ("QUANTIZE", "DEQUANTIZE")]
    kept = {n.op_type for n in own if n.dtype == "float32" and "int8" not in n.operand_dtypes}
    return sum("int8" in (n.dtype, *n.operand_dtypes) for n in own), sorted(kept)


def _compare(artifact: Artifact, path: Path, spool: CalibrationSpool) -> tuple[Damage, ChildSession]:
    """The quantized file against its source, and the session that it was open in.

    Raises:
        ModelError: the quantized model does not run, has another boundary, or is broken.
    """
    opened: list[ChildSession] = []

    def after() -> ChildSession:
        session = open_to_compare(path)
        opened.append(session)
        return session

    damage = check_against(
        lambda: open_to_compare(artifact.path),
        after,
        spool,
        fix="calibrate on more examples, or leave it in float32",
    )
    session = opened[0]
    if session.inputs != artifact.inputs or session.outputs != artifact.outputs:
        raise ModelError(
            f"quantized, {artifact.path} has the boundary {', '.join(map(str, (*session.inputs, *session.outputs)))}",
            "leave it in float32",
        )
    return damage, session
