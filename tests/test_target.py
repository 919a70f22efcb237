"""Target names."""

from __future__ import annotations

import pytest

from edgekd.errors import UsageError
from edgekd.target import Target, parse_target


@pytest.mark.parametrize(
    ("text", "device", "runtime", "provider"),
    [
        ("cpu:onnxruntime", "cpu", "onnxruntime", ""),
        ("cuda:onnxruntime+cuda", "cuda", "onnxruntime", "cuda"),
        ("ssh/board-3.local:onnxruntime", "ssh/board-3.local", "onnxruntime", ""),
        ("adb/R58M_1:litert", "adb/R58M_1", "litert", ""),
    ],
)
def test_parse(text: str, device: str, runtime: str, provider: str) -> None:
    target = parse_target(text)
    assert target == Target(device=device, runtime=runtime, provider=provider)
    assert target.required
    assert str(target) == text
    assert not parse_target(text, required=False).required


@pytest.mark.parametrize(
    "text",
    ["", "cpu", "cpu:", ":onnxruntime", "cpu onnxruntime", "cpu:a:b", "cpu:a+", "cpu:A", " cpu:a", "cpu:a\n"],
)
def test_refused(text: str) -> None:
    with pytest.raises(
        UsageError, match=r"is not of the form device:runtime\[\+provider\]; for example cpu:onnx"
    ):
        parse_target(text)
