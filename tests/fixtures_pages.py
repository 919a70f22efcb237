"""A synthetic run with everything a page shows: many candidates, real-looking timings, slices, a chain, flips."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from fixtures_run import make_run

from edgekd.data.example import Array
from edgekd.evidence.evaluation import Evaluation, load_evaluation, save_evaluation
from edgekd.evidence.measurement import Measurement, Restart, save_measurement
from edgekd.evidence.run import AbsentTarget, AccuracyEvidence, Candidate, Evidence, Hop, LatencyEvidence, Run
from edgekd.evidence.thumbnails import FOLDER, save_thumbnails
from edgekd.gates import judge_run
from edgekd.metrics import SUMS
from edgekd.policy import GatesBlock
from edgekd.provenance.declared import parse_declaration
from edgekd.provenance.storing import store_provenance

TARGET = "cpu:onnxruntime"
AT = "2026-11-22T12:00:00Z"
POLICY: Mapping[str, Any] = {
    "accuracy": {"against": "teacher", "max_drop": 0.02},
    "fidelity": {"against": "teacher", "max_flips": 0.12},
    "slices": {"names": ["site"], "max_drop": 0.05},
    "latency": {"against": "teacher", "max_ratio": 0.5},
    "tail": {"percentile": "p99", "max_ratio": 0.7},
    "size": {"max_mib": 2.0},
}
_NETS = ("resnet20", "resnet14", "mobilenet-v3-small", "convnext-pico", "shufflenet-x0.5")
_WAYS = (
    "float32", "int8-per-tensor", "int8-per-channel", "int8-float-head", "float8e4m3fn", "uint8", "int4-g32",
    "int8-entropy", "int8-percentile", "int16",
)  # fmt: skip


def _near(rng: np.random.Generator, logits: Array, noise: float) -> Array:
    """Logits of a model that follows others with some noise, float32 (n, classes)."""
    return np.asarray(logits + rng.normal(0, noise, logits.shape), np.float32)


def _blocks(rng: np.random.Generator, median_ns: float, calls: int) -> tuple[Array, ...]:
    """Ten blocks of one restart: a log-normal body, a second mode, and now and then a stall."""
    level = median_ns * np.exp(rng.normal(0, 0.004))
    made = []
    for _ in range(10):
        body = rng.lognormal(0, 0.02, calls) + np.where(rng.random(calls) < 0.08, 0.12, 0)
        body += np.where(rng.random(calls) < 0.004, rng.exponential(1.5, calls), 0)
        made.append((level * body).astype(np.int64))
    return tuple(made)


def _digest(number: int) -> str:
    return f"sha256:{number:064x}"


def _measurement(rng: np.random.Generator, name: str, artifact: str, ratio: float, calls: int) -> Measurement:
    teacher = {"name": "resnet44", "artifact": _digest(1), "dtype": "float32", "size_bytes": 2_700_000}
    arms = {
        "baseline": teacher,
        "baseline_twin": teacher,
        "candidate": {"name": name, "artifact": artifact, "dtype": "int8", "size_bytes": 290_000},
    }
    medians = {"baseline": 1.84e6, "baseline_twin": 1.84e6, "candidate": 1.84e6 * ratio}
    restarts = tuple(
        Restart(
            blocks={arm: _blocks(rng, median, calls) for arm, median in medians.items()},
            order=tuple(arms),
            cpus=(i % 2,),
            warmup={k: {"seconds": 0.2, "calls": 200, "steady": True} for k in arms},
            children={k: {"load_ns": 5_000_000, "peak_memory_bytes": 40_000_000} for k in arms},
            ledger={
                "steal": float(rng.uniform(0, 0.01)),
                "idle": float(rng.uniform(0.3, 0.6)),
                "involuntary_switches": int(rng.integers(2, 40)),
                "frequency_mhz": None,
            },
        )
        for i in range(6)
    )
    return Measurement(
        arms=arms,
        target=TARGET,
        scenario="single-stream",
        batch=1,
        threads=1,
        inputs={"kind": "data", "split": "test"},
        protocol={"rounds": 10, "block_calls": calls},
        restarts=restarts,
        redrawn=("steal 7.2 % (at most 5 %)",),
        environment={"cpu": "AMD EPYC 9B45", "governor": None, "onnxruntime": "1.31.1"},
        parent_cpu=0.001,
        collected_at=AT,
    )


def make_page_run(folder: Path, **options: Any) -> Path:
    """:func:`_make`, without waiting for the disk: hundreds of small files need not outlive the test."""
    with mock.patch("os.fsync"):
        return _make(folder, **options)


def _make(
    folder: Path,
    *,
    candidates: int = 6,
    n: int = 2000,
    sites: int = 10,
    calls: int = 40,
    policy: Mapping[str, Any] = POLICY,
    name: str = "cifar10-resnet",
    hostile: str = "",
    damage: float = 0.0,
    seed: int = 0,
) -> Path:
    """Write a run folder with a verdict.

    Args:
        candidates: how many, up to 50, each with an evaluation of ``n`` rows with logits and a measurement of its own.
        sites: values of the slice ``site``.
        calls: per block; 10 blocks, 6 restarts.
        hostile: is put into every name, id and sentence that an attacker could choose.
        damage: share of the rows of the first two sites that the shipped student gets wrong.
    """
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 10, n)
    truth = np.zeros((n, 10))
    truth[np.arange(n), labels] = 5.0
    hard = truth * rng.uniform(0.25, 1.4, (n, 1))
    teacher = _near(rng, hard, 1.15)
    place = rng.integers(0, sites, n)
    site = np.asarray([f"site-{i:02d}{hostile}" for i in place])
    rows = {
        split: np.asarray([f"{split}-{i:05d}{hostile}" for i in range(n)]) for split in ("select", "test")
    }

    def evaluated(label: str, artifact: str, split: str, logits: Array) -> str:
        path = f"evidence/{split}/{label}.json"
        found = logits.argmax(1)
        save_evaluation(
            Evaluation(
                name=label,
                artifact=artifact,
                target=TARGET,
                metric="top1",
                split=split,
                data="sha256:" + ("d" if split == "test" else "e") * 64,
                ids=rows[split],
                scores=(found == labels).astype(np.float64),
                predictions=found,
                labels=labels,
                logits=logits,
                slices={"site": site},
                collected_at=AT,
            ),
            folder / path,
        )
        return path

    teachers = {split: evaluated("teacher", _digest(1), split, teacher) for split in rows}
    artifacts: dict[str, dict[str, Any]] = {_digest(1): _artifact("resnet44", "float32", 2_700_000)}
    listed: list[Candidate] = []
    pairs = list(itertools.product(_NETS, _WAYS))[:candidates]
    chosen = min(2, candidates - 1)
    shipped = teacher
    for i, (net, way) in enumerate(pairs):
        own, digest = f"{net}-{way}{hostile}", _digest(100 + i)
        dtype = way.partition("-")[0]
        noise = 3.4 if way == "int4-g32" else 0.25 + 0.09 * _NETS.index(net) + 0.03 * _WAYS.index(way)
        ratio = 0.62 if way == "float32" else 0.33 if "int8" in way else 0.45
        ratio *= (1 - 0.13 * _NETS.index(net)) * float(rng.uniform(0.93, 1.07))
        logits = _near(rng, teacher * 0.97 + 0.04 * truth, noise)
        if i == chosen:
            hurt = (place < 2) & (rng.random(n) < damage)
            logits[hurt, (labels[hurt] + 1) % 10] += 9
            shipped = logits
        artifacts[digest] = _artifact(own, dtype, 1_100_000 if dtype == "float32" else 300_000)
        evidence: dict[str, Evidence] = {}
        for split in ("select", "test") if i == chosen else ("select",):
            path = f"evidence/{split}/latency-{i}.json"
            save_measurement(_measurement(rng, own, digest, ratio, calls), folder / path)
            evidence[split] = Evidence(
                accuracy=AccuracyEvidence(
                    candidate=evaluated(f"candidate-{i}", digest, split, logits),
                    references={"teacher": teachers[split]},
                ),
                latency=LatencyEvidence(measurement=path, arm="candidate"),
            )
        listed.append(
            Candidate(
                artifact=digest, target=TARGET, dtype=dtype, baseline=_digest(1), select=evidence["select"],
                test=evidence.get("test"),
            )
        )  # fmt: skip
    distilled = _near(rng, shipped, 0.12)
    hops = [Hop(hop="teacher", label="resnet44", evaluation=teachers["test"])]
    made = [
        ("naive", f"naive student, seed {i}", 20 + i, _near(rng, hard, 1.55 + 0.05 * i)) for i in range(3)
    ]
    made += [
        ("distilled", "resnet20, distilled", 30, distilled),
        ("exported", "resnet20 as ONNX", 31, distilled),
        ("quantized", f"resnet20 as INT8{hostile}", 100 + chosen, shipped),
        ("as_run", f"as run on {TARGET}", 100 + chosen, shipped),
    ]
    for i, (hop, label, number, logits) in enumerate(made):
        path = evaluated(f"hop-{i}", _digest(number), "test", logits)
        hops.append(Hop(hop=hop, label=label, evaluation=path))
    run = Run(
        name=name + hostile,
        policy=policy,
        artifacts=artifacts,
        candidates=tuple(listed),
        selected={TARGET: _digest(100 + chosen)},
        absent=(AbsentTarget(target="cuda:tensorrt", required=False, reason=f"no NVIDIA driver{hostile}"),),
        chain=tuple(hops),
        notes=(f"The margin is 2 points: {n:,} held-back examples seldom decide a margin of one.{hostile}",),
        environment={
            "machine": {"cpu": f"AMD EPYC 9B45{hostile}", "cpus": 2, "memory_gib": 16},
            "python": "3.11.9",
            "onnxruntime": "1.31.1",
        },
        provenance={"dataset": f"CIFAR-10 (Krizhevsky 2009){hostile}"} if hostile else declared(),
        collected_at=AT,
        edgekd="0.1.0",
    )
    lost = np.flatnonzero((teacher.argmax(1) == labels) & (shipped.argmax(1) != labels))
    pictures = {str(rows["test"][i]): make_png(rng) for i in lost}
    save_thumbnails(folder / FOLDER, pictures, split="test", data="sha256:" + "d" * 64)
    run.save(folder)
    judge_run(folder, run, GatesBlock.model_validate(run.policy)).save(folder / "verdict.json")
    return folder


def declared() -> dict[str, Any]:
    """A teacher under conditions, made from another, and data whose licence a person waived."""
    return store_provenance(
        parse_declaration(
            {
                "teacher": {
                    "name": "deepseek-ai/DeepSeek-R1-Distill-Llama-8B", "licence": "mit", "access": "weights",
                    "derived_from": {"name": "meta-llama/Llama-3.1-8B", "licence": "llama3.1"},
                },
                "data": [
                    {"name": "CIFAR-10", "licence": "none-stated", "source": "https://www.cs.toronto.edu/~kriz/cifar.html"},
                    {"name": "Pictures of our own", "licence": "own"},
                ],
                "waivers": [
                    {"rule": "data-licence-unknown", "by": "Ada Example", "reason": "research benchmark", "expires": "2027-12-31"}
                ],
            }
        )
    )  # fmt: skip


def make_png(rng: np.random.Generator, side: int = 32) -> bytes:
    """A coloured blob on a gradient, as a PNG file (RGB, 8 bits, filter 0)."""
    y, x = np.mgrid[0:side, 0:side] / side
    centre, colours = rng.uniform(0.3, 0.7, 2), rng.uniform(40, 230, (3, 3))
    blob = np.exp(-(((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 0.03))[..., None]
    pixels = colours[0] * (1 - y[..., None]) + colours[1] * y[..., None]
    pixels = (pixels * (1 - blob) + colours[2] * blob + rng.normal(0, 6, pixels.shape)).clip(0, 255)
    lines = np.concatenate([np.zeros((side, 1)), pixels.reshape(side, -1)], axis=1).astype(np.uint8)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IDAT", zlib.compress(lines.tobytes(), 9))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + body + chunk(b"IEND", b"")


def _artifact(name: str, dtype: str, size_bytes: int) -> dict[str, Any]:
    folder = "artifacts/" + "".join(c for c in name if c.isalnum() or c in "-.")
    return {"name": name, "folder": folder, "dtype": dtype, "format": "onnx", "size_bytes": size_bytes}


def make_graded_run(folder: Path) -> Path:
    """A judged run of an error metric in the labels' units: nothing is right or wrong, only better or worse."""
    run = make_run(folder, n=200, lost=3, gained=2)
    noise = np.random.default_rng(0).gamma(2, 1e3, 200)
    for path in {h.evaluation for h in run.chain}:
        one = load_evaluation(folder / path)
        error = noise + 1234.5 * (one.scores == 0)
        graded = replace(
            one, metric="mae", logits=None, scores=-error, error=True, unit="label units",
            statistics={SUMS: np.stack([error, np.ones(one.n)], axis=1)},
        )  # fmt: skip
        save_evaluation(graded, folder / path)
    judge_run(folder, run, GatesBlock.model_validate(run.policy)).save(folder / "verdict.json")
    return folder
