"""A machine with the doubles of TensorRT and CUDA on it, in this process and in the children that it starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import fixtures_tensorrt as double
import pytest

_LOADER = """\
import sys
sys.path.insert(0, {tests!r})
from {module} import install
sys.modules[__name__] = install()
"""


@dataclass
class Place:
    """Where TensorRT is a double. ``fault`` sets what goes wrong from now on."""

    patch: pytest.MonkeyPatch
    version: str
    log_path: Path

    def fault(self, *names: str) -> None:
        self.patch.setenv(double.FAULTS_VARIABLE, ",".join(names))

    def gpu(self, name: str, sm: str) -> None:
        self.patch.setenv(double.GPU_VARIABLE, f"{name};{sm}")

    def use(self, version: str) -> None:
        """Another TensorRT from now on."""
        self.patch.setenv(double.VERSION_VARIABLE, version)
        take_out()

    def calls(self) -> list[str]:
        return [call for call, _ in double.read_log(self.log_path)]

    def forget(self) -> None:
        self.log_path.unlink(missing_ok=True)


def take_out() -> dict[str, ModuleType]:
    """Take TensorRT and CUDA, real or not, out of this process; returns what was there."""
    names = [n for n in sys.modules if n.split(".")[0] in ("tensorrt", "tensorrt_bindings", "cuda")]
    return {name: sys.modules.pop(name) for name in names}


def make_place(folder: Path, version: str) -> Iterator[Place]:
    """Put the doubles first on the import path; everything is as it was afterwards."""
    site = folder / "site"
    (site / "cuda" / "bindings").mkdir(parents=True)
    here = str(double.HERE)
    (site / "tensorrt.py").write_text(_LOADER.format(tests=here, module="fixtures_tensorrt"))
    (site / "cuda" / "__init__.py").write_text("")
    (site / "cuda" / "bindings" / "__init__.py").write_text("")
    (site / "cuda" / "bindings" / "runtime.py").write_text(
        _LOADER.format(tests=here, module="fixtures_tensorrt_cuda")
    )
    real = take_out()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        patch.setenv("PYTHONPATH", str(site))
        patch.setenv("EDGEKD_CACHE", str(folder / "cache"))
        for name in (double.FAULTS_VARIABLE, double.GPU_VARIABLE):
            patch.delenv(name, raising=False)
        log = folder / "calls.jsonl"
        patch.setenv(double.LOG_VARIABLE, str(log))
        patch.setenv(double.VERSION_VARIABLE, version)
        try:
            yield Place(patch, version, log)
        finally:
            take_out()
            sys.modules.update(real)
