"""Libraries that answer otherwise than they are read, each shown in the library itself, and not through EdgeKD's door.

FP8 on ONNX Runtime is in test_onnx_fp8.py, optimum's mixture of experts in test_huggingface_folder.py, weight-only products
without an accuracy level in test_onnx_precisions.py. A failure of the library's half says that the library is mended.
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import Any

import pytest

from edgekd.artifact import Artifact
from edgekd.errors import ModelError
from edgekd.model import Model
from edgekd.target import SessionOptions
from edgekd_onnx import exporter
from edgekd_onnx.exporter import OnnxExporter

torch = pytest.importorskip("torch")


def _flipping(module: Any) -> Any:
    module.eval()
    module.training = True  # of the root only: its layers answer as in evaluation
    return module


def test_the_older_torch_exporter_puts_layers_back_into_training() -> None:
    module = _flipping(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 4),), io.BytesIO(), dynamo=False)
    assert all(m.training for m in module.modules()), (
        "torch.onnx.export(dynamo=False) leaves layers alone now"
    )


def test_an_export_that_leaves_layers_in_training_is_refused(
    digits_model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = exporter.trace_module

    def flip(module: Any, *args: Any, **options: Any) -> Any:
        made = trace(module, *args, **options)
        next(m for m in module.modules() if isinstance(m, torch.nn.BatchNorm2d)).train()
        return made

    monkeypatch.setattr(exporter, "trace_module", flip)
    with pytest.raises(ModelError, match=r"BatchNorm2d\) is in training mode"):
        OnnxExporter().export(digits_model, tmp_path, {})
    assert list(tmp_path.iterdir()) == []


def test_openvino_computes_in_bfloat16_unless_it_is_told_not_to(digits_onnx: Artifact) -> None:
    ov = pytest.importorskip("openvino")
    from edgekd_openvino.runtime import OpenVinoRuntime

    core = ov.Core()
    session = OpenVinoRuntime().open(digits_onnx.path, SessionOptions())
    assert session.placement.detail["INFERENCE_PRECISION_HINT"] == "f32"
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this CPU has no bfloat16 instructions")
    compiled = core.compile_model(str(digits_onnx.path), "CPU", {})
    assert compiled.get_property("INFERENCE_PRECISION_HINT") == ov.Type.bf16, (
        "OpenVINO's default is float32 now"
    )
