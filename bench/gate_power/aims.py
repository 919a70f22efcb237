"""The targets of METHOD, section 5, and whether the trials so far meet them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gate_power.rates import rate

#: Trials per effect that METHOD, section 5, asks: fewer can only say "so far".
ENOUGH: Mapping[str, int] = {"short": 200, "long": 30}
#: Trials that an injection must have hit; METHOD names no number. None rejected in 50: at most 7.1 % (Wilson).
ENOUGH_HIT = 50
#: Conditions that inject something rare into equal arms.
INJECTIONS = ("burst", "throttle", "steal")
#: Ratio error, median, points; seconds per comparison.
_ERROR_POINTS = 0.3
_WALL_S = 15.0
#: Comparisons that a 95th percentile needs at least.
_ENOUGH_WALLS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One aim: what was asked, what was found.

    Attributes:
        met: None where nothing was measured that could tell.
        enough: whether there were as many trials as were promised.
    """

    name: str
    asked: str
    found: str
    met: bool | None
    enough: bool

    @property
    def verdict(self) -> str:
        """For the page."""
        if self.met is None:
            return "not measured"
        if not self.enough:
            return "so far met" if self.met else "so far missed"
        return "met" if self.met else "**missed**"


def targets(
    figures: Mapping[str, Mapping[str, Any]], measured: Mapping[str, Any], calls: str, condition: str
) -> list[Target]:
    """The aims of one condition.

    Args:
        figures: of :func:`gate_power.figures.own_figures`; measured: of ``measurement_figures``.
    """
    if condition in INJECTIONS:
        return [_never_rejects(figures)] if "null" in figures else []
    found = []
    for effect in ("null", "4"):
        if effect in figures:
            found += (_of_nulls if effect == "null" else _of_four)(figures[effect], ENOUGH[calls])
            found += _error_of(figures[effect], "null" if effect == "null" else "+4 %", ENOUGH[calls])
    if calls == "short":
        found.append(_wall(measured))
    return found


def _never_rejects(figures: Mapping[str, Mapping[str, Any]]) -> Target:
    hit = figures["null"]["hit"]
    n, wrong = hit["trials"], hit["rejected"]
    return Target(
        name="equal arms rejected, of the trials that were hit", asked="none",
        found=f"{wrong} in {n} hit, of {figures['null']['trials']} trials (at most {rate(wrong, n).high:.1%} at 95 %)",
        met=wrong == 0 if n else None, enough=n >= ENOUGH_HIT or wrong > 0,
    )  # fmt: skip


def _of_nulls(figures: Mapping[str, Any], enough: int) -> list[Target]:
    n, decisions = figures["trials"], figures["decisions"]
    wrong = decisions["reject"]["hits"]
    undecided = decisions["inconclusive"]["hits"] + decisions["error"]["hits"]
    return [
        Target(
            name="false rejections", asked="at most 1 in 200", found=f"{wrong} in {n}",
            met=wrong <= max(1, n // 200), enough=n >= enough,
        ),
        Target(
            name="inconclusive nulls", asked="at most 5 %", found=f"{undecided} in {n} ({undecided / n:.1%})",
            met=undecided <= 0.05 * n, enough=n >= enough,
        ),
    ]  # fmt: skip


def _of_four(figures: Mapping[str, Any], enough: int) -> list[Target]:
    n, hits = figures["trials"], figures["decisions"]["reject"]["hits"]
    return [
        Target(
            name="found at +4 %", asked="at least 99 %", found=f"{hits} in {n} ({hits / n:.1%})",
            met=hits >= 0.99 * n, enough=n >= enough,
        )
    ]  # fmt: skip


def _error_of(figures: Mapping[str, Any], words: str, enough: int) -> list[Target]:
    error = figures["ratio_error_median"]
    if error is None:
        return []
    return [
        Target(
            name=f"median absolute ratio error, {words}", asked=f"at most {_ERROR_POINTS:g} points",
            found=f"{error:.2f} points", met=error <= _ERROR_POINTS, enough=figures["trials"] >= enough,
        )
    ]  # fmt: skip


def _wall(measured: Mapping[str, Any]) -> Target:
    """By measurements of one candidate only: one of several is no comparison's time."""
    name, asked = "wall time of a comparison, 95th percentile", f"at most {_WALL_S:g} s"
    alone = measured["by_candidates"].get(1)
    if alone is None:
        return Target(
            name=name, asked=asked, found="every measurement had several candidates", met=None, enough=False
        )
    n, p95 = alone["measurements"], alone["wall_s_p95"]
    return Target(
        name=name, asked=asked, found=f"{p95:.1f} s (median {alone['wall_s_median']:.1f} s, {n} comparisons)",
        met=p95 <= _WALL_S, enough=n >= _ENOUGH_WALLS,
    )  # fmt: skip
