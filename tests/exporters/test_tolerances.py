"""Tolerances of every exporter: text or numbers, finite and not negative, refused before anything slow starts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edgekd.artifact import Artifact
from edgekd.errors import UsageError
from edgekd.model import Model
from edgekd.tolerance import read_tolerances
from edgekd_executorch.exporter import ExecuTorchExporter
from edgekd_litert.exporter import LiteRtExporter
from edgekd_onnx.exporter import OnnxExporter
from edgekd_onnx.ort_format import OrtFormatExporter
from edgekd_openvino.exporter import OpenVinoExporter
from edgekd_openvino.parity import FLOAT16_SHARE, INT8_SHARE, tolerances
from edgekd_tensorrt.exporter import TensorRtExporter

EXPORTERS = (
    ExecuTorchExporter(), LiteRtExporter(), OnnxExporter(), OpenVinoExporter(), OrtFormatExporter(), TensorRtExporter(),
)  # fmt: skip
BAD: tuple[Any, ...] = ("abc", "", "inf", "nan", "-1", "1e999", -0.5, float("nan"), float("inf"), True, [1])


@pytest.mark.parametrize("name", ["atol", "rtol"])
@pytest.mark.parametrize("value", BAD)
def test_what_is_no_tolerance_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UsageError, match=f"^{name} .* is not a finite number >= 0; for example {name}="):
        read_tolerances({name: value}, 1e-4, 1e-3)


def test_text_numbers_and_nothing_are_read() -> None:
    assert read_tolerances({"atol": "0", "rtol": 1}, 1e-4, 1e-3) == (0.0, 1.0)
    assert read_tolerances({"atol": None}, 1e-4, 1e-3) == (1e-4, 1e-3)


@pytest.mark.parametrize("exporter", EXPORTERS, ids=lambda e: str(e.format))
@pytest.mark.parametrize(("name", "value"), [("atol", "abc"), ("rtol", "inf"), ("atol", -1.0)])
def test_every_exporter_refuses_them(
    exporter: Any, name: str, value: Any, digits_model: Model, digits_onnx: Artifact, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=f"{name} .* is not a finite number >= 0"):
        exporter.export(digits_model, tmp_path, {name: value})
    if hasattr(exporter, "convert"):
        with pytest.raises(UsageError, match=f"{name} .* is not a finite number >= 0"):
            exporter.convert(digits_onnx, tmp_path, {name: value})
    assert not any(tmp_path.iterdir())


def test_openvino_shares_leave_the_whole_of_atol_or_count_alone() -> None:
    assert tolerances({}, "float16") == (FLOAT16_SHARE, 0.0)
    assert tolerances({"rtol": "0.1"}, "int8") == (0.0, 0.1) != (0.0, INT8_SHARE)
