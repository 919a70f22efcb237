"""Every ``>>>`` in a docstring of the packages is run; a new one needs no entry here."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
ROOTS = (REPOSITORY, REPOSITORY / "exporters", REPOSITORY / "devices")


def modules_with_examples() -> list[str]:
    """Found in the text, so that collecting the tests imports none of them."""
    found = []
    for root in ROOTS:
        for package in sorted(root.glob("edgekd*")):
            for file in sorted(package.rglob("*.py")):
                if ">>> " in file.read_text(encoding="utf-8"):
                    found.append(
                        ".".join(file.relative_to(root).with_suffix("").parts).removesuffix(".__init__")
                    )
    return found


def test_they_are_found() -> None:
    assert {"edgekd.spec", "edgekd.errors", "edgekd.distill.train"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_of(name: str) -> None:
    module = importlib.import_module(name)
    result = doctest.testmod(module, raise_on_error=False)
    assert result.attempted > 0, "'>>> ' outside of a docstring"
    assert result.failed == 0
