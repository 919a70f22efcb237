"""Which decision wins, which exit code follows, and that verdicts come back as they were."""

import itertools
import json
import math

import pytest

from edgekd.errors import EvidenceError
from edgekd.gates.verdict import CandidateVerdict, Gate, Verdict, exit_code, load_verdict, worst_decision


def gate(decision, kind=None, target="cpu:onnxruntime", **more):
    return Gate(
        gate="accuracy",
        decision=decision,
        metric="top1",
        against="teacher",
        artifact="sha256:" + "b" * 64,
        target=target,
        error_kind=kind,
        **more,
    )


def verdict(*gates, optional=(), **more):
    return Verdict(
        decision=worst_decision(g.decision for g in gates if g.target not in optional),
        gates=gates,
        candidates=(),
        selected={},
        optional=optional,
        policy={},
        environment={},
        evidence={},
        collected_at="2026-01-31T12:00:00Z",
        edgekd="0.1.0",
        **more,
    )


def test_worst_decision_wins_in_any_order():
    order = ["error", "reject", "inconclusive", "pass", "not_run"]
    for a, b in itertools.permutations(order, 2):
        assert worst_decision([a, b]) == min(a, b, key=order.index)
    assert worst_decision([]) == "not_run"


@pytest.mark.parametrize(
    ("gates", "code"),
    [
        ([gate("pass")], 0),
        ([gate("pass"), gate("not_run")], 0),
        ([gate("not_run")], 3),
        ([], 3),
        ([gate("pass"), gate("inconclusive")], 3),
        ([gate("inconclusive"), gate("reject")], 1),
        ([gate("reject"), gate("error", "input")], 2),
        ([gate("error", "input"), gate("error", "infrastructure")], 4),
        ([gate("error", "policy"), gate("error", "infrastructure"), gate("reject")], 5),
        ([gate("error")], 4),
    ],
)
def test_exit_codes(gates, code):
    assert exit_code(verdict(*gates)) == code


def test_an_optional_target_does_not_decide():
    gates = (gate("inconclusive"), gate("error", "policy", target="cuda:tensorrt"))
    assert exit_code(verdict(*gates, optional=("cuda:tensorrt",))) == 3
    both = (gate("error", "input"), gates[1])
    assert exit_code(verdict(*both, optional=("cuda:tensorrt",))) == 2


def test_round_trip(tmp_path):
    judged = gate(
        "pass", estimate=-0.0042, interval=(-0.0081, -0.0003), confidence=0.95, limit=-0.01, unit="fraction",
        n=5000, method="tango", reason="fine", split="test", scenario="single-stream", slice="cat",
        detail={"flip_rate": 0.05},
    )  # fmt: skip
    value = Verdict(
        decision="pass",
        gates=(judged,),
        candidates=(
            CandidateVerdict(
                artifact="x",
                baseline="y",
                target="cpu:onnxruntime",
                dtype="int8",
                decision="pass",
                gates=(judged,),
            ),
        ),
        selected={"cpu:onnxruntime": "x"},
        policy={"accuracy": {"max_drop": 0.01}},
        environment={"cpu": "x"},
        evidence={"evidence/a.json": "sha256:0"},
        collected_at="2026-01-31T12:00:00Z",
        edgekd="0.1.0",
        not_run=({"target": "cuda:tensorrt", "required": False, "reason": "no GPU"},),
    )
    path = tmp_path / "verdict.json"
    value.save(path)
    assert load_verdict(path) == value
    document = json.loads(path.read_text())
    document["from_the_future"] = 1
    document["gates"][0]["from_the_future"] = 1
    path.write_text(json.dumps(document))
    assert load_verdict(path) == value


def test_infinities_become_null():
    assert gate("pass", estimate=math.inf, interval=(-math.inf, 1.0)).to_json()["interval"] == [None, 1.0]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda d: d.pop("gates"),
        lambda d: d["gates"][0].pop("reason"),
        lambda d: d["gates"][0].update(decision="fine"),
        lambda d: d["gates"][0].update(error_kind="x"),
        lambda d: d.update(decision="green"),
        lambda d: d.update(schema="edgekd.verdict/2"),
    ],
)
def test_a_damaged_verdict_is_refused(tmp_path, spoil):
    path = tmp_path / "verdict.json"
    verdict(gate("pass")).save(path)
    document = json.loads(path.read_text())
    spoil(document)
    path.write_text(json.dumps(document))
    with pytest.raises(EvidenceError):
        load_verdict(path)
