"""Rows of rows, and whether two references share one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.data import open_source
from edgekd.data.sources import pick_rows, share_rows
from edgekd.errors import UsageError

_ROWS = 60
_slices = st.tuples(
    st.none() | st.integers(0, 40), st.none() | st.integers(0, _ROWS), st.none() | st.integers(1, 9)
)


def written(rows: tuple[int | None, int | None, int | None]) -> str:
    return ":".join("" if r is None else str(r) for r in rows)


@given(_slices, _slices)
def test_two_selections_share_what_python_says(
    a: tuple[int | None, int | None, int | None], b: tuple[int | None, int | None, int | None]
) -> None:
    # Longer than any lcm of two steps past both starts: open ends meet there or nowhere.
    everything = range(200)
    mine, theirs = (set(everything[slice(*x)]) for x in (a, b))
    # What is written alike is the same, rows or none.
    assert share_rows(f"d.npz#{written(a)}", f"d.npz#{written(b)}") == (a == b or bool(mine & theirs))


def test_even_and_odd_rows_share_none() -> None:
    assert not share_rows("d.npz#0::2", "d.npz#1::2")
    assert share_rows("d.npz#0::2", "d.npz#1::3")
    assert not share_rows("d.npz#0::2", "e.npz#0::2")


@given(_slices, _slices)
def test_picked_rows_are_rows_of_the_rows(
    first: tuple[int | None, int | None, int | None], second: tuple[int | None, int | None, int | None]
) -> None:
    picked = pick_rows(f"d.npz#{written(first)}", slice(*second))
    again = slice(*(int(p) if p else None for p in picked.partition("#")[2].split(":")))
    rows = range(_ROWS)
    assert list(rows[again]) == list(rows[slice(*first)][slice(*second)])


def test_they_open(tmp_path: Path) -> None:
    np.savez(tmp_path / "d#1.npz", x=np.arange(10.0), label=np.arange(10))
    reference = pick_rows("d#1.npz", slice(1, None, 2), tmp_path)
    assert [int(e.id) for e in open_source(reference, tmp_path)] == [1, 3, 5, 7, 9]


def test_rows_of_a_named_split_cannot_be_picked() -> None:
    with pytest.raises(UsageError, match="named split"):
        pick_rows("sklearn:digits#test", slice(0, None, 2))
