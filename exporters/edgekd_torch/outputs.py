"""What a module returned, by output name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edgekd.errors import ModelError
from edgekd.spec import TensorSpec


def named_outputs(made: Any, outputs: Sequence[TensorSpec], name: str) -> dict[str, Any]:
    """What a module returned (a tensor, a sequence or a mapping of them), by output name, in the specs' order.

    Raises:
        ModelError: not what the specs say.
    """
    if isinstance(made, Mapping):
        found = dict(made)
    else:
        values = list(made) if isinstance(made, (list, tuple)) else [made]
        if len(values) != len(outputs):
            raise ModelError(
                f"{name} returned {len(values)} tensors, its model.json names {len(outputs)}",
                "write the model again",
            )
        found = {s.name: v for s, v in zip(outputs, values, strict=True)}
    missing = [s.name for s in outputs if s.name not in found]
    if missing:
        raise ModelError(
            f"{name} did not return '{missing[0]}', only {', '.join(map(str, found))}",
            "write the model again",
        )
    return {s.name: found[s.name] for s in outputs}
