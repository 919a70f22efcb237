"""``python:`` references to the user's own code."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from edgekd.errors import UsageError
from edgekd.pythonpath import python_source_digest, resolve_python


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is taken off the import path again."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def test_looks_beside_the_recipe_first(folder: Path) -> None:
    (folder / "pp_beside.py").write_text("def make():\n    return 3\n")
    assert resolve_python("python:pp_beside:make", folder)() == 3
    resolve_python("python:pp_beside:make", folder)
    assert sys.path.count(str(folder)) == 1


def test_looks_on_the_import_path() -> None:
    assert resolve_python("python:hashlib:sha256", None) is hashlib.sha256


def test_packages(folder: Path) -> None:
    (folder / "pp_package").mkdir()
    (folder / "pp_package" / "__init__.py").write_text("")
    (folder / "pp_package" / "inner.py").write_text("value = 5")
    assert resolve_python("python:pp_package.inner:value", folder) == 5


@pytest.mark.parametrize(
    "reference", ["", "python", "python:", "python:a", "python:a:", "python::b", "zoo:a:b"]
)
def test_not_a_reference(reference: str) -> None:
    with pytest.raises(UsageError, match=r"is not a python reference; write python:package.module:factory"):
        resolve_python(reference, None)


@pytest.mark.parametrize("module", ["../mine.py", "./mine", ".mine", "a/b", "mine.", "my-task", "a..b"])
def test_a_path_is_not_a_module(module: str) -> None:
    with pytest.raises(UsageError, match=r"is not a module name.*without a path"):
        resolve_python(f"python:{module}:make", None)


def test_absent_module_and_attribute(folder: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot import 'pp_absent'.*put pp_absent beside the recipe"):
        resolve_python("python:pp_absent:make", folder)
    (folder / "pp_empty.py").write_text("")
    with pytest.raises(UsageError, match="module 'pp_empty' has no 'make'"):
        resolve_python("python:pp_empty:make", folder)


def test_a_missing_import_inside_is_named(folder: Path) -> None:
    (folder / "pp_needs.py").write_text("import pp_something_absent")
    with pytest.raises(UsageError, match=r"cannot import 'pp_needs' .*pp_something_absent"):
        resolve_python("python:pp_needs:make", folder)


def test_a_syntax_error_is_named_by_line(folder: Path) -> None:
    (folder / "pp_syntax.py").write_text("x = 1\ndef make(:\n")
    with pytest.raises(UsageError, match=r"pp_syntax\.py:2: "):
        resolve_python("python:pp_syntax:make", folder)


def test_source_digest_is_the_files(folder: Path) -> None:
    source = "def make():\n    return 1\n"
    (folder / "pp_digest.py").write_text(source)
    assert (
        python_source_digest("python:pp_digest:make", folder) == hashlib.sha256(source.encode()).hexdigest()
    )
    edited = source.replace("1", "2")
    (folder / "pp_digest.py").write_text(edited)
    assert (
        python_source_digest("python:pp_digest:make", folder) == hashlib.sha256(edited.encode()).hexdigest()
    )


def test_source_digest_covers_what_is_imported_and_what_imports(folder: Path) -> None:
    """The code that runs counts, and so does the module that passes it on: it may bind arguments."""
    (folder / "pp_real.py").write_text("def make(): ...\n")
    (folder / "pp_facade.py").write_text(
        "from functools import partial\nimport pp_real\nmake = partial(pp_real.make)\n"
    )

    def digest() -> str:
        for name in ("pp_real", "pp_facade"):
            sys.modules.pop(name, None)
        return python_source_digest("python:pp_facade:make", folder)

    first = digest()
    (folder / "pp_facade.py").write_text(
        "from functools import partial\nimport pp_real\nmake = partial(pp_real.make)#\n"
    )
    second = digest()
    (folder / "pp_real.py").write_text("def make(): return 1\n")
    assert len({first, second, digest()}) == 3
