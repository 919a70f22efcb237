"""What may be asked of the ONNX exporter, read once and refused in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgekd.data.example import Array
from edgekd.errors import UsageError
from edgekd.parity import PARITY_ATOL, PARITY_RTOL, Shapes
from edgekd.tolerance import read_tolerances

#: The newest opset that ONNX Runtime 1.20 and TensorRT 10.3 read whole, and the one torch's exporter is written for.
DEFAULT_OPSET = 18
OPSETS = range(18, 24)

DTYPES = ("float32", "float16", "bfloat16")
OPTIMIZERS = ("none", "onnxslim", "ort-basic", "ort-extended")
BOUNDARIES = ("float32", "native")

#: |reference - candidate| <= atol + rtol |reference|. A float16 keeps 11 bits and a bfloat16 8 (relative steps of 2^-11
#: and 2^-8); some ten layers of rounding are allowed for. int8 is of graphs with Q/DQ nodes, run by another library than
#: the reference: steps of 2^-8 of a tensor's range, and a value on the edge of one is rounded either way.
TOLERANCES: Mapping[str, tuple[float, float]] = {
    "float32": (PARITY_ATOL, PARITY_RTOL),
    "float16": (2e-2, 2e-2),
    "bfloat16": (1e-1, 1e-1),
    "int8": (1e-1, 1e-1),
}

#: Options of every exporter, and those of this one that a command line may give as text.
COMMON = ("opset", "shapes", "feeds", "atol", "rtol", "dtype")
OWN: Mapping[str, str] = {
    "optimize": f"rewrite the graph: {', '.join(OPTIMIZERS)}",
    "io": f"of a float16 or bfloat16 file: {', '.join(BOUNDARIES)} inputs and outputs (default: float32)",
}
#: Those of Hugging Face folders.
FOLDER: Mapping[str, str] = {
    "task": "of a Hugging Face folder: what it is exported for (default: by its architecture)",
    "part": "of an encoder-decoder: encoder or decoder",
    "exporter": "of a Hugging Face folder: auto, optimum or dynamo",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """Options with their values.

    Attributes:
        opset: None keeps an ONNX file's own, and is :data:`DEFAULT_OPSET` elsewhere.
        shapes: of :func:`edgekd.spec.parse_shapes`; feeds: real feeds that parity is checked on as well.
        atol, rtol: of parity; those of the dtype where none are given.
        dtype, optimize, io: see :data:`DTYPES`, :data:`OPTIMIZERS`, :data:`BOUNDARIES`.
    """

    opset: int | None
    shapes: Shapes
    feeds: Iterable[Mapping[str, Array]]
    atol: float
    rtol: float
    dtype: str
    optimize: str
    io: str
    rest: Mapping[str, str] = field(default_factory=dict)


def read_options(options: Mapping[str, Any], more: Iterable[str] = ()) -> ExportOptions:
    """Read the options of one export.

    Args:
        more: names that are known beside the common ones and ``optimize`` and ``io``; they go to ``rest``.

    Raises:
        UsageError: an unknown option, or a value that it cannot have.
    """
    known = (*COMMON, *OWN, *more)
    unknown = [k for k in options if k not in known]
    if unknown:
        raise UsageError(f"the onnx exporter has no option '{unknown[0]}'", f"it knows {', '.join(known)}")
    opset = options.get("opset")
    if isinstance(opset, str) and opset.isdecimal():
        opset = int(opset)
    if opset is not None and (isinstance(opset, bool) or not isinstance(opset, int) or opset not in OPSETS):
        raise UsageError(f"opset {opset} is not supported", f"choose {OPSETS[0]} to {OPSETS[-1]}")
    dtype = _one_of(options, "dtype", DTYPES)
    io = _one_of(options, "io", BOUNDARIES)
    optimize = _one_of(options, "optimize", OPTIMIZERS)
    if io == "native" and dtype == "float32":
        raise UsageError("io native is asked of a float32 file", "name a dtype: float16 or bfloat16")
    if optimize == "ort-extended" and dtype != "float32":
        raise UsageError(
            f"optimize ort-extended makes float32 operators of ONNX Runtime's own, dtype {dtype} was asked for",
            "optimize with onnxslim or ort-basic, or stay in float32",
        )
    atol, rtol = read_tolerances(options, *TOLERANCES[dtype])
    return ExportOptions(
        opset=opset, shapes=options.get("shapes") or {}, feeds=options.get("feeds") or (),
        atol=atol, rtol=rtol, dtype=dtype, optimize=optimize, io=io,
        rest={k: str(options[k]) for k in more if options.get(k)},
    )  # fmt: skip


def _one_of(options: Mapping[str, Any], name: str, values: tuple[str, ...]) -> str:
    value = options.get(name) or values[0]
    if value not in values:
        raise UsageError(f"{name} {value!r} is not known to the onnx exporter", f"choose {', '.join(values)}")
    return str(value)
