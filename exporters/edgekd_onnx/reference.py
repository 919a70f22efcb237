"""Sessions of ``onnx.reference``: slow, and right by definition; for files that no runtime here has kernels for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.lazy import require
from edgekd.spec import TensorSpec, check_feeds
from edgekd.target import Placement
from edgekd_onnx.writing import one_line

#: What its operators fail with: they are plain Python and NumPy.
_FAILURES = (
    NotImplementedError, RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError,
)  # fmt: skip


class NoReferenceError(ModelError):
    """``onnx.reference`` cannot run this graph."""


class ReferenceSession:
    """An ONNX file, run operator by operator in NumPy.

    Args:
        inputs, outputs: of the file.
    """

    def __init__(self, path: Path, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> None:
        onnx = require("onnx", extra="ort", purpose="checking ONNX files")
        reference = require("onnx.reference", extra="ort", purpose="checking ONNX files")
        self.path, self.inputs, self.outputs = path, inputs, outputs
        self.placement = Placement(
            device="cpu", provider="onnx.reference", runtime=f"onnx.reference {onnx.__version__}", threads=1, detail={}
        )  # fmt: skip
        try:
            self._evaluator: Any = reference.ReferenceEvaluator(str(path))
        except _FAILURES as e:
            raise self._failed(e) from e

    def _failed(self, error: BaseException) -> NoReferenceError:
        return NoReferenceError(
            f"onnx.reference cannot run {self.path} ({type(error).__name__}: {one_line(error)})",
            "check it on a device that has its precision",
        )

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Run once.

        Raises:
            DataError: feeds that do not fit; NoReferenceError: an operator that it does not have in these types.
        """
        check_feeds(self.inputs, feeds, str(self.path))
        try:
            made = self._evaluator.run(None, dict(feeds))
        except _FAILURES as e:
            raise self._failed(e) from e
        return {spec.name: np.asarray(value) for spec, value in zip(self.outputs, made, strict=True)}

    def bind(self, feeds: Mapping[str, Array]) -> Callable[[], object]:
        """One call of :meth:`run` on these feeds; it is no speed that means anything."""
        return lambda: self.run(feeds)

    def close(self) -> None: ...
