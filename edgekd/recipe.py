"""The Recipe noun: what the user asked for, as YAML, validated and frozen.

Unknown keys, wrong types and duplicate keys are refused by file, line and key. Reading a recipe runs nothing and
writes nothing; ``${NAME}`` and ``${NAME:-default}`` are filled in from the environment that the caller passes, and
the filled-in text is what the run keeps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import yaml
from pydantic import BaseModel, Field, JsonValue, ValidationError, field_validator, model_validator

from edgekd.data.sources import share_rows
from edgekd.errors import EvidenceError, RecipeError, UsageError
from edgekd.evidence.measurement import SERVER
from edgekd.evidence.run import RUN_FILE, Run
from edgekd.measure.scenario import Scenario, scenario_from
from edgekd.policy import (
    AccuracyGate,
    Block,
    GatesBlock,
    LatencyAbsoluteGate,
    LatencyGate,
    Positive,
    RegressionGate,
    SizeGate,
    TailGate,
    check_margins,
    check_scenario,
)
from edgekd.quantize.precision import Precision, precision_of
from edgekd.recipe_provenance import ProvenanceBlock
from edgekd.recipe_refusal import refusal
from edgekd.recipe_training import DistillBlock, LayerPair, LossBlock, TrainBlock
from edgekd.spec import parse_shapes
from edgekd.strict_yaml import read_yaml

__all__ = [
    "AccuracyGate",
    "DistillBlock",
    "GatesBlock",
    "LatencyAbsoluteGate",
    "LatencyGate",
    "LayerPair",
    "LossBlock",
    "MeasureBlock",
    "QuantizeBlock",
    "Recipe",
    "RegressionGate",
    "ReleaseBlock",
    "ScenarioBlock",
    "SearchBlock",
    "SizeGate",
    "StudentBlock",
    "TailGate",
    "TargetBlock",
    "TaskBlock",
    "TeacherBlock",
    "TrainBlock",
    "check_scenario",
    "load_policy",
    "load_recipe",
    "shapes_of",
]

SPLITS = ("train", "calibration", "select", "test")
ScenarioName = Literal["single-stream", "multi-stream", "offline", "server"]


class _Block(BaseModel):
    model_config = Block.model_config


class TaskBlock(_Block):
    """``task:`` data and metric."""

    kind: str = "classification"
    metric: str = ""
    data: dict[Literal["train", "calibration", "select", "test"], str]
    output: str = ""
    slices: list[str] = []
    cluster: str = ""

    @field_validator("data")
    @classmethod
    def _needs_test(cls, value: dict[str, str]) -> dict[str, str]:
        if "test" not in value:
            raise ValueError("needs a `test` split to judge on")
        return value


class TeacherBlock(_Block):
    """``teacher:`` a model reference, and optionally weights, preprocessing and (further) training."""

    model: str
    weights: str = ""
    prepare: dict[str, JsonValue] = {}
    train: TrainBlock | None = None


class StudentBlock(_Block):
    """``student:`` a model reference; ``naive`` also trains so many without the teacher, as a control."""

    model: str
    weights: str = ""
    prepare: dict[str, JsonValue] = {}
    naive: Annotated[int, Field(ge=0, le=20)] = 0


class TargetBlock(_Block):
    """A target that may be absent: ``{target: cuda:tensorrt, required: false}``."""

    target: str
    required: bool = True


class ScenarioBlock(_Block):
    """``measure.scenario`` with more than its word; see :class:`edgekd.measure.Scenario`."""

    name: ScenarioName
    percentile: str | None = None
    min_duration_s: Positive | None = None
    min_count: Annotated[int, Field(ge=1)] | None = None
    samples_per_query: Annotated[int, Field(ge=1)] | None = None
    max_batch: Annotated[int, Field(ge=1)] | None = None
    sessions: Annotated[int, Field(ge=1)] | None = None
    bound_ms: Positive | None = None
    target_qps: Positive | None = None
    seed: Annotated[int, Field(ge=0)] = 0

    @model_validator(mode="after")
    def _means_something(self) -> ScenarioBlock:
        try:
            scenario_from(self.model_dump())
        except UsageError as e:
            raise ValueError(str(e)) from e
        return self


class MeasureBlock(_Block):
    """``measure:`` how latency is measured."""

    scenario: ScenarioName | ScenarioBlock = "single-stream"
    batch: Annotated[int, Field(ge=1)] = 1
    threads: Annotated[int, Field(ge=1)] = 1
    timeout_s: Positive = 300.0
    memory_limit_mib: Positive | None = None

    @field_validator("scenario")
    @classmethod
    def _whole(cls, value: str | ScenarioBlock) -> str | ScenarioBlock:
        if value == SERVER:
            raise ValueError("server needs a block: {name: server, target_qps: 100} (or bound_ms)")
        return value

    @property
    def as_scenario(self) -> Scenario:
        """The scenario with its fields."""
        value = self.scenario
        return scenario_from(value if isinstance(value, str) else value.model_dump())


class SearchBlock(_Block):
    """``search:`` the fastest mixture whose selection-split non-inferiority to float32 holds at ``max_drop``."""

    max_drop: Positive
    budget_minutes: Positive = 10.0


class QuantizeBlock(_Block):
    """An entry of ``quantize`` with more than its word; what is left out is as usual for that precision."""

    dtype: str = "int8"
    mode: Literal["static", "dynamic", "weight-only"] | None = None
    granularity: Literal["tensor", "channel", "block"] | None = None
    block_size: int | None = None
    calibration: Literal["minmax", "entropy", "percentile", "mse"] | None = None
    smoothing: Annotated[float, Field(ge=0, lt=1)] | None = None
    activation_granularity: Literal["tensor", "channel"] | None = None
    examples: Annotated[int, Field(ge=1)] | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    accuracy_level: Annotated[int, Field(ge=0, le=4)] | None = None
    keep_float: list[str] | None = None
    name: str | None = None
    search: SearchBlock | None = None

    @model_validator(mode="after")
    def _searched_or_said(self) -> QuantizeBlock:
        both = sorted(self.model_fields_set - {"search", "name"})
        if self.search is not None and both:
            raise ValueError(f"searches, and says `{both[0]}` too: what is searched is found, not said")
        return self


class ReleaseBlock(_Block):
    """``release:`` which formats go into the bundle, and which private key signs it where ``--key`` names none.

    ``sign`` is relative to where ``release`` runs: a key is of a person or a machine, not of a recipe.
    """

    formats: list[str] = ["onnx"]
    sign: str = ""


def shapes_of(shapes: Mapping[str, Sequence[str]]) -> dict[str, tuple[tuple[int, ...], ...]]:
    """A recipe's ``shapes`` as (min, opt, max) by input name.

    Raises:
        UsageError: neither one size nor three in order.
    """
    return parse_shapes([f"{name}={':'.join(sizes)}" for name, sizes in shapes.items()])


def _precision(entry: str | QuantizeBlock) -> Precision:
    return precision_of(entry if isinstance(entry, str) else entry.model_dump(exclude_none=True))


def _refuse_twice(what: str, names: Sequence[str]) -> None:
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice is not None:
        raise ValueError(f"names the {what} {twice} twice")


class Recipe(_Block):
    """A whole recipe; see the fields' blocks."""

    edgekd: Literal[1]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
    task: TaskBlock
    teacher: TeacherBlock
    student: StudentBlock
    distill: DistillBlock | None = None
    quantize: Annotated[list[str | QuantizeBlock], Field(min_length=1)] = ["float32", "int8"]
    export: Annotated[list[str], Field(min_length=1)] = ["onnx"]
    targets: Annotated[list[str | TargetBlock], Field(min_length=1)] = ["cpu:onnxruntime"]
    shapes: dict[str, list[str]] = {}
    measure: MeasureBlock = MeasureBlock()
    gates: GatesBlock
    provenance: ProvenanceBlock | None = None
    release: ReleaseBlock = ReleaseBlock()

    @field_validator("shapes")
    @classmethod
    def _sizes(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        try:
            shapes_of(value)
        except UsageError as e:
            raise ValueError(e.what) from e
        return value

    @field_validator("quantize")
    @classmethod
    def _precisions(cls, value: list[str | QuantizeBlock]) -> list[str | QuantizeBlock]:
        names = []
        for entry in value:
            try:
                names.append(_precision(entry).name)
            except UsageError as e:
                raise ValueError(f"{e.what}; {e.fix}") from e
        _refuse_twice("precision", names)
        return value

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """What ``quantize`` asks for, each a candidate."""
        return tuple(_precision(entry) for entry in self.quantize)

    @field_validator("export")
    @classmethod
    def _formats(cls, value: list[str]) -> list[str]:
        _refuse_twice("format", value)
        return value

    @field_validator("targets")
    @classmethod
    def _places(cls, value: list[str | TargetBlock]) -> list[str | TargetBlock]:
        _refuse_twice("target", [t.target if isinstance(t, TargetBlock) else t for t in value])
        return value

    @field_validator("gates")
    @classmethod
    def _some_gate(cls, value: GatesBlock) -> GatesBlock:
        if not value.asked:
            raise ValueError(f"asks no gate; give at least one of {', '.join(GatesBlock.model_fields)}")
        return value

    @model_validator(mode="before")
    @classmethod
    def _slices_are_gated(cls, value: Any) -> Any:
        """Slices that the task declares are judged, at the default margin where the gates give none."""
        task, gates = (value.get(k) if isinstance(value, dict) else None for k in ("task", "gates"))
        if not isinstance(task, dict) or not isinstance(gates, dict) or not task.get("slices"):
            return value
        block = gates.get("slices") or {}
        if not isinstance(block, dict) or block.get("names"):
            return value
        return {**value, "gates": {**gates, "slices": {**block, "names": task["slices"]}}}

    @model_validator(mode="after")
    def _fits(self) -> Recipe:
        try:
            check_scenario(self.gates, self.measure.as_scenario)
            check_margins(self.gates, self.task.kind, self.task.metric)
        except UsageError as e:
            raise ValueError(str(e)) from e
        if self.distill is not None and "train" not in self.task.data:
            raise ValueError("`distill` needs task.data.train")
        asked = self.gates.references(("teacher", "float32"))
        if "naive" in asked and not self.student.naive:
            raise ValueError("a gate against the naive student needs `student.naive`: how many to train")
        if "baseline" in asked and not self.gates.baseline:
            raise ValueError(
                "a gate against the baseline needs its path: `gates.accuracy.baseline` or `gates.regression.baseline`"
            )
        if "select" in self.task.data and share_rows(self.task.data["select"], self.task.data["test"]):
            raise ValueError(
                "task.data.select and task.data.test share rows: what is chosen by looking is not judged on them"
            )
        searched = any(p.search is not None for p in self.precisions)
        if searched and "select" not in self.task.data:
            raise ValueError(
                "`quantize.search` needs task.data.select: what is chosen by looking is not judged on it"
            )
        calibrated = next((p.name for p in self.precisions if p.config or p.search), None)
        if calibrated is not None and not ({"calibration", "train"} & set(self.task.data)):
            raise ValueError(f"{calibrated} needs task.data.calibration (or train)")
        if len(self.quantize) * len(self.export) > 1 and "select" not in self.task.data:
            raise ValueError(
                "several candidates need task.data.select: what is chosen by looking is not judged on it"
            )
        if self.student.naive and self.distill is None:
            raise ValueError(
                "student.naive needs `distill`: a control is trained like the student, without the teacher"
            )
        for role, block in (("teacher", self.teacher), ("student", self.student)):
            given = [k for k in ("weights", "train") if getattr(block, k, None)]
            if given and not block.model.startswith(("zoo:", "python:")):
                raise ValueError(
                    f"{role}.{given[0]} is for a zoo: or python: model; {block.model} brings its own"
                )
        if self.distill is not None and not self.student.model.startswith(("zoo:", "python:")):
            raise ValueError(
                f"`distill` trains a zoo: or python: student; {self.student.model} is trained already"
            )
        if self.distill is None and not self.student.weights and self.student.model.startswith("zoo:"):
            raise ValueError("a zoo student needs `distill` or student.weights")
        if self.teacher.model.startswith("zoo:") and not self.teacher.weights and self.teacher.train is None:
            raise ValueError("a zoo teacher needs teacher.weights or teacher.train")
        return self


def _parse(path: Path, environ: Mapping[str, str], model: type[BaseModel], unwrap: str) -> Any:
    value, root = read_yaml(path, environ)
    if unwrap and set(value) == {unwrap} and isinstance(root, yaml.MappingNode):
        value, root = value[unwrap], root.value[0][1]
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise refusal(e, path, root, model) from e


def load_recipe(path: Path, environ: Mapping[str, str]) -> Recipe:
    """Read and validate a recipe.

    Args:
        path: a YAML file.
        environ: what ``${NAME}`` is filled in from.

    Raises:
        RecipeError: unreadable, not YAML, an unknown, missing or wrong key; names file, line and key.
    """
    return cast(Recipe, _parse(path, environ, Recipe, ""))


def stored_policy(folder: Path, run: Run) -> GatesBlock:
    """The gates block that a run was made under.

    Raises:
        EvidenceError: a block that this version does not know.
    """
    try:
        return GatesBlock.model_validate(dict(run.policy))
    except ValidationError as e:
        first = e.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise EvidenceError(
            f"{folder / RUN_FILE}: policy.{key}: {first['msg'].removeprefix('Value error, ')}",
            "judge it under another: --policy F",
        ) from e


def load_policy(path: Path, environ: Mapping[str, str]) -> GatesBlock:
    """Read a policy file: a recipe's ``gates:`` block, with or without the word ``gates:`` around it.

    Raises:
        RecipeError: as :func:`load_recipe`, or no gate asked.
    """
    policy: GatesBlock = _parse(path, environ, GatesBlock, "gates")
    if not policy.asked:
        raise RecipeError(
            f"{path} asks no gate", f"give at least one of {', '.join(GatesBlock.model_fields)}"
        )
    return policy
