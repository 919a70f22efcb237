"""A whole run folder in, a verdict out."""

import json
from dataclasses import replace

import pytest
from fixtures_run import AT, POLICY, TARGET, make_run

from edgekd.errors import EvidenceError, UsageError
from edgekd.evidence.measurement import load_measurement, save_measurement
from edgekd.evidence.run import AbsentTarget, Failure, LatencyEvidence, load_run
from edgekd.gates import exit_code, judge_run, load_verdict, select_candidates
from edgekd.recipe import GatesBlock


def policy(**changes):
    return GatesBlock.model_validate({**POLICY, **changes})


def judge(folder, chosen=None, **options):
    make_run(folder, **options)
    return judge_run(folder, load_run(folder), chosen or policy())


def by_name(verdict):
    return {g.gate: g for g in verdict.gates}


def test_a_good_run_passes(tmp_path):
    verdict = judge(tmp_path)
    assert (verdict.decision, exit_code(verdict)) == ("pass", 0)
    assert [g.gate for g in verdict.gates] == ["accuracy", "latency", "size"]
    assert by_name(verdict)["accuracy"].split == "test"
    assert verdict.collected_at == AT
    assert set(verdict.evidence) == {
        f"evidence/{split}/{name}.json"
        for split, name in (
            ("select", "teacher"),
            ("select", "student-float32"),
            ("select", "latency-student-float32"),
            ("select", "student-int8"),
            ("test", "teacher"),
            ("test", "student-int8"),
            ("test", "latency-student-int8"),
        )
    }


def test_others_are_judged_on_the_selection_split_and_decide_nothing(tmp_path):
    verdict = judge(tmp_path, chosen=policy(latency={"max_ratio": 0.6}))
    other = next(c for c in verdict.candidates if c.dtype == "float32")
    assert other.decision == "reject"  # the float twin is too slow
    assert {g.split for g in other.gates} == {"select"}
    assert verdict.decision == "pass"


def test_judged_twice_gives_the_same_bytes(tmp_path):
    make_run(tmp_path)
    for name in ("1.json", "2.json"):
        judge_run(tmp_path, load_run(tmp_path), policy()).save(tmp_path / name)
    assert (tmp_path / "1.json").read_bytes() == (tmp_path / "2.json").read_bytes()
    assert load_verdict(tmp_path / "1.json") == judge_run(tmp_path, load_run(tmp_path), policy())


@pytest.mark.parametrize(
    ("options", "changes", "gate", "decision", "code"),
    [
        ({"lost": 130, "gained": 10}, {}, "accuracy", "reject", 1),
        ({"ratio": 2.0}, {}, "latency", "reject", 1),
        ({"student_bytes": 1 << 21}, {}, "size", "reject", 1),
        ({}, {"size": {"max_ratio": 0.1}}, "size", "reject", 1),
        ({}, {"size": {"max_ratio": 0.2}}, "size", "pass", 0),
        ({"n": 200}, {}, "accuracy", "inconclusive", 3),
        ({"restarts": 3}, {}, "latency", "inconclusive", 3),
        ({"with_latency": False}, {}, "latency", "inconclusive", 3),
        ({}, {"latency_absolute": {"percentile": "p90", "max_ms": 5}}, "latency_absolute", "pass", 0),
        ({}, {"latency_absolute": {"percentile": "p90", "max_ms": 0.1}}, "latency_absolute", "reject", 1),
        ({}, {"latency_absolute": {"max_ms": 5}}, "latency_absolute", "inconclusive", 3),
        ({"with_latency": False}, {"latency_absolute": {"max_ms": 5}}, "latency_absolute", "inconclusive", 3),
        ({}, {"tail": {"max_ratio": 0.8}}, "tail", "pass", 0),
        ({"ratio": 0.7}, {"tail": {"max_ratio": 0.6}}, "tail", "reject", 1),
        ({"restarts": 3}, {"tail": {"max_ratio": 0.8}}, "tail", "inconclusive", 3),
        ({"with_latency": False}, {"tail": {"max_ratio": 0.8}}, "tail", "inconclusive", 3),
        ({"with_test": False}, {}, "accuracy", "inconclusive", 3),
        ({"regression": 1.0}, {"regression": {"baseline": "old.onnx"}}, "regression", "pass", 0),
        ({"regression": 1.05}, {"regression": {"baseline": "old.onnx"}}, "regression", "reject", 1),
        ({}, {"regression": {"baseline": "old.onnx"}}, "regression", "inconclusive", 3),
        (
            {"regression_baseline": "first-run"},
            {"regression": {"baseline": "old.onnx"}},
            "regression",
            "not_run",
            0,
        ),
    ],
)
def test_every_path(tmp_path, options, changes, gate, decision, code):
    verdict = judge(tmp_path, chosen=policy(**changes), **options)
    assert by_name(verdict)[gate].decision == decision
    assert by_name(verdict)[gate].reason
    assert exit_code(verdict) == code


