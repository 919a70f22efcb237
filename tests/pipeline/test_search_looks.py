"""What part of the selection rows says: never wrong more often than it may be."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.gates.verdict import Gate
from edgekd.pipeline.search_looks import early_answer, is_assured
from edgekd.statistics.tango import normal_quantile, tango_interval, tango_score


def _gate(gained: int, lost: int, n: int, margin: float = 0.01) -> Gate:
    z = tango_score(gained, lost, n, -margin)
    critical = normal_quantile(0.95)
    return Gate(
        gate="accuracy",
        metric="top1",
        against="float32",
        artifact="",
        target="",
        decision="pass" if z > critical else "reject" if z < -critical else "inconclusive",
        estimate=(gained - lost) / n,
        interval=tango_interval(gained, lost, n, confidence=0.95),
        limit=-margin,
        n=n,
    )


def test_the_clear_cases_need_no_more_rows() -> None:
    assert early_answer(_gate(5, 60, 500), 2500) == "clearly below float32"
    assert early_answer(_gate(0, 0, 500), 2500) == "assured"
    assert early_answer(_gate(6, 18, 500), 2500) == "not to be assured"
    assert early_answer(_gate(10, 10, 500), 2500) is None


def test_without_bounds_all_rows_are_asked() -> None:
    unknown = Gate(
        gate="accuracy", metric="top1", against="float32", artifact="", target="", decision="inconclusive"
    )
    assert early_answer(unknown, 2500) is None
    assert not is_assured(unknown)


@pytest.mark.parametrize("flips", [0.01, 0.03, 0.08])
def test_looks_err_less_often_than_a_test(flips: float) -> None:
    """At the margin a mixture is assured in at most 5 of 100 searches, all looks together."""
    wrong = _rate(flips, drop=0.01, wanted="assured")
    assert wrong <= 0.05


@pytest.mark.parametrize("flips", [0.005, 0.01, 0.02])
def test_a_good_mixture_is_seldom_given_up(flips: float) -> None:
    """What is equal to float32 and would be assured on all rows loses at most a few of 100 chances by looking early."""
    assert _rate(flips, drop=0.0, wanted="all") - _rate(flips, drop=0.0, wanted="assured") <= 0.04


def _rate(flips: float, *, drop: float, wanted: str, rows: int = 2500, draws: int = 1500) -> float:
    rng = np.random.default_rng(3)
    lose = (flips + drop) / 2
    found = 0
    for _ in range(draws):
        kinds = rng.choice(3, rows, p=[flips - lose, lose, 1 - flips])
        answer = None
        for n in () if wanted == "all" else (500, 1000):
            answer = early_answer(_gate(int((kinds[:n] == 0).sum()), int((kinds[:n] == 1).sum()), n), rows)
            if answer:
                break
        if answer is None:
            answer = (
                "assured" if is_assured(_gate(int((kinds == 0).sum()), int((kinds == 1).sum()), rows)) else ""
            )
        found += answer == "assured"
    return found / draws
