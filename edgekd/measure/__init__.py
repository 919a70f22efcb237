"""Measurement: interleaved timing in children, with a ledger of what the machine did. Knows nothing of limits."""

from edgekd.measure.interleave import Arm, Protocol, Setting, arms_of, measure

__all__ = ["Arm", "Protocol", "Setting", "arms_of", "measure"]
