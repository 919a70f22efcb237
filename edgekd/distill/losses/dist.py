"""DIST: the student ranks classes and examples as the teacher does, whatever the scale of its probabilities."""

from __future__ import annotations

from typing import Any

from edgekd.lazy import require


def dist_loss(student: Any, teacher: Any, *, beta: float, gamma: float, temperature: float) -> Any:
    """beta T^2 inter + gamma T^2 intra, each one minus a mean Pearson correlation of softened probabilities.

    Huang et al. 2022, "Knowledge Distillation from A Stronger Teacher": inter-class (section 4.1) correlates the
    classes of each example, intra-class (section 4.2) the examples of each class. The factor T^2 keeps the gradients' size, as the
    authors' implementation has it; at their T of 1 it is 1.

    Args:
        student, teacher: float (batch, classes) logits; the whole batch, because examples are compared.
    """
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    p = functional.softmax(student / temperature, 1)
    q = functional.softmax(teacher / temperature, 1)
    inter = 1 - _correlation(p, q).mean()
    intra = 1 - _correlation(p.T, q.T).mean()
    return temperature**2 * (beta * inter + gamma * intra)


def _correlation(a: Any, b: Any) -> Any:
    """Pearson's correlation of each row of ``a`` with the same row of ``b``; 0 where one is constant."""
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    a, b = a - a.mean(1, keepdim=True), b - b.mean(1, keepdim=True)
    return functional.cosine_similarity(a, b, dim=1, eps=1e-8)
