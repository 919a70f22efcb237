"""EdgeKD decides whether a distilled student model may ship.

``import edgekd`` imports the standard library only; each name below is imported when it is first asked for. Where an
arrow of the line is called like its room, the name is the room: ``edgekd.evaluate.evaluate``,
``edgekd.measure.measure``, ``edgekd.release.release``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgekd import evaluate, measure, release
    from edgekd.artifact import Artifact, FileRecord, load_artifact
    from edgekd.data import open_source
    from edgekd.data.example import Example
    from edgekd.distill import TrainConfig, train_model
    from edgekd.errors import EdgeKDError, InfrastructureError, InputError, NotReleasableError, PolicyError
    from edgekd.evaluate import EvaluationRequest
    from edgekd.evidence import (
        Candidate,
        Evaluation,
        Evidence,
        Measurement,
        Restart,
        Run,
        load_evaluation,
        load_measurement,
        load_run,
        save_evaluation,
        save_measurement,
    )
    from edgekd.gates import (
        CandidateVerdict,
        Decision,
        Gate,
        Verdict,
        exit_code,
        judge_accuracy,
        judge_latency,
        judge_run,
        judge_size,
        load_verdict,
    )
    from edgekd.model import Model, load_model
    from edgekd.models import open_reference
    from edgekd.pipeline.artifacts import export_model, quantize_artifact
    from edgekd.pipeline.collect import evaluate_artifact, measure_comparison
    from edgekd.pipeline.gate import GateRequest, gate_files
    from edgekd.pipeline.run import run_recipe
    from edgekd.quantize import QuantConfig
    from edgekd.recipe import GatesBlock, Recipe, load_policy, load_recipe
    from edgekd.release.verify import Verified, verify
    from edgekd.report import render
    from edgekd.spec import TensorSpec
    from edgekd.stages import StageStore, default_cache_root
    from edgekd.target import Exporter, Placement, Runtime, Session, SessionOptions, Target, parse_target
    from edgekd.tasks import ModelIO, Prediction, Task, TaskSpec, build_task

__version__ = "0.1.0"

__all__ = [
    "__version__",
    # Recipe
    "Recipe",
    "GatesBlock",
    "load_recipe",
    "load_policy",
    "run_recipe",
    # Task
    "Task",
    "TaskSpec",
    "Example",
    "ModelIO",
    "Prediction",
    "build_task",
    "open_source",
    # Model
    "Model",
    "TensorSpec",
    "TrainConfig",
    "load_model",
    "open_reference",
    "train_model",
    # QuantConfig
    "QuantConfig",
    "quantize_artifact",
    # Artifact
    "Artifact",
    "FileRecord",
    "load_artifact",
    "export_model",
    # Target
    "Target",
    "Exporter",
    "Placement",
    "Runtime",
    "Session",
    "SessionOptions",
    "parse_target",
    # Evaluation
    "Evaluation",
    "EvaluationRequest",
    "evaluate",
    "evaluate_artifact",
    "load_evaluation",
    "save_evaluation",
    # Measurement
    "Measurement",
    "Restart",
    "measure",
    "measure_comparison",
    "load_measurement",
    "save_measurement",
    # Gate, Verdict
    "Gate",
    "GateRequest",
    "Verdict",
    "CandidateVerdict",
    "Decision",
    "exit_code",
    "gate_files",
    "judge_accuracy",
    "judge_latency",
    "judge_run",
    "judge_size",
    "load_verdict",
    # a run: its index, its stages, its views
    "Run",
    "Candidate",
    "Evidence",
    "StageStore",
    "default_cache_root",
    "load_run",
    "render",
    # Release
    "release",
    "Verified",
    "verify",
    # errors: the whole tree is in edgekd.errors
    "EdgeKDError",
    "InfrastructureError",
    "InputError",
    "NotReleasableError",
    "PolicyError",
]

_NAMES = {
    "edgekd.artifact": ("Artifact", "FileRecord", "load_artifact"),
    "edgekd.data": ("open_source",),
    "edgekd.data.example": ("Example",),
    "edgekd.distill": ("TrainConfig", "train_model"),
    "edgekd.errors": (
        "EdgeKDError",
        "InfrastructureError",
        "InputError",
        "NotReleasableError",
        "PolicyError",
    ),
    "edgekd.evaluate": ("EvaluationRequest",),
    "edgekd.evidence": (
        *("Candidate", "Evaluation", "Evidence", "Measurement", "Restart", "Run"),
        *("load_evaluation", "load_measurement", "load_run", "save_evaluation", "save_measurement"),
    ),
    "edgekd.gates": (
        *("CandidateVerdict", "Decision", "Gate", "Verdict", "exit_code", "load_verdict"),
        *("judge_accuracy", "judge_latency", "judge_run", "judge_size"),
    ),
    "edgekd.model": ("Model", "load_model"),
    "edgekd.models": ("open_reference",),
    "edgekd.pipeline.artifacts": ("export_model", "quantize_artifact"),
    "edgekd.pipeline.collect": ("evaluate_artifact", "measure_comparison"),
    "edgekd.pipeline.gate": ("GateRequest", "gate_files"),
    "edgekd.pipeline.run": ("run_recipe",),
    "edgekd.quantize": ("QuantConfig",),
    "edgekd.recipe": ("GatesBlock", "Recipe", "load_policy", "load_recipe"),
    "edgekd.release.verify": ("Verified", "verify"),
    "edgekd.report": ("render",),
    "edgekd.spec": ("TensorSpec",),
    "edgekd.stages": ("StageStore", "default_cache_root"),
    "edgekd.target": (
        *("Exporter", "Placement", "Runtime", "Session", "SessionOptions", "Target", "parse_target"),
    ),
    "edgekd.tasks": ("ModelIO", "Prediction", "Task", "TaskSpec", "build_task"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_ROOMS = ("evaluate", "measure", "release")


if not TYPE_CHECKING:  # a type checker would believe any name

    def __getattr__(name: str) -> Any:
        if name in _ROOMS:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(_HOME[name]), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
