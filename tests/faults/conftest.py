"""The studies of bench/faults, in small; bench/ stands outside of the package, behind everything else."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))

from faults import shim  # noqa: E402 - after its folder is known

#: (script below bench/faults, options) -> what it printed and its exit code.
RunStudy = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run_study() -> Iterator[RunStudy]:
    """Runs a script of bench/faults in a process of its own, in an empty folder that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        Path(folder).chmod(0o755)

        def run(script: str, *options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, str(BENCH / "faults" / script), "--out", folder, *options],
                capture_output=True, text=True, timeout=600, check=False,
            )  # fmt: skip

        yield run


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """An environment in which a program loads the library of faults."""
    if not shim.compiler():
        pytest.skip("needs gcc (or cc) to build the library of faults")
    made = shim.build_shim(tmp_path_factory.mktemp("shim"))
    return {**os.environ, "LD_PRELOAD": str(made)}
