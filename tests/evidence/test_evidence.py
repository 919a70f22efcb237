"""Stored evidence comes back as it was, or not at all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fixtures_run import make_evaluation, make_measurement, make_run

from edgekd.errors import EvidenceError, PolicyError
from edgekd.evidence import (
    Evaluation,
    Measurement,
    load_evaluation,
    load_measurement,
    load_run,
    save_evaluation,
    save_measurement,
)
from edgekd.evidence.evaluation import join_rows, rows_to_bytes, take_rows
from edgekd.evidence.run import AbsentTarget
from edgekd.files import sha256_file


def assert_same(a: Evaluation | Measurement, b: Evaluation | Measurement) -> None:
    """Field by field; arrays by dtype, shape and value."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            return str(value.dtype), value.shape, value.tolist()
        if isinstance(value, dict):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, (list, tuple)):
            return [plain(v) for v in value]
        if hasattr(value, "__dataclass_fields__"):
            return {k: plain(getattr(value, k)) for k in value.__dataclass_fields__}
        return value

    assert plain(a) == plain(b)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"logits": None, "metric": "wer"},
        {"slices": {"light": np.asarray(["day", "night", "day", "día", ""])}},
        {"ids": np.asarray(["a", "ü", "c/d", "../e", "f" * 300])},
        {"predictions": np.asarray(["yes", "no", "no", "yes", "maybe"]), "labels": np.asarray([True] * 5)},
    ],
    ids=["plain", "no logits", "slices", "odd ids", "other answers"],
)
def test_an_evaluation_comes_back_as_it_was(tmp_path: Path, changes: dict[str, Any]) -> None:
    made = make_evaluation(n=5, **changes)
    save_evaluation(made, tmp_path / "evaluation.json")
    assert_same(load_evaluation(tmp_path / "evaluation.json"), made)
    document = json.loads((tmp_path / "evaluation.json").read_text())
    assert (document["n"], document["mean"]) == (5, made.mean)


def reversed_arms() -> Measurement:
    made = make_measurement()
    return replace(made, arms=dict(reversed(made.arms.items())))


def uneven() -> Measurement:
    made = make_measurement(restarts=2, rounds=3)
    blocks = {
        arm: tuple(b[: 4 + i] for i, b in enumerate(rows)) for arm, rows in made.restarts[0].blocks.items()
    }
    return replace(made, restarts=(replace(made.restarts[0], blocks=blocks), made.restarts[1]))


@pytest.mark.parametrize(
    "made",
    [
        make_measurement(),
        reversed_arms(),
        uneven(),
        replace(make_measurement(), restarts=(), redrawn=("steal 9.0%",) * 8),
    ],
    ids=["even", "arms in another order", "blocks of unequal length", "all restarts redrawn"],
)
def test_a_measurement_comes_back_sample_by_sample(tmp_path: Path, made: Measurement) -> None:
    save_measurement(made, tmp_path / "measurement.json")
    found = load_measurement(tmp_path / "measurement.json")
    assert_same(found, made)
    assert list(found.arms) == list(made.arms), "the arms' order is part of the evidence"
    assert found.candidates == ("candidate",)


def test_a_run_index_comes_back_as_it_was(tmp_path: Path) -> None:
    absent = AbsentTarget(target="cuda:tensorrt", required=False, reason="no driver")
    made = make_run(
        tmp_path, absent=[absent], optional=["cpu:onnxruntime"], regression=1.0, regression_baseline="present"
    )
    assert load_run(tmp_path) == made


Store = Callable[[Path], Path]


def store_evaluation(folder: Path) -> Path:
    save_evaluation(make_evaluation(n=30), folder / "evidence.json")
    return folder / "evidence.json"


def store_measurement(folder: Path) -> Path:
    save_measurement(make_measurement(), folder / "evidence.json")
    return folder / "evidence.json"


def load(path: Path) -> object:
    schema = json.loads(path.read_text())["schema"]
    return load_evaluation(path) if schema.startswith("edgekd.evaluation/") else load_measurement(path)


