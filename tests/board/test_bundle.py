"""The runner's zip: the same sources give the same bytes, and only what a board needs is in it."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import zipfile
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edgekd import plugins
from edgekd.board import bundle
from edgekd.board.bundle import runner_zip
from edgekd.errors import UsageError


def test_equal_sources_give_equal_bytes() -> None:
    runner_zip.cache_clear()
    first, sha256 = runner_zip("onnxruntime")
    runner_zip.cache_clear()
    assert runner_zip("onnxruntime") == (first, sha256)
    assert hashlib.sha256(first).hexdigest() == sha256
    names = zipfile.ZipFile(io.BytesIO(first)).namelist()
    rooms = {n.split("/")[1] for n in names if n.startswith("edgekd/")}
    assert {"board", "child", "measure", "gates"} <= rooms
    assert not rooms & {"cli", "ci", "pipeline", "report", "release", "tasks", "distill"}
    assert "edgekd_onnx/runtime.py" in names
    assert not any(n.startswith(("edgekd_torch/", "edgekd_devices/")) for n in names)
    assert len(first) < 1 << 20


def test_plugins_are_found_in_it(tmp_path: Path) -> None:
    """Its own entry points, in a Python that has nothing else but numpy."""
    zipfile.ZipFile(io.BytesIO(runner_zip("onnxruntime")[0])).extractall(tmp_path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from edgekd.plugins import list_plugins, plugin_path\n"
        "print(plugin_path('edgekd.runtimes', 'onnxruntime'), *list_plugins('edgekd.meters'))\n"
        "import edgekd.board.runner\n"
        "print(edgekd.board.runner.__file__)\n"
    )
    # -S leaves out site-packages; numpy alone is put back.
    import numpy

    (tmp_path / "only").mkdir()
    for name in ("numpy", "numpy.libs"):
        folder = Path(numpy.__file__).parent.parent / name
        if folder.exists():
            (tmp_path / "only" / name).symlink_to(folder)
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(tmp_path)], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(tmp_path / "only")},
    )  # fmt: skip
    assert done.stderr == ""
    assert done.stdout.splitlines() == [
        "edgekd_onnx.runtime:OnnxRuntime hwmon nvml rapl",
        str(tmp_path / "edgekd/board/runner.py"),
    ]


def test_a_plugin_of_others_goes_along_and_one_without_sources_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "their_runtime").mkdir()
    (tmp_path / "their_runtime/__init__.py").write_text("class Theirs: ...\n")
    (tmp_path / "one_file.py").write_text("class Theirs: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    listed = plugins.list_plugins

    def with_theirs(group: str) -> dict[str, EntryPoint]:
        if group != "edgekd.runtimes":
            return listed(group)
        return {
            name: EntryPoint(name, f"{module}:Theirs", group)
            for name, module in (("theirs", "their_runtime"), ("single", "one_file"))
        }

    monkeypatch.setattr(bundle, "list_plugins", with_theirs)
    names = zipfile.ZipFile(io.BytesIO(runner_zip("theirs")[0])).namelist()
    assert "their_runtime/__init__.py" in names
    with pytest.raises(UsageError, match="'one_file' is not a folder of sources"):
        runner_zip("single")
