"""The one door for vendor packages."""

from __future__ import annotations

import json.decoder
from pathlib import Path

import pytest

from edgekd.errors import MissingDependencyError
from edgekd.lazy import require


def test_returns_the_module_itself() -> None:
    assert require("json.decoder", extra="x", purpose="testing") is json.decoder


def test_names_package_purpose_and_extra() -> None:
    with pytest.raises(MissingDependencyError) as caught:
        require("no_such_vendor.sub", extra="ort", purpose="running ONNX models")
    assert str(caught.value).startswith(
        "running ONNX models needs the package 'no_such_vendor', which did not import"
    )
    assert caught.value.fix == "pip install 'edgekd[ort]'"
    assert caught.value.exit_code == 4


@pytest.mark.parametrize(
    "source",
    ["import another_absent_package", "raise OSError('libcudart.so.13: cannot open shared object file')"],
)
def test_a_package_that_is_there_but_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "fake_vendor.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingDependencyError, match=r"another_absent_package|libcudart"):
        require("fake_vendor", extra="x", purpose="testing")


def test_a_bug_inside_a_package_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fake_buggy_vendor.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ZeroDivisionError):
        require("fake_buggy_vendor", extra="x", purpose="testing")
