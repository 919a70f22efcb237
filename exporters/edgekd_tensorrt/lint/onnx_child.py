"""onnx's checker, shape inference and inliner, as a child runs them (see ``isolation``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.lazy import require
from edgekd_onnx.writing import one_line

_PURPOSE = "checking ONNX files"
Reply = tuple[dict[str, Any], list[Array]]


def inline(state: dict[str, Any], args: dict[str, Any], arrays: Sequence[Array]) -> Reply:
    """The model in ``arrays[0]`` (bytes) with its local functions inlined, and ``faults``: ``[[message, is_error]]``."""
    onnx = require("onnx", extra="ort", purpose=_PURPOSE)
    inliner = require("onnx.inliner", extra="ort", purpose=_PURPOSE)
    model = onnx.ModelProto.FromString(arrays[0].tobytes())
    try:
        model = inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError) as e:
        return {"faults": [(f"its functions cannot be inlined ({one_line(e)})", True)]}, [arrays[0]]
    return {"faults": []}, [_bytes(model)]


def check_and_infer(state: dict[str, Any], args: dict[str, Any], arrays: Sequence[Array]) -> Reply:
    """The model in ``arrays[0]`` with inferred types, and what the checker and inference say of it."""
    onnx = require("onnx", extra="ort", purpose=_PURPOSE)
    checker = require("onnx.checker", extra="ort", purpose=_PURPOSE)
    inference = require("onnx.shape_inference", extra="ort", purpose=_PURPOSE)
    model = onnx.ModelProto.FromString(arrays[0].tobytes())
    failures = (checker.ValidationError, inference.InferenceError, RuntimeError, ValueError, TypeError)
    faults: list[tuple[str, bool]] = []
    try:
        checker.check_model(model)
    except failures as e:
        # Inference on an invalid graph says nothing that can be relied on.
        return {"faults": [(one_line(e), True)]}, [arrays[0]]
    try:
        inference.infer_shapes(model, strict_mode=True)
    except failures as e:
        faults.append((f"shape inference fails: {one_line(e)}", False))
    try:
        return {"faults": faults}, [_bytes(inference.infer_shapes(model, data_prop=True))]
    except failures:
        return {"faults": faults}, [arrays[0]]


def _bytes(model: Any) -> Array:
    return np.frombuffer(model.SerializeToString(), np.uint8)
