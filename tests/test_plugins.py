"""Entry points are the only registry; listing imports nothing."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edgekd import plugins
from edgekd.errors import MissingDependencyError, UsageError


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A group of plugins that are found, of which only one loads."""
    (tmp_path / "fake_plugin.py").write_text("class Good:\n    class Inner: ...\n")
    (tmp_path / "fake_broken_plugin.py").write_text("import a_package_that_nobody_has\n")
    monkeypatch.syspath_prepend(tmp_path)
    made = [
        EntryPoint(name=n, value=v, group="edgekd.tasks")
        for n, v in {
            "good": "fake_plugin:Good",
            "with-extra": "fake_plugin:Good [extra]",
            "broken": "fake_broken_plugin:Good",
            "renamed": "fake_plugin:Bad",
            "absent": "fake_absent_plugin:Good",
        }.items()
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda group: [e for e in made if e.group == group])


def test_first_party_plugins_use_the_same_door() -> None:
    assert set(plugins.list_plugins("edgekd.tasks")) == {
        "classification", "detection", "image-classification", "keyword-spotting", "regression", "text-classification",
        "time-series", "token-classification",
    }  # fmt: skip
    assert {"onnxruntime", "torch"} <= set(plugins.list_plugins("edgekd.runtimes"))
    assert "onnx" in plugins.list_plugins("edgekd.exporters")
    assert "cpu" in plugins.list_plugins("edgekd.devices")
    assert plugins.load_plugin("edgekd.tasks", "classification").__name__ == "Classification"


def test_listing_imports_nothing() -> None:
    code = (
        "import sys; from edgekd.plugins import GROUPS, list_plugins; found = [list_plugins(g) for g in GROUPS]; "
        "assert all(found); print(sorted(m for m in sys.modules if m.partition('.')[0] in "
        "('edgekd_onnx', 'edgekd_torch', 'edgekd_devices', 'torch', 'onnx', 'numpy')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr


def test_unknown_plugin_names_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"no runtime is called 'tpu'; known: .*onnxruntime"):
        plugins.load_plugin("edgekd.runtimes", "tpu")
    with pytest.raises(UsageError, match="no nothing is called 'x'; known: none: is edgekd installed"):
        plugins.plugin_path("edgekd.nothings", "x")


@pytest.mark.usefixtures("fake")
def test_load() -> None:
    assert list(plugins.list_plugins("edgekd.tasks")) == ["absent", "broken", "good", "renamed", "with-extra"]
    assert plugins.plugin_path("edgekd.tasks", "with-extra") == "fake_plugin:Good"
    assert plugins.load_plugin("edgekd.tasks", "with-extra").__name__ == "Good"


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "fake_broken_plugin:Good does not load .*a_package_that_nobody_has"),
        ("renamed", "fake_plugin:Bad does not load .*Bad"),
        ("absent", "fake_absent_plugin:Good does not load"),
    ],
)
def test_a_plugin_that_does_not_load(name: str, message: str) -> None:
    with pytest.raises(MissingDependencyError, match=message):
        plugins.load_plugin("edgekd.tasks", name)
