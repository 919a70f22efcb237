"""Names, types and shapes of a model's inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from edgekd.errors import DataError, ModelError, UsageError

#: A dimension: a size, or the name of a size that varies from call to call.
Dim = int | str

#: Element types in ONNX spelling that numpy can hold without help.
NUMPY_DTYPES = (
    "float16", "float32", "float64", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One named tensor.

    Attributes:
        name: the tensor's name in the model.
        dtype: element type in ONNX spelling, e.g. ``"float32"``.
        shape: sizes and symbolic names, e.g. ``("batch", 3, 32, 32)``.
    """

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "dtype": self.dtype, "shape": list(self.shape)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TensorSpec:
        try:
            shape = tuple(d if isinstance(d, int) else str(d) for d in value["shape"])
            return TensorSpec(name=str(value["name"]), dtype=str(value["dtype"]), shape=shape)
        except (KeyError, TypeError) as e:
            raise ModelError(f"a tensor spec needs name, dtype and shape, got {value!r}") from e

    @property
    def dynamic_batch(self) -> bool:
        """Whether the first dimension varies, so that examples can be stacked along it."""
        return bool(self.shape) and isinstance(self.shape[0], str)

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{','.join(map(str, self.shape))}]"

    def check(self, array: np.ndarray[Any, Any], *, where: str) -> None:
        """Refuse an array that the model cannot take.

        Args:
            array: the feed, with a leading batch dimension.
            where: names the source in the message.

        Raises:
            DataError: wrong dtype, rank or a fixed dimension that differs.
        """
        dtype = "string" if array.dtype.kind in "UO" else str(array.dtype)
        if dtype != self.dtype:
            raise DataError(
                f"{where}: input '{self.name}' has dtype {dtype}, the model wants {self.dtype}",
                f"convert the array to {self.dtype}",
            )
        fits = len(array.shape) == len(self.shape) and all(
            isinstance(want, str) or want == got for want, got in zip(self.shape, array.shape, strict=True)
        )
        if not fits:
            want = ",".join(map(str, self.shape))
            raise DataError(
                f"{where}: input '{self.name}' has shape {tuple(array.shape)}, the model wants ({want})",
                "check the array's layout and size",
            )


def parse_shapes(options: Sequence[str]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """Read ``--shape NAME=MIN[:OPT:MAX]`` options.

    >>> parse_shapes(["image=1x3x8x8"])
    {'image': ((1, 3, 8, 8), (1, 3, 8, 8), (1, 3, 8, 8))}

    Raises:
        UsageError: not of that form.
    """
    shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
    for option in options:
        name, eq, text = option.partition("=")
        try:
            parts = [tuple(int(d) for d in part.split("x")) for part in text.split(":")]
        except ValueError:
            parts = []
        if not eq or not name or len(parts) not in (1, 3) or any(d < 1 for p in parts for d in p):
            raise UsageError(
                f"--shape {option!r} is not of the form NAME=MIN[:OPT:MAX]",
                "for example --shape image=1x3x32x32",
            )
        if name in shapes:
            raise UsageError(f"--shape {name} is given twice", "give one per input")
        low, opt, high = parts * 3 if len(parts) == 1 else parts
        ordered = len(low) == len(opt) == len(high) and all(
            a <= b <= c for a, b, c in zip(low, opt, high, strict=True)
        )
        if not ordered:
            raise UsageError(
                f"--shape {option!r} does not have MIN <= OPT <= MAX in every dimension",
                "for example --shape image=1x3x32x32:4x3x32x32:8x3x32x32",
            )
        shapes[name] = (low, opt, high)
    return shapes


def concrete_shape(
    spec: TensorSpec, shapes: Mapping[str, tuple[tuple[int, ...], ...]], batch: int = 1
) -> tuple[int, ...]:
    """The shape to draw an input in: ``--shape`` where given (its OPT), else ``batch`` for a leading symbol.

    Raises:
        UsageError: another dimension varies and no ``--shape`` says how large it is, or it contradicts the model.
    """
    if spec.name in shapes:
        shape = shapes[spec.name][1]
        if len(shape) != len(spec.shape):
            raise UsageError(
                f"--shape {spec.name} has {len(shape)} dimensions, the model's input has {len(spec.shape)}",
                f"the model wants {spec}",
            )
        for want, got in zip(spec.shape, shape, strict=True):
            if isinstance(want, int) and want != got:
                raise UsageError(
                    f"--shape {spec.name} asks for {'x'.join(map(str, shape))}, where the model has {want} for {got}",
                    f"the model wants {spec}",
                )
        return shape
    out: list[int] = []
    for i, dim in enumerate(spec.shape):
        if isinstance(dim, int):
            out.append(dim)
        elif i == 0:
            out.append(batch)
        else:
            raise UsageError(
                f"input {spec} has the unknown dimension '{dim}'",
                f"say how large: --shape {spec.name}={'x'.join('1' if isinstance(d, str) else str(d) for d in spec.shape)}",
            )
    return tuple(out)


def draw_feeds(
    inputs: Sequence[TensorSpec],
    *,
    seed: int,
    shapes: Mapping[str, tuple[tuple[int, ...], ...]],
    batch: int = 1,
) -> dict[str, np.ndarray[Any, Any]]:
    """Seeded random inputs: standard normal floats, small non-negative integers, fair booleans.

    Used where no data is given; equal seeds and specs give equal bytes. Real values rather than zeros,
    because zeros run measurably faster on some hardware.

    Raises:
        UsageError: a dimension is unknown; ModelError: an element type that numpy cannot draw.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray[Any, Any]] = {}
    for spec in inputs:
        shape = concrete_shape(spec, shapes, batch)
        if spec.dtype not in NUMPY_DTYPES:
            raise ModelError(f"cannot draw values for input {spec}", "give data with --data")
        if spec.dtype.startswith("float"):
            feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        elif spec.dtype == "bool":
            feeds[spec.name] = rng.integers(0, 2, shape).astype(bool)
        else:
            feeds[spec.name] = rng.integers(0, 2 if spec.dtype != "uint8" else 256, shape).astype(spec.dtype)
    return feeds


def check_feeds(inputs: Sequence[TensorSpec], feeds: Mapping[str, np.ndarray[Any, Any]], where: str) -> None:
    """Refuse feeds that are not exactly what a model takes: every input, no other, each of its dtype and sizes.

    Args:
        where: names the model in messages.

    Raises:
        DataError: names the input.
    """
    for spec in inputs:
        if spec.name not in feeds:
            raise DataError(f"{where}: input '{spec.name}' is not fed", f"the model wants {spec}")
        spec.check(feeds[spec.name], where=where)
    if len(feeds) != len(inputs):
        extra = sorted(set(feeds) - {s.name for s in inputs})
        raise DataError(f"{where} has no input '{extra[0]}'", f"it has {', '.join(s.name for s in inputs)}")


def stack_feeds(
    feeds: Sequence[Mapping[str, np.ndarray[Any, Any]]], batch: int
) -> dict[str, np.ndarray[Any, Any]]:
    """Several examples as one call: arrays of ``batch`` rows; where examples are missing, the last is repeated.

    Args:
        feeds: at least one, at most ``batch``; each array has a leading batch dimension of 1.
    """
    padded = [*feeds, *[feeds[-1]] * (batch - len(feeds))]
    return {name: np.concatenate([f[name] for f in padded]) for name in padded[0]}
