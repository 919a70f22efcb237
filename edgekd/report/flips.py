"""Which examples flipped between the teacher and what ships: a view, made from stored evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.evidence.evaluation import Evaluation
from edgekd.evidence.run import Run
from edgekd.evidence.thumbnails import load_thumbnails
from edgekd.report.chain import TEACHER, Link, comparable, ends_of

SHOWN = 20

#: What a loss is: nats at the true label; of a score that is a fraction, what is missing; of one that is never
#: positive, an error; of another, its negative.
CROSS_ENTROPY, MISSING, ERROR, NEGATIVE = "cross-entropy", "1 - score", "error", "minus the score"


@dataclass(frozen=True, slots=True, kw_only=True)
class Flip:
    """An example that the teacher answers better than what ships.

    Attributes:
        label, teacher, student: what is right, and both answers, as the evidence stores them.
        teacher_loss, student_loss: in the table's ``loss``.
        hop: label of the chain's link on which it flipped first; of a graded score, of the link that lost most.
        png: a thumbnail, where one was stored.
    """

    id: str
    label: Any
    teacher: Any
    student: Any
    teacher_loss: float
    student_loss: float
    hop: str
    slices: Mapping[str, str] = field(default_factory=dict)
    png: bytes = b""

    @property
    def excess(self) -> float:
        """How much more the student loses than the teacher."""
        return self.student_loss - self.teacher_loss


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipTable:
    """Flips of one end of the chain, the worst first.

    Attributes:
        label, target: of the link that ships.
        graded: scores are not right or wrong, so ``lost`` counts worse examples and ``gained`` better ones.
        loss: :data:`CROSS_ENTROPY`, :data:`MISSING`, :data:`ERROR` or :data:`NEGATIVE`.
        unit: of the loss; empty where it has none or none is known.
        lost: teacher right, student wrong; gained: the reverse.
        lost_on: label of a link -> how many of the lost flipped there first; of a graded score, lost most there.
    """

    label: str
    target: str
    n: int
    lost: int
    gained: int
    graded: bool
    loss: str
    unit: str
    lost_on: Mapping[str, int]
    rows: tuple[Flip, ...]


def flip_tables(links: Sequence[Link], run: Run, *, shown: int = SHOWN) -> tuple[FlipTable, ...]:
    """Flips of every end of a chain; none where it has no teacher, or other examples than the teacher's."""
    teacher = next((link.evaluation for link in links if link.hop == TEACHER), None)
    if teacher is None:
        return ()
    found = []
    for end in ends_of(tuple(links), run.selected):
        path = [links[end]]
        while (parent := path[-1].parent) is not None:
            path.append(links[parent])
        path = [link for link in reversed(path) if link.hop != TEACHER]
        if comparable(teacher, links[end].evaluation):
            found.append(_table(teacher, [p for p in path if comparable(teacher, p.evaluation)], shown))
    return tuple(found)


def with_thumbnails(folder: Path, tables: Sequence[FlipTable], *, data: str) -> tuple[FlipTable, ...]:
    """The tables with the images that were stored with the run; as they are where there are none.

    Args:
        data: digest of the rows that were evaluated.

    Raises:
        EvidenceError: what is stored is damaged, altered, or of other data.
    """
    images = load_thumbnails(folder, data=data)
    return tuple(
        replace(table, rows=tuple(replace(flip, png=images.get(flip.id, b"")) for flip in table.rows))
        for table in tables
    )


def _table(teacher: Evaluation, path: Sequence[Link], shown: int) -> FlipTable:
    end = path[-1]
    student = end.evaluation
    before = np.asarray(teacher.scores, np.float64)
    scores = np.stack([np.asarray(link.evaluation.scores, np.float64) for link in path])
    after = scores[-1]
    graded = not (np.isin(before, (0, 1)).all() and np.isin(after, (0, 1)).all())
    lost = np.flatnonzero(after < before)
    on = _first_drop(before[lost], scores[:, lost], graded)
    loss, own, theirs = _losses(teacher, student)
    excess = own[lost] - theirs[lost]
    ids = np.asarray(student.ids, np.str_)
    # lexsort takes its last key first: the greatest excess, ties by id.
    order = np.lexsort((ids[lost], -excess))[:shown]
    rows = tuple(
        Flip(
            id=str(ids[row]),
            label=_plain(student.labels[row]),
            teacher=_plain(teacher.predictions[row]),
            student=_plain(student.predictions[row]),
            teacher_loss=float(theirs[row]),
            student_loss=float(own[row]),
            hop=path[int(on[k])].label,
            slices={name: str(values[row]) for name, values in student.slices.items()},
        )
        for k, row in ((int(k), int(lost[k])) for k in order)
    )
    return FlipTable(
        label=end.label,
        target=student.target,
        n=student.n,
        lost=len(lost),
        gained=int((after > before).sum()),
        graded=graded,
        loss=loss,
        unit=_unit(loss, student),
        lost_on={link.label: int((on == i).sum()) for i, link in enumerate(path)},
        rows=rows,
    )


def _first_drop(before: Array, scores: Array, graded: bool) -> Array:
    """Index of the link on which each example flipped first, (k,); of a graded score, on which it lost most."""
    if graded:
        steps = np.diff(np.concatenate([before[None], scores]), axis=0)
        return np.asarray(steps.argmin(axis=0))
    return np.asarray((scores < before).argmax(axis=0))


def _losses(teacher: Evaluation, student: Evaluation) -> tuple[str, Array, Array]:
    """What the loss is, and the student's and the teacher's, (n,) each."""
    own, theirs = cross_entropy(student), cross_entropy(teacher)
    if own is not None and theirs is not None:
        return CROSS_ENTROPY, own, theirs
    scores = [np.asarray(e.scores, np.float64) for e in (student, teacher)]
    if all(s.min(initial=0) >= 0 and s.max(initial=0) <= 1 for s in scores):
        return MISSING, 1.0 - scores[0], 1.0 - scores[1]
    own, theirs = -scores[0], -scores[1]
    return (ERROR if all((s <= 0).all() for s in scores) else NEGATIVE), own + 0.0, theirs + 0.0


def _unit(loss: str, student: Evaluation) -> str:
    if loss == CROSS_ENTROPY:
        return "nats"
    return student.unit if loss == ERROR and student.error and student.unit != "fraction" else ""


def cross_entropy(evaluation: Evaluation) -> Array | None:
    """Cross-entropy at the true label, nats, float64 (n,); None where there are no finite logits or class labels."""
    logits, labels = evaluation.logits, np.asarray(evaluation.labels)
    if logits is None or logits.ndim != 2 or labels.ndim != 1 or labels.dtype.kind not in "iu":
        return None
    if not np.isfinite(logits).all() or labels.min() < 0 or labels.max() >= logits.shape[1]:
        return None
    x = np.asarray(logits, np.float64)
    top = x.max(axis=1)
    normaliser = top + np.log(np.exp(x - top[:, None]).sum(axis=1))
    return np.asarray(normaliser - x[np.arange(len(x)), labels])


def _plain(value: Any) -> Any:
    """A stored label or answer as an int, float or str."""
    item = value.item() if isinstance(value, np.generic) else value
    return item if isinstance(item, (bool, int, float, str)) else str(np.asarray(value).tolist())
