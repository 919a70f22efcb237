"""What the pages say of provenance is what the code does."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgekd.provenance.obligations import KINDS
from edgekd.provenance.rulebook import rules_table

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "provenance.md").read_text(encoding="utf-8")


def test_the_page_has_the_rules_as_they_are() -> None:
    assert rules_table() in PAGE, "write it again: python -m edgekd.provenance"
    assert all(f"| `{kind}` |" in PAGE for kind in KINDS)


def test_the_verdicts_of_the_results_page_are_made_again() -> None:
    path = REPOSITORY / "bench" / "release" / "provenance_table.py"
    spec = importlib.util.spec_from_file_location("provenance_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.PAGE.read_text(encoding="utf-8") == module.page()
    decisions = {name: module.judge_case(*case).decision for name, case in module.CASES.items()}
    assert (decisions["MIT weights"], decisions["Llama-3 weights"]) == ("pass", "reject")
    assert (decisions["unknown teacher"], decisions["data without a licence, waived"]) == ("reject", "pass")
