"""A synthetic run folder: what `edgekd run` leaves, without a model, a runtime or a clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekd.artifact import Artifact, record_file
from edgekd.evidence.evaluation import Evaluation, save_evaluation
from edgekd.evidence.measurement import Measurement, Restart, save_measurement
from edgekd.evidence.run import (
    AbsentTarget,
    AccuracyEvidence,
    Candidate,
    Evidence,
    Hop,
    LatencyEvidence,
    Run,
)
from edgekd.spec import TensorSpec

TARGET = "cpu:onnxruntime"
AT = "2026-11-22T12:00:00Z"
POLICY: dict[str, Any] = {
    "accuracy": {"against": "teacher", "max_drop": 0.03},
    "latency": {"against": "teacher", "max_ratio": 0.8},
    "size": {"max_mib": 1.0},
}
#: Synthetic models and rows are nobody's but ours.
OWN: dict[str, Any] = {
    "declared": {
        "teacher": [{"name": "synthetic teacher", "licence": "own", "access": "weights"}],
        "data": [{"name": "synthetic rows", "licence": "own"}],
        "use": "commercial",
        "waivers": [],
    },
    "records": [],
    "terms": {"captured": "2026-01-01", "sha256": "0" * 64},
}


def make_evaluation(
    *,
    n: int = 2000,
    right: float = 0.9,
    lost: int = 0,
    gained: int = 0,
    name: str = "student",
    artifact: str = "sha256:" + "b" * 64,
    target: str = TARGET,
    split: str = "test",
    metric: str = "top1",
    **changes: Any,
) -> Evaluation:
    """An evaluation that is right on the first ``right`` share, less ``lost`` of those, plus ``gained`` others."""
    labels = np.arange(n) % 10
    scores = np.zeros(n)
    edge = round(right * n)
    scores[lost:edge] = 1
    scores[edge : edge + gained] = 1
    logits = np.zeros((n, 10), np.float32)
    predictions = np.where(scores == 1, labels, (labels + 1) % 10)
    logits[np.arange(n), predictions] = 4
    values: dict[str, Any] = {
        "name": name,
        "artifact": artifact,
        "target": target,
        "metric": metric,
        "split": split,
        "data": "sha256:" + ("d" if split == "test" else "e") * 64,
        "ids": np.asarray([f"{split}-{i}" for i in range(n)]),
        "scores": scores,
        "predictions": predictions,
        "labels": labels,
        "logits": logits,
        "environment": {"runtime": "onnxruntime 1.31.1"},
        "collected_at": AT,
    }
    return Evaluation(**{**values, **changes})


def make_measurement(
    *,
    ratio: float = 0.5,
    twin: float = 1.0,
    restarts: int = 4,
    rounds: int = 10,
    calls: int = 10,
    scatter: float = 0.003,
    seed: int = 0,
    baseline: str = "sha256:" + "a" * 64,
    candidate: str = "sha256:" + "b" * 64,
    target: str = TARGET,
    **changes: Any,
) -> Measurement:
    """Timings of about 1 ms whose block minima scatter by ``scatter`` (log scale) between restarts."""
    rng = np.random.default_rng(seed)
    arms = {"baseline": 1.0, "baseline_twin": twin, "candidate": ratio}
    made = []
    for _ in range(restarts):
        blocks = {}
        for arm, factor in arms.items():
            level = 1e6 * factor * np.exp(rng.normal(0, scatter))
            blocks[arm] = tuple(
                (level * (1 + rng.exponential(0.01, calls))).astype(np.int64) for _ in range(rounds)
            )
        made.append(
            Restart(
                blocks=blocks,
                order=("candidate", "baseline", "baseline_twin"),
                cpus=(0,),
                warmup={a: {"seconds": 0.2, "calls": 200, "steady": True} for a in arms},
                children={a: {"load_ns": 5_000_000, "peak_memory_bytes": 40_000_000} for a in arms},
                ledger={"steal": 0.0, "frequency_mhz": None},
            )
        )
    values: dict[str, Any] = {
        "arms": {
            "baseline": {"name": "teacher", "artifact": baseline, "dtype": "float32", "size_bytes": 4000},
            "baseline_twin": {
                "name": "teacher",
                "artifact": baseline,
                "dtype": "float32",
                "size_bytes": 4000,
            },
            "candidate": {"name": "student-int8", "artifact": candidate, "dtype": "int8", "size_bytes": 600},
        },
        "target": target,
        "scenario": "single-stream",
        "batch": 1,
        "threads": 1,
        "inputs": {"kind": "data", "split": "test"},
        "protocol": {"rounds": rounds, "block_calls": calls},
        "restarts": tuple(made),
        "redrawn": (),
        "environment": {"machine": "test"},
        "parent_cpu": 0.001,
        "collected_at": AT,
    }
    return Measurement(**{**values, **changes})


def make_artifact(folder: Path, content: bytes, dtype: str) -> Artifact:
    """An artifact folder whose one file holds ``content``."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(content)
    artifact = Artifact(
        folder=folder,
        entry="model.onnx",
        format="onnx",
        dtype=dtype,
        files=(record_file(folder, "model.onnx"),),
        inputs=(TensorSpec(name="image", dtype="float32", shape=("N", 1, 8, 8)),),
        outputs=(TensorSpec(name="logits", dtype="float32", shape=("N", 10)),),
        lineage={"recipe": "synthetic"},
    )
    artifact.save()
    return artifact


