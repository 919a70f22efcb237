"""What tells quantized files apart: from float references, and in the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edgekd.pipeline import artifacts
from edgekd.pipeline.run import student_references
from edgekd.quantize.config import config_of
from edgekd.tasks import TaskSpec
from edgekd.testing import write_fake
from edgekd_onnx.exporter import OnnxExporter


def test_a_quantized_file_is_no_float_reference(tmp_path: Path) -> None:
    """A format may hold packed weights, and call itself float32 for what it computes in."""
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    packed = replace(write_fake(first), dtype="float32", lineage={"quantized_from": "sha256:0"})
    plain = replace(write_fake(second), dtype="float32", lineage={})
    nothing: Any = None
    found = student_references(
        nothing, SimpleNamespace(naive=(), student=None), nothing,  # type: ignore[arg-type]
        [("int4", packed), ("float32", plain)], nothing, "fake",
    )  # fmt: skip
    assert found["float32"].artifact is plain


def test_another_modelopt_makes_another_fp8_file(monkeypatch: pytest.MonkeyPatch) -> None:
    task = TaskSpec(data={})
    monkeypatch.setattr(TaskSpec, "split_digest", lambda *_: "sha256:0")
    monkeypatch.setattr(artifacts, "calibration_split", lambda _: "train")
    keys = []
    for version in ("0.1", "0.2"):
        monkeypatch.setattr(artifacts, "tool_versions", lambda *p, v=version: dict.fromkeys(p, v))
        keys.append(
            {
                w: artifacts._calibration_key(OnnxExporter(), config_of(w), task, None)
                for w in ("float8e4m3fn", "int8")
            }
        )
    assert keys[0]["float8e4m3fn"] != keys[1]["float8e4m3fn"]
    assert {"nvidia-modelopt", "onnx-graphsurgeon"} <= set(keys[0]["float8e4m3fn"]["float8_tools"])
    assert keys[0]["int8"] == keys[1]["int8"]
