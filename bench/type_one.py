"""How often the accuracy gates are wrong at the limit, and how often they pass an equal student.

    python bench/type_one.py --out docs/results/accuracy_type_one.md

A student that is truly at its limit must pass in at most 5 % of test sets. For right-or-wrong answers the chance is
summed over every possible table of counts; for the bootstrap and for clusters it is simulated, with Wilson's 95 %
interval. Needs scipy.
"""

from __future__ import annotations

import argparse
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from gate_power.rates import wilson
from scipy.stats import binom
from type_one_cases import SCENARIOS, Scenario

import edgekd
from edgekd.gates.accuracy import planned_examples
from edgekd.statistics.bootstrap import contrast_bounds
from edgekd.statistics.score_ratio import ratio_score
from edgekd.statistics.tango import normal_quantile, tango_score

SIZES = (500, 2000, 10_000)
FLIPS = (0.01, 0.02, 0.05, 0.10)
MARGINS = (0.005, 0.01, 0.03)
#: The relative rule's share, and the baselines' accuracy.
SHARE, ACCURACIES = 0.99, (0.7, 0.9)
#: What is left out of a sum over counts has a chance under 1e-8.
_SPREAD = 6.0
_Z = normal_quantile(0.95)


def _within(n: int, p: float) -> range:
    half = _SPREAD * math.sqrt(n * p * (1 - p)) + 10
    return range(max(0, math.floor(n * p - half)), min(n, math.ceil(n * p + half)) + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chance:
    """Chances that a rule passes or rejects, and that the rule of the point estimate passes."""

    passes: float
    rejects: float
    naive: float


def difference_chance(n: int, flips: float, difference: float, margin: float) -> Chance | None:
    """Exact, of Tango's gate; None where a flip rate cannot hold the difference.

    Args:
        flips: P(one of the two is right, and the other wrong).
        difference: true, candidate minus baseline; margin: of the gate.
    """
    if flips + 1e-12 < abs(difference):
        return None
    p_lost = min(1.0, max(0.0, (flips - difference) / 2 / flips))
    passes = rejects = naive = 0.0
    for m in _within(n, flips):
        # The score falls with the losses: it passes up to so many, and rejects from so many on.
        most = _last(m, lambda k, m=m: tango_score(m - k, k, n, -margin) > _Z)  # type: ignore[misc]
        least = _last(m, lambda k, m=m: tango_score(m - k, k, n, -margin) >= -_Z) + 1  # type: ignore[misc]
        level = math.floor((m + n * margin) / 2 + 1e-9)  # losses - gains <= n margin
        chance = binom.pmf(m, n, flips)
        passes += chance * binom.cdf(most, m, p_lost)
        rejects += chance * binom.sf(least - 1, m, p_lost)
        naive += chance * binom.cdf(level, m, p_lost)
    return Chance(passes=float(passes), rejects=float(rejects), naive=float(naive))


def _last(m: int, holds: Callable[[int], bool]) -> int:
    """The greatest k <= m for which something holds that holds up to some k; -1: for none."""
    low, high = -1, m
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if holds(middle) else (low, middle - 1)
    return low


def ratio_chance(
    n: int, flips: float, accuracy: float, difference: float, share: float = SHARE
) -> Chance | None:
    """Exact, of the relative rule; None where the flip rate cannot hold the difference.

    Args:
        accuracy: of the baseline; difference: true, candidate minus baseline.
    """
    if flips + 1e-12 < abs(difference):
        return None
    p_lost, p_gained = (flips - difference) / 2, (flips + difference) / 2
    p_both = (accuracy - p_lost) / (1 - p_lost - p_gained)
    passes = rejects = naive = 0.0
    for lost in _within(n, p_lost):
        chance = binom.pmf(lost, n, p_lost)
        if chance < 1e-12:
            continue
        starts: dict[float, int] = {}
        for gained in _within(n - lost, p_gained / (1 - p_lost)):
            own = chance * binom.pmf(gained, n - lost, p_gained / (1 - p_lost))
            if own < 1e-12:
                continue
            rest = n - lost - gained
            for z in (_Z, -_Z):
                # More pairs right in both raise the score: it passes from so many on.
                def beyond(both: int, gained: int = gained, lost: int = lost, z: float = z) -> bool:
                    return ratio_score(both, gained, lost, n, share) > z

                starts[z] = _bracket(starts.get(z, rest // 2), rest, beyond)[1]
            # gained + both - share (lost + both) >= 0
            level = math.ceil((share * lost - gained) / (1 - share) - 1e-9)
            passes += own * binom.sf(starts[_Z] - 1, rest, p_both)
            rejects += own * binom.cdf(starts[-_Z] - 1, rest, p_both)
            naive += own * binom.sf(level - 1, rest, p_both)
    return Chance(passes=float(passes), rejects=float(rejects), naive=float(naive))


def _bracket(near: int, top: int, holds: Callable[[int], bool]) -> tuple[int, int]:
    """(k - 1, k) for the least k in 0 .. top + 1 from which on something holds, looked for around ``near``."""
    low = high = min(max(near, 0), top)
    step = 8
    if holds(high):
        while low >= 0 and holds(low):
            high, low, step = low, low - step, 2 * step
        low = max(low, -1)
    else:
        while high <= top and not holds(high):
            low, high, step = high, high + step, 2 * step
        high = min(high, top + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return low, high


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """Of ``trials`` at the limit: passes, rejections, passes of the point estimate, no answer; passes ``margin`` above."""

    trials: int
    passes: int
    rejects: int
    naive: int
    none: int
    powered: int


def simulate(scenario: Scenario, trials: int, *, draws: int | None = None, seed: int = 0) -> Counted:
    """The bootstrap gate with its limit at the truth, and ``margin`` below it."""
    counts = [0] * 5
    for trial in range(trials):
        a, b, clusters = scenario.draw(np.random.RandomState(seed + trial), scenario.n)
        bounds = contrast_bounds(
            a, b, n=scenario.n, aggregate=scenario.aggregate, error=scenario.error, draws=draws, seed=trial,
            clusters=None if scenario.ignores else clusters,
        )  # fmt: skip
        counts[2] += bounds.estimate >= scenario.truth
        if bounds.lower is None or bounds.upper is None:
            counts[3] += 1
            continue
        counts[0] += bounds.lower > scenario.truth
        counts[1] += bounds.upper < scenario.truth
        counts[4] += bounds.lower > scenario.truth - scenario.margin
    return Counted(
        trials=trials, passes=counts[0], rejects=counts[1], naive=counts[2], none=counts[3], powered=counts[4]
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    marks = ["---"] + ["---:"] * (len(header) - 1)
    return ["| " + " | ".join(row) + " |" for row in (header, marks, *rows)]


def _share(hits: int, n: int) -> str:
    low, high = wilson(hits, n)
    return f"{100 * hits / n:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def difference_lines() -> list[str]:
    """The tables of Tango's gate."""
    lines = []
    for margin in MARGINS:
        rows = []
        for n in SIZES:
            for flips in FLIPS:
                at = difference_chance(n, flips, -margin, margin)
                equal = difference_chance(n, flips, 0.0, margin)
                cells = (
                    ["–"] * 3
                    if at is None
                    else [f"{100 * at.passes:.2f} %", f"{100 * at.rejects:.2f} %", f"{100 * at.naive:.0f} %"]
                )
                power = "–" if equal is None else f"{100 * equal.passes:.1f} %"
                rows.append([f"{n:,}", f"{flips:.0%}", *cells, power, f"{planned_examples(flips, margin):,}"])
        lines += [
            f"### Margin {100 * margin:g} points",
            "",
            *_table(
                ("n", "flips", "passes at the limit", "rejects at the limit", "point estimate passes", "passes an equal student", "n for 80 %"),
                rows,
            ),
            "",
        ]  # fmt: skip
    return lines


def ratio_lines(sizes: Sequence[int]) -> list[str]:
    """The table of the relative rule."""
    rows = []
    for accuracy in ACCURACIES:
        for n in sizes:
            for flips in FLIPS:
                at = ratio_chance(n, flips, accuracy, -(1 - SHARE) * accuracy)
                equal = ratio_chance(n, flips, accuracy, 0.0)
                if at is None or equal is None:
                    continue
                rows.append(
                    [f"{accuracy:.0%}", f"{n:,}", f"{flips:.0%}", f"{100 * at.passes:.2f} %", f"{100 * at.rejects:.2f} %",
                     f"{100 * at.naive:.0f} %", f"{100 * equal.passes:.1f} %"]
                )  # fmt: skip
    return _table(
        ("baseline right", "n", "flips", "passes at the limit", "rejects at the limit", "point estimate passes", "passes an equal student"),
        rows,
    )  # fmt: skip


def bootstrap_lines(trials: int) -> list[str]:
    """The table of the bootstrap."""
    rows = []
    for scenario in SCENARIOS:
        found = simulate(scenario, trials)
        rows.append(
            [scenario.name, f"{scenario.n:,}", _share(found.passes, trials), _share(found.rejects, trials),
             f"{100 * found.naive / trials:.0f} %", str(found.none), f"{100 * found.powered / trials:.0f} % at {scenario.margin:g}"]
        )  # fmt: skip
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    return _table(
        ("metric", "n", "passes at the limit", "rejects at the limit", "point estimate passes", "no bounds", "passes above the limit by"),
        rows,
    )  # fmt: skip


def page(trials: int, sizes: Sequence[int] = SIZES) -> str:
    """The whole Markdown page."""
    import scipy

    start = time.perf_counter()
    lines = [
        "# How often the accuracy gates are wrong",
        "",
        "Made by `python bench/type_one.py --out docs/results/accuracy_type_one.md` and not edited by hand.",
        "",
        "A student that is truly at its limit should pass, and be rejected, in at most 5 % of test sets (each one-sided). "
        "*Flips* are the share of examples on which just one of the two models is right. The common rule, that the "
        "point estimate has dropped by at most the margin, stands beside it.",
        "",
        "## Right or wrong: Tango's score test",
        "",
        "Exact: summed over every table of counts. – where a flip rate below the margin cannot hold such a student.",
        "",
        *difference_lines(),
        f"## A share of the baseline: at least {100 * SHARE:g} % of its right answers",
        "",
        "Exact, by the score test of a ratio.",
        "",
        *ratio_lines(sizes),
        "",
        "## Every other metric: paired BCa bootstrap",
        "",
        f"{trials:,} simulated test sets each, 2,000 resamples; brackets are Wilson's 95 % intervals. The limit is set at "
        "the truth, and for the last column below it.",
        "",
        *bootstrap_lines(trials),
        "",
        f"edgekd {edgekd.__version__}, numpy {np.__version__}, scipy {scipy.__version__}, Python "
        f"{platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} CPUs; "
        f"{(time.perf_counter() - start) / 60:.0f} minutes.",
        "",
    ]
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the page there; without it to standard output")
    parser.add_argument(
        "--trials", type=int, default=2000, help="simulated test sets per row of the bootstrap"
    )
    args = parser.parse_args(argv)
    made = page(args.trials)
    if args.out is None:
        print(made)
    else:
        args.out.write_text(made, encoding="utf-8")


if __name__ == "__main__":
    main()
