"""Whether two evaluations can be compared at all; what cannot be is an error with a reason, never a verdict."""

from __future__ import annotations

import numpy as np

from edgekd.evidence.evaluation import Evaluation
from edgekd.metrics import SUMS


def incomparable(reference: Evaluation, candidate: Evaluation, against: str) -> str:
    """Why the two cannot be compared, as a sentence with the fix; empty when they can.

    Args:
        against: what the reference is called: ``teacher``, ``float32``, …
    """
    if candidate.n == 0 or reference.n == 0:
        who = candidate.name if candidate.n == 0 else reference.name
        return f"the evaluation of {who} holds no example; evaluate it on a split that has some"
    for what, mine, theirs in (
        ("metric", candidate.metric, reference.metric),
        ("split", candidate.split, reference.split),
        ("aggregate", candidate.aggregate, reference.aggregate),
        ("unit", candidate.unit, reference.unit),
        ("direction", _direction(candidate), _direction(reference)),
    ):
        if mine != theirs:
            return f"student and {against} were evaluated with another {what}: '{mine}' and '{theirs}'; evaluate both alike"
    if trouble := _other_ids(reference, candidate, against):
        return trouble
    if candidate.data != reference.data:
        return (
            f"student and {against} were evaluated on other data: {candidate.data[:19]}… and "
            f"{reference.data[:19]}…; evaluate both on the same file"
        )
    if not np.array_equal(np.asarray(candidate.labels), np.asarray(reference.labels)):
        return (
            f"student and {against} were scored against other labels; evaluate both on the same file with the same "
            "task"
        )
    for one in (reference, candidate):
        if trouble := _unscored(one):
            return trouble
    if trouble := _other_clusters(reference, candidate, against):
        return trouble
    return _one_class(candidate) or _one_answer(reference) or _one_answer(candidate)


def unvaried(reference: Evaluation, candidate: Evaluation) -> str:
    """Why evaluations that do not vary tell nothing; empty where they do.

    That the reference is right everywhere is an answer; that nobody ever is, or each the same half, is a broken metric.
    """
    mine, theirs = candidate.sufficient.get(SUMS), reference.sufficient.get(SUMS)
    if mine is None or theirs is None:
        return ""
    if (mine == mine[0]).all() and (theirs == theirs[0]).all() and not (reference.scores == 1).all():
        return (
            f"every one of the {candidate.n:,} examples scores {float(candidate.scores[0]):g} for the student and "
            f"{float(reference.scores[0]):g} for what it is compared with: scores that never vary tell nothing; check "
            "the metric and the labels"
        )
    answers = [np.asarray(e.predictions) for e in (candidate, reference)]
    if candidate.n > 1 and candidate.aggregate == "mean" and all((a == a[0]).all() for a in answers):
        return (
            f"both models answer every one of the {candidate.n:,} examples alike ({str(answers[0][0])[:40]!r}): they do "
            "not depend on their input; check how inputs are prepared and answers decoded"
        )
    return ""


def same_answers(reference: Evaluation, candidate: Evaluation) -> bool:
    """Whether both are evaluations of one artifact that gave the same answers: then nothing can have been lost."""
    return (
        reference.artifact == candidate.artifact
        and np.array_equal(np.asarray(reference.predictions), np.asarray(candidate.predictions))
        and np.array_equal(reference.scores, candidate.scores)
        and (reference.logits is None) == (candidate.logits is None)
        and (reference.logits is None or np.array_equal(reference.logits, np.asarray(candidate.logits)))
    )


def _direction(evaluation: Evaluation) -> str:
    return "smaller is better" if evaluation.error else "larger is better"


def _unscored(one: Evaluation) -> str:
    scores = np.asarray(one.scores)
    if len(scores) != one.n:
        return f"the evaluation of {one.name} has {one.n} ids but {len(scores)} scores; evaluate it again"
    if not np.isfinite(scores).all():
        bad = np.flatnonzero(~np.isfinite(scores))
        return (
            f"{len(bad):,} of {one.n:,} scores of {one.name} are not finite, first at id "
            f"'{one.ids[bad[0]]}'; mend the model or the metric and evaluate again"
        )
    for name, values in one.statistics.items():
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            return (
                f"the statistics '{name}' of {one.name} are not all finite; mend the model or the metric and evaluate "
                "again"
            )
    return ""


def _other_clusters(reference: Evaluation, candidate: Evaluation, against: str) -> str:
    mine, theirs = candidate.clusters, reference.clusters
    same = (mine is None) == (theirs is None)
    if same and mine is not None and theirs is not None:
        same = bool(np.array_equal(mine, theirs))
    return "" if same else f"student and {against} were evaluated with other clusters; evaluate both alike"


def _one_class(candidate: Evaluation) -> str:
    """A classifier that always gives one answer is perfect on data of one class."""
    labels = np.asarray(candidate.labels)
    if candidate.n < 2 or labels.ndim != 1 or not (labels == labels[0]).all():
        return ""
    answers = np.asarray(candidate.predictions)
    if candidate.logits is None and not (labels.dtype.kind in "iuUb" and (answers == answers[0]).all()):
        return ""  # a task of its own may have no use for labels
    return (
        f"all {candidate.n:,} labels are {labels[0].item()!r}: a model that always gives one answer would be judged "
        "perfect; judge on data of every class"
    )


def _one_answer(one: Evaluation) -> str:
    """A classifier whose class scores never change does not look at its input."""
    if one.logits is None:
        return ""
    logits = np.asarray(one.logits)
    if not np.isfinite(logits).all():
        row = int(np.flatnonzero(~np.isfinite(logits).all(axis=tuple(range(1, logits.ndim))))[0])
        return f"the logits of {one.name} hold NaN or infinite values, first at id '{one.ids[row]}'; mend the model and evaluate again"
    if one.n < 2 or not (logits == logits[0]).all():
        return ""
    return (
        f"{one.name} gives the same class scores for all {one.n:,} examples: it does not depend on its input; check the "
        "model and how its inputs are prepared"
    )


def _other_ids(reference: Evaluation, candidate: Evaluation, against: str) -> str:
    mine, theirs = np.asarray(candidate.ids), np.asarray(reference.ids)
    if len(mine) == len(theirs) and (mine == theirs).all():
        own = len(set(mine.tolist()))  # four times as fast as numpy's unique on text
        return (
            ""
            if own == len(mine)
            else f"ids repeat: {len(mine):,} rows but {own:,} ids; give each example its own id"
        )
    only_mine = np.setdiff1d(mine, theirs)
    only_theirs = np.setdiff1d(theirs, mine)
    if not len(only_mine) and not len(only_theirs) and len(mine) == len(theirs):
        first = int(np.flatnonzero(mine != theirs)[0])
        return (
            f"student and {against} hold the same ids in another order, first at row {first} "
            f"('{mine[first]}' and '{theirs[first]}'): rows were reordered; evaluate both on the same file"
        )
    example = only_mine[0] if len(only_mine) else only_theirs[0] if len(only_theirs) else mine[0]
    return (
        f"student and {against} were evaluated on other examples: {len(mine):,} and {len(theirs):,} ids, "
        f"{len(only_mine):,} only the student's, {len(only_theirs):,} only the {against}'s (for example "
        f"'{example}'); evaluate both on the same file"
    )
