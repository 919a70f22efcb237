"""The chain teacher -> naive -> distilled -> exported -> quantized: what each hop cost, and what distillation gained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from edgekd.evidence.evaluation import Evaluation, load_evaluation
from edgekd.evidence.run import Run
from edgekd.gates.tango import tango_interval

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference of mean scores; ``interval`` holds both one-sided 95 % Tango bounds, None if not 0/1 scores."""

    estimate: float
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """One link.

    Attributes:
        mean: mean score, a fraction; n: examples.
        to_teacher: difference to the teacher; None for the teacher itself.
        step: difference to the link it was made from, named ``step_from``; None for the teacher.
    """

    hop: str
    label: str
    mean: float
    n: int
    to_teacher: Difference | None
    step: Difference | None
    step_from: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveControl:
    """Distilled student against the naive ones: same network and schedule, no teacher.

    Attributes:
        seeds: how many naive students; mean, best, worst: of their mean scores.
        gain_over_mean: distilled minus the naive mean; no paired interval, seeds are few.
        gain_over_best: distilled minus the best naive one, paired.
    """

    seeds: int
    mean: float
    best: float
    worst: float
    distilled: float
    gain_over_mean: float
    gain_over_best: Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainTable:
    """All links, and the control where there were naive students."""

    metric: str
    split: str
    rows: tuple[ChainRow, ...]
    naive: NaiveControl | None


def paired_difference(baseline: Evaluation, other: Evaluation) -> Difference | None:
    """``other`` minus ``baseline`` on the same rows; None where they do not hold the same ids in the same order."""
    if baseline.n != other.n or not baseline.n or not np.array_equal(baseline.ids, other.ids):
        return None
    a, b = np.asarray(baseline.scores, np.float64), np.asarray(other.scores, np.float64)
    estimate = float(b.mean() - a.mean())
    if not (np.isin(a, (0, 1)).all() and np.isin(b, (0, 1)).all()):
        return Difference(estimate=estimate, interval=None) if np.isfinite(estimate) else None
    gained, lost = int(((b == 1) & (a == 0)).sum()), int(((b == 0) & (a == 1)).sum())
    return Difference(
        estimate=(gained - lost) / baseline.n,
        interval=tango_interval(gained, lost, baseline.n, confidence=CONFIDENCE),
    )


def chain_table(folder: Path, run: Run) -> ChainTable | None:
    """The chain of a run folder; None where it has none.

    Each link is compared with the one it was made from: a distilled or naive student with the teacher, an exported
    one with the distilled, a quantized one with the exported one before it.

    Raises:
        EvidenceError: an evaluation is missing or damaged.
    """
    if not run.chain:
        return None
    evaluations = [load_evaluation(folder / h.evaluation) for h in run.chain]
    teacher: Evaluation | None = None
    last: dict[str, tuple[str, Evaluation]] = {}
    naive: list[Evaluation] = []
    rows: list[ChainRow] = []
    for hop, evaluation in zip(run.chain, evaluations, strict=True):
        if hop.hop == "teacher":
            teacher = evaluation
        parents = {
            "exported": ("distilled", "teacher"),
            "quantized": ("exported", "distilled", "teacher"),
            "distilled": ("teacher",),
            "naive": ("teacher",),
        }.get(hop.hop, ())
        parent = next((last[p] for p in parents if p in last), None)
        rows.append(
            ChainRow(
                hop=hop.hop,
                label=hop.label,
                mean=evaluation.mean,
                n=evaluation.n,
                to_teacher=None
                if teacher is None or hop.hop == "teacher"
                else paired_difference(teacher, evaluation),
                step=None if parent is None else paired_difference(parent[1], evaluation),
                step_from="" if parent is None else parent[0],
            )
        )
        if hop.hop == "naive":
            naive.append(evaluation)
        else:
            last[hop.hop] = (hop.label, evaluation)
    return ChainTable(
        metric=evaluations[0].metric,
        split=evaluations[0].split,
        rows=tuple(rows),
        naive=_control(naive, last["distilled"][1]) if naive and "distilled" in last else None,
    )


def _control(naive: list[Evaluation], distilled: Evaluation) -> NaiveControl | None:
    best = max(naive, key=lambda e: e.mean)
    gain = paired_difference(best, distilled)
    if gain is None:
        return None
    mean = fmean(e.mean for e in naive)
    return NaiveControl(
        seeds=len(naive),
        mean=mean,
        best=best.mean,
        worst=min(e.mean for e in naive),
        distilled=distilled.mean,
        gain_over_mean=distilled.mean - mean,
        gain_over_best=gain,
    )