both = pytest.mark.parametrize(
    "store", [store_evaluation, store_measurement], ids=["evaluation", "measurement"]
)


@both
def test_one_altered_byte_is_refused(tmp_path: Path, store: Store) -> None:
    path = store(tmp_path)
    rows = path.with_suffix(".npz")
    whole = rows.read_bytes()
    for position in (len(whole) // 2, len(whole) - 1):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        rows.write_bytes(bytes(damaged))
        with pytest.raises(EvidenceError, match=r"evidence.npz was altered since it was written"):
            load(path)
    rows.unlink()
    with pytest.raises(EvidenceError, match="is missing"):
        load(path)


def rewrite(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@both
@pytest.mark.parametrize("outside", ["../elsewhere.npz", "/etc/passwd", "sub/rows.npz"])
def test_rows_outside_the_folder_are_refused(tmp_path: Path, store: Store, outside: str) -> None:
    (tmp_path / "in").mkdir()
    path = store(tmp_path / "in")
    # Even rows that are whole: what they are is not the question.
    (tmp_path / "elsewhere.npz").write_bytes(path.with_suffix(".npz").read_bytes())
    rewrite(path, rows=outside, samples=outside)
    with pytest.raises(EvidenceError, match="outside its folder"):
        load(path)


@both
def test_a_document_that_lacks_a_key_is_refused(tmp_path: Path, store: Store) -> None:
    path = store(tmp_path)
    whole = json.loads(path.read_text())
    for key in ("rows_sha256", "samples_sha256", "target", "metric", "arms", "arm_order", "restarts"):
        if key in whole:
            path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
            with pytest.raises(EvidenceError, match=r"evidence.json is not a whole (evaluation|measurement)"):
                load(path)


@both
def test_another_version_is_refused_and_new_fields_are_not(tmp_path: Path, store: Store) -> None:
    path = store(tmp_path)
    schema = json.loads(path.read_text())["schema"]
    rewrite(path, weather="fine")
    load(path)
    rewrite(path, schema=schema[:-1] + "2")
    loader = load_evaluation if "evaluation" in schema else load_measurement
    with pytest.raises(EvidenceError, match=rf"schema '{schema[:-1]}2', expected '{schema}'"):
        loader(path)


def test_rows_that_contradict_the_document_are_refused(tmp_path: Path) -> None:
    path = store_evaluation(tmp_path)
    rewrite(path, n=31)
    with pytest.raises(EvidenceError, match="rows and document disagree on the number of examples"):
        load_evaluation(path)


def test_rows_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = store_evaluation(tmp_path)
    rows = path.with_suffix(".npz")
    with np.load(rows) as data:
        arrays = dict(data)
    arrays["prediction"] = np.asarray([object()] * 30)
    np.savez(rows, **arrays)
    rewrite(path, rows_sha256=sha256_file(rows))
    with pytest.raises(PolicyError, match=r"holds pickled objects \(rule pickled-array\)"):
        load_evaluation(path)


def test_samples_that_lack_an_arm_are_refused(tmp_path: Path) -> None:
    path = store_measurement(tmp_path)
    samples = path.with_suffix(".npz")
    with np.load(samples) as data:
        arrays = {k: v for k, v in data.items() if k != "3.candidate.ns"}
    np.savez(samples, **arrays)
    rewrite(path, samples_sha256=sha256_file(samples))
    with pytest.raises(EvidenceError, match="is not a whole measurement"):
        load_measurement(path)


@pytest.mark.parametrize("outside", ["../secret", "/etc/passwd", "a/../../b", ""])
@pytest.mark.parametrize("place", ["artifact", "evaluation", "measurement", "hop"])
def test_a_run_that_names_files_outside_is_refused(tmp_path: Path, outside: str, place: str) -> None:
    make_run(tmp_path)
    path = tmp_path / "run.json"
    value = json.loads(path.read_text())
    if place == "artifact":
        next(iter(value["artifacts"].values()))["folder"] = outside
    elif place == "evaluation":
        value["candidates"][1]["test"]["accuracy"]["candidate"] = outside
    elif place == "measurement":
        value["candidates"][0]["select"]["latency"]["measurement"] = outside
    else:
        value["chain"][0]["evaluation"] = outside
    path.write_text(json.dumps(value))
    with pytest.raises(EvidenceError, match="outside the run folder; do not use it"):
        load_run(tmp_path)


def test_a_folder_that_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(EvidenceError, match=r"is not a run folder \(no run.json\)"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    "damage",
    [{"candidates": None}, {"artifacts": []}, {"chain": [{"hop": "teacher"}]}, {"selected": ...}],
    ids=["candidates", "artifacts", "chain", "selected"],
)
def test_a_damaged_index_is_refused(tmp_path: Path, damage: dict[str, Any]) -> None:
    make_run(tmp_path)
    value = {**json.loads((tmp_path / "run.json").read_text()), **damage}
    (tmp_path / "run.json").write_text(json.dumps({k: v for k, v in value.items() if v is not ...}))
    with pytest.raises(EvidenceError, match=r"run.json is not (a whole run index|whole)"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"scores": np.ones((4, 2))}, "'score' holds float64 of 2 dimensions"),
        ({"scores": np.asarray(["a", "b", "c", "d"])}, "'score' holds"),
        ({"logits": np.asarray([["a"]] * 4)}, "'logits' holds"),
        ({"statistics": {"sums": np.ones((4, 5))}, "aggregate": "f1"}, "3 columns, there are 5"),
        ({"statistics": {"sums": np.ones((4, 4))}, "aggregate": "macro_f1"}, "a multiple of 3 columns"),
        ({"aggregate": "wer"}, "'wer', which this version does not know"),
    ],
)
def test_rows_of_kinds_that_no_evaluation_has_are_refused(tmp_path, changes, says):
    path = tmp_path / "evaluation.json"
    save_evaluation(make_evaluation(n=4), path)
    value = json.loads(path.read_text())
    broken = replace(make_evaluation(n=4), **changes)
    path.with_suffix(".npz").write_bytes(rows_to_bytes(broken))
    value.update(rows_sha256=sha256_file(path.with_suffix(".npz")), aggregate=broken.aggregate)
    path.write_text(json.dumps(value))
    with pytest.raises(EvidenceError, match=re.escape(says)):
        load_evaluation(path).mean  # noqa: B018


