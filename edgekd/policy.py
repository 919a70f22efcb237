"""Gates as a recipe or a policy file asks them: one block per question, with its limit."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from edgekd.errors import UsageError
from edgekd.evidence.measurement import OFFLINE, SERVER, level_of
from edgekd.evidence.run import fidelity_reference
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
#: What a student's answers may be compared with; ``float32`` is the student's own before quantization.
Against = Literal["teacher", "naive", "float32", "baseline"]
#: Margins where none is given, fractions (METHOD, section 2): a point against others, half against one's own float32.
_MARGINS: dict[str, float] = {"float32": 0.005}
_MARGIN = 0.01
_SLICE_MARGIN = 0.03


class AccuracyGate(Block):
    """``gates.accuracy``: how far below its reference the student may be.

    ``max_drop`` is in the metric's own unit (a fraction for accuracies); ``min_ratio`` is a share of the reference's
    value, as MLPerf's 99 % and 99.9 %. ``baseline`` names last release's model where no regression gate does.
    """

    against: Against = "teacher"
    max_drop: Annotated[float, Field(ge=0)] | None = None
    min_ratio: Annotated[float, Field(gt=0, le=1)] | None = None
    baseline: str = ""

    @model_validator(mode="after")
    def _one(self) -> AccuracyGate:
        if self.baseline and self.against != "baseline":
            raise ValueError(
                f"names a baseline and compares with the {self.against}; say `against: baseline`"
            )
        if self.max_drop is not None and self.min_ratio is not None:
            raise ValueError("give one of `max_drop` and `min_ratio`")
        return self

    @property
    def stated(self) -> bool:
        """Whether a limit was given; the usual margins are points of a fraction, and mean nothing in other units."""
        return self.max_drop is not None or self.min_ratio is not None

    @property
    def margin(self) -> float:
        """The greatest drop, where no share of the reference was asked."""
        return _MARGINS.get(self.against, _MARGIN) if self.max_drop is None else self.max_drop


class FidelityGate(Block):
    """``gates.fidelity``: how far the student's answers may be displaced; each limit given is a gate of its own.

    Without ``against``: the student's own float32 where the run has it, else the teacher, else the baseline.
    """

    against: Against | None = None
    max_flips: Annotated[float, Field(ge=0, lt=1)] | None = None
    max_kl_mean: Positive | None = None
    max_kl_median: Positive | None = None
    max_kl_p99: Positive | None = None
    max_kl_max: Positive | None = None
    max_ece_change: Annotated[float, Field(gt=0, lt=1)] | None = None
    max_ece_change_equal_mass: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _some(self) -> FidelityGate:
        if not self.limits:
            raise ValueError("asks nothing; give `max_flips`, a `max_kl_…` or a `max_ece_change…`")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """Figure -> limit, of those asked."""
        return {
            name.removeprefix("max_"): value
            for name in type(self).model_fields
            if name.startswith("max_") and (value := getattr(self, name)) is not None
        }


class SlicesGate(Block):
    """``gates.slices``: how far below its reference the student may be on any part of the data.

    ``names`` chooses among the slices that the data has; empty takes them all.
    """

    names: list[str] = []
    against: Against = "teacher"
    max_drop: Annotated[float, Field(gt=0)] | None = None

    @field_validator("names")
    @classmethod
    def _each_once(cls, value: list[str]) -> list[str]:
        if len(set(value)) != len(value) or not all(value):
            raise ValueError(f"names a slice twice, or one without a name: {value}")
        return value

    @property
    def margin(self) -> float:
        """The greatest drop within a slice; 3 points where none was given."""
        return _SLICE_MARGIN if self.max_drop is None else self.max_drop


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


class PlacementGate(Block):
    """``gates.placement``: the least share of the model that ran on the accelerator, or in a precision.

    ``on`` is the place's name (``cuda``, ``xnnpack``); empty takes what the target's session uses, unless a
    ``precision`` alone is asked.
    """

    min_share: Annotated[float, Field(gt=0, le=1)]
    on: str = ""
    precision: str = ""
    by: Literal["ops", "time", "macs"] = "ops"


class ProvenanceGate(Block):
    """``gates.provenance``: what was declared of teacher and data must allow it, by the terms table.

    What is not known is rejected; a named person's waiver is the only way past. A record that was older than
    ``max_age_days`` on the day of the run needs a human too (TRUST, section 3).
    """

    on_unknown: Literal["reject"] = "reject"
    max_age_days: Annotated[int, Field(ge=1)] = 180


class GatesBlock(Block):
    """``gates:`` the limits; also a policy file of its own."""

    accuracy: AccuracyGate | Annotated[list[AccuracyGate], Field(min_length=1)] | None = None
    fidelity: FidelityGate | None = None
    slices: SlicesGate | None = None
    latency: LatencyGate | None = None
    regression: RegressionGate | None = None
    latency_absolute: LatencyAbsoluteGate | None = None
    tail: TailGate | None = None
    size: SizeGate | None = None
    placement: PlacementGate | None = None
    provenance: ProvenanceGate | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        return tuple(n for n in type(self).model_fields if getattr(self, n) is not None)

    @model_validator(mode="after")
    def _one_baseline(self) -> GatesBlock:
        named = {rule.baseline for rule in self.accuracy_rules if rule.baseline}
        if self.regression is not None and self.regression.baseline:
            named.add(self.regression.baseline)
        if len(named) > 1:
            raise ValueError(f"names several baselines ({', '.join(sorted(named))}); a run has one")
        return self

    @field_validator("accuracy")
    @classmethod
    def _each_once(cls, value: AccuracyGate | list[AccuracyGate] | None) -> Any:
        if isinstance(value, list):
            seen = [(rule.against, rule.min_ratio is None) for rule in value]
            if len(set(seen)) != len(seen):
                raise ValueError("asks the same question against the same reference twice")
        return value

    @property
    def accuracy_rules(self) -> tuple[AccuracyGate, ...]:
        """Every accuracy question."""
        if self.accuracy is None:
            return ()
        return tuple(self.accuracy) if isinstance(self.accuracy, list) else (self.accuracy,)

    @property
    def baseline(self) -> str:
        """Last release's model, where a gate names it; else empty."""
        named = [self.regression.baseline] if self.regression is not None else []
        return next(filter(None, [*named, *(rule.baseline for rule in self.accuracy_rules)]), "")

    @property
    def judges_answers(self) -> bool:
        """Whether anything asked needs per-example answers."""
        return bool(self.accuracy_rules) or self.fidelity is not None or self.slices is not None

    def references(self, available: Collection[str] = ()) -> tuple[str, ...]:
        """What the student's answers are compared with, each once.

        Args:
            available: what the run can evaluate; settles a fidelity gate that names no reference.
        """
        asked: list[str] = [rule.against for rule in self.accuracy_rules]
        if self.slices is not None:
            asked.append(self.slices.against)
        if self.fidelity is not None:
            asked.append(self.fidelity.against or fidelity_reference(available))
        return tuple(dict.fromkeys(asked))


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


def check_margins(gates: GatesBlock, kind: str, metric: str) -> None:
    """Refuse a drop of 1 or more of a metric that is a fraction: 1 was meant as a point, and allows anything.

    Raises:
        UsageError: names the gate and how a point is written.
    """
    if kind == "regression":
        stated = [("accuracy", rule.stated) for rule in gates.accuracy_rules]
        if gates.slices is not None:
            stated.append(("slices", gates.slices.max_drop is not None))
        for name, given in stated:
            if not given:
                raise UsageError(
                    f"gates.{name} gives no max_drop, and a regression is measured in the label's unit: there is no usual "
                    "margin",
                    "give one in that unit (--max-accuracy-drop, --max-slice-drop), or --min-accuracy-ratio",
                )
    if kind.startswith("python:") or kind == "regression":
        return  # their metrics need not be fractions
    asked = [("accuracy", rule.margin) for rule in gates.accuracy_rules]
    if gates.slices is not None:
        asked.append(("slices", gates.slices.margin))
    for name, margin in asked:
        if margin >= 1:
            raise UsageError(
                f"gates.{name}.max_drop is {margin:g}, and {metric or 'the metric'} is a fraction: it would allow anything",
                "write 0.01 for one point",
            )
