"""INT8 by PyTorch 2 Export quantization (torchao's pt2e) with ExecuTorch's XNNPACKQuantizer.

Activations are int8 with a scale and a zero point per tensor, static or taken in every call, weights symmetric int8 per
channel or per tensor (executorch/backends/xnnpack/quantizer/xnnpack_quantizer.py).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
from edgekd.quantize.damage import Damage
from edgekd.quantize.record import CHECKED_EXAMPLES, check_against, quantization_lineage
from edgekd.quantize.spool import CalibrationSpool, spooled
from edgekd.quantize.support import Support, check_kept
from edgekd.target import SessionOptions
from edgekd_executorch.exporter import artifact, pool_threads, remove, write_program
from edgekd_executorch.library import EXTRA, WRITING, load, quiet
from edgekd_executorch.lowering import export_program, lower, lowering_errors, wrap
from edgekd_executorch.program import ENTRY
from edgekd_executorch.settings import read_options
from edgekd_executorch.sizes import Sizes, plan_sizes
from edgekd_onnx.writing import one_line

#: What is written here. ``mse`` is torchao's HistogramObserver, which searches the range of least squared error.
SUPPORT = Support(
    writer="XNNPACK",
    granularities={("int8", "static"): ("channel", "tensor"), ("int8", "dynamic"): ("channel", "tensor")},
    calibrations=("minmax", "mse"),
    keep_float=True,
)


def quantize_module(
    model: Model, config: QuantConfig, feeds: Iterable[Mapping[str, Array]], out: Path, options: Mapping[str, Any]
) -> Artifact:  # fmt: skip
    """See :meth:`edgekd_executorch.exporter.ExecuTorchExporter.quantize_model`."""
    from edgekd_torch.modules import load_module
    from edgekd_torch.runtime import refuse_training

    SUPPORT.check(config)
    asked = read_options(options)
    if asked.backend != "xnnpack" or asked.dtype != "float32":
        raise UsageError(
            f"int8 was asked for with backend {asked.backend} and dtype {asked.dtype}",
            "int8 is written for xnnpack, from float32",
        )
    sizes = plan_sizes(model.inputs, asked.shapes, asked.max_batch)
    module = load_module(model)
    refuse_training(module, model.name)
    check_kept(config.keep_float, [name for name, _ in module.named_modules() if name], f"model {model.name}")
    observer = "histogram" if config.calibration == "mse" else asked.observer
    try:
        work = tempfile.TemporaryDirectory(prefix=".quantize-", dir=out)
    except OSError as e:
        raise storage_error(e, out) from e
    with work as name:
        draw = 0 if config.calibrated else CHECKED_EXAMPLES
        spool = spooled(feeds, Path(name), model.inputs, config.examples, draw=draw, shapes=sizes.usual)
        wrapped = wrap(module, model.outputs, model.name, "float32")
        traced = export_program(wrapped, model.name, sizes, starred=True).module()
        quantized, nodes = _quantize(traced, model, config, observer, _chunks(spool, sizes))
        program = export_program(quantized, model.name, sizes, starred=False)
        lowered = lower(program, model, sizes, backend="xnnpack", dtype=config.dtype, devtools=asked.devtools)
        try:
            write_program(lowered, out)
            damage = _check(model, out / ENTRY, _chunks(spool, sizes))
        except BaseException:
            remove(out)
            raise
    choices = {"observer": observer} if config.calibrated else {}
    # Of the module's own lineage a .pte carries the digest.
    source = replace(model.as_artifact(), lineage={})
    tools = ("torch", "executorch", "torchao")
    return artifact(
        model, out, lowered, sizes, asked,
        quantization_lineage(source, config, spool, damage, nodes=nodes, tools=tools, choices=choices),
    )  # fmt: skip


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
    dynamic = config.mode == "dynamic"
    made = xnnpack.get_symmetric_quantization_config(
        is_per_channel=config.granularity == "channel", is_dynamic=dynamic
    )
    if observer == "minmax" and not dynamic:
        # The smallest scale that XNNPACK's own configuration allows.
        eps = 2**-12
        spec = replace(
            made.input_activation,
            observer_or_fake_quant_ctr=pt2e.MinMaxObserver.with_args(eps=eps),
        )
        made = replace(made, input_activation=spec, output_activation=spec)
    quantizer = xnnpack.XNNPACKQuantizer().set_global(made)
    if config.keep_float:
        quantizer.set_filter_function(lambda node: not _is_within(node, config.keep_float))
    return quantizer


def _is_within(node: Any, modules: Sequence[str]) -> bool:
    """Whether a node of a traced graph was traced in one of these modules, or in one of theirs."""
    stack = (path for path, _ in node.meta.get("nn_module_stack", {}).values())
    # "module.layer1.0", in some traces behind "L['self'].": the wrapper's attribute comes before the model's own names.
    own = [path.removeprefix("L['self'].").removeprefix("module.") for path in stack]
    return any(path == name or path.startswith(f"{name}.") for path in own for name in modules)


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


def _check(model: Model, path: Path, batches: Iterator[dict[str, Array]]) -> Damage:
    """The program against torch.

    Raises:
        ModelError: the program does not run, or is broken.
    """
    from edgekd_executorch.runtime import ExecuTorchRuntime
    from edgekd_torch.runtime import TorchRuntime

    torch = require("torch", extra=EXTRA, purpose=WRITING)
    return check_against(
        lambda: TorchRuntime().open(
            model.folder / MODEL_FILE, SessionOptions(threads=torch.get_num_threads())
        ),
        lambda: ExecuTorchRuntime().open(path, SessionOptions(threads=pool_threads())),
        batches,
        fix="use more or other calibration examples, or keep layers in float",
    )
