"""Fidelity: answers displaced from a reference's, whatever the labels say."""

import numpy as np
import pytest
from fixtures_run import make_evaluation

from edgekd.gates.accuracy import judge_accuracy
from edgekd.gates.fidelity import judge_fidelity

N = 4000
OWN = "sha256:" + "c" * 64


def displaced(flips, **changes):
    """The student's float32, and a student that answers ``flips`` examples otherwise and is as often right."""
    float32 = make_evaluation(n=N, name="float32", artifact=OWN)
    half = flips // 2
    student = make_evaluation(n=N, lost=half, gained=half, **changes)
    return float32, student


def test_equal_accuracy_with_eight_percent_flips_is_caught():
    float32, student = displaced(320)
    assert student.mean == float32.mean
    assert judge_accuracy(float32, student, max_drop=0.01, against="float32").decision == "pass"
    (gate,) = judge_fidelity(float32, student, limits={"flips": 0.05})
    assert (gate.gate, gate.metric, gate.decision) == ("fidelity", "flips", "reject")
    assert gate.estimate == pytest.approx(0.08)
    assert gate.interval[0] > 0.05
    assert "8.00 %" in gate.reason
    assert "its own float32" in gate.reason


@pytest.mark.parametrize(("flips", "decision"), [(40, "pass"), (190, "inconclusive"), (400, "reject")])
def test_three_answers(flips, decision):
    (gate,) = judge_fidelity(*displaced(flips), limits={"flips": 0.05})
    assert gate.decision == decision
    assert ("would decide" in gate.reason) == (decision == "inconclusive")


def test_each_limit_is_a_gate_of_its_own():
    limits = {"flips": 0.05, "kl_mean": 0.5, "kl_p99": 0.01, "kl_max": 0.1, "ece_change": 0.5}
    gates = judge_fidelity(*displaced(80), limits=limits)
    assert [g.metric for g in gates] == list(limits)
    assert {g.metric: g.decision for g in gates} == {
        "flips": "pass", "kl_mean": "pass", "kl_p99": "reject", "kl_max": "reject", "ece_change": "pass",
    }  # fmt: skip
    assert {g.unit for g in gates if g.metric.startswith("kl")} == {"nats"}
    assert next(g for g in gates if g.metric == "kl_max").interval is None


def test_no_logits_no_divergence():
    float32, student = displaced(80, logits=None)
    flips, kl = judge_fidelity(float32, student, limits={"flips": 0.05, "kl_mean": 0.1})
    assert kl.decision == flips.decision == "error"
    assert kl.error_kind == "input"
    assert "logits" in kl.reason


def test_infinite_logits_are_an_error():
    logits = make_evaluation(n=N).logits
    logits[5, 2] = np.inf
    (gate,) = judge_fidelity(*displaced(0, logits=logits), limits={"kl_mean": 0.1})
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "finite" in gate.reason or "inf" in gate.reason


def test_other_examples_are_an_error():
    float32, _ = displaced(0)
    (gate,) = judge_fidelity(float32, make_evaluation(n=N - 1), limits={"flips": 0.05})
    assert gate.decision == "error"


def test_its_own_reference_is_not_displaced():
    one = make_evaluation(n=10)
    (gate,) = judge_fidelity(one, one, limits={"flips": 0.01})
    assert (gate.decision, gate.method) == ("pass", "identity")


def test_the_same_file_that_answers_otherwise_is_displaced():
    one = make_evaluation(n=N)
    (gate,) = judge_fidelity(one, make_evaluation(n=N, lost=400, gained=0), limits={"flips": 0.05})
    assert gate.decision == "reject"


def test_graded_answers_have_no_flips():
    def number(seed, artifact):
        answers = np.random.RandomState(seed).normal(0, 1, N)
        sums = np.stack([np.abs(answers), np.ones(N)], axis=1)
        return make_evaluation(
            n=N, logits=None, predictions=answers, labels=np.zeros(N) + np.arange(N), scores=-np.abs(answers),
            metric="mae", error=True, unit="mm", statistics={"sums": sums}, artifact=artifact,
        )  # fmt: skip

    (gate,) = judge_fidelity(number(0, OWN), number(1, "sha256:" + "b" * 64), limits={"flips": 0.1})
    assert (gate.decision, gate.error_kind) == ("error", "input")
    assert "flips mean nothing" in gate.reason


def test_a_greatest_value_of_a_few_examples_is_no_bound():
    few = {"n": 12, "right": 0.5}
    (gate,) = judge_fidelity(
        make_evaluation(**few, artifact=OWN), make_evaluation(**few, gained=1), limits={"kl_max": 99.0}
    )
    assert gate.decision == "inconclusive"


def test_clusters_are_not_counted_as_examples_that_would_decide():
    groups = np.repeat([f"c{i:02}" for i in range(40)], N // 40)
    float32, student = (
        make_evaluation(n=N, artifact=OWN, clusters=groups),
        make_evaluation(n=N, lost=95, gained=95, clusters=groups),
    )
    (gate,) = judge_fidelity(float32, student, limits={"flips": 0.05})
    assert gate.decision == "inconclusive"
    assert "more clusters would decide" in gate.reason
