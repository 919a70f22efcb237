"""Resampling units: what one draw of the bootstrap takes whole, as an example or a cluster of them.

An additive metric is a function of sums, so a unit is a row of sums and a resample is how often each row counts.
Equal rows are counted together; very many units are first added up in random groups. Both keep a draw small: a
million examples never make more than :data:`DISTINCT` rows or :data:`GROUPS` groups.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import EvidenceError
from edgekd.statistics.codes import mix_digests, number_names

#: Most distinct rows that are drawn as counts.
DISTINCT = 4096
#: Above ``2 * GROUPS`` units a unit is a random group of them. Groups of independent units are themselves
#: independent, so their bootstrap estimates the same distribution; with 10,000 the spread is known to 0.7 %
#: (1 / sqrt(2 G)), which moves a bound's 5 % by under 0.1 %.
GROUPS = 10_000
#: Numbers held at once while drawing, about 32 MiB of float64.
BLOCK = 1 << 22


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Independent units, as rows of sums.

    Attributes:
        rows: float64 (u, c), sums of the columns over a unit.
        counts: int64 (u,), how many units have these sums.
        units: how many examples or clusters there are; more than the counts' sum where they were grouped.
    """

    rows: Array
    counts: Array
    units: int

    @property
    def drawn(self) -> int:
        """How many units one resample draws."""
        return int(self.counts.sum())


def cluster_codes(clusters: Array, n: int) -> tuple[Array, int]:
    """Number clusters by the order of their names: codes int64 (n,), and how many there are.

    Raises:
        EvidenceError: not one cluster per example.
    """
    if len(clusters) != n:
        raise EvidenceError(f"{n:,} examples have {len(clusters):,} clusters", "evaluate again")
    names, codes = number_names(clusters)
    return codes, len(names)


def make_units(columns: Sequence[Array], clusters: Array | None, random: np.random.RandomState) -> Units:
    """Sum columns over units. The order of the examples does not matter, the names of clusters do not but for it.

    Args:
        columns: float64 (n,) each; one example has one value in each.
        clusters: (n,), or None where each example is a unit.
        random: makes the groups, where there are any.

    Raises:
        EvidenceError: columns or clusters of another length.
    """
    n = len(columns[0])
    if any(np.shape(c) != (n,) for c in columns):
        raise EvidenceError(
            f"statistics of {n:,} and {max(len(c) for c in columns):,} examples cannot be paired",
            "evaluate again",
        )
    if clusters is not None:
        codes, count = cluster_codes(clusters, n)
        if count > 2 * GROUPS:
            codes = _random_groups(count, random)[codes]
        return Units(rows=_sums(columns, codes), counts=np.ones(codes.max() + 1, np.int64), units=count)
    # The order of the digests is a shuffle that every order of the examples ends in.
    digests = _digests(columns)
    _, first, counts = np.unique(digests, return_index=True, return_counts=True)
    if len(first) <= min(DISTINCT, n // 4):
        return Units(rows=_take(columns, first), counts=counts.astype(np.int64), units=n)
    order = np.argsort(digests, kind="stable")
    if n <= 2 * GROUPS:
        return Units(rows=_take(columns, order), counts=np.ones(n, np.int64), units=n)
    codes = np.empty(n, np.int64)
    codes[order] = _random_groups(n, random)
    return Units(rows=_sums(columns, codes), counts=np.ones(GROUPS, np.int64), units=n)


def draw_counts(counts: Array, draws: int, random: np.random.RandomState) -> Iterator[Array]:
    """Resample units with replacement: how often each row counts, float64 (d, u), blocks that make ``draws``."""
    rows, units = len(counts), int(counts.sum())
    at_once = max(1, BLOCK // units if rows == units else BLOCK // rows)
    for start in range(0, draws, at_once):
        d = min(at_once, draws - start)
        if rows == units:
            drawn = random.randint(0, rows, size=(d, rows))
            drawn += rows * np.arange(d)[:, None]
            yield np.bincount(drawn.ravel(), minlength=d * rows).reshape(d, rows).astype(np.float64)
        else:
            yield random.multinomial(units, counts / units, size=d).astype(np.float64)


def _digests(columns: Sequence[Array]) -> Array:
    """One uint64 per example, equal for equal rows (n,)."""
    # + 0.0: minus zero is zero
    return mix_digests((np.asarray(column, np.float64) + 0.0).view(np.uint64) for column in columns)


def _random_groups(units: int, random: np.random.RandomState) -> Array:
    """A group for each unit, int64 (units,): :data:`GROUPS` of sizes that differ by one at most."""
    groups = np.arange(units, dtype=np.int64) % GROUPS
    random.shuffle(groups)
    return groups


def _sums(columns: Sequence[Array], codes: Array) -> Array:
    return np.stack([np.bincount(codes, weights=c) for c in columns], axis=1)


def _take(columns: Sequence[Array], rows: Array) -> Array:
    return np.stack([np.asarray(c, np.float64)[rows] for c in columns], axis=1)
