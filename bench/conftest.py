"""One table at the end: every figure beside its target. Speed is reported, never asserted."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A measured value; ``below`` is its target, or None where it has none."""

    name: str
    value: float
    unit: str
    below: float | None
    note: str

    def row(self) -> tuple[str, str, str, str, str]:
        if self.below is None:
            return self.name, f"{self.value:.3g} {self.unit}", "", "", self.note
        met = "met" if self.value < self.below else "MISSED"
        return self.name, f"{self.value:.3g} {self.unit}", f"< {self.below:g} {self.unit}", met, self.note


Report = Callable[..., None]
_FIGURES = pytest.StashKey[list[Figure]]()


@pytest.fixture
def report_figure(request: pytest.FixtureRequest) -> Report:
    """Put a figure into the table: ``report_figure(name, value, unit, below=None, note="")``."""
    figures = request.config.stash.setdefault(_FIGURES, [])

    def report(name: str, value: float, unit: str, *, below: float | None = None, note: str = "") -> None:
        figures.append(Figure(name=name, value=value, unit=unit, below=below, note=note))

    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = [f.row() for f in config.stash.get(_FIGURES, [])]
    if not rows:
        return
    rows.insert(0, ("figure", "value", "target", "", ""))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    terminalreporter.section("figures and targets")
    for row in rows:
        terminalreporter.line(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    load, cpus = os.getloadavg()[0], os.cpu_count() or 1
    terminalreporter.line("")
    terminalreporter.line(f"load average {load:.1f} on {cpus} CPUs, these benchmarks included")
    if load > cpus:
        terminalreporter.line("the machine was busy: trust ratios, best-of-blocks and CPU times, not seconds")
