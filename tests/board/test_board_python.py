"""Which Python of a board is started, and which modules it has to have."""

from __future__ import annotations

import sys

import pytest

from edgekd.board import bootstrap
from edgekd.board.python import check_hello, modules_of, start_script
from edgekd.errors import MissingDependencyError


@pytest.mark.parametrize(
    ("asked", "start"),
    [
        ("~/venv/bin/python", 'exec "$HOME"/venv/bin/python -c '),
        ("~/my venv/bin/python", "exec \"$HOME\"/'my venv/bin/python' -c "),
        ("/opt/a b/python", "exec '/opt/a b/python' -c "),
        ("$(reboot)", "exec '$(reboot)' -c "),
    ],
)
def test_the_python_that_was_asked_for(asked: str, start: str) -> None:
    assert start_script({"EDGEKD_BOARD_PYTHON": asked}).startswith(start)


def test_tensorrt_needs_the_bindings_of_cuda_too() -> None:
    assert modules_of("tensorrt") == ("tensorrt", "cuda.bindings")
    hello = {
        "python": "3.10.12", "version": [3, 10], "executable": "python3", "system": "posix",
        "modules": {"numpy": "numpy 2.2.6", "tensorrt": "tensorrt 10.13.3.9", "cuda.bindings": None},
    }  # fmt: skip
    with pytest.raises(
        MissingDependencyError, match=r"without cuda-python; there: python3 -m pip install cuda-python"
    ):
        check_hello("ssh/agx", "tensorrt", hello)
    check_hello("ssh/agx", "onnxruntime", {**hello, "modules": {"numpy": "x", "onnxruntime": "y"}})


def test_a_module_in_a_package_that_is_not_there_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nosuchpackage", None)
    assert bootstrap.installed("nosuchpackage.inside") is None
    assert bootstrap.installed("also_no_such.inside") is None
    assert bootstrap.installed("json.nosuch") is None
    assert bootstrap.installed("onnxruntime.capi") == bootstrap.installed("onnxruntime")
