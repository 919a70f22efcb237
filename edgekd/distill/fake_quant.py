"""How to train with fake quantization: one frozen value, part of :class:`edgekd.distill.TrainConfig`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgekd.errors import UsageError
from edgekd.quantize.config import VARIANTS, QuantConfig

#: Weights and activations of other precisions have no ranges to train.
DTYPES = ("int8",)
GRANULARITIES = ("channel", "tensor")
#: Packages that decide where the network is rounded.
QUANTIZERS = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeQuantConfig:
    """Quantization-aware training (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", section 3).

    Attributes:
        dtype: ``int8``.
        granularity: of the weights: ``channel`` or ``tensor``; activations are per tensor.
        variant: ``cpu`` (u8 activations, s8 weights) or ``tensorrt`` (symmetric s8, s8).
        start: share of the training's steps before quantization is on, in [0, 1).
        freeze: share of the steps after which ranges and batch-norm statistics stay as they are, in [start, 1].
    """

    dtype: str = "int8"
    granularity: str = "channel"
    variant: str = "cpu"
    start: float = 0.5
    freeze: float = 0.8

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> FakeQuantConfig:
        """Read :meth:`to_json` back; a missing field has its default."""
        return cls(**{name: value[name] for name in cls.__dataclass_fields__ if name in value})

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def check(self) -> None:
        """Raises UsageError where a field has no known value, or the two shares are out of order."""
        for name, allowed in (
            ("dtype", DTYPES),
            ("granularity", GRANULARITIES),
            ("variant", tuple(VARIANTS)),
        ):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"fake_quant.{name} is '{getattr(self, name)}', it has no fake quantization",
                    f"choose {' or '.join(allowed)}",
                )
        if not 0 <= self.start < 1:
            raise UsageError(
                f"fake_quant.start is {self.start:g}, the training would end before it",
                "choose 0 to less than 1",
            )
        if not self.start <= self.freeze <= 1:
            raise UsageError(
                f"fake_quant.freeze is {self.freeze:g}", f"choose {self.start:g} (its start) to 1"
            )

    def quantization(self) -> QuantConfig:
        """What the trained network is quantized with."""
        return QuantConfig(dtype=self.dtype, granularity=self.granularity, variant=self.variant)

    def steps(self, total: int) -> tuple[int, int]:
        """Steps from 0 from which on quantization is on, and from which on ranges stay; one is quantized at least.

        >>> FakeQuantConfig(start=0.5, freeze=0.8).steps(10)
        (5, 8)
        """
        start = min(int(self.start * total), total - 1)
        return start, max(start, round(self.freeze * total))
