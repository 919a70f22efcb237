"""``import edgekd``: what it offers, and what it costs."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import edgekd

_NOUNS = {
    *("Recipe", "Task", "Model", "QuantConfig", "Artifact", "Target", "Evaluation", "Measurement", "Gate"),
    *("Verdict", "TaskSpec", "TensorSpec"),
}
_ARROWS = {
    *(
        "train_model",
        "quantize_artifact",
        "export_model",
        "evaluate_artifact",
        "measure_comparison",
        "judge_run",
    ),
    *("evaluate", "measure", "release", "verify", "run_recipe", "gate_files", "load_recipe"),
}
HOMES = {name: module for module, names in edgekd._NAMES.items() for name in names}


def in_fresh_python(script: str) -> object:
    """What ``script`` prints as JSON, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_noun_and_arrow_of_the_line_is_public() -> None:
    assert set(edgekd.__all__) >= _NOUNS | _ARROWS


@pytest.mark.parametrize("name", edgekd.__all__)
def test_a_public_name_resolves_to_what_it_names(name: str) -> None:
    value = getattr(edgekd, name)
    assert name in dir(edgekd)
    # A room that was imported elsewhere becomes an attribute of the package: the name must mean the same before.
    if importlib.util.find_spec(f"edgekd.{name}"):
        assert value is sys.modules[f"edgekd.{name}"]
    elif name != "__version__":
        assert value is getattr(sys.modules[HOMES[name]], name)


def test_no_name_is_listed_twice() -> None:
    assert len(set(edgekd.__all__)) == len(edgekd.__all__)


def test_star_brings_every_public_name() -> None:
    script = "import json; before = set(globals()); from edgekd import *; print(json.dumps(sorted(set(globals()) - before)))"
    assert set(in_fresh_python(script)) == {*edgekd.__all__, "before"}  # type: ignore[call-overload]


def test_type_checkers_see_the_same_names_from_the_same_modules(repository: Path) -> None:
    tree = ast.parse((repository / "edgekd" / "__init__.py").read_text(encoding="utf-8"))
    block = next(n for n in tree.body if isinstance(n, ast.If))
    seen = {a.name: n.module for n in block.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert seen == {**HOMES, **dict.fromkeys(edgekd._ROOMS, "edgekd")}
    assert {*seen, "__version__"} == set(edgekd.__all__)


def test_import_brings_the_standard_library_only() -> None:
    script = (
        "import sys; before = set(sys.modules)\n"
        "import edgekd, json; print(json.dumps(sorted({m.partition('.')[0] for m in set(sys.modules) - before})))"
    )
    brought = set(in_fresh_python(script))  # type: ignore[call-overload]
    assert brought - sys.stdlib_module_names == {"edgekd"}


def test_a_noun_brings_no_room_that_it_does_not_need() -> None:
    script = (
        "import sys, json, edgekd; edgekd.Evaluation, edgekd.Target, edgekd.verify\n"
        "print(json.dumps([m for m in ('pydantic', 'yaml', 'onnx', 'torch') if m in sys.modules]))"
    )
    assert in_fresh_python(script) == []


def test_a_misspelt_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'edgekd' has no attribute 'Recpie'"):
        edgekd.Recpie  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(ImportError, match="cannot import name 'Recpie'"):
        from edgekd import Recpie  # type: ignore[attr-defined]  # noqa: F401


def test_the_version_is_the_distribution_s(repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "(.+)"$', text, re.M)
    assert found is not None
    assert edgekd.__version__ == found[1]
