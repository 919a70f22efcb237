"""The chain teacher -> naive -> distilled -> exported -> quantized -> as run: what each hop cost, with bounds."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import numpy as np

from edgekd.evidence.evaluation import Evaluation, load_evaluation
from edgekd.evidence.run import Hop, Run
from edgekd.gates.accuracy import is_proportion
from edgekd.statistics.bca import Bounds
from edgekd.statistics.bootstrap import bca_bounds
from edgekd.statistics.tango import tango_interval

CONFIDENCE = 0.95

TEACHER, NAIVE, EXPORTED, AS_RUN = "teacher", "naive", "exported", "as_run"
#: In order; each is made from the nearest one before it that the run has.
_MADE = (TEACHER, "distilled", EXPORTED, "quantized")
_STAGES = ("distillation", "export", "quantization")


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """A paired difference of the metric, negative where the second one is worse (of an error metric: greater).

    Attributes:
        interval: both one-sided 95 % bounds: Tango's for right-or-wrong scores, else the paired BCa bootstrap's;
            None where there are none.
        unit: as the metric's.
    """

    estimate: float
    interval: tuple[float, float] | None
    unit: str = "fraction"

    @property
    def is_loss(self) -> bool:
        """Told from zero, downwards."""
        return self.interval is not None and self.interval[1] < 0

    @property
    def is_gain(self) -> bool:
        """Told from zero, upwards."""
        return self.interval is not None and self.interval[0] > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One hop with its evaluation, and the index of the link that it was made from; None for the first."""

    hop: str
    label: str
    evaluation: Evaluation
    parent: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainRow:
    """One link.

    Attributes:
        mean: the metric's value; n: examples.
        to_teacher: difference to the teacher; None for the teacher itself.
        step: difference to the link it was made from, named ``step_from``; None for the teacher.
        parent: index of that link among the rows.
        what: what happened on this hop: ``distillation``, ``int8 quantization``, ``the runtime on cpu:onnxruntime``.
        target: where it was evaluated.
    """

    hop: str
    label: str
    mean: float
    n: int
    to_teacher: Difference | None
    step: Difference | None
    step_from: str
    parent: int | None = None
    what: str = ""
    target: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NaiveControl:
    """Distilled student against the naive ones: same network and schedule, no teacher.

    Attributes:
        seeds: how many naive students; mean, best, worst: of their metric values.
        gain_over_mean: distilled minus the naive mean (of an error metric: the reverse); no paired interval, seeds
            are few.
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
    """All links, and the control where there were naive students.

    Attributes:
        unit, error: of the metric; error: smaller is better.
        ends: indices of the rows that ship: one per target; of older runs the selected artifact.
    """

    metric: str
    split: str
    rows: tuple[ChainRow, ...]
    naive: NaiveControl | None
    unit: str = "fraction"
    error: bool = False
    ends: tuple[int, ...] = ()

    def path_to(self, end: int) -> tuple[ChainRow, ...]:
        """The rows from the first link to ``end``, each made from the one before it."""
        path = [self.rows[end]]
        while (parent := path[-1].parent) is not None:
            path.append(self.rows[parent])
        return tuple(reversed(path))


def comparable(baseline: Evaluation, other: Evaluation) -> bool:
    """Whether both are scores of the same rows against the same labels: ids may be mere row numbers."""
    return (
        baseline.n == other.n > 0
        and (baseline.data, baseline.metric, baseline.aggregate, baseline.error, baseline.unit)
        == (other.data, other.metric, other.aggregate, other.error, other.unit)
        and np.array_equal(baseline.ids, other.ids)
        and np.array_equal(baseline.labels, other.labels)
    )


def paired_difference(baseline: Evaluation, other: Evaluation) -> Difference | None:
    """``other`` minus ``baseline`` on the same rows; None where they cannot be paired or the metric does not exist.

    Raises:
        EvidenceError: statistics that do not make the metric.
    """
    if not comparable(baseline, other):
        return None
    if not is_proportion(baseline, other):
        # An error metric's sign is flipped there.
        found = _bootstrap(baseline, other)
        if not np.isfinite(found.estimate):
            return None
        bounds = None if found.lower is None or found.upper is None else (found.lower, found.upper)
        return Difference(estimate=found.estimate, interval=bounds, unit=other.unit)
    a, b = np.asarray(baseline.scores), np.asarray(other.scores)
    gained, lost = int(((b == 1) & (a == 0)).sum()), int(((b == 0) & (a == 1)).sum())
    return Difference(
        estimate=(gained - lost) / baseline.n,
        interval=tango_interval(gained, lost, baseline.n, confidence=CONFIDENCE),
        unit=other.unit,
    )


#: Bounds by what they are made of: every view of a run asks for the same ones, and a bootstrap may take a second.
_KNOWN: dict[str, Bounds] = {}
_MOST_KNOWN = 1000


def _bootstrap(baseline: Evaluation, other: Evaluation) -> Bounds:
    digest = hashlib.sha256(f"{other.aggregate} {other.error}".encode())
    for one in (baseline, other):
        clusters = np.zeros(0) if one.clusters is None else one.clusters
        for name, values in {**one.sufficient, "ids": one.ids, "clusters": clusters}.items():
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(np.ascontiguousarray(values).tobytes())
    key = digest.hexdigest()
    if key not in _KNOWN:
        if len(_KNOWN) >= _MOST_KNOWN:
            _KNOWN.clear()
        _KNOWN[key] = bca_bounds(baseline, other, confidence=CONFIDENCE)
    return _KNOWN[key]


def load_links(folder: Path, run: Run) -> tuple[Link, ...]:
    """Every hop of a run with its evaluation, each read once.

    Raises:
        EvidenceError: an evaluation is missing or damaged.
    """
    read: dict[str, Evaluation] = {}
    for hop in run.chain:
        if hop.evaluation not in read:
            read[hop.evaluation] = load_evaluation(folder / hop.evaluation)
    return link_hops(run.chain, read)


def link_hops(chain: tuple[Hop, ...], evaluations: Mapping[str, Evaluation]) -> tuple[Link, ...]:
    """Each hop with the one that it was made from: what ran was made from the same artifact before it ran there.

    Of several exported students, with no distilled one before them, the first is what the others are compared with:
    the student's own float32 comes first.
    """
    last: dict[str, int] = {}
    links: list[Link] = []
    for index, hop in enumerate(chain):
        evaluation = evaluations[hop.evaluation]
        parents = [last[p] for p in reversed(_before(hop.hop)) if p in last]
        if hop.hop == EXPORTED and "distilled" not in last:
            first = next((i for i, link in enumerate(links) if link.hop == EXPORTED), None)
            parents = [*([] if first is None else [first]), *parents]
        if hop.hop == AS_RUN:
            same = [
                i
                for i, link in enumerate(links)
                if link.hop in _MADE[1:] and link.evaluation.artifact == evaluation.artifact
            ]
            parents = [*same[-1:], *parents]
        parent = parents[0] if parents else None
        links.append(Link(hop=hop.hop, label=hop.label, evaluation=evaluation, parent=parent))
        if hop.hop in _MADE:
            last[hop.hop] = index
    return tuple(links)


def _before(hop: str) -> tuple[str, ...]:
    if hop == NAIVE:
        return (TEACHER,)
    return _MADE[: _MADE.index(hop)] if hop in _MADE else _MADE if hop == AS_RUN else ()


def ends_of(links: tuple[Link, ...], selected: Mapping[str, str]) -> tuple[int, ...]:
    """The links that ship: as run, one per target; without those, the selected artifact, else the last one made."""
    found = [i for i, link in enumerate(links) if link.hop == AS_RUN]
    made = [i for i, link in enumerate(links) if link.hop in _MADE[1:]]
    chosen = [i for i in made if links[i].evaluation.artifact in selected.values()]
    return tuple(found or chosen[-1:] or made[-1:])


def chain_table(folder: Path, run: Run) -> ChainTable | None:
    """The chain of a run folder; None where it has none.

    Each link is compared with the one it was made from: a distilled or naive student with the teacher, an exported
    one with the distilled or the first exported one, a quantized one with the exported one before it, what ran on a target with the same
    artifact in its reference execution.

    Raises:
        EvidenceError: an evaluation is missing or damaged.
    """
    return table_of(load_links(folder, run), run) if run.chain else None


def table_of(links: tuple[Link, ...], run: Run) -> ChainTable:
    """The table of links that are read already."""
    teacher = next((link.evaluation for link in links if link.hop == TEACHER), None)
    rows = []
    for link in links:
        parent = None if link.parent is None else links[link.parent]
        to_teacher = step = None
        if teacher is not None and link.hop != TEACHER:
            to_teacher = paired_difference(teacher, link.evaluation)
        if parent is not None:
            step = (
                to_teacher if parent.hop == TEACHER else paired_difference(parent.evaluation, link.evaluation)
            )
        rows.append(
            ChainRow(
                hop=link.hop,
                label=link.label,
                mean=link.evaluation.mean,
                n=link.evaluation.n,
                to_teacher=to_teacher,
                step=step,
                step_from="" if parent is None else parent.label,
                parent=link.parent,
                what=_what(link, parent, run),
                target=link.evaluation.target,
            )
        )
    first = links[0].evaluation
    return ChainTable(
        metric=first.metric,
        split=first.split,
        rows=tuple(rows),
        naive=_control(links),
        unit=first.unit,
        error=first.error,
        ends=ends_of(links, run.selected),
    )


def _what(link: Link, parent: Link | None, run: Run) -> str:
    """What lies between a link and the one it was made from, in words."""
    if parent is None:
        return ""
    if link.hop == NAIVE:
        return "training without the teacher"
    if link.hop == AS_RUN:
        runtime = f"the runtime on {link.evaluation.target}"
        return (
            runtime
            if link.evaluation.artifact == parent.evaluation.artifact
            else f"all from '{parent.label}' to {runtime}"
        )
    if link.hop == parent.hop:
        return f"the step from '{parent.label}'"
    stages = list(_STAGES[_MADE.index(parent.hop) : _MADE.index(link.hop)])
    if stages[-1] == _STAGES[-1]:
        dtype = str(run.artifacts.get(link.evaluation.artifact, {}).get("dtype", ""))
        stages[-1] = f"{dtype} quantization".strip()
    return " and ".join([", ".join(stages[:-1]), stages[-1]] if stages[1:] else stages)


def _control(links: tuple[Link, ...]) -> NaiveControl | None:
    """Naive students beside a distilled one in float32: a quantized one would carry another loss."""
    naive = [link.evaluation for link in links if link.hop == NAIVE]
    distilled = next(
        (link.evaluation for hop in ("distilled", "exported") for link in links if link.hop == hop), None
    )
    if not naive or distilled is None:
        return None
    ranked = sorted(naive, key=lambda e: -e.mean if e.error else e.mean)
    gain = paired_difference(ranked[-1], distilled)
    if gain is None:
        return None
    mean = fmean(e.mean for e in naive)
    return NaiveControl(
        seeds=len(naive),
        mean=mean,
        best=ranked[-1].mean,
        worst=ranked[0].mean,
        distilled=distilled.mean,
        gain_over_mean=mean - distilled.mean if distilled.error else distilled.mean - mean,
        gain_over_best=gain,
    )
