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
