"""Stored evidence that comes from elsewhere: run, verdict, evaluation with its rows, measurement, artifact, model."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fixtures_run import make_run
from fuzz_target import Choices, Reader, Target, as_json, document_or_bytes, edited

from edgekd.artifact import load_artifact
from edgekd.evidence.evaluation import load_evaluation
from edgekd.evidence.measurement import load_measurement
from edgekd.evidence.run import load_run
from edgekd.gates.judge import judge_run
from edgekd.gates.verdict import exit_code, load_verdict
from edgekd.model import load_model
from edgekd.recipe import stored_policy

_SEEDS = [bytes((11 * i + j * j) % 256 for j in range(24)) for i in range(24)]


def _run_folder(folder: Path) -> Path:
    run = make_run(folder / "run", n=40, restarts=2)
    judge_run(folder / "run", run, stored_policy(folder / "run", run)).save(folder / "run/verdict.json")
    return folder / "run"


def _document(
    place: Callable[[Path], Path], read_at: Callable[[Path], object]
) -> Callable[[Path], tuple[Sequence[bytes], Reader]]:
    """One document of a run folder, replaced."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Reader]:
        path = place(_run_folder(folder))
        text = path.read_bytes()
        whole = json.loads(text)

        def read(data: bytes) -> object:
            path.write_bytes(document_or_bytes(whole, data))
            return read_at(path)

        return [b"\0" + text, *(b"\1" + c for c in _SEEDS)], read

    return prepare


def _judge(path: Path) -> object:
    """What ``edgekd gate RUN`` does with an index: read, and judged from the evidence beside it."""
    run = load_run(path.parent)
    return judge_run(path.parent, run, stored_policy(path.parent, run))


def _verdict(path: Path) -> object:
    return exit_code(load_verdict(path))


