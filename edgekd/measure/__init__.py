"""Measurement: interleaved timing in children, with a ledger of what the machine did. Knows nothing of limits."""

from edgekd.measure.arm import Arm, Protocol, Setting, arms_of
from edgekd.measure.interleave import measure
from edgekd.measure.run import measure_scenario
from edgekd.measure.scenario import Scenario

__all__ = ["Arm", "Protocol", "Scenario", "Setting", "arms_of", "measure", "measure_scenario"]
