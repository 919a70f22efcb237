"""Quantization: the configuration, and the step from a float artifact to a quantized one."""

from edgekd.quantize.config import QuantConfig

__all__ = ["QuantConfig"]
