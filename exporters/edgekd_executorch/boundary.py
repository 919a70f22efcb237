"""The names, types and sizes at a program's boundary, which a .pte itself does not hold.

They travel inside the file as a constant method (ExecuTorch's own way to give a program metadata): a method named
:data:`METHOD` that returns one JSON text. A C++ application may read it or ignore it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from edgekd.data.example import Array
from edgekd.errors import DataError, ModelError
from edgekd.spec import TensorSpec, check_feeds

METHOD = "edgekd_boundary"
_SCHEMA = "edgekd.pte/1"


@dataclass(frozen=True, slots=True, kw_only=True)
class Boundary:
    """What a program takes and gives.

    Attributes:
        inputs, outputs: in the program's order.
        dtype: what it computes in, in ONNX spelling.
        limits: name of a varying size -> smallest and greatest that memory was planned for.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    dtype: str
    limits: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def to_text(self) -> str:
        """As compact JSON; equal boundaries give equal text."""
        value = {
            "schema": _SCHEMA,
            "inputs": [s.to_json() for s in self.inputs],
            "outputs": [s.to_json() for s in self.outputs],
            "dtype": self.dtype,
            "limits": {name: list(ends) for name, ends in sorted(self.limits.items())},
        }
        return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_text(text: str, path: Path) -> Boundary:
        """Read :meth:`to_text` back.

        Raises:
            ModelError: not of that form.
        """
        try:
            value = json.loads(text)
            if value["schema"] != _SCHEMA:
                raise ModelError(
                    f"{path} describes its boundary as {value['schema']!r}, this version reads {_SCHEMA}",
                    "export it again with this version",
                )
            return Boundary(
                inputs=tuple(TensorSpec.from_json(s) for s in value["inputs"]),
                outputs=tuple(TensorSpec.from_json(s) for s in value["outputs"]),
                dtype=str(value["dtype"]),
                limits={str(n): (int(low), int(high)) for n, (low, high) in value["limits"].items()},
            )
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ModelError(f"{path} has a damaged boundary ({e!r})", "export it again") from e

    def check(self, feeds: Mapping[str, Array], where: str) -> None:
        """Refuse feeds that the program was not planned for.

        ExecuTorch itself checks only that a tensor fits into the planned memory: (1, 1, 8, 9) would be taken for
        (batch, 1, 8, 8), and answered.

        Raises:
            DataError: names the input, and the sizes that it was planned for.
        """
        check_feeds(self.inputs, feeds, where)
        seen: dict[str, tuple[str, int]] = {}
        for spec in self.inputs:
            for dim, size in zip(spec.shape, np.shape(feeds[spec.name]), strict=True):
                if not isinstance(dim, str):
                    continue
                low, high = self.limits.get(dim, (0, size))
                if not low <= size <= high:
                    raise DataError(
                        f"{where}: input '{spec.name}' has {dim} {size}, its memory was planned for {low} to {high}",
                        f"export it again with --shape {spec.name}=MIN:OPT:MAX that holds {size}, or feed less at once",
                    )
                other, before = seen.setdefault(dim, (spec.name, size))
                if before != size:
                    raise DataError(
                        f"{where}: {dim} is {before} in input '{other}' and {size} in '{spec.name}'",
                        "feed all inputs alike",
                    )


def bare_boundary(inputs: Sequence[tuple[str, tuple[int, ...], bool]],
                  outputs: Sequence[tuple[str, tuple[int, ...], bool]], dtype: str) -> Boundary:  # fmt: skip
    """A boundary for a program that says nothing of itself: (dtype, greatest sizes, whether bounded) per tensor.

    A .pte records that a tensor's sizes are bounded, not which of them vary: the first that is greater than one is
    taken to vary, the others as fixed. Sizes that start equal vary together.

    >>> bare_boundary([("float32", (16, 3, 8, 8), True)], [("float32", (16, 10), True)], "float32").inputs[0].shape
    ('dim_16', 3, 8, 8)
    """
    limits: dict[str, tuple[int, int]] = {}

    def spec(name: str, dtype: str, sizes: tuple[int, ...], bounded: bool) -> TensorSpec:
        shape: list[int | str] = list(sizes)
        axis = next((i for i, n in enumerate(sizes) if n > 1), None) if bounded else None
        if axis is not None:
            symbol = f"dim_{sizes[axis]}"
            limits[symbol] = (1, sizes[axis])
            shape[axis] = symbol
        return TensorSpec(name=name, dtype=dtype, shape=tuple(shape))

    return Boundary(
        inputs=tuple(spec(f"input_{i}", *t) for i, t in enumerate(inputs)),
        outputs=tuple(spec(f"output_{i}", *t) for i, t in enumerate(outputs)),
        dtype=dtype,
        limits=limits,
    )
