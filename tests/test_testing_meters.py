"""The rules of a meter, each broken once."""

from __future__ import annotations

import math

import pytest

from edgekd.testing import ConformanceError, FakeMeter, check_meter


def test_the_fake_meter_conforms() -> None:
    check_meter(FakeMeter())


class _Falling(FakeMeter):
    def read_joules(self) -> float:
        return 100.0 - super().read_joules()


class _Watts(FakeMeter):
    def read_joules(self) -> float:
        return math.nan


class _NoUpdate:
    name, devices = "x", ()


@pytest.mark.parametrize(
    ("meter", "rule"),
    [
        (_Falling(), "monotonic"),
        (_Watts(), "joules"),
        (_NoUpdate(), "protocol"),
        (FakeMeter(update_s=0.0), "update"),
        (FakeMeter(name=""), "protocol"),
        (FakeMeter(why="two\nlines"), "unavailable"),
        (FakeMeter(why="not here"), "available"),
    ],
)
def test_each_rule_is_named_when_it_is_broken(meter: FakeMeter, rule: str) -> None:
    with pytest.raises(ConformanceError) as caught:
        check_meter(meter)
    assert caught.value.rule == rule
