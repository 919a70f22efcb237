"""Tensor specs, --shape options and drawn inputs."""

from __future__ import annotations

import numpy as np
import pytest

from edgekd.errors import DataError, ModelError, UsageError
from edgekd.spec import NUMPY_DTYPES, TensorSpec, concrete_shape, draw_feeds, parse_shapes

IMAGE = TensorSpec(name="image", dtype="float32", shape=("batch", 3, 8, 8))


def test_roundtrip_and_text() -> None:
    assert TensorSpec.from_json(IMAGE.to_json()) == IMAGE
    assert str(IMAGE) == "image: float32[batch,3,8,8]"
    scalar = TensorSpec(name="s", dtype="int64", shape=())
    assert TensorSpec.from_json(scalar.to_json()) == scalar


@pytest.mark.parametrize(
    "value", [{}, {"name": "x", "dtype": "int8"}, {"name": "x", "dtype": "int8", "shape": 3}, [1]]
)
def test_from_json_refuses(value: object) -> None:
    with pytest.raises(ModelError, match="needs name, dtype and shape"):
        TensorSpec.from_json(value)  # type: ignore[arg-type]


def test_dynamic_batch() -> None:
    assert IMAGE.dynamic_batch
    assert not TensorSpec(name="x", dtype="int8", shape=(1, "n")).dynamic_batch
    assert not TensorSpec(name="x", dtype="int8", shape=()).dynamic_batch


def test_check_takes_any_size_where_the_dimension_is_named() -> None:
    for batch in (1, 7):
        IMAGE.check(np.zeros((batch, 3, 8, 8), np.float32), where="row 1")


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((1, 3, 8, 8)), "row 1: input 'image' has dtype float64, the model wants float32"),
        (np.zeros((1, 3, 8, 8), ">f4"), "has dtype >f4"),
        (np.zeros((3, 8, 8), np.float32), r"has shape \(3, 8, 8\), the model wants \(batch,3,8,8\)"),
        (np.zeros((1, 8, 8, 3), np.float32), r"has shape \(1, 8, 8, 3\)"),
        (np.zeros((1, 3, 8, 8, 1), np.float32), "has shape"),
    ],
)
def test_check_refuses(array: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        IMAGE.check(array, where="row 1")


def test_parse_shapes() -> None:
    shapes = parse_shapes(["a=1x3", "b=1x2:4x2:8x2", "c:0=5"])
    assert shapes == {"a": ((1, 3),) * 3, "b": ((1, 2), (4, 2), (8, 2)), "c:0": ((5,),) * 3}
    assert parse_shapes([]) == {}


@pytest.mark.parametrize(
    "option",
    ["", "a", "a=", "=1x2", "a=1x", "a=1,2", "a=1x-2", "a=0x2", "a=1:2", "a=1:2:3:4", "a=axb", "a=1.5"],
)
def test_parse_shapes_refuses(option: str) -> None:
    with pytest.raises(UsageError, match="NAME=MIN"):
        parse_shapes([option])


@pytest.mark.parametrize("option", ["a=1x2:4:8x2", "a=4x2:1x2:8x2", "a=1x2:8x2:4x2"])
def test_parse_shapes_refuses_a_range_out_of_order(option: str) -> None:
    with pytest.raises(UsageError, match="MIN <= OPT <= MAX"):
        parse_shapes([option])


def test_parse_shapes_refuses_a_second_answer() -> None:
    with pytest.raises(UsageError, match="a is given twice"):
        parse_shapes(["a=1", "a=2"])


def test_concrete_shape() -> None:
    assert concrete_shape(IMAGE, {}, batch=4) == (4, 3, 8, 8)
    assert concrete_shape(IMAGE, parse_shapes(["image=1x3x8x8:2x3x8x8:9x3x8x8"]), batch=4) == (2, 3, 8, 8)
    assert concrete_shape(TensorSpec(name="s", dtype="int8", shape=()), {}) == ()


def test_concrete_shape_refuses() -> None:
    text = TensorSpec(name="ids", dtype="int64", shape=("batch", "tokens", 4))
    with pytest.raises(UsageError, match=r"unknown dimension 'tokens'.*--shape ids=1x1x4"):
        concrete_shape(text, {})
    with pytest.raises(UsageError, match=r"has 2 dimensions, the model's input has 4"):
        concrete_shape(IMAGE, parse_shapes(["image=1x3"]))
    with pytest.raises(UsageError, match=r"asks for 1x3x9x8, where the model has 8 for 9"):
        concrete_shape(IMAGE, parse_shapes(["image=1x3x9x8"]))


def test_draw_feeds_is_deterministic() -> None:
    specs = [TensorSpec(name=d, dtype=d, shape=("n", 50)) for d in NUMPY_DTYPES]
    first, second = (draw_feeds(specs, seed=3, shapes={}, batch=2) for _ in range(2))
    other = draw_feeds(specs, seed=4, shapes={}, batch=2)
    for spec in specs:
        array = first[spec.name]
        spec.check(array, where="drawn")
        assert array.shape == (2, 50)
        assert array.tobytes() == second[spec.name].tobytes()
        assert array.tobytes() != other[spec.name].tobytes()
        assert np.unique(array).size > 1, "zeros run faster than real values on some hardware"
        assert array.min() >= (-9 if spec.dtype.startswith("float") else 0)


def test_draw_feeds_refuses_a_type_that_numpy_lacks() -> None:
    with pytest.raises(ModelError, match="cannot draw values for input x: bfloat16"):
        draw_feeds([TensorSpec(name="x", dtype="bfloat16", shape=(1,))], seed=0, shapes={})
