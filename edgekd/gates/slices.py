"""The slice gates: is the student non-inferior on every part of the data that matters?

METHOD, section 2. Every slice that passes does so at 5 % without correction, for all of them must (an
intersection-union test); a slice is rejected under Holm's correction over the slices (Holm 1979; Bonferroni where
the metric is resampled), so that a hundred slices do not reject by chance. A slice with under 80 % power at the margin
is reported and not gated.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.evidence.evaluation import Evaluation, take_rows
from edgekd.gates.accuracy import (
    CONFIDENCE,
    NAMES,
    POWER,
    AccuracyLimit,
    amount,
    compare,
    is_proportion,
    planned_examples,
    unstated,
)
from edgekd.gates.comparable import incomparable, unvaried
from edgekd.gates.verdict import Decision, Gate
from edgekd.statistics.binomial import binomial_cdf
from edgekd.statistics.codes import number_names
from edgekd.statistics.holm import holm_levels, holm_rejected, normal_tail, simultaneous_confidence
from edgekd.statistics.tango import normal_quantile, tango_interval, tango_score

#: More values than that are ids, not slices.
MOST_VALUES = 1000
#: The labels, as a slice: no column is needed for it.
CLASS = "class"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """One value of one slice, with what its bounds say.

    Attributes:
        interval: one-sided 95 % lower bound, and the upper bound at ``level``, which decides on rejection; infinite
            where there is none.
        level: one-sided confidence of the upper bound: Holm's step for this slice.
        powered: whether its examples have 80 % power at the margin.
        alarming: rejected by Holm over every slice, though too small to be gated.
        needed: examples that would.
    """

    name: str
    value: str
    n: int
    estimate: float
    interval: tuple[float, float] | None
    passed: bool
    rejected: bool
    powered: bool
    needed: int | None
    level: float
    alarming: bool
    method: str


def judge_slices(
    reference: Evaluation,
    candidate: Evaluation,
    *,
    names: Sequence[str] = (),
    max_drop: float = 0.03,
    stated: bool = True,
    against: str = "teacher",
    target: str = "",
) -> list[Gate]:
    """One gate per value of every slice.

    Args:
        reference, candidate: evaluations of the same rows.
        names: which slices; empty takes all that the data has. ``class`` is the label where no column is called so.
        max_drop: the margin within each slice, in the metric's unit.
        stated, against, target: as in :func:`edgekd.gates.accuracy.judge_accuracy`.

    Returns:
        ``slice:<name>`` gates; a slice that is only reported is ``not_run``. Where none of a slice's values can be
        gated one more gate is *inconclusive*: what was asked was not judged.
    """
    target = target or candidate.target

    def gate(name: str, decision: Decision, reason: str, **more: Any) -> Gate:
        return Gate(
            gate=f"slice:{name}",
            decision=decision,
            metric=candidate.metric,
            against=against,
            artifact=candidate.artifact,
            target=target,
            limit=-max_drop,
            unit=candidate.unit,
            split=candidate.split,
            reason=reason,
            **more,
        )

    asked = tuple(names) or tuple(candidate.slices)
    trouble = incomparable(reference, candidate, against)
    columns: dict[str, Array] = {}
    if not trouble and not stated:
        trouble = unstated(candidate)
    if not trouble and candidate.unit == "fraction" and max_drop >= 1:
        trouble = f"a drop of {max_drop:g} allows anything: {candidate.metric} is a fraction; write 0.03 for three points"
    if not trouble:
        columns, trouble = _columns(reference, candidate, asked)
    if trouble:
        return [gate(n, "error", trouble, error_kind="input", n=candidate.n) for n in asked or ("any",)]
    if trouble := unvaried(reference, candidate):
        return [gate(n, "inconclusive", trouble, n=candidate.n) for n in columns]
    parts = (
        _counted(reference, candidate, columns, max_drop)
        if is_proportion(reference, candidate)
        else _resampled(reference, candidate, columns, max_drop)
    )
    gates = []
    for part in parts:
        decision, reason = _answer(part, max_drop, candidate, against)
        gates.append(
            gate(
                part.name,
                decision,
                reason,
                slice=part.value,
                estimate=part.estimate,
                interval=part.interval,
                confidence=CONFIDENCE,
                n=part.n,
                method=part.method,
                detail={
                    "powered": part.powered,
                    "n_for_power": part.needed,
                    "upper_confidence": part.level,
                    "slices": len(parts),
                    **({"error": True} if candidate.error else {}),
                },
            )
        )
    for name in columns:
        own = [p for p in parts if p.name == name]
        if not any(p.powered for p in own):
            gates.append(
                gate(
                    name,
                    "inconclusive",
                    f"none of the {len(own)} values of slice '{name}' has the examples to be judged at a margin of "
                    f"{amount(max_drop, candidate.unit)}: give more data, or a wider margin",
                    n=candidate.n,
                )
            )
    return gates


def _columns(
    reference: Evaluation, candidate: Evaluation, asked: Sequence[str]
) -> tuple[dict[str, Array], str]:
    """Slice name -> values, or why there are none."""
    columns: dict[str, Array] = {}
    have = ", ".join(candidate.slices) or "none"
    if not asked:
        return {}, "slices were asked for and the data has none; add columns slice_<name>"
    for name in asked:
        if name in candidate.slices:
            values = np.asarray(candidate.slices[name])
            theirs = reference.slices.get(name)
            if theirs is not None and not np.array_equal(values, theirs):
                return {}, f"the evaluations disagree on slice '{name}'; evaluate both on the same file"
        elif name == CLASS and np.asarray(candidate.labels).ndim == 1:
            values = np.asarray(candidate.labels)
        else:
            return {}, f"the data has no slice '{name}' (it has {have}); add a column slice_{name}"
        count = len(number_names(values)[0])
        if count > MOST_VALUES:
            return {}, f"slice '{name}' has {count:,} values, at most {MOST_VALUES:,} make slices; group them"
        columns[name] = values.astype(np.str_)
    return columns, ""


def _counted(
    reference: Evaluation, candidate: Evaluation, columns: dict[str, Array], max_drop: float
) -> list[_Part]:
    """Slices of right-or-wrong scores, by Tango's test on counts."""
    right, also = candidate.scores == 1, reference.scores == 1
    flips = (right & ~also).astype(np.int8) - (~right & also).astype(np.int8)
    flipped = int((flips != 0).sum())
    rows: list[tuple[str, str, int, int, int]] = []
    for name, values in columns.items():
        found, code = number_names(values)
        counts = [np.bincount(code[flips == way], minlength=len(found)) for way in (1, -1)]
        sizes = np.bincount(code, minlength=len(found))
        rows += [
            (name, str(v), int(k), int(g), int(m)) for v, k, g, m in zip(found, sizes, *counts, strict=True)
        ]
    # Power is a matter of planning: the flip rate of the rest of the data, for the slice's own rises with its damage.
    rates = [
        (flipped - g - m) / (len(flips) - n) if n < len(flips) else (g + m) / n for _, _, n, g, m in rows
    ]
    needed = [planned_examples(rate, max_drop) for rate in rates]
    powered = [n >= least for (_, _, n, _, _), least in zip(rows, needed, strict=True)]
    scores = [tango_score(g, m, n, -max_drop) for _, _, n, g, m in rows]
    p_values = [
        # A score test is not for a handful of examples: there, how likely so many losses are at the margin.
        normal_tail(-z) if gated else _tail(m, n, max(max_drop, (rate + max_drop) / 2))
        for (_, _, n, _, m), z, gated, rate in zip(rows, scores, powered, rates, strict=True)
    ]
    levels = iter(
        holm_levels([p for p, gated in zip(p_values, powered, strict=True) if gated], alpha=1 - CONFIDENCE)
    )
    every = holm_rejected(p_values, alpha=1 - CONFIDENCE)
    parts = []
    for row, z, gated, least, beyond in zip(rows, scores, powered, needed, every, strict=True):
        name, value, n, g, m = row
        level = next(levels) if gated else simultaneous_confidence(CONFIDENCE, len(rows))
        lower = tango_interval(g, m, n, confidence=CONFIDENCE)[0]
        upper = tango_interval(g, m, n, confidence=level)[1]
        parts.append(
            _Part(
                name=name,
                value=value,
                n=n,
                estimate=(g - m) / n,
                interval=(lower, upper),
                passed=z > normal_quantile(CONFIDENCE),
                rejected=upper < -max_drop,
                powered=gated,
                needed=least,
                level=level,
                alarming=beyond and not gated,
                method="tango-holm",
            )
        )
    return parts


