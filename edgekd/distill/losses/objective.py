"""The weighted sum of a training's losses, over one process's share of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edgekd.distill.config import TrainConfig
from edgekd.distill.group import Group
from edgekd.distill.losses.attention import attention_loss
from edgekd.distill.losses.dist import dist_loss
from edgekd.distill.losses.feature import feature_loss
from edgekd.distill.losses.relation import embedding, relation_loss
from edgekd.distill.losses.soft_targets import distillation_loss, soft_target_loss
from edgekd.distill.terms import LossTerm
from edgekd.lazy import require

Features = Sequence[Sequence[Any]]


def term_names(config: TrainConfig) -> tuple[str, ...]:
    """What the history calls the terms: the loss, numbered where it comes twice."""
    names = [t.loss for t in config.losses]
    return tuple(n if names.count(n) == 1 else f"{n} {names[: i + 1].count(n)}" for i, n in enumerate(names))


def objective(
    config: TrainConfig,
    logits: Any,
    soft: Any | None,
    labels: Any,
    features: Features,
    wanted: Features,
    group: Group,
) -> tuple[Any, list[Any]]:
    """The loss of this process's share of a batch, whose sum over processes is the batch's, and each term's.

    Terms that are means over examples count by the share of examples; those that compare examples with each other
    are taken over the whole batch, of which only this process's part carries a gradient.

    Args:
        logits, soft: float (rows, classes) of the student, and of the teacher where it is asked.
        labels: int64 (rows,).
        features, wanted: per term, per pair, what the student's and the teacher's layers made.

    Returns:
        (what to go backward from, [the whole loss, then each term before its weight]); values sum over processes.
    """
    if not config.losses:
        loss = distillation_loss(logits, soft, labels, config)
        if group.size > 1:
            loss = loss * group.share
        return loss, [loss.detach()]
    torch = require("torch", extra="torch", purpose="training")
    backward = torch.zeros(())
    values = []
    for term, own, theirs in zip(config.losses, features, wanted, strict=True):
        if term.loss in ("dist", "relation"):
            loss, share = _over_the_batch(term, logits, soft, own, theirs, group), 1 / group.size
            backward = backward + term.weight * loss
        else:
            loss, share = _over_examples(term, logits, soft, labels, own, theirs), group.share
            backward = backward + term.weight * loss * share
        values.append(loss.detach() * share)
    whole = sum(t.weight * v for t, v in zip(config.losses, values, strict=True))
    return backward, [whole, *values]


def _over_examples(term: LossTerm, logits: Any, soft: Any, labels: Any, own: Any, theirs: Any) -> Any:
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    if term.loss == "labels":
        return functional.cross_entropy(logits, labels)
    if term.loss == "logits":
        t = term.temperature or 1.0
        return t * t * soft_target_loss(logits, soft, t)
    pair_loss = feature_loss if term.loss == "feature" else attention_loss
    return sum(pair_loss(s, t) for s, t in zip(own, theirs, strict=True))


def _over_the_batch(term: LossTerm, logits: Any, soft: Any, own: Any, theirs: Any, group: Group) -> Any:
    if term.loss == "dist":
        return dist_loss(
            group.gather(logits), group.gather(soft), beta=term.beta or 0.0, gamma=term.gamma or 0.0,
            temperature=term.temperature or 1.0,
        )  # fmt: skip
    return sum(
        relation_loss(
            group.gather(embedding(s)),
            group.gather(embedding(t)),
            distance=term.distance or 0.0,
            angle=term.angle or 0.0,
        )
        for s, t in zip(own, theirs, strict=True)
    )
