"""One labelled example, and what every data source offers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """One row of a data set.

    Attributes:
        id: the data's own id, else the row index as text.
        inputs: arrays without a batch dimension, by name (``image``, or ``teacher.image`` / ``student.image``).
        label: what is right; None where the data has no labels.
        slices: declared slice values, by slice name.
    """

    id: str
    inputs: Mapping[str, Array]
    label: Any = None
    slices: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class Source(Protocol):
    """A data set that streams."""

    def __iter__(self) -> Iterator[Example]: ...

    @property
    def digest(self) -> str:
        """``sha256:…`` of what the examples are made from: equal digests mean equal examples, in order."""
        ...
