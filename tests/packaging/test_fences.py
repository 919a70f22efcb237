"""Vendor packages stay out until they are needed: shown here where all of them are installed."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys
from importlib.util import find_spec

import pytest

import edgekd
import edgekd_devices
import edgekd_executorch
import edgekd_litert
import edgekd_onnx
import edgekd_openvino
import edgekd_tensorrt
import edgekd_torch

_VENDORS = (
    *("torch", "onnx", "onnxruntime", "onnxscript", "sklearn", "scipy", "PIL", "safetensors", "pyarrow"),
    *("optimum", "transformers", "tensorrt", "openvino", "nncf", "executorch", "torchao", "ai_edge_litert"),
    *("ai_edge_quantizer", "onnxslim"),
)
_PACKAGES = (
    *(edgekd, edgekd_onnx, edgekd_torch, edgekd_openvino, edgekd_tensorrt, edgekd_executorch, edgekd_litert),
    edgekd_devices,
)
#: The command line answers --help without these either.
_SLOW = ("pydantic", "yaml")

# Prints [[module, [vendor packages that it brought in]], ...] and stops at the first culprit.
_IMPORT_EACH = """
import importlib, json, sys
modules, fenced = json.loads(sys.argv[1])
found = []
for module in modules:
    importlib.import_module(module)
    culprits = [f for f in fenced if f in sys.modules]
    if culprits:
        found.append([module, culprits])
        break
print(json.dumps(found))
"""

# Runs the CLI as `python -m edgekd ARGS` does, then names what it imported, as the last line.
_RUN_CLI = """
import json, runpy, sys
fenced, sys.argv = json.loads(sys.argv[1]), ["edgekd", *sys.argv[2:]]
code = None
try:
    runpy.run_module("edgekd", run_name="__main__", alter_sys=True)
except SystemExit as e:
    code = e.code
print()
print(json.dumps([code or 0, [f for f in fenced if f in sys.modules]]))
"""


def _public_modules() -> list[str]:
    names = []
    for package in _PACKAGES:
        names.append(package.__name__)
        names += [m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return [n for n in names if not any(part.startswith("_") for part in n.split("."))]


def _last_line(script: str, *arguments: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "vendor", ["torch", "onnx", "onnxruntime", "sklearn", "scipy", "PIL", "safetensors", "pyarrow"]
)
def test_the_fence_is_tested_where_the_vendor_is_installed(vendor: str) -> None:
    assert find_spec(vendor) is not None


def test_no_public_module_imports_a_vendor_package() -> None:
    modules = _public_modules()
    assert {"edgekd.recipe", "edgekd_onnx.runtime", "edgekd_torch.modules"} <= set(modules)
    _, found = _last_line(_IMPORT_EACH, json.dumps([modules, _VENDORS]))
    assert json.loads(found) == []


def test_import_edgekd_brings_numpy_at_most() -> None:
    _, found = _last_line(_IMPORT_EACH, json.dumps([["edgekd"], [*_VENDORS, *_SLOW]]))
    assert json.loads(found) == []


def test_help_imports_no_vendor_package_and_no_slow_one() -> None:
    from edgekd.cli import VERBS

    fenced = json.dumps([*_VENDORS, *_SLOW])
    for verb in ("", *VERBS):
        output, last = _last_line(_RUN_CLI, fenced, *filter(None, [verb]), "--help")
        assert json.loads(last) == [0, []], f"edgekd {verb} --help"
        assert output.startswith("usage: edgekd"), f"edgekd {verb} --help"
