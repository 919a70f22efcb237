"""Which configurations a quantizer writes; every other is refused by name, none is ignored."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, fields

from edgekd.errors import UsageError
from edgekd.quantize.config import QuantConfig

#: Names shown in a refusal, at most.
_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Support:
    """What one quantizer writes.

    Attributes:
        writer: its name in messages, e.g. ``NNCF``.
        granularities: (dtype, mode) -> the granularities of weights it has there; what is missing is not written.
        calibrations: methods for static ranges.
        variants: of activation and weight types.
        keep_float: whether single nodes can stay float; ``instead`` says what to do where not.
        ranges: whether it takes ranges from quantization-aware training.
        smoothing: whether it moves differences between channels of activations into weights.
        channels: whether channels of an activation can have a range each.
        accuracy_level: whether its weight-only products have one; else only the default is taken.
    """

    writer: str
    granularities: Mapping[tuple[str, str], tuple[str, ...]]
    calibrations: tuple[str, ...] = ("minmax",)
    variants: tuple[str, ...] = ("cpu",)
    keep_float: bool = False
    accuracy_level: bool = False
    ranges: bool = False
    smoothing: bool = False
    channels: bool = False
    instead: str = "quantize it for onnx or openvino, or leave the model in float32"

    def check(self, config: QuantConfig) -> None:
        """Refuse what is not written.

        Raises:
            UsageError: names the field, its value and what to use instead; also where ``config`` is no configuration.
        """
        config.check()
        words = [f"{dtype} {mode}" for dtype, mode in self.granularities]
        granularities = self.granularities.get((config.dtype, config.mode))
        if granularities is None:
            raise UsageError(
                f"{self.writer} does not write {config.dtype} {config.mode} here",
                f"choose {' or '.join(words)}",
            )
        self._one_of("granularity", config.granularity, granularities)
        self._one_of("variant", config.variant, self.variants)
        if config.calibrated:
            self._one_of("calibration", config.calibration, self.calibrations)
        if config.keep_float and not self.keep_float:
            raise UsageError(
                f"{self.writer} cannot keep single nodes in float, {_some(config.keep_float)} asked for",
                self.instead,
            )
        if config.ranges and not self.ranges:
            raise UsageError(
                f"{self.writer} takes no ranges from training",
                "quantize for onnx, and convert that",
            )
        if config.smoothing and not self.smoothing:
            raise UsageError(
                f"{self.writer} has no smoothing, {config.smoothing:g} was asked for",
                "quantize for openvino, or leave it out",
            )
        if config.activation_granularity == "channel" and not self.channels:
            raise UsageError(
                f"{self.writer} has one range for each activation, one for each channel was asked for",
                "quantize for openvino, or leave activation_granularity out",
            )
        level = next(f.default for f in fields(QuantConfig) if f.name == "accuracy_level")
        if config.mode == "weight-only" and not self.accuracy_level and config.accuracy_level != level:
            raise UsageError(
                f"accuracy_level {config.accuracy_level} was asked for, {self.writer} has none",
                "leave it out",
            )

    def _one_of(self, name: str, value: str, known: tuple[str, ...]) -> None:
        if value not in known:
            raise UsageError(f"{self.writer} has no {name} '{value}' here", f"choose {' or '.join(known)}")


def check_kept(wanted: Collection[str], known: Collection[str], where: str) -> None:
    """Refuse names in ``keep_float`` that the float file has no node of.

    Args:
        known: names of its nodes; where: names the file in the message.

    Raises:
        UsageError: names the first, and the nearest that there are.
    """
    for name in wanted:
        if name not in known:
            close = difflib.get_close_matches(name, list(known), n=3)
            some = sorted(known)[:_SHOWN]
            hint = (
                f"did you mean {' or '.join(repr(c) for c in close)}?" if close else f"it has {_some(some)}"
            )
            raise UsageError(f"keep_float names '{name}', and {where} has no node of that name", hint)


def _some(names: Collection[str]) -> str:
    found = list(names)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(repr(n) for n in found[:_SHOWN]) + more