def _tail(hits: int, n: int, rate: float) -> float:
    """P(X >= hits) of n trials."""
    return 1.0 if hits == 0 else 1.0 - binomial_cdf(hits - 1, n, min(rate, 1 - 1e-12))


def _resampled(
    reference: Evaluation, candidate: Evaluation, columns: dict[str, Array], max_drop: float
) -> list[_Part]:
    """Slices of any other metric: bootstrap bounds, the upper ones at Bonferroni's level."""
    limit = AccuracyLimit(max_drop=max_drop)
    chosen = [
        (name, str(value), np.flatnonzero(code == k))
        for name, (found, code) in ((n, number_names(v)) for n, v in columns.items())
        for k, value in enumerate(found)
    ]
    together = simultaneous_confidence(CONFIDENCE, len(chosen))
    z = normal_quantile(CONFIDENCE) + normal_quantile(POWER)
    parts = []
    for name, value, rows in chosen:
        mine, theirs = take_rows(candidate, rows), take_rows(reference, rows)
        found = compare(theirs, mine, limit)
        interval, powered, needed = None, False, None
        if found.interval is not None:
            wide = compare(theirs, mine, limit, confidence=together)
            # Without a bound at that level nothing is rejected.
            upper = math.inf if wide.interval is None else wide.interval[1]
            interval = (found.interval[0], upper)
            error = (found.interval[1] - found.interval[0]) / (2 * normal_quantile(CONFIDENCE))
            powered = z * error <= max_drop
            needed = int(np.ceil(len(rows) * (z * error / max_drop) ** 2))
        parts.append(
            _Part(
                name=name,
                value=value,
                n=len(rows),
                estimate=found.estimate,
                interval=interval,
                passed=interval is not None and interval[0] > -max_drop,
                rejected=powered and interval is not None and interval[1] < -max_drop,
                powered=powered,
                needed=needed,
                level=together,
                alarming=False,
                method=f"{found.method}-bonferroni",
            )
        )
    return parts


