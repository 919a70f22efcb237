"""Slices: judged one by one, corrected for their number, reported where they are too small."""

import numpy as np
import pytest
from fixtures_run import make_evaluation

from edgekd.gates.slices import judge_slices

N = 20_000


def pair(lost_in=None, lost=0, values=10, scattered=200, **changes):
    """Teacher and student over equal slices; ``scattered`` flips each way, ``lost`` more in one slice."""
    slices = {"site": np.asarray([f"s{i // 13 % values:02}" for i in range(N)])}
    before = (np.arange(N) % 7 != 0).astype(float)
    after = before.copy()
    rng = np.random.RandomState(0)
    after[rng.choice(np.flatnonzero(before == 1), scattered, replace=False)] = 0
    after[rng.choice(np.flatnonzero(before == 0), scattered, replace=False)] = 1
    if lost_in is not None:
        rows = np.flatnonzero((slices["site"] == lost_in) & (after == 1))[:lost]
        after[rows] = 0
    teacher = make_evaluation(n=N, scores=before, slices=slices, name="teacher")
    return teacher, make_evaluation(n=N, scores=after, slices=slices, **changes)


def by_value(gates):
    return {g.slice: g for g in gates}


def test_every_value_is_a_gate():
    gates = judge_slices(*pair())
    assert [g.gate for g in gates] == ["slice:site"] * 10
    assert {g.decision for g in gates} == {"pass"}
    assert gates[0].limit == -0.03
    assert gates[0].detail["slices"] == 10
    assert 0.95 < gates[0].detail["upper_confidence"] <= 0.995


def test_a_damaged_slice_is_rejected_and_the_others_are_not():
    found = by_value(judge_slices(*pair("s03", 200)))
    assert found["s03"].decision == "reject"
    assert found["s03"].interval[1] < -0.03
    assert {g.decision for v, g in found.items() if v != "s03"} == {"pass"}
    assert found["s03"].reason.startswith("site s03: ")


def test_the_upper_bound_holds_for_all_slices_at_once():
    """The same slice: a loss that one test would reject is not rejected as one of many."""
    alone, many = pair("s03", 97), pair("s03", 97)
    rows = np.flatnonzero(alone[0].slices["site"] == "s03")
    from edgekd.evidence.evaluation import take_rows

    (one,) = judge_slices(take_rows(alone[0], rows), take_rows(alone[1], rows), max_drop=0.035)
    among = by_value(judge_slices(*many, max_drop=0.035))["s03"]
    assert one.estimate == among.estimate
    assert (one.decision, among.decision) == ("reject", "inconclusive")
    assert one.interval[0] == among.interval[0]
    assert one.interval[1] < among.interval[1]


def test_a_slice_of_three_examples_is_reported_only():
    teacher, student = pair()
    tiny = teacher.slices["site"].astype("<U8")
    tiny[:3] = "tiny"
    made = [
        make_evaluation(n=N, scores=e.scores, slices={"site": tiny}, name=e.name) for e in (teacher, student)
    ]
    gate = by_value(judge_slices(*made))["tiny"]
    assert gate.decision == "not_run"
    assert gate.n == 3
    assert "reported, not gated" in gate.reason
    assert gate.detail["n_for_power"] > 3


def test_a_question_that_no_slice_can_answer_is_inconclusive():
    teacher = make_evaluation(n=60, slices={"site": np.repeat(["a", "b", "c"], 20)}, name="teacher")
    student = make_evaluation(n=60, slices=teacher.slices)
    gates = judge_slices(teacher, student)
    assert [g.decision for g in gates] == ["not_run", "not_run", "not_run", "inconclusive"]
    assert "none of the 3 values" in gates[-1].reason


def test_the_label_is_a_slice_called_class():
    gates = judge_slices(*pair(), names=["class"])
    assert [g.slice for g in gates] == [str(i) for i in range(10)]