def test_timings_of_the_student_alone_come_first(tmp_path):
    run = make_run(tmp_path)
    measurement = load_measurement(tmp_path / run.candidates[1].test.latency.measurement)
    slow = {
        name: {**record, "artifact": run.candidates[1].artifact} for name, record in measurement.arms.items()
    }
    restarts = tuple(
        replace(r, blocks={name: tuple(b * 100 for b in blocks) for name, blocks in r.blocks.items()})
        for r in measurement.restarts
    )
    save_measurement(replace(measurement, arms=slow, restarts=restarts), tmp_path / "alone.json")
    alone = LatencyEvidence(measurement="alone.json", arm="baseline")
    tested = replace(run.candidates[1], test=replace(run.candidates[1].test, alone=alone))
    whole = replace(run, candidates=(run.candidates[0], tested))
    whole.save(tmp_path)
    assert load_run(tmp_path) == whole
    chosen = GatesBlock.model_validate({"latency_absolute": {"percentile": "p90", "max_ms": 5}})
    verdict = judge_run(tmp_path, whole, chosen)
    assert verdict.gates[0].decision == "reject"
    assert verdict.gates[0].estimate > 50
    assert "alone.json" in verdict.evidence
    other = replace(measurement, arms={**slow, "baseline": {**slow["baseline"], "artifact": "sha256:1"}})
    save_measurement(other, tmp_path / "alone.json")
    assert "evidence of" in judge_run(tmp_path, whole, chosen).gates[0].reason


def test_timings_beside_another_teacher_are_an_error(tmp_path):
    run = make_run(tmp_path)
    path = tmp_path / run.candidates[1].test.latency.measurement
    measurement = load_measurement(path)
    arms = {k: {**v, "artifact": "sha256:1"} for k, v in measurement.arms.items() if k != "candidate"}
    save_measurement(replace(measurement, arms={**measurement.arms, **arms}), path)
    verdict = judge_run(
        tmp_path, run, policy(tail={"max_ratio": 0.8}, latency_absolute={"percentile": "p90", "max_ms": 5})
    )
    assert by_name(verdict)["latency"].decision == by_name(verdict)["tail"].decision == "error"
    assert by_name(verdict)["latency_absolute"].decision == "pass", "it is of the student alone"


def test_a_run_that_redraws_ended_early_does_not_pass(tmp_path):
    run = make_run(tmp_path)
    path = tmp_path / run.candidates[1].test.latency.measurement
    whole = load_measurement(path)
    rules = {"min_duration_s": 0.5, "min_count": 64}
    asked = policy(
        tail={"percentile": "p50", "max_ratio": 0.8}, latency_absolute={"percentile": "p90", "max_ms": 5}
    )
    for held, decision in ((True, "pass"), (False, "inconclusive")):
        save_measurement(replace(whole, scenario_detail={**rules, "held": held}), path)
        found = by_name(judge_run(tmp_path, run, asked))
        assert {found[g].decision for g in ("latency", "tail", "latency_absolute")} == {decision}
    assert "ended before 0.5 s and 64 queries" in found["latency"].reason
    save_measurement(replace(whole, scenario_detail={**rules, "held": False}), path)
    assert (
        by_name(judge_run(tmp_path, run, policy(latency={"max_ratio": 0.1})))["latency"].decision == "reject"
    )


def test_queries_of_a_server_are_no_race(tmp_path):
    run = make_run(tmp_path)
    path = tmp_path / run.candidates[1].test.latency.measurement
    save_measurement(replace(load_measurement(path), scenario="server"), path)
    verdict = judge_run(tmp_path, run, policy(tail={"max_ratio": 0.8}))
    assert by_name(verdict)["latency"].decision == by_name(verdict)["tail"].decision == "error"
    assert "server" in by_name(verdict)["latency"].reason


def test_only_a_first_run_is_no_pass(tmp_path):
    chosen = GatesBlock.model_validate({"regression": {"baseline": "old.onnx"}})
    verdict = judge(tmp_path, chosen=chosen, regression_baseline="first-run")
    assert verdict.gates[0].decision == "not_run"
    assert (verdict.decision, exit_code(verdict)) == ("inconclusive", 3)


