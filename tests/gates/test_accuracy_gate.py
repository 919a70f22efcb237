"""Every way the accuracy gate can answer."""

import numpy as np
import pytest
from fixtures_run import make_evaluation

from edgekd.gates.accuracy import examples_to_decide, judge_accuracy, planned_examples


def judge(max_drop=0.01, baseline=None, **candidate):
    n = candidate.get("n", 5000)
    teacher = baseline or make_evaluation(n=n, name="teacher", artifact="sha256:" + "a" * 64)
    return judge_accuracy(teacher, make_evaluation(**{"n": 5000, **candidate}), max_drop=max_drop)


def test_passes_within_the_margin():
    gate = judge(lost=31, gained=10)
    assert gate.decision == "pass"
    assert gate.estimate == pytest.approx(-0.0042)
    assert gate.limit == -0.01
    assert gate.interval[0] > -0.01
    assert (gate.n, gate.method, gate.unit, gate.confidence) == (5000, "tango", "fraction", 0.95)
    assert (
        gate.reason
        == f"student is at most {-100 * gate.interval[0]:.2f} points below the teacher (limit 1.00) on 5,000 examples"
    )


def test_a_better_student_is_not_called_worse():
    gate = judge(lost=10, gained=100)
    assert gate.decision == "pass"
    assert "above the teacher" in gate.reason


def test_a_planted_five_point_loss_is_rejected():
    gate = judge(max_drop=0.03, lost=300, gained=50)
    assert gate.decision == "reject"
    assert gate.interval[1] < -0.03
    assert "at least" in gate.reason


def test_undecided_names_the_examples_that_would_decide():
    gate = judge(n=500, lost=15, gained=12)
    assert gate.decision == "inconclusive"
    wanted = gate.detail["n_that_would_decide"]
    assert wanted == examples_to_decide(12, 15, 500, 0.01) > 500
    assert f"{wanted:,} examples would decide" in gate.reason


def test_undecided_beyond_the_margin_says_that_more_will_not_pass():
    gate = judge(n=500, lost=16, gained=10)
    assert gate.decision == "inconclusive"
    assert gate.detail["n_that_would_decide"] is None
    assert "more data will not pass it" in gate.reason


def test_the_examples_named_do_decide():
    wanted = examples_to_decide(12, 15, 500, 0.01)
    scale = 2 * wanted / 500
    assert judge(n=2 * wanted, lost=round(15 * scale), gained=round(12 * scale)).decision == "pass"


def test_planned_examples_of_the_method():
    assert planned_examples(0.05, 0.01) == 3092
    # With nothing flipped the all-agreeing test still needs so many.
    least = planned_examples(0.0, 0.01)
    assert judge(n=least).decision == "pass"
    assert judge(n=least - 1).decision == "inconclusive"


def reordered():
    e = make_evaluation(n=5000)
    ids = e.ids.copy()
    ids[[3, 4]] = ids[[4, 3]]
    return {"ids": ids}


def nan_scores():
    scores = make_evaluation(n=5000).scores
    scores[7] = np.nan
    return {"scores": scores}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (lambda: {"n": 4999}, "other examples"),
        (reordered, "reordered"),
        (nan_scores, "not finite, first at id 'test-7'"),
        (lambda: {"scores": np.full(5000, 0.5)}, "proportions only"),
        (lambda: {"scores": np.ones(4000)}, "4000 scores"),
        (lambda: {"metric": "f1"}, "another metric"),
        (lambda: {"split": "select"}, "another split"),
        (lambda: {"data": "sha256:" + "0" * 64}, "other data"),
        (lambda: {"n": 0}, "holds no example"),
    ],
)
def test_what_cannot_be_compared_is_an_error(changes, says):
    gate = judge(
        baseline=None if changes().get("n") == 0 else make_evaluation(n=5000, name="teacher"), **changes()
    )
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert says in gate.reason
    assert gate.estimate is None
    assert gate.interval is None


def test_repeated_ids_are_an_error():
    ids = make_evaluation(n=5000).ids
    ids[1] = ids[0]
    gate = judge(baseline=make_evaluation(n=5000, ids=ids), ids=ids)
    assert gate.decision == "error"
    assert "repeat" in gate.reason


def test_a_teacher_with_nan_is_an_error_too():
    gate = judge(baseline=make_evaluation(name="teacher", **{"n": 5000, **nan_scores()}))
    assert "scores of teacher are not finite" in gate.reason
