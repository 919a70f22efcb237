"""The mutant study of bench/release, a few of each kind: every one is caught, and the file named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def study(repository: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("release_mutants", repository / "bench/release/mutants.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["release_mutants"] = module  # its dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def test_a_few_of_every_kind_are_caught(study: ModuleType, tmp_path: Path) -> None:
    rows = study.run(tmp_path, 1, 7)
    assert len(rows) > 45
    missed = [(r.kind, r.form, m) for r in rows for m in r.missed]
    assert missed == []
    assert sum(r.mutants for r in rows) == sum(r.caught for r in rows) == sum(r.named for r in rows) > 50
    assert "| **all** |" in study.markdown(rows)


def test_a_mutant_that_verifies_is_counted_as_missed(study: ModuleType, tmp_path: Path) -> None:
    base = study.make_base(tmp_path)
    row = study.Row("nothing changed", "folder")
    study._count(row, base.bundle, {"report.md"}, base.trust(base.mine), 0)
    assert (row.mutants, row.caught, len(row.missed)) == (1, 0, 1)
