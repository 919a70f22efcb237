"""The QuantConfig noun: how a model is quantized."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from edgekd.errors import UsageError

#: Precisions in ONNX spelling, each with its modes, the usual one first.
MODES: dict[str, tuple[str, ...]] = {
    "int8": ("static", "dynamic", "weight-only"),
    "int4": ("weight-only",),
    "float8e4m3fn": ("static",),
}
DTYPES = tuple(MODES)
#: Other spellings of a precision that the command line and recipes take.
ALIASES = {"fp8": "float8e4m3fn"}
#: Which activation and weight types each runtime family wants.
VARIANTS = {"cpu": ("uint8", "int8"), "tensorrt": ("int8", "int8")}
GRANULARITIES = ("tensor", "channel", "block")
CALIBRATIONS = ("minmax", "entropy", "percentile", "mse")
#: Sizes of a block of weights along the input dimension (onnxruntime, ContribOperators.md, MatMulNBits: a power of 2, >= 16).
BLOCK_SIZES = (16, 32, 64, 128, 256)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantConfig:
    """A quantization.

    Attributes:
        dtype: ``int8``, ``int4`` or ``float8e4m3fn``.
        mode: ``static`` (ranges of activations from calibration data), ``dynamic`` (ranges taken in every call) or
            ``weight-only`` (activations stay float).
        granularity: of the weights: ``channel``, ``tensor``, or ``block`` (of ``block_size`` weights along the input
            dimension; weight-only).
        block_size: one of :data:`BLOCK_SIZES`; counts with ``block`` only.
        variant: ``cpu`` (u8 activations, s8 weights) or ``tensorrt`` (symmetric s8, s8).
        activation_granularity: ``tensor``: one range for each activation; ``channel``: one for each channel, where the
            operator behind it can take them (depthwise convolutions), for some time.
        calibration: of static ranges: ``minmax``, ``entropy``, ``percentile`` or ``mse``.
        examples: how many calibration examples at most.
        seed: draws the examples from all there are; None takes the first.
        smoothing: in [0, 1); share of the differences between the channels of an activation that is moved into the weights
            behind it, which have a scale for each (SmoothQuant's alpha: Xiao et al. 2023, eq. 4); 0 moves nothing that
            the quantizer does not move by itself.
        accuracy_level: of weight-only products on ONNX Runtime (ContribOperators.md, MatMulNBits): 4 computes in int8,
            1 in float32; 0 leaves it to the runtime, which is 5 to 10 times slower for 8 bits.
        keep_float: names of nodes of the float file that stay as they are, sorted.
        ranges: (tensor, low, high) of activations from quantization-aware training, in place of calibrated ones; for
            static int8 ONNX (:class:`edgekd.quantize.trained.TrainedRanges`).
    """

    dtype: str = "int8"
    mode: str = "static"
    granularity: str = "channel"
    block_size: int = 32
    variant: str = "cpu"
    calibration: str = "minmax"
    examples: int = 256
    seed: int | None = None
    smoothing: float = 0.0
    activation_granularity: str = "tensor"
    accuracy_level: int = 4
    keep_float: tuple[str, ...] = ()
    ranges: tuple[tuple[str, float, float], ...] = ()

    @property
    def calibrated(self) -> bool:
        """Whether it takes calibration data to quantize so."""
        return self.mode == "static"

    def to_json(self) -> dict[str, Any]:
        """Plain data, without the fields that mean nothing for this mode."""
        values = {
            **asdict(self), "keep_float": list(self.keep_float), "ranges": [list(r) for r in self.ranges],
        }  # fmt: skip
        idle = [] if self.granularity == "block" else ["block_size"]
        idle += [] if (self.mode, self.granularity) == ("weight-only", "block") else ["accuracy_level"]
        idle += [] if self.calibrated else ["calibration"]
        idle += [] if self.smoothing else ["smoothing"]
        idle += [] if self.activation_granularity != "tensor" else ["activation_granularity"]
        idle += [] if self.seed is not None else ["seed"]
        idle += [] if self.keep_float else ["keep_float"]
        idle += [] if self.ranges else ["ranges"]
        return {k: v for k, v in values.items() if k not in idle}

    def check(self) -> None:
        """Raises UsageError where a field has no known value, or two do not go together."""
        choices = {
            "dtype": DTYPES,
            "mode": MODES.get(self.dtype, ()),
            "granularity": GRANULARITIES,
            "activation_granularity": ("tensor", "channel"),
            "variant": tuple(VARIANTS),
            "calibration": CALIBRATIONS,
            "block_size": BLOCK_SIZES,
            "accuracy_level": (0, 1, 2, 3, 4),
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in allowed:
                of = f" of {self.dtype}" if name == "mode" else ""
                raise UsageError(
                    f"{name} '{getattr(self, name)}'{of} is not known",
                    f"choose {' or '.join(map(str, allowed))}",
                )
        if self.granularity == "block" and self.mode != "weight-only":
            raise UsageError(
                f"granularity 'block' goes with weight-only, the mode is {self.mode}",
                "choose channel or tensor",
            )
        if self.ranges and (self.dtype, self.mode) != ("int8", "static"):
            raise UsageError(
                f"ranges from training go with int8 static, this is {self.dtype} {self.mode}",
                "leave them out",
            )
        if not 0 <= self.smoothing < 1:
            raise UsageError(
                f"smoothing {self.smoothing:g} is not in [0, 1)", "give 0.5, or leave smoothing out"
            )
        if self.smoothing and self.mode != "static":
            raise UsageError(
                f"smoothing goes with static ranges, the mode is {self.mode}", "leave smoothing out"
            )
        if self.activation_granularity != "tensor" and (self.mode, self.granularity) != ("static", "channel"):
            raise UsageError(
                f"ranges for each channel of activations go with static ranges and weights by channel, this is "
                f"{self.mode} by {self.granularity}",
                "leave activation_granularity out",
            )
        if self.examples < 1:
            raise UsageError(f"calibration needs at least 1 example, got {self.examples}", "raise it")


#: What a recipe's ``quantize`` list and ``--dtype`` may say in one word, beside the dtypes themselves.
WORDS: dict[str, QuantConfig] = {
    "int8": QuantConfig(),
    "int8-dynamic": QuantConfig(mode="dynamic"),
    "int8-weights": QuantConfig(mode="weight-only", granularity="block"),
    "int4": QuantConfig(dtype="int4", mode="weight-only", granularity="block"),
    "float8e4m3fn": QuantConfig(dtype="float8e4m3fn"),
}


def config_of(word: str, mode: str = "") -> QuantConfig:
    """The usual configuration of a precision.

    >>> config_of("fp8").dtype, config_of("int8", "weight-only").granularity
    ('float8e4m3fn', 'block')

    Args:
        mode: of :data:`MODES`; empty for the one that the word means.

    Raises:
        UsageError: no such precision, or not in this mode.
    """
    found = WORDS.get(ALIASES.get(word, word))
    if found is None:
        raise UsageError(f"precision '{word}' is not known", f"choose {' or '.join([*WORDS, *ALIASES])}")
    if not mode or mode == found.mode:
        return replace(found)
    if word not in MODES and ALIASES.get(word) not in MODES:
        raise UsageError(f"precision '{word}' is {found.mode}, asked for {mode}", f"say {found.dtype}")
    for other in WORDS.values():
        if (other.dtype, other.mode) == (found.dtype, mode):
            return replace(other)
    raise UsageError(
        f"mode '{mode}' of {found.dtype} is not known", f"choose {' or '.join(MODES[found.dtype])}"
    )


#: Formats whose weights alone are quantized per channel only, where others take blocks (docs/quantization.md).
_CHANNEL_WEIGHTS = ("openvino", "litert")


def usual_for(config: QuantConfig, format_name: str) -> QuantConfig:
    """A configuration whose granularity nobody asked for, with the one that the format writes."""
    weights = (config.dtype, config.mode) == ("int8", "weight-only")
    if weights and config.granularity == "block" and format_name in _CHANNEL_WEIGHTS:
        return replace(config, granularity="channel")
    return config