def test_a_document_that_its_rows_contradict_is_refused(tmp_path):
    path = tmp_path / "evaluation.json"
    save_evaluation(make_evaluation(n=40), path)
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, "mean": 0.1}))
    with pytest.raises(EvidenceError, match=r"says top1 0\.1, its rows make 0\.9"):
        load_evaluation(path)


def test_rows_that_are_no_archive_are_refused(tmp_path):
    path = tmp_path / "evaluation.json"
    save_evaluation(make_evaluation(n=40), path)
    for content, words in (
        (b"", "not a whole evaluation"),
        (b"PK\x03\x04nonsense", "not a whole evaluation.*rule truncated"),
    ):
        path.with_suffix(".npz").write_bytes(content)
        value = json.loads(path.read_text())
        path.write_text(json.dumps({**value, "rows_sha256": sha256_file(path.with_suffix(".npz"))}))
        with pytest.raises(EvidenceError, match=words):
            load_evaluation(path)


def test_rows_that_were_parted_are_joined_again() -> None:
    whole = make_evaluation(n=10)
    whole = replace(
        whole,
        logits=np.arange(20, dtype=np.float32).reshape(10, 2),
        slices={"light": np.array(["dim", "bright"] * 5)},
        clusters=np.array(["a", "b"] * 5),
    )
    parts = [take_rows(whole, rows) for rows in (np.arange(3), np.arange(3, 10))]
    assert_same(join_rows(*parts), whole)
    with pytest.raises(ValueError, match="do not belong together"):
        join_rows(parts[0], replace(parts[1], artifact="sha256:other"))
