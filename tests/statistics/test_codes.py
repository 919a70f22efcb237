"""Names are numbered as np.unique numbers them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekd.statistics import codes as module
from edgekd.statistics.codes import number_names


@given(st.lists(st.text(max_size=5), max_size=40))
def test_strings_are_numbered_as_numpy_does(names):
    array = np.array(names, dtype=np.str_)
    found, codes = number_names(array)
    wanted, inverse = np.unique(array, return_inverse=True)
    assert (found == wanted).all()
    assert (codes == inverse).all()


@pytest.mark.parametrize(
    "values", [[3, 1, 3], [0.5, 0.25, 0.5], np.array(["b", "a", "b"], object), [True, False]]
)
def test_other_kinds_too(values):
    array = np.array(values)
    found, codes = number_names(array)
    assert (found[codes] == array).all()
    assert list(found) == sorted(set(array.tolist()))


def test_a_slice_of_an_array_and_a_million_names():
    names = np.char.add("s", (np.arange(1_000_000) * 7 % 1000).astype(str))
    found, codes = number_names(names[::2])
    assert len(found) == 500
    assert (found[codes] == names[::2]).all()


def test_names_that_share_a_digest_are_told_apart(monkeypatch):
    monkeypatch.setattr(module, "mix_digests", lambda columns: np.zeros(4, np.uint64))
    found, codes = number_names(np.array(["b", "a", "c", "a"]))
    assert (found.tolist(), codes.tolist()) == (["a", "b", "c"], [1, 0, 2, 0])
