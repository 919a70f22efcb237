"""Mixtures of experts: whether every expert saw tokens in calibration. One that saw none has no ranges to speak of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertUse:
    """How often one layer's router chose each of its experts.

    Attributes:
        layer: of the router, as the model names it.
        counts: tokens per expert; a token counts for each of the experts that it is sent to.
    """

    layer: str
    counts: tuple[int, ...]

    @property
    def starved(self) -> tuple[int, ...]:
        """Experts that saw no token."""
        return tuple(i for i, n in enumerate(self.counts) if n == 0)


def count_selected(indices: Array, experts: int, tokens: Array | None = None) -> Array:
    """int64 (experts,): how often each expert was chosen.

    Args:
        indices: whole numbers, shape (..., k): the experts of each token.
        tokens: bool, as many as ``indices`` has rows: which of them are tokens and no padding; None where all are.

    Raises:
        ModelError: an index that is no expert.
    """
    rows = np.asarray(indices).reshape(-1, indices.shape[-1])
    if tokens is not None and tokens.size == len(rows):
        rows = rows[np.asarray(tokens, bool).reshape(-1)]
    if rows.size and not (rows.min() >= 0 and rows.max() < experts):
        raise ModelError(
            f"a router chose expert {int(rows.max())} of {experts}", "the graph is not understood: report it"
        )
    return np.bincount(rows.reshape(-1).astype(np.int64), minlength=experts)


def token_mask(feeds: Mapping[str, Array]) -> Array | None:
    """Which positions of a batch are tokens: its attention mask, bool; None where it has none."""
    mask = feeds.get("attention_mask")
    return None if mask is None else np.asarray(mask) != 0


def check_experts(uses: Sequence[ExpertUse], examples: int) -> dict[str, list[int]]:
    """Layer -> tokens per expert, for the lineage.

    Raises:
        DataError: an expert saw no token; names layer and expert.
    """
    for use in uses:
        if use.starved:
            which = ", ".join(map(str, use.starved[:8])) + (" ..." if len(use.starved) > 8 else "")
            raise DataError(
                f"layer '{use.layer}': expert {which} of {len(use.counts)} saw no token in {examples} calibration examples",
                "use more or other calibration examples, or quantize weights only",
            )
    return {use.layer: list(use.counts) for use in uses}


def to_lineage(found: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """``{"experts": ...}``, or nothing for a model without experts."""
    return {"experts": {layer: list(counts) for layer, counts in found.items()}} if found else {}
