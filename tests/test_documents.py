"""Documents from outside: each of these was found by fuzzing a reader, or would have hung one."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from fixtures_run import make_run

from edgekd.documents import is_file_name, parse_json, read_plain_file, type_problem
from edgekd.errors import EvidenceError, ModelError
from edgekd.evidence.evaluation import load_evaluation
from edgekd.evidence.measurement import load_measurement
from edgekd.evidence.run import load_run
from edgekd.files import read_json
from edgekd.model import load_model
from edgekd.stages import StageStore, is_whole


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1, "a": 2}', "'a' is given twice"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "1e999 is too large"),
        ('{"a": 1' + "0" * 400 + "}", "whole number is too large"),
        ('{"a": "\\ud800"}', "surrogates not allowed"),
        ("[" * 101 + "]" * 101, "nested deeper than 100"),
        ("[" * 100_000, "nested too deep"),
        ("{", "Expecting"),
    ],
)
def test_json_that_readers_disagree_about_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        parse_json(text)


def test_other_json_is_read_as_it_is():
    value = {"a": [1, -2.5, "é", None, True], "b": {"c": []}}
    assert parse_json(json.dumps(value)) == value
    assert parse_json("[" * 100 + "]" * 100)


def test_only_plain_files_of_some_size_are_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(EvidenceError, match="is no plain file"):
            read_plain_file(path, EvidenceError)
    (tmp_path / "large").write_bytes(bytes(11))
    with pytest.raises(EvidenceError, match="more than 10 bytes"):
        read_plain_file(tmp_path / "large", EvidenceError, largest_bytes=10)
    assert read_plain_file(tmp_path / "large", EvidenceError, largest_bytes=11) == bytes(11)


def test_names_that_no_file_can_have():
    assert is_file_name("a/b.onnx")
    assert not is_file_name("x" * 300)
    assert not is_file_name("a\0b")
    assert not is_file_name("a/" * 600)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"artifacts": {"x": {"folder": ["a"]}}}, "'artifacts.x.folder' is .'a'., expected string"),
        ({"selected": {"cpu": {}}}, "'selected.cpu' is {}, expected string"),
        ({"notes": [1]}, "'notes.0' is 1, expected string"),
        ({"absent": [{"required": "yes"}]}, "'absent.0.required' is 'yes', expected boolean"),
        ({"regression_baseline": []}, "'regression_baseline' is .., expected a plain value"),
        ({"candidates": [{"test": {"latency": {"arm": 3}}}]}, "'candidates.0.test.latency.arm' is 3"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_place(tmp_path, change, said):
    make_run(tmp_path, n=20, restarts=1)
    value = json.loads((tmp_path / "run.json").read_text())
    (tmp_path / "run.json").write_text(json.dumps({**value, **change}))
    with pytest.raises(EvidenceError, match=f"run.json is not whole: {said}"):
        load_run(tmp_path)


def test_fields_of_a_later_version_are_left_alone():
    assert type_problem({"schema": "edgekd.run/1", "later": [1, {}]}, "run") == ""
    assert type_problem({"anything": 1}, "unheard-of") == ""


def _change(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_evidence_that_the_fuzzers_broke(tmp_path):
    make_run(tmp_path, n=20, restarts=1)
    evaluation = tmp_path / "evidence/test/student-int8.json"
    whole = evaluation.read_text()
    for changes in ({"mean": None}, {"mean": "python:os:system"}, {"n": "20"}):
        _change(evaluation, **changes)
        with pytest.raises(EvidenceError, match="is not whole"):
            load_evaluation(evaluation)
    evaluation.write_text(json.dumps({k: v for k, v in json.loads(whole).items() if k != "mean"}))
    with pytest.raises(EvidenceError, match=r"not a whole evaluation \(KeyError\('mean"):
        load_evaluation(evaluation)
    measurement = tmp_path / "evidence/test/latency-student-int8.json"
    whole = measurement.read_text()
    for changes in ({"batch": 1.5}, {"scenario_detail": 3}, {"threads": "1"}):
        _change(measurement, **changes)
        with pytest.raises(EvidenceError, match="is not whole"):
            load_measurement(measurement)
    measurement.write_text(whole.replace('"threads": 1', '"threads": 1e999'))
    with pytest.raises(EvidenceError, match="1e999 is too large"):
        load_measurement(measurement)


@pytest.mark.parametrize(
    "samples",
    [np.zeros(10), np.full(100, "a"), np.zeros((100, 1), np.int64), np.zeros(99, np.int64), np.full(100, -1)],
    ids=["floats", "text", "two dimensions", "one too few", "negative"],
)
def test_samples_that_are_no_times(tmp_path, samples):
    import hashlib

    make_run(tmp_path, n=20, restarts=1)
    path = tmp_path / "evidence/test/latency-student-int8.json"
    rows = path.with_suffix(".npz")
    arrays = dict(np.load(rows))
    np.savez_compressed(rows, **{**arrays, "0.candidate.ns": samples})
    _change(path, samples_sha256=hashlib.sha256(rows.read_bytes()).hexdigest())
    with pytest.raises(EvidenceError, match="not a whole measurement"):
        load_measurement(path)


def test_a_stage_that_names_no_file_is_made_again(tmp_path):
    store = StageStore(tmp_path)
    made = store.run("kind", "name", {"a": 1}, lambda out, resume: (out / "made").touch() or None).folder
    stage = json.loads((made / "stage.json").read_text())
    for files in ([{"path": "x\0", "size_bytes": 0, "sha256": ""}], [{"path": "x" * 5000}]):
        _change(made / "stage.json", files=files)
        assert not is_whole(made)
    (made / "stage.json").write_text(json.dumps({k: v for k, v in stage.items() if k != "key"}))
    assert not is_whole(made)


def test_weights_by_a_name_that_no_file_has(tmp_path):
    spec = {"name": "x", "dtype": "float32", "shape": [1]}
    document = {
        "schema": "edgekd.model/1", "name": "m", "factory": "zoo:x", "weights": "w" * 5000, "weights_sha256": "0" * 64,
        "parameters": 1, "inputs": [spec], "outputs": [spec], "prepare": {}, "output": {}, "lineage": {},
    }  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(document))
    with pytest.raises(ModelError, match="outside its folder"):
        load_model(tmp_path)


def test_a_document_read_by_its_schema(tmp_path):
    (tmp_path / "d.json").write_text('{"schema": "edgekd.tuned/1", "artifact": 3, "tuned": {}}')
    with pytest.raises(EvidenceError, match="'artifact' is 3, expected string"):
        read_json(tmp_path / "d.json", "edgekd.tuned/1")
