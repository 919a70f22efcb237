"""Gates blocks: limits on percentiles, and the scenarios that they can be judged in."""

import pytest
from pydantic import ValidationError

from edgekd.errors import UsageError
from edgekd.measure import Scenario
from edgekd.policy import GatesBlock, check_scenario


def policy(**gates):
    return GatesBlock.model_validate(gates)


def test_percentiles_have_a_default_and_a_form():
    found = policy(latency_absolute={"max_ms": 33}, tail={"percentile": "p99.9", "max_ratio": 1.2})
    assert (found.latency_absolute.percentile, found.tail.percentile) == ("p99", "p99.9")
    assert found.asked == ("latency_absolute", "tail")
    for bad in ("p100", "p0", "99", "median"):
        with pytest.raises(ValidationError, match="is not a percentile; write p50"):
            policy(tail={"percentile": bad, "max_ratio": 1.2})
    for bad in ({"max_ms": 0}, {"max_ms": float("inf")}, {}):
        with pytest.raises(ValidationError):
            policy(latency_absolute=bad)


ABSOLUTE = {"latency_absolute": {"max_ms": 3}}
TAIL = {"tail": {"max_ratio": 1.2}}
RATIO = {"latency": {"max_ratio": 0.5}}


@pytest.mark.parametrize(
    ("gates", "scenario"),
    [
        ({**ABSOLUTE, **TAIL, **RATIO}, Scenario()),
        ({**ABSOLUTE, **TAIL, **RATIO}, Scenario(name="multi-stream")),
        (RATIO, Scenario(name="offline")),
        (ABSOLUTE, Scenario(name="server", target_qps=10)),
        ({"size": {"max_mib": 1}}, Scenario(name="server", bound_ms=10)),
    ],
)
def test_gates_that_a_scenario_has_evidence_for(gates, scenario):
    check_scenario(policy(**gates), scenario)


@pytest.mark.parametrize(
    ("gates", "scenario", "says"),
    [
        (ABSOLUTE, Scenario(name="offline"), "latency_absolute cannot be judged in the offline"),
        (TAIL, Scenario(name="offline"), "tail cannot be judged in the offline"),
        (TAIL, Scenario(name="server", target_qps=10), "tail cannot be judged in the server"),
        (RATIO, Scenario(name="server", target_qps=10), "latency cannot be judged in the server"),
        (
            {"regression": {"baseline": "a.onnx"}},
            Scenario(name="server", target_qps=10),
            "regression cannot be judged in the server",
        ),
        (ABSOLUTE, Scenario(name="server", bound_ms=10), "give target_qps"),
    ],
)
def test_gates_that_a_scenario_has_no_evidence_for(gates, scenario, says):
    with pytest.raises(UsageError, match=says):
        check_scenario(policy(**gates), scenario)
