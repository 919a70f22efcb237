"""Gates as a recipe or a policy file asks them: one block per question, with its limit."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from edgekd.errors import UsageError
from edgekd.evidence.measurement import OFFLINE, SERVER, level_of
from edgekd.measure.scenario import Scenario


class Block(BaseModel):
    """A block of a recipe: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _percentile(text: str) -> str:
    try:
        level_of(text)
    except UsageError as e:
        raise ValueError(str(e)) from e
    return text


Positive = Annotated[float, Field(gt=0)]
Percentile = Annotated[str, AfterValidator(_percentile)]


class AccuracyGate(Block):
    """``gates.accuracy``: how far below its reference the student may be, as a fraction."""

    against: Literal["teacher"] = "teacher"
    max_drop: Annotated[float, Field(gt=0, lt=1)] = 0.01


class LatencyGate(Block):
    """``gates.latency``: greatest ratio student / teacher."""

    against: Literal["teacher"] = "teacher"
    max_ratio: Positive


class LatencyAbsoluteGate(Block):
    """``gates.latency_absolute``: a quantile of the student's latency, in milliseconds; needs no teacher."""

    percentile: Percentile = "p99"
    max_ms: Positive


class TailGate(Block):
    """``gates.tail``: greatest ratio student / teacher of a quantile of the raw latency."""

    against: Literal["teacher"] = "teacher"
    percentile: Percentile = "p99"
    max_ratio: Positive


class RegressionGate(Block):
    """``gates.regression``: how much slower than a baseline artifact, measured again beside the student."""

    baseline: str
    max_regression: Annotated[float, Field(ge=0)] = 0.02


class SizeGate(Block):
    """``gates.size``: greatest size of the shipped files, absolute or against the teacher's."""

    max_mib: Positive | None = None
    max_ratio: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> SizeGate:
        if (self.max_mib is None) == (self.max_ratio is None):
            raise ValueError("give one of `max_mib` and `max_ratio`")
        return self


class GatesBlock(Block):
    """``gates:`` the limits; also a policy file of its own."""

    accuracy: AccuracyGate | None = None
    latency: LatencyGate | None = None
    regression: RegressionGate | None = None
    latency_absolute: LatencyAbsoluteGate | None = None
    tail: TailGate | None = None
    size: SizeGate | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(n for n in type(self).model_fields if getattr(self, n) is not None)


def check_scenario(gates: GatesBlock, scenario: Scenario) -> None:
    """Refuse gates that a scenario has no evidence for.

    Raises:
        UsageError: names the gate and the scenarios that it can be judged in.
    """
    wrong = {OFFLINE: ("latency_absolute", "tail"), SERVER: ("latency", "regression", "tail")}
    for name in wrong.get(scenario.name, ()):
        if getattr(gates, name) is not None:
            fix = (
                "offline has samples per second and no latency: choose single-stream or multi-stream"
                if scenario.name == OFFLINE
                else "the server scenario is judged by latency_absolute (--max-latency-ms) at a rate"
            )
            raise UsageError(f"the gate {name} cannot be judged in the {scenario.name} scenario", fix)
    if scenario.name == SERVER and gates.latency_absolute is not None and scenario.target_qps is None:
        raise UsageError(
            "latency_absolute judges the server at a rate, and none is given",
            "give target_qps (--target-qps 100)",
        )