def _answer(part: _Part, max_drop: float, candidate: Evaluation, against: str) -> tuple[Decision, str]:
    name = NAMES.get(against, f"the {against}")
    unit = candidate.unit
    below, above = ("worse than", "better than") if candidate.error else ("below", "above")
    side = below if part.estimate < 0 else above
    where = f"{part.name} {_short(part.value)}: {amount(part.estimate, unit)} {side} {name}"
    on = f"on {part.n:,} examples" if part.n != 1 else "on 1 example"
    if not part.powered:
        more = "" if part.needed is None else f", about {part.needed:,} would do"
        small = f"under 80 % power at {amount(max_drop, unit)}{more}"
        if part.alarming:
            return (
                "inconclusive",
                f"{where} {on}: too few to be gated ({small}), yet more than chance: give more of them",
            )
        return "not_run", f"{where} {on}: reported, not gated ({small})"
    if part.passed and part.interval is not None:
        return "pass", f"{where}, at most {amount(min(part.interval[0], 0.0), unit)} {below.split()[0]} {on}"
    if part.rejected and part.interval is not None:
        return "reject", f"{where} {on}, beyond {amount(max_drop, unit)} also after correction for all slices"
    lower = min(part.interval[0], 0.0) if part.interval else 0.0
    return (
        "inconclusive",
        f"{where}, at most {amount(lower, unit)} {below.split()[0]} {on}: more examples would decide",
    )


def _short(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:57]}…"