@pytest.mark.parametrize(("required", "decision", "code"), [(True, "inconclusive", 3), (False, "not_run", 0)])
def test_absent_targets(tmp_path, required, decision, code):
    absent = AbsentTarget(target="cuda:tensorrt", required=required, reason="no NVIDIA GPU")
    verdict = judge(tmp_path, absent=[absent])
    there = [g for g in verdict.gates if g.target == "cuda:tensorrt"]
    assert {g.decision for g in there} == {decision}
    assert len(there) == 3
    assert "no NVIDIA GPU" in there[0].reason
    assert verdict.not_run == ({"target": "cuda:tensorrt", "required": required, "reason": "no NVIDIA GPU"},)
    assert exit_code(verdict) == code


def test_an_optional_target_that_is_here_sinks_nobody(tmp_path):
    assert (
        judge(tmp_path, lost=130, optional=[TARGET]).decision == "inconclusive"
    )  # nothing required was judged


def test_no_gate_asked(tmp_path):
    make_run(tmp_path)
    with pytest.raises(UsageError, match="asks no gate"):
        judge_run(tmp_path, load_run(tmp_path), GatesBlock())


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("spoil", "gate", "says"),
    [
        (lambda f: (f / "evidence/test/student-int8.npz").unlink(), "accuracy", "missing"),
        (lambda f: (f / "evidence/test/student-int8.json").unlink(), "accuracy", "does not exist"),
        (lambda f: (f / "evidence/test/student-int8.json").write_text("{"), "accuracy", "not JSON"),
        (lambda f: (f / "evidence/test/student-int8.npz").write_bytes(b"PK"), "accuracy", "altered"),
        (
            lambda f: change(f / "evidence/test/student-int8.json", artifact="sha256:1"),
            "accuracy",
            "evidence of",
        ),
        (lambda f: change(f / "evidence/test/teacher.json", artifact="sha256:1"), "accuracy", "evidence of"),
        (lambda f: change(f / "evidence/test/student-int8.json", target="cpu:x"), "accuracy", "collected on"),
        (
            lambda f: change(f / "evidence/test/student-int8.json", split="select"),
            "accuracy",
            "selection split",
        ),
        (lambda f: (f / "evidence/test/latency-student-int8.npz").unlink(), "latency", "missing"),
        (
            lambda f: change(f / "evidence/test/latency-student-int8.json", target="cpu:x"),
            "latency",
            "collected on",
        ),
        (lambda f: change(f / "evidence/test/latency-student-int8.json", schema="x/1"), "latency", "schema"),
    ],
)
def test_damaged_evidence_is_an_error(tmp_path, spoil, gate, says):
    make_run(tmp_path)
    spoil(tmp_path)
    verdict = judge_run(tmp_path, load_run(tmp_path), policy())
    found = by_name(verdict)[gate]
    assert (found.decision, found.error_kind) == ("error", "input")
    assert says in found.reason
    assert exit_code(verdict) == 2


def test_an_arm_that_is_not_there_is_an_error(tmp_path):
    run = make_run(tmp_path)
    chosen = run.candidates[1]
    test = replace(chosen.test, latency=replace(chosen.test.latency, arm="candidate_2"))
    run = replace(run, candidates=(run.candidates[0], replace(chosen, test=test)))
    assert "no arm 'candidate_2'" in by_name(judge_run(tmp_path, run, policy()))["latency"].reason


def test_evidence_through_a_link_out_of_the_folder_is_an_error(tmp_path):
    make_run(tmp_path / "run")
    path = tmp_path / "run/evidence/test/student-int8.json"
    (tmp_path / "away.json").write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(tmp_path / "away.json")
    verdict = judge_run(tmp_path / "run", load_run(tmp_path / "run"), policy())
    assert "leads out" in by_name(verdict)["accuracy"].reason


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: replace(r, selected={}),
        lambda r: replace(r, selected={TARGET: "sha256:nobody"}),
        lambda r: replace(r, candidates=(*r.candidates, r.candidates[0])),
        lambda r: replace(r, artifacts={}),
        lambda r: replace(r, artifacts={k: {} for k in r.artifacts}),
    ],
)
def test_an_index_that_contradicts_itself_is_refused(tmp_path, spoil):
    run = make_run(tmp_path)
    with pytest.raises(EvidenceError):
        judge_run(tmp_path, spoil(run), policy())


def test_selection_prefers_the_faster_within_the_margin(tmp_path):
    run = make_run(tmp_path)
    assert select_candidates(tmp_path, run, policy()) == {TARGET: run.candidates[1].artifact}
    narrow = policy(accuracy={"max_drop": 0.0045})
    assert select_candidates(tmp_path, run, narrow) == {TARGET: run.candidates[0].artifact}


def test_the_index_comes_back(tmp_path):
    run = make_run(tmp_path, optional=["cuda:tensorrt"])
    assert load_run(tmp_path) == run


