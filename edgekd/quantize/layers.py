"""How much each layer of a model suffers from being quantized."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from edgekd.artifact import Artifact
from edgekd.data.example import Array
from edgekd.quantize.config import QuantConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerError:
    """One layer that a quantizer would quantize, before and after.

    Attributes:
        name: of the node in the float file: what :attr:`QuantConfig.keep_float` takes.
        op_type: its operator.
        sqnr_db: 10 log10(sum a^2 / sum (a - b)^2) of its output as its consumers see it, over all examples, everything
            before it quantized as well; None where equal.
        own_sqnr_db: the same of what this layer adds by itself (its inputs taken as float); None where not known.
        macs: multiply-accumulates of one example; None where not known.
        feeders: layers that make its inputs and quantize them on the way out: this layer reads floats only where they
            stay in float with it.
    """

    name: str
    op_type: str
    sqnr_db: float | None
    own_sqnr_db: float | None = None
    macs: int | None = None
    feeders: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "feeders": list(self.feeders)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> LayerError:
        """Read it back; fields of a later version are ignored."""
        known = {k: v for k, v in value.items() if k in LayerError.__dataclass_fields__}
        return LayerError(**{**known, "feeders": tuple(value.get("feeders", ()))})


@runtime_checkable
class SearchableExporter(Protocol):
    """An exporter whose quantization can be searched; this is optional."""

    def quantization_choices(self, artifact: Artifact, device: str) -> Sequence[QuantConfig]:
        """Configurations worth trying for this float artifact on a device, the most promising first."""
        ...

    def layer_errors(
        self, artifact: Artifact, quantized: Artifact, feeds: Sequence[Mapping[str, Array]]
    ) -> Sequence[LayerError]:
        """Every layer that was quantized, in the order of execution: one pass of both models over ``feeds``.

        Raises:
            ModelError: the two cannot be paired, or do not run.
        """
        ...
