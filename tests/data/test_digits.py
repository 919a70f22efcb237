"""scikit-learn's digits and its fixed splits."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from edgekd.data import digits, open_source
from edgekd.data.digits import SPLITS, Digits, open_sklearn
from edgekd.errors import MissingDependencyError, UsageError

pytest.importorskip("sklearn")


def split(name: str) -> Digits:
    return open_sklearn("sklearn:digits", name)


def test_whole() -> None:
    rows = list(open_source("sklearn:digits"))
    assert [r.id for r in rows] == [str(i) for i in range(1797)]
    image = rows[0].inputs["image"]
    assert (image.shape, image.dtype) == ((1, 8, 8), np.float32)
    assert (min(r.inputs["image"].min() for r in rows), max(r.inputs["image"].max() for r in rows)) == (0, 1)
    assert [r.label for r in rows[:10]] == list(range(10))
    assert np.bincount([r.label for r in rows]).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_splits_are_disjoint_and_whole() -> None:
    rows = {name: {r.id for r in split(name)} for name in SPLITS}
    assert {n: len(r) for n, r in rows.items()} == {
        "train": 1077,
        "calibration": 256,
        "select": 270,
        "test": 450,
    }
    assert rows["calibration"] < rows["train"], "calibration never sees what is judged"
    judged = [rows["train"], rows["select"], rows["test"]]
    assert len(set.union(*judged)) == sum(map(len, judged)) == 1797


def test_splits_are_fixed() -> None:
    """A change here would move every figure that was published for the demo."""
    assert [int(r) for r in split("test").rows[:5]] == [852, 232, 499, 1062, 1665]
    assert [int(r) for r in split("train").rows[:5]] == [360, 1773, 1482, 600, 850]


def test_every_class_is_in_every_split() -> None:
    for name in SPLITS:
        assert {r.label for r in split(name)} == set(range(10)), name


def test_digests() -> None:
    digests = [split(n).digest for n in SPLITS] + [open_source("sklearn:digits").digest]
    assert len(set(digests)) == 5
    assert split("test").digest == split("test").digest


def test_rows_of_it() -> None:
    assert [r.id for r in open_source("sklearn:digits#2:5")] == ["2", "3", "4"]


def test_unknown() -> None:
    with pytest.raises(UsageError, match="'sklearn:iris' is not known; the built-in set is sklearn:digits"):
        open_source("sklearn:iris")
    with pytest.raises(
        UsageError, match="has no split 'trian'; choose one of train, calibration, select, test"
    ):
        open_source("sklearn:digits#trian")
    with pytest.raises(UsageError, match="neither rows nor a split"):
        open_source("sklearn:digits#1-5")


def test_the_file_is_read_without_importing_scikit_learn() -> None:
    script = "import sys; from edgekd.data import open_source; print(open_source('sklearn:digits#test').digest, 'sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [split("test").digest, "False"]


def test_scikit_learn_itself_gives_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    read = digits._read_digits()
    monkeypatch.setattr(digits, "_installed_file", lambda: None)
    for ours, theirs in zip(read, digits._read_digits.__wrapped__(), strict=True):
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert ours.tobytes() == theirs.tobytes()


def test_without_scikit_learn_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("sklearn", "sklearn.datasets"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingDependencyError, match="reading sklearn:digits needs the package 'sklearn'"
    ) as caught:
        digits._read_digits.__wrapped__()
    assert caught.value.fix == "pip install 'edgekd[data]'"


def test_the_shared_arrays_cannot_be_changed() -> None:
    image = next(iter(split("test"))).inputs["image"]
    with pytest.raises(ValueError, match="read-only"):
        image[:] = 0
