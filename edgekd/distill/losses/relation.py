"""Relational distillation: distances and angles between examples, not the features themselves."""

from __future__ import annotations

from typing import Any

from edgekd.lazy import require


def embedding(features: Any) -> Any:
    """(batch, width): feature maps and tokens averaged over their positions, vectors as they are."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features


def relation_loss(student: Any, teacher: Any, *, distance: float, angle: float) -> Any:
    """distance L_D + angle L_A; Park et al. 2019, "Relational Knowledge Distillation", section 3.2.

    L_D: Huber loss (delta 1) of all pairwise distances, each divided by its own network's mean over the batch; L_A: of
    the cosines of the angles that all triples of examples make. Both are means over pairs and triples.

    Args:
        student, teacher: float features (batch, ...) of any width; the whole batch, because examples are compared.
    """
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    s, t = embedding(student), embedding(teacher)
    total = s.sum() * 0.0
    if distance:
        total = total + distance * functional.smooth_l1_loss(_distances(s), _distances(t))
    if angle:
        total = total + angle * functional.smooth_l1_loss(_cosines(s), _cosines(t))
    return total


def _distances(x: Any) -> Any:
    """(batch, batch) Euclidean distances over the mean of those that are not 0."""
    torch = require("torch", extra="torch", purpose="training")
    squares = (x[:, None] - x[None]).pow(2).sum(2)
    apart = squares > 0
    # The root's slope at 0 is infinite: equal examples take no part in it.
    found = torch.where(apart, squares.clamp(min=1e-12).sqrt(), torch.zeros_like(squares))
    return found / (found.sum() / apart.sum().clamp(min=1)).clamp(min=1e-12)


def _cosines(x: Any) -> Any:
    """(batch, batch, batch): entry (j, i, k) is the cosine of the angle at j between i and k; 0 where two are one."""
    torch = require("torch", extra="torch", purpose="training")
    lines = torch.nn.functional.normalize(x[None] - x[:, None], dim=2, eps=1e-12)
    return torch.bmm(lines, lines.transpose(1, 2))
