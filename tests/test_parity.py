"""Feeds that parity is tried on, and what counts as equal."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from edgekd.data.example import Array
from edgekd.errors import ModelError
from edgekd.parity import check_parity, parity_batches, parity_feeds
from edgekd.spec import TensorSpec
from edgekd.target import Placement

X = TensorSpec(name="x", dtype="float32", shape=("batch", 3))


class Scaled:
    """Answers with its input times a factor."""

    inputs = outputs = (X,)

    def __init__(self, factor: float, name: str) -> None:
        self.factor = np.float32(factor)
        self.placement = Placement(device="cpu", provider="cpu", runtime=name, threads=1, detail={})

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"x": feeds["x"] * self.factor}

    def bind(self, feeds: Mapping[str, Array]) -> object:
        return lambda: self.run(feeds)

    def close(self) -> None: ...


def compare(a: float, b: float, atol: float = 1e-4, rtol: float = 1e-3) -> float:
    feeds = [{"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}]
    found = check_parity(Scaled(a, "one 1"), Scaled(b, "two 2"), feeds, atol=atol, rtol=rtol)  # type: ignore[arg-type]
    assert found.max_abs == pytest.approx(a)
    return found.max_abs_error


def test_the_tolerance_is_absolute_and_relative() -> None:
    assert compare(1, 1.0005) == pytest.approx(5e-4, rel=1e-3)
    with pytest.raises(ModelError, match=r"output 'x' differs by 0\.01 between one 1 and two 2"):
        compare(1, 1.01)


def test_answers_near_zero_are_not_equal_for_being_small() -> None:
    """Twice as large is wrong at any scale."""
    for scale in (1e-3, 1e-6, 1e-20):
        with pytest.raises(ModelError, match="differs"):
            compare(scale, 2 * scale)
        assert compare(scale, scale * 1.0005) < scale


def test_sizes_that_are_tried() -> None:
    assert parity_batches([X], {}) == (1, 2, 5)
    assert parity_batches([X], {"x": ((1, 3), (4, 3), (9, 3))}) == (1, 2, 9)
    assert parity_batches([X], {"x": ((4, 3), (4, 3), (9, 3))}) == (4, 9)
    fixed = TensorSpec(name="x", dtype="float32", shape=(6, 3))
    assert parity_batches([fixed], {}) == (1,)
    longer = TensorSpec(name="x", dtype="float32", shape=("batch", "n"))
    shapes = {"x": ((1, 2), (2, 8), (4, 31))}
    assert [f["x"].shape for f in parity_feeds([longer], shapes)] == [
        (1, 8), (2, 8), (4, 8), (1, 2), (2, 8), (4, 31),
    ]  # fmt: skip


class Fixed:
    """Answers with what it was given."""

    inputs = outputs = (X,)

    def __init__(self, answer: Array) -> None:
        self.answer = answer
        self.placement = Placement(device="cpu", provider="cpu", runtime="fixed 1", threads=1, detail={})

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        return {"x": self.answer}

    def bind(self, feeds: Mapping[str, Array]) -> object:
        return lambda: self.run(feeds)

    def close(self) -> None: ...


def same(a: object, b: object, feeds: int = 1) -> None:
    check_parity(Fixed(np.asarray(a)), Fixed(np.asarray(b)), [{}] * feeds)  # type: ignore[arg-type]


def test_whole_numbers_are_equal_or_not() -> None:
    """A class index that is one off is another class."""
    same([5000, 1200], [5000, 1200])
    same([True, False], [True, False])
    with pytest.raises(ModelError, match=r"differs .* in 1 of 2 whole numbers"):
        same([5000, 1200], [5000, 1201])
    with pytest.raises(ModelError, match="in 1 of 1"):
        same([2**60], [2**60 + 1])


def test_nothing_to_compare_is_no_parity() -> None:
    with pytest.raises(ModelError, match="there were no feeds"):
        same([1.0], [1.0], feeds=0)
    with pytest.raises(ModelError, match="none of its answers is finite"):
        same([np.nan, np.inf], [np.nan, np.inf])
    same([np.nan, 1.0], [np.nan, 1.0])


def test_an_absolute_tolerance_alone_stays_absolute() -> None:
    check_parity(Fixed(np.array([0.1])), Fixed(np.array([0.14])), [{}], atol=0.05, rtol=0)  # type: ignore[arg-type]


class Clipped(Scaled):
    """A conversion that is wrong for values beyond 5, which drawn feeds do not hold and real ones do."""

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        x = feeds["x"]
        return {"x": np.where(np.abs(x) > 5, np.float32(0), x).astype(np.float32)}


def test_real_examples_find_what_drawn_feeds_do_not() -> None:
    drawn = [{"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}]
    real = [{"x": np.linspace(0, 255, 12, dtype=np.float32).reshape(4, 3)}]
    a, b = Scaled(1, "one 1"), Clipped(1, "two 2")
    assert check_parity(a, b, drawn).real is None  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=r"'x' has 0\.0 dB .* real examples .*the export is wrong"):
        check_parity(a, b, drawn, real=real)  # type: ignore[arg-type]
    found = check_parity(a, Scaled(1, "two 2"), drawn, real=real)  # type: ignore[arg-type]
    assert found.real is not None and found.real.examples == 4
    assert found.to_json()["real"] == {"sqnr_db": {"x": None}, "agreement": {"x": 1.0}, "examples": 4}


@pytest.mark.parametrize(("dtype", "passes"), [("float32", False), ("float16", True), ("int8", True)])
def test_what_real_answers_may_lose_depends_on_the_precision(dtype: str, passes: bool) -> None:
    real = [{"x": np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)}]
    a, b = Scaled(1, "one 1"), Scaled(0.98, "two 2")  # 34 dB
    drawn = [{"x": np.full((1, 3), 1e-9, np.float32)}]
    if passes:
        assert check_parity(a, b, drawn, atol=1, rtol=1, real=real, dtype=dtype).real is not None  # type: ignore[arg-type]
    else:
        with pytest.raises(ModelError, match=r"34\.0 dB of signal to noise"):
            check_parity(a, b, drawn, atol=1, rtol=1, real=real, dtype=dtype)  # type: ignore[arg-type]
