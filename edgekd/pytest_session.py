"""What a pytest session was asked of gates, and what it judged. Imports pytest only, as the plugin does.

PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest

INCONCLUSIVE = ("fail", "skip", "pass")


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One call of ``edgekd_gate``.

    Attributes:
        nodeid: of the test; call: 1 for the first call in it.
        decision: the verdict's; lines: a sentence per gate, or the error.
        folder: the run folder; None where an error left none.
        stored: whether timings of an earlier run on this machine were used.
    """

    nodeid: str
    call: int
    decision: str
    lines: tuple[str, ...]
    folder: Path | None
    stored: bool = False


@dataclass(slots=True)
class Session:
    """What this pytest session was asked, and what it judged.

    Attributes:
        taken: folder name -> test that has it, so that no two tests share one.
        errors: the errors that gates and sessions raised: reported as errors, not as failures.
    """

    target: str
    threads: int | None
    out: Path
    own_out: bool
    on_inconclusive: str
    remeasure: bool
    benchmark_json: Path | None
    reference: Path | None
    judged: list[Judged] = field(default_factory=list)
    taken: dict[str, str] = field(default_factory=dict)
    errors: list[BaseException] = field(default_factory=list)
    trouble: str = ""


def shown(path: Path, config: pytest.Config) -> str:
    """A path as a reader finds it: relative to the root folder where it lies in it."""
    root = str(config.rootpath) + os.sep
    return str(path).removeprefix(root)