@pytest.mark.parametrize(
    ("changes", "names", "says"),
    [
        ({}, ["colour"], "no slice 'colour' (it has site)"),
        ({"slices": {}}, [], "the data has none"),
        ({"slices": {"site": np.arange(N).astype(str)}}, [], "has 20,000 values"),
        ({"ids": np.arange(N).astype(str)}, [], "other examples"),
    ],
)
def test_what_cannot_be_sliced_is_an_error(changes, names, says):
    teacher, _ = pair()
    student = make_evaluation(n=N, **{"slices": teacher.slices, **changes})
    if "slices" in changes:
        teacher = make_evaluation(n=N, name="teacher", **changes)
    gates = judge_slices(teacher, student, names=names)
    assert {(g.decision, g.error_kind) for g in gates} == {("error", "input")}
    assert says in gates[0].reason


def test_slices_of_other_scores_are_bootstrapped():
    rng = np.random.RandomState(1)
    scores = rng.beta(5, 2, 4000)
    slices = {"site": np.repeat(["a", "b"], 2000)}
    worse = scores.copy()
    worse[2000:] = np.clip(worse[2000:] - 0.06 + rng.normal(0, 0.01, 2000), 0, 1)
    one = make_evaluation(n=4000, scores=scores, slices=slices, metric="iou", name="teacher")
    two = make_evaluation(n=4000, scores=np.clip(worse, 0, 1), slices=slices, metric="iou")
    found = by_value(judge_slices(one, two))
    assert (found["a"].decision, found["b"].decision) == ("pass", "reject")
    assert found["b"].method == "bca-bootstrap-bonferroni"


def test_nobody_right_anywhere_is_inconclusive():
    slices = {"site": np.repeat(["a", "b"], N // 2)}
    zero = {"scores": np.zeros(N), "slices": slices}
    gates = judge_slices(make_evaluation(n=N, name="t", **zero), make_evaluation(n=N, **zero))
    assert [g.decision for g in gates] == ["inconclusive"]


@pytest.mark.parametrize("drop", [1.0, 2.0])
def test_a_margin_that_allows_anything_is_an_error(drop):
    gates = judge_slices(*pair("s03", 900), max_drop=drop)
    assert {(g.decision, g.error_kind) for g in gates} == {("error", "input")}
    assert "write 0.03 for three points" in gates[0].reason


def test_the_bound_that_is_shown_is_the_one_that_decides():
    for lost in range(60, 140, 4):
        for gate in judge_slices(*pair("s03", lost)):
            assert (gate.decision == "reject") == (gate.interval[1] < gate.limit), (lost, gate.reason)


def test_a_small_slice_that_lost_everything_is_no_pass():
    """Three examples of three: too few to gate, far more than chance."""
    teacher, student = pair()
    tiny = teacher.slices["site"].astype("<U8")
    rows = np.flatnonzero((teacher.scores == 1) & (student.scores == 1))[:3]
    tiny[rows] = "tiny"
    after = student.scores.copy()
    after[rows] = 0
    made = [
        make_evaluation(n=N, scores=s, slices={"site": tiny}, name=n)
        for s, n in ((teacher.scores, "t"), (after, "s"))
    ]
    gate = by_value(judge_slices(*made))["tiny"]
    assert gate.decision == "inconclusive"
    assert "more than chance" in gate.reason


def test_without_a_bound_for_all_slices_nothing_is_rejected(monkeypatch):
    from dataclasses import replace

    from edgekd.gates import slices as module

    def narrow_only(reference, candidate, limit, *, confidence=0.95):
        found = compare(reference, candidate, limit, confidence=0.95)
        return found if confidence == 0.95 else replace(found, interval=None)

    compare = module.compare
    monkeypatch.setattr(module, "compare", narrow_only)
    rng = np.random.RandomState(1)
    scores = rng.beta(5, 2, 4000)
    slices = {"site": np.repeat(["a", "b"], 2000)}
    one = make_evaluation(n=4000, scores=scores, slices=slices, metric="iou", name="teacher")
    two = make_evaluation(
        n=4000, scores=np.clip(scores - 0.1 + rng.normal(0, 0.01, 4000), 0, 1), slices=slices, metric="iou"
    )
    assert {g.decision for g in judge_slices(one, two)} == {"inconclusive"}
