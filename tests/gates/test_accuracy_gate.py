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
        (lambda: {"labels": np.arange(5000) % 9}, "other labels"),
        (lambda: {"unit": "mm"}, "another unit"),
        (lambda: {"error": True}, "another direction"),
        (lambda: {"clusters": np.arange(5000).astype(str)}, "other clusters"),
        (lambda: {"statistics": {"sums": np.full((5000, 2), np.nan)}}, "statistics 'sums'"),
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


def test_a_drop_of_one_or_more_allows_anything_of_a_fraction():
    gate = judge(max_drop=1.0, lost=2000)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "write 0.01 for a point" in gate.reason


def one_class(**changes):
    return make_evaluation(n=5000, labels=np.full(5000, 3), **changes)


def test_labels_of_one_class_only_are_an_error():
    gate = judge_accuracy(one_class(name="teacher"), one_class(lost=3), max_drop=0.01)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "all 5,000 labels are 3" in gate.reason


@pytest.mark.parametrize("score", [0.0, 0.5])
def test_a_score_that_never_varies_is_never_a_pass(score):
    scores = np.full(5000, score)
    gate = judge(baseline=make_evaluation(n=5000, scores=scores, name="teacher"), scores=scores)
    assert gate.decision == "inconclusive"
    assert f"scores {score:g} for the student and {score:g} for" in gate.reason


def test_both_right_everywhere_is_an_answer():
    assert judge(baseline=make_evaluation(n=5000, right=1.0, name="teacher"), right=1.0).decision == "pass"


@pytest.mark.parametrize("broken", ["teacher", "student"])
def test_class_scores_that_never_vary_are_an_error(broken):
    flat = {"logits": np.ones((5000, 10), np.float32)}
    gate = judge(
        baseline=make_evaluation(n=5000, name="teacher", **(flat if broken == "teacher" else {})),
        name="student", **(flat if broken == "student" else {}),
    )  # fmt: skip
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert f"{broken} gives the same class scores for all 5,000 examples" in gate.reason


def test_infinite_logits_are_an_error():
    logits = make_evaluation(n=5000).logits
    logits[7, 1] = -np.inf
    gate = judge(logits=logits)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "first at id 'test-7'" in gate.reason


def fractions(shift, seed=0, **changes):
    """Scores in [0, 1] that are not 0 or 1: a mean that takes the bootstrap."""
    rng = np.random.RandomState(seed)
    scores = rng.beta(5, 2, 3000)
    if shift:
        scores = np.clip(scores - shift + np.random.RandomState(9).normal(0, 0.002, 3000), 0, 1)
    return make_evaluation(n=3000, scores=scores, metric="f1", **changes)


@pytest.mark.parametrize(
    ("shift", "decision"), [(0.001, "pass"), (0.005, "pass"), (0.0100, "inconclusive"), (0.03, "reject")]
)
def test_other_scores_are_bootstrapped(shift, decision):
    gate = judge_accuracy(fractions(0.0, name="teacher"), fractions(shift), max_drop=0.01)
    assert (gate.decision, gate.method) == (decision, "bca-bootstrap")
    assert gate.estimate == pytest.approx(-shift, abs=2e-4)
    assert gate.detail["units"] == 3000


def rmse(error, seed, **changes):
    rng = np.random.RandomState(seed)
    residual = rng.normal(0, error, 2000)
    return make_evaluation(
        n=2000, labels=np.arange(2000.0), logits=None, scores=-np.abs(residual), metric="rmse", error=True, unit="mm",
        aggregate="root_mean", statistics={"sums": np.stack([residual**2, np.ones(2000)], 1)}, **changes,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("error", "limit", "decision"),
    [
        (1.05, {"max_drop": 0.3}, "pass"),
        (1.6, {"max_drop": 0.3}, "reject"),
        (0.5, {"max_drop": 0.0}, "pass"),
        (1.05, {"min_ratio": 0.8}, "pass"),
        (1.6, {"min_ratio": 0.8}, "reject"),
    ],
)
def test_a_smaller_error_is_better(error, limit, decision):
    gate = judge_accuracy(rmse(1.0, 1, name="teacher"), rmse(error, 2), **limit)
    assert gate.decision == decision, gate.reason
    assert gate.unit == "mm"
    assert "mm" in gate.reason
    assert ("better than" if error < 1 else "worse than" if "max_drop" in limit else " than ") in gate.reason


