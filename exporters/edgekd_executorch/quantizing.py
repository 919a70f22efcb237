"""Static INT8 by PyTorch 2 Export quantization (torchao's pt2e) with ExecuTorch's XNNPACKQuantizer.

Activations are int8 with a scale and a zero point per tensor, weights symmetric int8 per channel or per tensor
(executorch/backends/xnnpack/quantizer/xnnpack_quantizer.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.errors import ModelError, UsageError
from edgekd.files import storage_error
from edgekd.lazy import require
from edgekd.model import MODEL_FILE, Model
from edgekd.quantize.config import QuantConfig
from edgekd.quantize.damage import output_sqnr
from edgekd.stages import tool_versions
from edgekd.target import SessionOptions
from edgekd_executorch.exporter import artifact, pool_threads, remove, write_program
from edgekd_executorch.library import EXTRA, WRITING, load, quiet
from edgekd_executorch.lowering import export_program, lower, lowering_errors, wrap
from edgekd_executorch.program import ENTRY
from edgekd_executorch.settings import read_options
from edgekd_executorch.sizes import Sizes, plan_sizes
from edgekd_onnx.quantizing import CalibrationSpool
from edgekd_onnx.writing import one_line


def quantize_module(
    model: Model, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path, options: Mapping[str, Any]
) -> Artifact:  # fmt: skip
    """See :meth:`edgekd_executorch.exporter.ExecuTorchExporter.quantize_model`."""
    from edgekd_torch.modules import load_module
    from edgekd_torch.runtime import refuse_training

    _check(config)
    asked = read_options(options)
    if asked.backend != "xnnpack" or asked.dtype != "float32":
        raise UsageError(
            f"int8 was asked for with backend {asked.backend} and dtype {asked.dtype}",
            "int8 is written for xnnpack, from float32",
        )
    sizes = plan_sizes(model.inputs, asked.shapes, asked.max_batch)
    module = load_module(model)
    refuse_training(module, model.name)
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        spool = CalibrationSpool(folder=Path(name), inputs=model.inputs)
        spool.fill(feeds, config.examples)
        wrapped = wrap(module, model.outputs, model.name, "float32")
        traced = export_program(wrapped, model.name, sizes, starred=True).module()
        quantized, nodes = _quantize(traced, model, config, asked.observer, _chunks(spool, sizes))
        program = export_program(quantized, model.name, sizes, starred=False)
        lowered = lower(program, model, sizes, backend="xnnpack", dtype=config.dtype, devtools=asked.devtools)
        try:
            write_program(lowered, out)
            sqnr = _sqnr(model, out / ENTRY, next(_chunks(spool, sizes)))
        except BaseException:
            remove(out)
            raise
    return artifact(
        model, out, lowered, sizes, asked,
        {
            "quantized_from": model.as_artifact().digest,
            "quantization": config.to_json(),
            "observer": asked.observer,
            "calibration": {
                "examples": spool.examples, "batches": spool.batches, "digest": spool.digest,
                "constant_inputs": spool.constant,
            },
            "quantized_nodes": nodes,
            "sqnr_db": sqnr,
            "tools": tool_versions("torch", "executorch", "torchao"),
        },
    )  # fmt: skip


def _check(config: QuantConfig) -> None:
    config.check()
    if config.variant != "cpu":
        raise UsageError(
            f"variant '{config.variant}' was asked for, XNNPACK has one way to quantize", "leave --for out"
        )
    if config.calibration != "minmax":
        raise UsageError(
            f"calibration '{config.calibration}' is not one that ExecuTorch's quantizer has",
            "use minmax (--option observer=histogram searches the range of least squared error)",
        )


def _chunks(spool: CalibrationSpool, sizes: Sizes) -> Iterator[dict[str, Array]]:
    """The spooled batches, cut to what memory is planned for."""
    inputs = {s.name: s for s in sizes.inputs}
    leading = [
        sizes.limits[d][1] if isinstance(d, str) else d for d in (s.shape[0] for s in sizes.inputs if s.shape)
    ]
    stacked = all(s.dynamic_batch for s in spool.inputs)
    for index in range(spool.batches):
        batch = spool.batch(index)
        most = min(leading, default=1) if stacked else 0
        total = len(next(iter(batch.values()))) if stacked else 1
        for start in range(0, total, most or total):
            yield {name: batch[name][start : start + most] if stacked else batch[name] for name in inputs}


def make_quantizer(config: QuantConfig, observer: str) -> Any:
    """XNNPACK's quantizer with the weights' granularity of ``config`` and the observer of activations asked for."""
    xnnpack = load("executorch.backends.xnnpack.quantizer.xnnpack_quantizer", WRITING)
    pt2e = load("torchao.quantization.pt2e", WRITING)
    made = xnnpack.get_symmetric_quantization_config(is_per_channel=config.granularity == "channel")
    if observer == "minmax":
        # The smallest scale that XNNPACK's own configuration allows.
        eps = 2**-12
        spec = replace(
            made.input_activation,
            observer_or_fake_quant_ctr=pt2e.MinMaxObserver.with_args(eps=eps),
        )
        made = replace(made, input_activation=spec, output_activation=spec)
    return xnnpack.XNNPACKQuantizer().set_global(made)


def _quantize(
    traced: Any, model: Model, config: QuantConfig, observer: str, batches: Iterator[dict[str, Array]]
) -> tuple[Any, int]:
    """Calibrate and convert; the module with quantize and dequantize nodes, and how many quantize."""
    torch = require("torch", extra=EXTRA, purpose=WRITING)
    pt2e = load("torchao.quantization.pt2e.quantize_pt2e", WRITING)
    try:
        with quiet(), torch.no_grad():
            prepared = pt2e.prepare_pt2e(traced, make_quantizer(config, observer))
            for batch in batches:
                prepared(*(torch.from_numpy(np.array(batch[s.name], order="C")) for s in model.inputs))
            converted = pt2e.convert_pt2e(prepared)
    except lowering_errors() as e:
        raise ModelError(
            f"torchao cannot quantize {model.name} for XNNPACK ({one_line(e)})",
            "check that the calibration data has the model's sizes, or leave it in float32",
        ) from e
    nodes = sum("quantized_decomposed.quantize_per" in str(n.target) for n in converted.graph.nodes)
    if not nodes:
        raise ModelError(
            f"{model.name} has no operator that XNNPACK's quantizer takes",
            "leave it in float32 (quantize: [float32])",
        )
    return converted, nodes


def _sqnr(model: Model, path: Path, feeds: Mapping[str, Array]) -> dict[str, float | None]:
    """Signal to noise of each output against torch on one calibration batch in dB, None where it is exact.

    Raises:
        ModelError: the program does not run, or gives NaN or infinity where torch did not.
    """
    from edgekd_executorch.runtime import ExecuTorchRuntime
    from edgekd_torch.runtime import TorchRuntime

    torch = require("torch", extra=EXTRA, purpose=WRITING)
    results = []
    for runtime, file, threads in (
        (TorchRuntime(), model.folder / MODEL_FILE, torch.get_num_threads()),
        (ExecuTorchRuntime(), path, pool_threads()),
    ):
        session = runtime.open(file, SessionOptions(threads=threads))
        results.append(session.run(feeds))
        session.close()
    return output_sqnr(*results, fix="use more or other calibration examples")
