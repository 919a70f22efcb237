"""The wheel in environments of its own: the base judges without torch or a runtime, the runner needs neither base.

Slow (some 20 s each: a virtual environment and an install), and needs the package index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fixtures_run import make_run

from edgekd.evidence.evaluation import load_evaluation, save_evaluation
from edgekd.evidence.run import load_run
from edgekd.gates import exit_code, judge_run
from edgekd.recipe import load_policy
from edgekd.release import release

pytestmark = pytest.mark.slow

_RUNNING = f"{sys.version_info[0]}.{sys.version_info[1]}"
_VERSIONS = ("3.10", "3.11", "3.12")


def _find_python(version: str) -> str | None:
    """An interpreter of that version that starts: this one, one on PATH, or one of pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    candidates = [
        sys.executable,
        shutil.which(f"python{version}"),
        *map(str, sorted(pyenv.glob(f"{version}.*/bin/python"))),
    ]
    for candidate in filter(None, candidates):
        command = [candidate, "-I", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.stdout.strip() == version:
            return candidate
    return None


def _install(repository: Path, python: Path, *arguments: str) -> None:
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    done = subprocess.run(
        [*pip, "--only-binary", ":all:", "-c", str(repository / "constraints.txt"), *arguments],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture
def make_environment(repository: Path, tmp_path: Path) -> Callable[..., Path]:
    """Make a virtual environment of a Python version with what pip is told to install; returns its bin folder."""

    def make(version: str, *installs: tuple[str, ...]) -> Path:
        python = _find_python(version)
        if python is None:
            pytest.skip(f"no Python {version} on this machine")
        subprocess.run([python, "-m", "venv", "--without-pip", str(tmp_path / "venv")], check=True)
        folder = tmp_path / "venv" / "bin"
        for arguments in installs:
            _install(repository, folder / "python", *arguments)
        return folder

    return make


def _run(*command: object, cwd: Path, code: int = 0) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run([*map(str, command)], cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == code, f"{command}: exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


_ABSENT = "import importlib.util, json; print(json.dumps([m for m in {!r} if importlib.util.find_spec(m)]))"


@pytest.mark.parametrize("version", _VERSIONS)
def test_base_judges_reports_and_verifies(
    version: str, wheel: Path, make_environment: Callable[..., Path], tmp_path: Path
) -> None:
    binaries = make_environment(version, (str(wheel),))
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    make_run(run)
    present = _ABSENT.format(["torch", "onnxruntime", "sklearn", "scipy", "PIL", "safetensors", "pyarrow"])
    assert json.loads(_run(binaries / "python", "-c", present, cwd=tmp_path)) == []

    _run(binaries / "python", "-c", "import edgekd", cwd=tmp_path)
    assert "usage: edgekd" in _run(binaries / "edgekd", "--help", cwd=tmp_path)
    _run(binaries / "edgekd", "gate", run, cwd=tmp_path)
    assert json.loads((run / "verdict.json").read_text())["decision"] == "pass"
    assert "synthetic" in _run(binaries / "edgekd", "report", run, cwd=tmp_path)
    # Bill of materials and attestations are written by libraries; hashes are checked by the standard library alone.
    _run(binaries / "edgekd", "release", run, "-o", bundle, cwd=tmp_path, code=4)
    _run(binaries / "edgekd", "verify", release(run, bundle), cwd=tmp_path)


POLICY = """
accuracy: [{max_drop: 0.03}, {min_ratio: 0.9}]
fidelity: {against: teacher, max_flips: 0.2, max_kl_mean: 2, max_kl_p99: 9, max_ece_change: 0.3}
slices: {names: [class], max_drop: 0.2}
latency: {max_ratio: 0.9}
"""


def test_the_base_judges_again_bit_for_bit(
    wheel: Path, make_environment: Callable[..., Path], tmp_path: Path
) -> None:
    """Proportions and, by clusters, the bootstrap: the same bytes with and without the libraries that made them."""
    binaries = make_environment(_RUNNING, (str(wheel),))
    (tmp_path / "policy.yaml").write_text(POLICY)
    for name in ("plain", "clustered"):
        run = tmp_path / name
        make_run(run)
        if name == "clustered":
            for path in (run / "evidence" / "test").glob("*.json"):
                if path.stem == "teacher" or (
                    path.stem.startswith("student") and path.with_suffix(".npz").exists()
                ):
                    found = load_evaluation(path)
                    groups = np.asarray([f"g{i % 100}" for i in range(found.n)])
                    save_evaluation(replace(found, clusters=groups), path)
        here = judge_run(run, load_run(run), load_policy(tmp_path / "policy.yaml", {}))
        here.save(tmp_path / "here.json")
        methods = {g.method for g in here.gates if g.gate == "accuracy"}
        assert methods == ({"tango", "score-ratio"} if name == "plain" else {"bca-bootstrap"})
        assert len(here.gates) > 15
        code = exit_code(here)
        again = tmp_path / f"{name}-again"
        _run(
            binaries / "edgekd",
            "gate",
            run,
            "--policy",
            "policy.yaml",
            "--out",
            again,
            cwd=tmp_path,
            code=code,
        )
        assert (again / "verdict.json").read_bytes() == (tmp_path / "here.json").read_bytes()


@pytest.mark.parametrize("version", _VERSIONS)
def test_every_verb_explains_itself_in_the_base(
    version: str, wheel: Path, make_environment: Callable[..., Path], tmp_path: Path
) -> None:
    # --help needs none of the dependencies at all, so neither does this environment.
    binaries = make_environment(version, ("--no-deps", str(wheel)))
    verbs = _run(
        binaries / "python", "-c", "from edgekd.cli import VERBS; print(*VERBS)", cwd=tmp_path
    ).split()
    assert "gate" in verbs
    for verb in verbs:
        assert "usage: edgekd" in _run(binaries / "edgekd", verb, "--help", cwd=tmp_path)


@pytest.mark.parametrize("version", ["3.10", pytest.param(_RUNNING, id="running")])
def test_the_runner_imports_with_numpy_and_one_runtime_only(
    version: str, wheel: Path, make_environment: Callable[..., Path], tmp_path: Path
) -> None:
    binaries = make_environment(version, ("numpy", "onnxruntime"), ("--no-deps", str(wheel)))
    runner = ["edgekd", "edgekd.child.__main__", "edgekd.child.sessions", "edgekd.child.wire"]
    imports = f"import {', '.join(runner)}, edgekd.evaluate, edgekd.measure, edgekd_onnx.runtime; "
    script = imports + _ABSENT.format(["onnx", "pydantic", "yaml", "torch"])
    assert json.loads(_run(binaries / "python", "-c", script, cwd=tmp_path)) == []