@pytest.mark.parametrize(("lost", "decision"), [(10, "pass"), (45, "inconclusive"), (120, "reject")])
def test_a_share_of_the_teacher_takes_the_score_test_of_a_ratio(lost, decision):
    teacher = make_evaluation(n=5000, name="teacher")
    gate = judge_accuracy(teacher, make_evaluation(n=5000, lost=lost), min_ratio=0.99)
    assert (gate.decision, gate.method, gate.limit) == (decision, "score-ratio", 0.0)
    assert gate.estimate == pytest.approx((4500 - lost - 0.99 * 4500) / 5000)
    assert "99 % of the teacher" in gate.reason


def test_clusters_widen_the_bounds():
    def taken(scores, groups, **changes):
        clusters = np.repeat([f"c{i:03}" for i in range(groups)], 5000 // groups)
        return make_evaluation(n=5000, scores=scores, clusters=clusters, **changes)

    before = make_evaluation(n=5000).scores
    after = before.copy()
    after[:125] = 0  # all of the losses in one of forty groups
    alone = judge(baseline=make_evaluation(n=5000, scores=before, name="t"), scores=after, max_drop=0.035)
    grouped = judge_accuracy(taken(before, 40, name="t"), taken(after, 40), max_drop=0.035)
    assert (alone.decision, grouped.method) == ("pass", "bca-bootstrap")
    assert grouped.decision != "pass"
    assert grouped.detail["clusters"] == 40
    few = judge_accuracy(taken(before, 10, name="t"), taken(after, 10), max_drop=0.035)
    assert (few.decision, few.interval) == ("inconclusive", None)
    assert "10 clusters" in few.reason


def test_its_own_float32_costs_nothing():
    one = make_evaluation(n=50)
    gate = judge_accuracy(one, one, max_drop=0.005, against="float32")
    assert (gate.decision, gate.method, gate.estimate) == ("pass", "identity", 0.0)
    other = judge_accuracy(
        one, make_evaluation(n=50, artifact="sha256:" + "c" * 64), max_drop=0.005, against="float32"
    )
    assert other.decision == "inconclusive"
    assert "its own float32" in other.reason


def test_one_artifact_that_answered_twice_is_judged_by_its_answers():
    """Another output or preparation does not change the digest."""
    one = make_evaluation(n=5000)
    gate = judge_accuracy(one, make_evaluation(n=5000, lost=2000), max_drop=0.01, against="float32")
    assert (gate.decision, gate.method) == ("reject", "tango")


def test_a_share_of_what_is_not_above_zero_means_nothing():
    def r2(seed, **changes):
        rng = np.random.RandomState(seed)
        y, answer = rng.normal(0, 1, 500), rng.normal(0, 2, 500)
        sums = np.stack([(y - answer) ** 2, y, y * y, np.ones(500)], axis=1)
        return make_evaluation(
            n=500, labels=y, predictions=answer, logits=None, scores=-np.abs(y - answer), metric="r2", unit="",
            aggregate="r2", statistics={"sums": sums}, **changes,
        )  # fmt: skip

    gate = judge_accuracy(r2(0, name="teacher"), r2(0), min_ratio=0.99)
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "means nothing" in gate.reason
    unstated = judge_accuracy(r2(0, name="teacher"), r2(0), max_drop=0.01, stated=False)
    assert (unstated.decision, unstated.error_kind) == ("error", "input")
    assert "no usual margin" in unstated.reason


def test_a_metric_made_of_something_else_than_its_scores_is_resampled():
    sums = np.stack([np.random.RandomState(0).random_sample(5000), np.ones(5000)], axis=1)
    gate = judge(baseline=make_evaluation(n=5000, name="teacher"), statistics={"sums": sums})
    assert gate.method == "bca-bootstrap"
    assert gate.decision == "reject"


def test_answers_that_never_vary_tell_nothing():
    same = {"predictions": np.zeros(5000, np.int64), "logits": None}
    gate = judge(baseline=make_evaluation(n=5000, name="teacher", **same), **same)
    assert gate.decision == "inconclusive"
    assert "answer every one of the 5,000 examples alike" in gate.reason


def test_one_class_without_logits():
    same = {"labels": np.full(500, "yes"), "predictions": np.full(500, "yes"), "logits": None}
    gate = judge_accuracy(
        make_evaluation(n=500, name="t", **same), make_evaluation(n=500, **same), max_drop=0.02
    )
    assert (gate.decision, gate.error_kind) == ("error", "input")