def make_run(
    folder: Path,
    *,
    lost: int = 30,
    gained: int = 20,
    ratio: float = 0.5,
    twin: float = 1.0,
    restarts: int = 4,
    n: int = 2000,
    policy: Mapping[str, Any] | None = None,
    absent: Sequence[AbsentTarget] = (),
    optional: Sequence[str] = (),
    regression: float | None = None,
    regression_baseline: str = "",
    student_bytes: int = 600,
    with_latency: bool = True,
    with_test: bool = True,
    collected_at: str = AT,
    provenance: Mapping[str, Any] = OWN,
    name: str = "synthetic",
) -> Run:
    """Write a run folder: teacher, float and INT8 student on one target, the INT8 one selected. It passes by default.

    Args:
        lost, gained: examples of the test split that the INT8 student loses and gains against the teacher.
        ratio: its time against the teacher's; regression: against a regression baseline, when given.
        twin: ratio between the two copies of the teacher.
        absent, optional: of the run.
        provenance: as a run stores it: declared, records, terms; empty where nobody declared anything.
    """
    folder.mkdir(parents=True, exist_ok=True)
    teacher = make_artifact(folder / "artifacts/teacher", b"T" * 4000, "float32")
    floating = make_artifact(folder / "artifacts/student-float32", b"F" * 2000, "float32")
    small = make_artifact(folder / "artifacts/student-int8", b"I" * student_bytes, "int8")

    def evaluate(artifact: str, name: str, split: str, lost: int = 0, gained: int = 0) -> str:
        path = f"evidence/{split}/{name}.json"
        save_evaluation(
            make_evaluation(n=n, lost=lost, gained=gained, name=name, artifact=artifact, split=split),
            folder / path,
        )
        return path

    def measure(path: str, ratio: float, candidate: str, baseline: str, seed: int) -> str:
        save_measurement(
            make_measurement(
                ratio=ratio,
                twin=twin,
                restarts=restarts,
                seed=seed,
                baseline=baseline,
                candidate=candidate,
            ),
            folder / path,
        )
        return path

    def evidence(
        artifact: str, name: str, split: str, lost: int, gained: int, ratio: float, seed: int
    ) -> Evidence:
        return Evidence(
            accuracy=AccuracyEvidence(
                candidate=evaluate(artifact, name, split, lost, gained),
                references={"teacher": evaluate(teacher.digest, "teacher", split)},
            ),
            latency=LatencyEvidence(
                measurement=measure(
                    f"evidence/{split}/latency-{name}.json", ratio, artifact, teacher.digest, seed
                ),
                arm="candidate",
            )
            if with_latency
            else None,
            regression=None
            if regression is None
            else LatencyEvidence(
                measurement=measure(
                    f"evidence/{split}/regression-{name}.json",
                    regression,
                    artifact,
                    "sha256:" + "9" * 64,
                    seed + 50,
                ),
                arm="candidate",
            ),
        )

    candidates = (
        Candidate(
            artifact=floating.digest,
            target=TARGET,
            dtype="float32",
            baseline=teacher.digest,
            select=evidence(floating.digest, "student-float32", "select", 28, 20, 0.7, 1),
        ),
        Candidate(
            artifact=small.digest,
            target=TARGET,
            dtype="int8",
            baseline=teacher.digest,
            select=evidence(small.digest, "student-int8", "select", 30, 20, 0.5, 2),
            test=evidence(small.digest, "student-int8", "test", lost, gained, ratio, 3)
            if with_test
            else None,
        ),
    )
    chain = [Hop(hop="teacher", label="teacher", evaluation=evaluate(teacher.digest, "teacher", "test"))]
    for i, naive in enumerate((70, 64, 76)):
        path = evaluate(f"sha256:{i}" + "7" * 63, f"naive-{i}", "test", naive, 10)
        chain.append(Hop(hop="naive", label=f"naive student, seed {i}", evaluation=path))
    for hop, label, digest, down in (
        ("distilled", "distilled student", "sha256:" + "5" * 64, 26),
        ("exported", "as ONNX", floating.digest, 26),
        ("quantized", "as INT8", small.digest, lost),
    ):
        path = evaluate(digest, f"chain-{hop}", "test", down, gained)
        chain.append(Hop(hop=hop, label=label, evaluation=path))
    run = Run(
        name=name,
        policy=POLICY if policy is None else policy,
        artifacts={
            a.digest: {
                "name": a.folder.name,
                "folder": f"artifacts/{a.folder.name}",
                "dtype": a.dtype,
                "format": a.format,
                "size_bytes": a.size_bytes,
            }
            for a in (teacher, floating, small)
        },
        candidates=candidates,
        selected={TARGET: small.digest},
        absent=tuple(absent),
        optional=tuple(optional),
        chain=tuple(chain),
        notes=("The margin is 3 points: with few held-back examples a 1-point margin seldom decides.",),
        regression_baseline=regression_baseline,
        environment={"machine": {"cpu": "synthetic", "cpus": 2}, "python": "3.11"},
        provenance=provenance,
        collected_at=collected_at,
        edgekd="0.1.0",
    )
    run.save(folder)
    return run
