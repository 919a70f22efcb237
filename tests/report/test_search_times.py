"""How a search's page tells times."""

from __future__ import annotations

import math

import pytest

from edgekd.quantize.mixture import Latency, Mixture, Trial
from edgekd.report.search import _time


@pytest.mark.parametrize(
    ("upper", "told"), [(0.55, "0.538x [0.530, 0.550]"), (math.inf, "0.538x at a glance")]
)
def test_one_restart_has_no_interval(upper: float, told: str) -> None:
    lower = 0.53 if math.isfinite(upper) else 0.0
    latency = Latency(ratio=0.538, lower=lower, upper=upper)
    assert _time(Trial(mixture=Mixture(target="cpu:openvino"), decision="pass", latency=latency)) == told