def _npz(arrays: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def _with_rows(
    name: str, digest_key: str, read_at: Callable[[Path], object]
) -> Callable[[Path], tuple[Sequence[bytes], Reader]]:
    """A document and its .npz, either replaced; the digest is made to fit, as whoever forges one would."""

    def prepare(folder: Path) -> tuple[Sequence[bytes], Reader]:
        path = _run_folder(folder) / name
        rows = path.with_suffix(".npz")
        text, stored = path.read_bytes(), rows.read_bytes()
        whole = json.loads(text)
        arrays = dict(np.load(io.BytesIO(stored)))

        def read(data: bytes) -> object:
            kind, rest = (data[0] % 3, data[1:]) if data else (0, b"")
            if kind == 0:
                rows.write_bytes(stored)
                path.write_bytes(document_or_bytes(whole, rest))
                return read_at(path)
            made = rest if kind == 1 else _npz(_other_arrays(arrays, Choices(rest)))
            rows.write_bytes(made)
            path.write_bytes(as_json({**whole, digest_key: hashlib.sha256(made).hexdigest()}))
            return read_at(path)

        seeds = [b"\0\0" + text, b"\1" + stored, *(b"\0\1" + c for c in _SEEDS), *(b"\2" + c for c in _SEEDS)]
        return seeds, read

    return prepare


_ARRAYS = (
    np.zeros(0), np.zeros(1), np.zeros((2, 2)), np.asarray(["a", "b"]), np.asarray(3), np.full(40, np.nan),
    np.full(40, np.inf), np.arange(40), np.arange(40) * -(2**40), np.asarray([b"x"] * 40), np.zeros(40, "m8[s]"),
    np.zeros(40, "M8[s]"), np.zeros(40, complex), np.zeros((40, 0)), np.zeros(40, [("a", int)]), np.zeros((40, 1, 1, 1)),
    np.asarray(["\0", "\u202e"] * 20), np.zeros(40, bool), np.full(40, 2**63, np.uint64), np.full((40, 10), 1e308),
)  # fmt: skip


def _other_arrays(arrays: dict[str, Any], choices: Choices) -> dict[str, Any]:
    found = dict(arrays)
    for _ in range(1 + choices.below(3)):
        name = sorted(arrays)[choices.below(len(arrays))]
        if choices.below(4) == 0:
            found.pop(name, None)
        else:
            found[name] = _ARRAYS[choices.below(len(_ARRAYS))]
    return found


def _load_evaluation(path: Path) -> object:
    found = load_evaluation(path)
    return found.mean, found.n


def _load_measurement(path: Path) -> object:
    found = load_measurement(path)
    return [found.calls_ns(arm).sum() for arm in found.arms]


def _model(folder: Path) -> tuple[Sequence[bytes], Reader]:
    (folder / "student.safetensors").write_bytes(b"weights")
    spec = {"name": "x", "dtype": "float32", "shape": ["N", 4]}
    whole = {
        "schema": "edgekd.model/1", "name": "m", "factory": "zoo:digits-cnn", "factory_source": "", "weights": "student.safetensors",
        "weights_sha256": hashlib.sha256(b"weights").hexdigest(), "parameters": 3, "inputs": [spec], "outputs": [spec],
        "prepare": {"mean": [0.5]}, "output": {"name": "logits", "kind": "logits"}, "lineage": {},
    }  # fmt: skip

    def read(data: bytes) -> object:
        (folder / "model.json").write_bytes(document_or_bytes(whole, data))
        return load_model(folder).as_artifact().digest

    return [b"\0" + as_json(whole), *(b"\1" + c for c in _SEEDS)], read


def _tuned(folder: Path) -> tuple[Sequence[bytes], Reader]:
    """Settings beside a bare file, and what uses them."""
    from dataclasses import replace

    from edgekd.tuned import LATENCY, TUNED_ENDING, find_tuned, read_beside

    source = _run_folder(folder) / "artifacts/student-int8"
    bare = folder / "bare"
    shutil.copytree(source, bare)
    artifact = load_artifact(bare)
    (bare / "artifact.json").unlink()
    record = {
        "objective": "latency", "batch": 1, "threads": 1, "settings": {"graph": "all"},
        "machine": {"digest": "sha256:0", "cpu": "c", "cpus": 2}, "evidence": {"ratio": 0.9},
    }  # fmt: skip
    whole = {
        "schema": "edgekd.tuned/1", "artifact": artifact.digest, "tuned": {"cpu:onnxruntime": [record]},
    }  # fmt: skip

    def read(data: bytes) -> object:
        (bare / f"model.onnx{TUNED_ENDING}").write_bytes(document_or_bytes(whole, data))
        found = replace(artifact, tuned=read_beside(artifact))
        return find_tuned(found, "cpu:onnxruntime", objective=LATENCY, batch=1, machine={"cpu": "c"})

    return [b"\0" + as_json(whole), *(b"\1" + c for c in _SEEDS)], read


def _edit_many(folder: Path) -> tuple[Sequence[bytes], Reader]:
    """Any evidence document of a run, edited, and the run judged and shown."""
    from edgekd.report import render

    run = _run_folder(folder)
    paths = sorted(p for p in run.rglob("*.json") if p.parent.name != "artifacts")
    texts = {p: p.read_bytes() for p in paths}

    def read(data: bytes) -> object:
        choices = Choices(data)
        path = paths[choices.below(len(paths))]
        for kept, text in texts.items():
            if kept.read_bytes() != text:
                kept.write_bytes(text)
        path.write_bytes(as_json(edited(json.loads(texts[path]), choices)))
        _judge(run / "run.json")
        return render(run, "md")

    return [bytes([i]) + c for i, c in enumerate(_SEEDS)], read


TARGETS = (
    Target(name="run", reads="run.json, judged again", prepare=_document(lambda r: r / "run.json", _judge)),
    Target(name="verdict", reads="verdict.json", prepare=_document(lambda r: r / "verdict.json", _verdict)),
    Target(
        name="artifact",
        reads="artifact.json",
        prepare=_document(
            lambda r: r / "artifacts/student-int8/artifact.json", lambda p: load_artifact(p.parent)
        ),
    ),
    Target(
        name="evaluation",
        reads="an evaluation (a teacher's, too) and its .npz rows",
        prepare=_with_rows("evidence/test/student-int8.json", "rows_sha256", _load_evaluation),
    ),
    Target(
        name="measurement",
        reads="a measurement and its .npz samples",
        prepare=_with_rows("evidence/test/latency-student-int8.json", "samples_sha256", _load_measurement),
    ),
    Target(name="model", reads="model.json", prepare=_model),
    Target(name="tuned", reads="tuned settings beside a model", prepare=_tuned),
    Target(
        name="evidence",
        reads="a run folder with one document edited, judged and shown",
        prepare=_edit_many,
        longest_bytes=256,
    ),
)
