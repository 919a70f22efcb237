"""Attention transfer: where the student looks is where the teacher looks."""

from __future__ import annotations

from typing import Any

from edgekd.lazy import require


def attention_map(features: Any) -> Any:
    """Sum of squares over channels, flattened to (batch, positions), each row of length 1.

    Zagoruyko and Komodakis 2017, section 3.1, F_sum^2; normalised as below eq. 2.

    Args:
        features: float (batch, channels, height, width), or (batch, tokens, width).
    """
    functional = require("torch.nn.functional", extra="torch", purpose="training")
    squares = features.pow(2).sum(1 if features.ndim == 4 else -1).flatten(1)
    return functional.normalize(squares, dim=1, eps=1e-12)


def attention_loss(student: Any, teacher: Any) -> Any:
    """Mean over examples and positions of the squared difference of both maps.

    Zagoruyko and Komodakis 2017, eq. 2, with the square of the norm and its mean over positions, as in the authors'
    implementation (whose weight of 1000 belongs to that form). Channels may differ in number, positions may not.
    """
    return (attention_map(student) - attention_map(teacher)).pow(2).mean()
