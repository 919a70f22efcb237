"""JSON documents: of pytest-benchmark, of EdgeKD, of tokenizers and of GitHub."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from hostile_case import (
    BASELINE,
    BENCHMARKS,
    EVALUATION,
    EVENT,
    OPEN,
    RUN,
    TOKENIZER,
    TUNED,
    Case,
    hostile,
    sparse,
)

CASES: list[Case] = []


def _text(folder: Path, data: bytes | str, name: str) -> Path:
    path = folder / name
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


@hostile(CASES, BENCHMARKS, "NaN in place of seconds", code=2)
def _benchmarks_nan(folder: Path) -> Path:
    stats = '{"min": NaN, "median": 1, "mean": 1, "stddev": 0, "rounds": 1}'
    return _text(
        folder, f'{{"benchmarks": [{{"name": "a", "fullname": "a", "stats": {stats}}}]}}', "bench.json"
    )


@hostile(CASES, BENCHMARKS, "infinitely many rounds", code=2)
def _benchmarks_infinity(folder: Path) -> Path:
    stats = '{"min": 1, "median": 1, "mean": 1, "stddev": 0, "rounds": 1e999}'
    return _text(
        folder, f'{{"benchmarks": [{{"name": "a", "fullname": "a", "stats": {stats}}}]}}', "bench.json"
    )


@hostile(CASES, BENCHMARKS, "JSON nested 100,000 deep", code=2)
def _benchmarks_deep(folder: Path) -> Path:
    return _text(folder, "[" * 100_000, "bench.json")


@hostile(CASES, BENCHMARKS, "2 GiB, sparse", code=2)
def _benchmarks_sparse(folder: Path) -> Path:
    return sparse(folder / "bench.json", 2 << 30, b"{")


@hostile(CASES, BENCHMARKS, "a named pipe", code=2)
def _benchmarks_pipe(folder: Path) -> Path:
    os.mkfifo(folder / "bench.json")
    return folder / "bench.json"


def _evaluation(folder: Path, arrays: dict[str, Any], rows: bytes | None = None, **changes: Any) -> Path:
    path = folder / "evaluation.json"
    beside = folder / "evaluation.npz"
    if rows is None:
        np.savez(beside, **arrays, allow_pickle=True)
    else:
        beside.write_bytes(rows)
    document = {
        "schema": "edgekd.evaluation/1", "name": "t", "artifact": "sha256:0", "target": "cpu:onnxruntime", "metric": "top1",
        "aggregate": "mean", "error": False, "unit": "fraction", "split": "test", "data": "sha256:1", "n": 2, "mean": 1.0,
        "rows": beside.name, "rows_sha256": hashlib.sha256(beside.read_bytes()).hexdigest(), "environment": {},
        "collected_at": "",
    }  # fmt: skip
    path.write_text(json.dumps({**document, **changes}))
    return path


_ROWS: dict[str, Any] = {
    "id": np.asarray(["a", "b"]), "score": np.ones(2), "prediction": np.zeros(2, int), "label": np.zeros(2, int),
}  # fmt: skip


@hostile(
    CASES,
    EVALUATION,
    "rows of Python objects, which are pickles",
    rule="pickled-array",
    names="evaluation.npz",
)
def _evaluation_objects(folder: Path) -> Path:
    return _evaluation(folder, {**_ROWS, "label": np.asarray([{}, {}], object)})


@hostile(CASES, EVALUATION, "rows at `../rows.npz`", code=2, word="outside")
def _evaluation_outside(folder: Path) -> Path:
    path = _evaluation(folder, _ROWS)
    path.write_text(path.read_text().replace('"evaluation.npz"', '"../evaluation.npz"'))
    return path


@hostile(CASES, EVALUATION, "a mean that its rows do not make", code=2)
def _evaluation_mean(folder: Path) -> Path:
    return _evaluation(folder, _ROWS, mean=0.5)


@hostile(CASES, EVALUATION, "no mean at all", code=2)
def _evaluation_no_mean(folder: Path) -> Path:
    return _evaluation(folder, _ROWS, mean=None)


@hostile(CASES, EVALUATION, "rows that are a zip bomb: 1 GiB in 1 MiB", names="evaluation")
def _evaluation_bomb(folder: Path) -> Path:
    import io
    import zipfile

    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("id", "score", "prediction", "label"):
            with archive.open(f"{name}.npy", "w") as member:
                member.write(
                    b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (33554432,), }".ljust(
                        127
                    )
                    + b"\n"
                )
                for _ in range(256):
                    member.write(bytes(1 << 20))
    return _evaluation(folder, {}, out.getvalue())


def _run(folder: Path, **changes: Any) -> Path:
    document: dict[str, Any] = {
        "schema": "edgekd.run/1", "name": "r", "policy": {"accuracy": {"max_drop": 0.1}}, "artifacts": {}, "candidates": [],
        "selected": {}, "absent": [], "chain": [], "notes": [], "regression_baseline": "", "environment": {},
        "provenance": {}, "collected_at": "", "edgekd": "0.1.0",
    }  # fmt: skip
    (folder / "run.json").write_text(json.dumps({**document, **changes}))
    return folder


@hostile(CASES, RUN, "an artifact's folder at `../../x`", code=2, word="outside", names="run.json")
def _run_folder_outside(folder: Path) -> Path:
    record = {"name": "a", "folder": "../../x", "dtype": "float32", "format": "onnx", "size_bytes": 1}
    return _run(folder, artifacts={"sha256:0": record})


@hostile(CASES, RUN, "evidence at an absolute path", code=2, word="outside", names="run.json")
def _run_evidence_absolute(folder: Path) -> Path:
    return _run(folder, chain=[{"hop": "teacher", "label": "t", "evaluation": "/etc/passwd"}])


@hostile(CASES, RUN, "a target that is a list, chosen by", code=2, names="run.json")
def _run_selected_list(folder: Path) -> Path:
    return _run(folder, selected={"cpu:onnxruntime": ["sha256:0"]})


@hostile(CASES, RUN, "a document of version 99", code=2, word="edgekd.run/99", names="run.json")
def _run_newer(folder: Path) -> Path:
    return _run(folder, schema="edgekd.run/99")


@hostile(CASES, RUN, "one key twice, of which readers take different ones", code=2, names="run.json")
def _run_key_twice(folder: Path) -> Path:
    path = _run(folder) / "run.json"
    path.write_text(path.read_text()[:-1] + ', "name": "other"}')
    return folder


@hostile(CASES, RUN, "NaN, which is no JSON", code=2, names="run.json")
def _run_nan(folder: Path) -> Path:
    return _run(folder, environment={"a": float("nan")})


def _model_json(folder: Path, name: str, **changes: Any) -> Path:
    (folder / "student.safetensors").write_bytes(b"x")
    spec = {"name": "x", "dtype": "float32", "shape": [1]}
    document = {
        "schema": "edgekd.model/1", "name": "m", "factory": "zoo:digits-cnn", "weights": "student.safetensors",
        "weights_sha256": hashlib.sha256(b"x").hexdigest(), "parameters": 1, "inputs": [spec], "outputs": [spec],
        "prepare": {}, "output": {}, "lineage": {},
    }  # fmt: skip
    (folder / name).write_text(json.dumps({**document, **changes}))
    return folder


@hostile(CASES, OPEN, "a model.json of infinitely many parameters", code=2, names="model.json")
def _model_json_infinite(folder: Path) -> Path:
    _model_json(folder, "model.json", parameters=0)
    path = folder / "model.json"
    path.write_text(path.read_text().replace('"parameters": 0', '"parameters": 1e999'))
    return folder


@hostile(CASES, OPEN, "a model.json whose weights have a name of 100,000 letters", code=2, names="model.json")
def _model_json_long_name(folder: Path) -> Path:
    return _model_json(folder, "model.json", weights="w" * 100_000)


@hostile(CASES, OPEN, "a model.json whose tokenizer is /etc/passwd", code=2, names="model.json")
def _model_json_tokenizer(folder: Path) -> Path:
    return _model_json(folder, "model.json", prepare={"tokenizer": "/etc/passwd"})


@hostile(CASES, OPEN, "an artifact.json whose file leads outside", code=2, names="artifact.json")
def _artifact_json_outside(folder: Path) -> Path:
    spec = {"name": "x", "dtype": "float32", "shape": [1]}
    document = {
        "schema": "edgekd.artifact/1", "format": "onnx", "entry": "../secret.onnx", "dtype": "float32", "size_bytes": 1,
        "files": [{"path": "../secret.onnx", "size_bytes": 1, "sha256": "0" * 64}], "inputs": [spec], "outputs": [spec],
        "digest": "sha256:0", "prepare": {}, "output": {}, "lineage": {}, "settings": {},
    }  # fmt: skip
    (folder / "artifact.json").write_text(json.dumps(document))
    return folder


@hostile(CASES, TOKENIZER, "JSON nested 100,000 deep", code=2)
def _tokenizer_deep(folder: Path) -> Path:
    return _text(folder, "[" * 100_000, "tokenizer.json")


@hostile(CASES, TOKENIZER, "a regular expression that backtracks for ever, and no model", code=2)
def _tokenizer_regex(folder: Path) -> Path:
    text = {
        "version": "1.0",
        "pre_tokenizer": {
            "type": "Split",
            "pattern": {"Regex": "(a+)+$"},
            "behavior": "Isolated",
            "invert": False,
        },
    }
    return _text(folder, json.dumps(text), "tokenizer.json")


@hostile(CASES, TOKENIZER, "a link to /dev/zero", code=2)
def _tokenizer_endless(folder: Path) -> Path:
    (folder / "tokenizer.json").symlink_to("/dev/zero")
    return folder / "tokenizer.json"


@hostile(CASES, TUNED, "settings that are no mapping", code=2, names="model.onnx.edgekd.json")
def _tuned_list(folder: Path) -> Path:
    from hostile_child import TUNED_DIGEST

    document = {"schema": "edgekd.tuned/1", "artifact": TUNED_DIGEST, "tuned": {"cpu:onnxruntime": [1, 2]}}
    return _text(folder, json.dumps(document), "model.onnx.edgekd.json")


@hostile(CASES, TUNED, "JSON nested 100,000 deep", code=2)
def _tuned_deep(folder: Path) -> Path:
    return _text(folder, "[" * 100_000, "model.onnx.edgekd.json")


@hostile(CASES, EVENT, "JSON nested 100,000 deep: no event, and the job goes on", code=0)
def _event_deep(folder: Path) -> Path:
    return _text(folder, "[" * 100_000, "event.json")


@hostile(CASES, EVENT, "a pull request whose number is text: none", code=0)
def _event_number(folder: Path) -> Path:
    return _text(folder, '{"pull_request": {"number": "1; rm -rf /", "head": []}}', "event.json")


@hostile(CASES, EVENT, "a link to /dev/zero: no event", code=0)
def _event_endless(folder: Path) -> Path:
    (folder / "event.json").symlink_to("/dev/zero")
    return folder / "event.json"


@hostile(CASES, BASELINE, "`release:latest:../../x`", code=2, names="../../x")
def _baseline_outside(folder: Path) -> Path:
    return _text(folder, "release:latest:../../x", "source")


@hostile(CASES, BASELINE, "a ref that git would read as an option", code=2, names="--upload-pack")
def _baseline_option(folder: Path) -> Path:
    return _text(folder, "ref:--upload-pack=touch pwned:model.onnx", "source")


@hostile(
    CASES,
    BASELINE,
    "another file than the SHA-256 that was given",
    code=5,
    word="sha256",
    names="baseline.onnx",
)
def _baseline_other(folder: Path) -> Path:
    _text(folder, b"other", "baseline.onnx")
    return _text(folder, "baseline.onnx@sha256:" + "0" * 64, "source")