def redirect(folder, **changes):
    """Edit run.json's index of the selected candidate's evidence."""
    path = folder / "run.json"
    value = json.loads(path.read_text())
    chosen = next(c for c in value["candidates"] if c["test"])
    chosen["test"]["accuracy"]["references"].update(changes.pop("references", {}))
    value.update(changes)
    path.write_text(json.dumps(value))
    return load_run(folder), chosen


def test_a_reference_that_the_run_does_not_name_is_an_error(tmp_path):
    make_run(tmp_path)
    run, chosen = redirect(tmp_path)
    run, _ = redirect(tmp_path, references={"float32": chosen["test"]["accuracy"]["candidate"]})
    verdict = judge_run(tmp_path, run, policy(accuracy={"against": "float32"}))
    gate = by_name(verdict)["accuracy"]
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "does not say which model was evaluated as float32" in gate.reason
    run = replace(load_run(tmp_path), references={"float32": chosen["artifact"]})
    gate = by_name(judge_run(tmp_path, run, policy(accuracy={"against": "float32"})))["accuracy"]
    assert gate.decision == "error"
    assert "calls the int8 student its own float32" in gate.reason


def test_the_teacher_is_the_one_that_the_run_was_made_with(tmp_path):
    make_run(tmp_path)
    _, chosen = redirect(tmp_path)
    run, _ = redirect(tmp_path, references={"teacher": chosen["test"]["accuracy"]["candidate"]})
    run = replace(run, references={"naive": "x"})
    gate = by_name(judge_run(tmp_path, run, policy()))["accuracy"]
    assert gate.decision == "error"
    assert "evidence of" in gate.reason


def test_rows_that_were_chosen_by_are_not_judged_on(tmp_path):
    """The same rows under another name of the split."""
    from edgekd.evidence.evaluation import load_evaluation, save_evaluation

    make_run(tmp_path)
    run = load_run(tmp_path)
    chosen = next(c for c in run.candidates if c.test)
    for path in (chosen.test.accuracy.candidate, *chosen.test.accuracy.references.values()):
        select = load_evaluation(tmp_path / chosen.select.accuracy.candidate)
        save_evaluation(replace(load_evaluation(tmp_path / path), data=select.data), tmp_path / path)
    gate = by_name(judge_run(tmp_path, run, policy()))["accuracy"]
    assert gate.decision == "error"
    assert "of the same rows" in gate.reason


def test_a_run_of_the_first_version_is_judged_as_before(tmp_path):
    """Its index knows one reference by the name `baseline`, and its evaluations no statistics."""
    make_run(tmp_path)
    before = judge_run(tmp_path, load_run(tmp_path), policy())
    path = tmp_path / "run.json"
    value = json.loads(path.read_text())
    value.pop("references")
    for candidate in value["candidates"]:
        for evidence in (candidate["select"], candidate["test"]):
            if evidence is not None:
                evidence.pop("failures")
                evidence["accuracy"] = {k: evidence["accuracy"][k] for k in ("baseline", "candidate")}
    path.write_text(json.dumps(value))
    for document in (tmp_path / "evidence").rglob("*.json"):
        found = json.loads(document.read_text())
        if found["schema"] == "edgekd.evaluation/1":
            for key in ("aggregate", "error", "unit"):
                found.pop(key)
            document.write_text(json.dumps(found))
    after = judge_run(tmp_path, load_run(tmp_path), policy())
    assert [g.to_json() for g in after.gates] == [g.to_json() for g in before.gates]


def test_only_the_test_split_is_judged_on(tmp_path):
    from edgekd.evidence.evaluation import load_evaluation, save_evaluation

    make_run(tmp_path)
    chosen = next(c for c in load_run(tmp_path).candidates if c.test)
    for path in (chosen.test.accuracy.candidate, *chosen.test.accuracy.references.values()):
        save_evaluation(replace(load_evaluation(tmp_path / path), split="train"), tmp_path / path)
    gate = by_name(judge_run(tmp_path, load_run(tmp_path), policy()))["accuracy"]
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "is of the train split" in gate.reason


@pytest.mark.parametrize(
    ("what", "kind", "code"),
    [("accuracy", "input", 2), ("accuracy.teacher", "infrastructure", 4), ("latency", "infrastructure", 4)],
)
def test_what_could_not_be_collected_is_an_error_with_its_reason(tmp_path, what, kind, code):
    make_run(tmp_path)
    run = load_run(tmp_path)
    failure = Failure(kind=kind, reason="the child died of signal 9")
    candidates = tuple(
        replace(c, test=replace(c.test, failures={what: failure})) if c.test else c for c in run.candidates
    )
    verdict = judge_run(tmp_path, replace(run, candidates=candidates), policy())
    gate = by_name(verdict)[what.partition(".")[0]]
    assert (gate.decision, gate.error_kind, gate.reason) == ("error", kind, failure.reason)
    assert exit_code(verdict) == code
