"""Numbers for names: sorting a million strings takes seconds, sorting their digests a tenth of one."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from edgekd.data.example import Array


def number_names(names: Array) -> tuple[Array, Array]:
    """Distinct names in order, and which of them each row has: ``np.unique`` with its inverse, sooner.

    Args:
        names: (n,), strings or anything else that sorts.

    Returns:
        The distinct names, sorted (k,); codes int64 (n,).
    """
    names = np.ascontiguousarray(names)
    if names.dtype.kind == "U" and names.size and names.dtype.itemsize:
        letters = names.view(np.uint32).reshape(len(names), -1)
        _, first, codes = np.unique(mix_digests(letters.T), return_index=True, return_inverse=True)
        found = names[first]
        if (found[codes] == names).all():  # else two names share a digest
            order = np.argsort(found)
            rank = np.empty(len(order), np.int64)
            rank[order] = np.arange(len(order))
            return found[order], rank[codes]
    found, codes = np.unique(names, return_inverse=True)
    return found, np.asarray(codes, np.int64).reshape(-1)


def mix_digests(columns: Iterable[Array]) -> Array:
    """One uint64 per row (n,), equal for equal rows: columns mixed by multiplication, as in FNV and murmur.

    Args:
        columns: unsigned integers (n,) each.
    """
    multiplier, shift = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
    made: Array = np.zeros(0, np.uint64)
    for i, column in enumerate(columns):
        made = np.bitwise_xor(made, column) if i else column.astype(np.uint64)
        for _ in range(2):
            made *= multiplier
            made ^= made >> shift
    return made
