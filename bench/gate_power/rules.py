"""What each rule says of each trial: rejected, passed, or undecided. Works on stored trials only."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pytest_benchmark.utils import parse_compare_fail
from scipy import stats

from edgekd.evidence.measurement import BASELINE, CANDIDATE
from edgekd.gates.looks import LOOKS
from edgekd.statistics.student_t import t_quantile

Trial = Mapping[str, Any]
#: What a rule makes of one trial: True rejects, False does not; None: the rule was not run on it.
Answer = bool | None
Rule = Callable[[Sequence[Trial], int], Answer]

#: Significance of the peers: google/benchmark's U test (tools/gbench/report.py, UTEST_ALPHA default), two-sided.
U_ALPHA = 0.05
_NAIVE_ALPHA = 0.05
EDGEKD = "EdgeKD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Named:
    """A rule with its name; ``plotted`` puts it into the plot."""

    name: str
    rule: Rule
    plotted: bool = True


def _edgekd(trials: Sequence[Trial], i: int) -> Answer:
    return bool(trials[i]["edgekd"]["decision"] == "reject")


def _naive(bound: float) -> Rule:
    """Block minima of EdgeKD's own first restarts, all rounds pooled as if they were independent."""

    def rule(trials: Sequence[Trial], i: int) -> Answer:
        minima = trials[i]["edgekd"].get("block_minima_ns")
        if not minima or len(minima[BASELINE]) < LOOKS[0]:
            return None
        a, b = (np.concatenate(minima[arm][: LOOKS[0]]) for arm in (BASELINE, CANDIDATE))
        logs = np.log(b / a)
        half = (
            t_quantile(1 - _NAIVE_ALPHA, len(logs) - 1) * float(np.std(logs, ddof=1)) / math.sqrt(len(logs))
        )
        return float(logs.mean()) - half > math.log(bound)

    return rule


def _with_peers(trials: Sequence[Trial], i: int) -> Mapping[str, Any] | None:
    found: Mapping[str, Any] | None = trials[i].get("peers")
    return found


def group_of(trial: Trial) -> int:
    """Trials of one measurement have one group."""
    return int(trial.get("group", trial["index"]))


def _earlier_peers(trials: Sequence[Trial], i: int) -> list[Mapping[str, Any]]:
    """What the peers measured in the trials before; those of the same measurement were made in the same minute."""
    return [t["peers"] for t in trials[:i] if "peers" in t and group_of(t) != group_of(trials[i])]


def _pytest_benchmark(check: str, against: str) -> Rule:
    """pytest-benchmark's own check of this trial's copy against a run of the base model.

    Args:
        check: as ``--benchmark-compare-fail`` takes it.
        against: ``previous``: of the measurement before that had it; ``stored``: of the study's first; ``same``: of
            this trial.
    """
    compare: Any = parse_compare_fail(check)  # type: ignore[no-untyped-call]

    def rule(trials: Sequence[Trial], i: int) -> Answer:
        own = _with_peers(trials, i)
        if own is None:
            return None
        if against == "same":
            source: Mapping[str, Any] | None = own
        else:
            earlier = _earlier_peers(trials, i)
            source = None if not earlier else earlier[-1] if against == "previous" else earlier[0]
        if source is None:
            return None
        current, compared = own["pytest_benchmark"]["student"], source["pytest_benchmark"]["base"]
        return bool(compare.fails(current, compared))

    return rule


def _mann_whitney(trials: Sequence[Trial], i: int) -> Answer:
    """google/benchmark's compare.py: a two-sided U test over repetitions; here it fails when the copy is the slower."""
    own = _with_peers(trials, i)
    if own is None:
        return None
    base, student = own["repetitions_ns"]["base"], own["repetitions_ns"]["student"]
    p = float(stats.mannwhitneyu(base, student, alternative="two-sided").pvalue)
    return p < U_ALPHA and float(np.median(student)) > float(np.median(base))


def rules(limit: float) -> tuple[Named, ...]:
    """Every rule of the table, EdgeKD first."""
    found = [
        Named(name=EDGEKD, rule=_edgekd),
        Named(name="interleaved block minima, rounds pooled: any slow-down", rule=_naive(1.0)),
        Named(
            name=f"interleaved block minima, rounds pooled: beyond {100 * (limit - 1):+g} %",
            rule=_naive(limit),
            plotted=False,
        ),
    ]
    for field in ("min", "median", "mean"):
        for against, words in (
            ("previous", "previous session"), ("stored", "one stored baseline"), ("same", "session beside it"),
        ):  # fmt: skip
            found.append(
                Named(
                    name=f"pytest-benchmark {field}:5% against the {words}".replace("the one", "one"),
                    rule=_pytest_benchmark(f"{field}:5%", against), plotted=against != "same",
                )
            )  # fmt: skip
    for against, words in (("previous", "the previous session"), ("stored", "one stored baseline")):
        found.append(
            Named(
                name=f"pytest-benchmark min:2% against {words}",
                rule=_pytest_benchmark("min:2%", against),
                plotted=False,
            )
        )
    found.append(Named(name="Mann-Whitney over repetitions in one process", rule=_mann_whitney))
    return tuple(found)
