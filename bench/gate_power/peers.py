"""The peers, in the same minutes: pytest-benchmark (really run) and repetitions for a Mann-Whitney test."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

_HERE = Path(__file__).resolve().parent
#: google/benchmark wants at least nine repetitions for its U test (tools/gbench/report.py).
REPETITIONS = 10
REPETITION_S = 0.1
_FIELDS = ("min", "max", "mean", "median", "stddev", "rounds")


class PeerError(Exception):
    """A peer's process failed; the message holds its last words."""


def _run(command: list[str], env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False, timeout=600)
    if done.returncode:
        raise PeerError(
            f"{' '.join(command[:4])} … ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}"
        )
    return done.stdout


def pytest_benchmark(model: Path) -> dict[str, float]:
    """One pytest session with one benchmark under pytest-benchmark's defaults; its statistics in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "benchmark.json"
        env = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "GATE_POWER_MODEL": str(model.resolve())}
        env.pop("PYTEST_ADDOPTS", None)
        _run(
            [
                sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "--rootdir", folder, "--noconftest",
                "-p", "no:cacheprovider", "-p", "pytest_benchmark.plugin",
                f"--benchmark-json={out}", str(_HERE / "peer_pytest.py"),
            ],
            env,
        )  # fmt: skip
        stats = json.loads(out.read_text())["benchmarks"][0]["stats"]
    return {k: float(stats[k]) for k in _FIELDS}


def run_peers(base: Path, student: Path, seed: int) -> dict[str, Any]:
    """Both peers once on both models; the order of pytest-benchmark's two sessions is drawn.

    Raises:
        PeerError: a process failed.
    """
    begin = time.monotonic()
    order = ["base", "student"]
    random.Random(seed).shuffle(order)
    made = {name: pytest_benchmark(base if name == "base" else student) for name in order}
    between = time.monotonic()
    script = str(_HERE / "peer_repetitions.py")
    text = _run([sys.executable, script, str(base), str(student), str(REPETITIONS), str(REPETITION_S)])
    repeated = json.loads(text)
    return {
        "pytest_benchmark": {**made, "order": order, "wall_s": between - begin},
        "repetitions_ns": {
            "base": repeated["a"],
            "student": repeated["b"],
            "wall_s": time.monotonic() - between,
        },
    }
