"""FP8 (E4M3) Q/DQ pairs with NVIDIA Model Optimizer, in a child: it patches ONNX Runtime's quantizer and logs at length."""

from __future__ import annotations

import re
import tempfile
import warnings
from pathlib import Path
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.quantize.spool import CalibrationSpool
from edgekd.spec import TensorSpec
from edgekd_onnx.writing import one_line

PURPOSE = "quantizing to FP8"
#: Our words for a calibration -> modelopt's.
METHODS = {"minmax": "max", "entropy": "entropy"}

Reply = tuple[dict[str, Any], list[Array]]


class Reader:
    """A spool as modelopt reads it: batch by batch, again from the start, and the first batch without taking it."""

    def __init__(self, spool: CalibrationSpool) -> None:
        self._spool = spool
        self._next = 0

    def get_next(self) -> dict[str, Array] | None:
        if self._next >= self._spool.batches:
            return None
        self._next += 1
        return self._spool.batch(self._next - 1)

    def get_first(self) -> dict[str, Array]:
        return self._spool.batch(0)

    def rewind(self) -> None:
        self._next = 0


def write_fp8(state: dict[str, Any], args: dict[str, Any], arrays: list[Array]) -> Reply:
    """In the child: calibrate ``source`` on the spooled feeds and write ``raw`` with FP8 pairs.

    Raises:
        MissingDependencyError: modelopt or one of its helpers; ModelError: modelopt cannot quantize this graph.
    """
    source, raw = Path(args["source"]), Path(args["raw"])
    # What modelopt leaves behind goes with our folder.
    tempfile.tempdir = str(raw.parent)
    inputs = tuple(TensorSpec.from_json(s) for s in args["inputs"])
    spool = CalibrationSpool(folder=Path(args["spool"]), inputs=inputs, batches=args["batches"])
    require("onnx_graphsurgeon", extra="modelopt", purpose=PURPOSE)
    modelopt = require("modelopt.onnx.quantization", extra="modelopt", purpose=PURPOSE)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            modelopt.quantize(
                str(source),
                quantize_mode="fp8",
                calibration_data_reader=Reader(spool),
                calibration_method=METHODS[args["calibration"]],
                # Neither is the default: it would ask for a GPU, and turn the rest of the graph into float16.
                calibration_eps=["cpu"],
                high_precision_dtype="fp32",
                mha_accumulation_dtype="fp32",
                nodes_to_exclude=[re.escape(n) + r"\Z" for n in args["keep_float"]],
                output_path=str(raw),
                use_external_data_format=bool(args["large"]),
                log_level="ERROR",
                # Weights are stored in FP8, instead of in float32 with a pair of their own.
                dq_only=True,
                # It leaves products with one row float, and the rows are those of the calibration batch.
                enable_gemv_detection_for_trt=False,
            )
    except MemoryError:
        raise
    except Exception as e:
        # modelopt fails with whatever its many parts raise, bare asserts among them; the child answers in one line.
        raise ModelError(
            f"modelopt cannot quantize {args['name']} to FP8 ({type(e).__name__}: {one_line(e)})",
            "leave it in float32, or quantize to int8",
        ) from e
    if not raw.is_file():
        raise ModelError(f"modelopt wrote nothing for {args['name']}", "leave it in float32")
    return {}, []
