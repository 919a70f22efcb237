"""Who is selected."""

import pytest

from edgekd.errors import EvidenceError
from edgekd.evidence.run import Candidate
from edgekd.gates.select import select_candidate
from edgekd.gates.verdict import Gate


def entry(name, accuracy=None, accuracy_decision="pass", ratio=None, latency="pass", size="pass"):
    def gate(kind, decision, estimate, limit):
        return Gate(
            gate=kind, decision=decision, metric="", against="", artifact=name, target="t",
            estimate=estimate, limit=limit,
        )  # fmt: skip

    gates = [gate("size", size, 1.0, 2.0)]
    if accuracy is not None:
        gates.append(gate("accuracy", accuracy_decision, accuracy, -0.01))
    if ratio is not None:
        gates.append(gate("latency", latency, ratio, 0.8))
    return Candidate(artifact=name, target="t", dtype="int8"), tuple(gates)


SIZES = {"a": 30, "b": 20, "c": 10}


@pytest.mark.parametrize(
    ("entries", "chosen"),
    [
        # the fastest of those within the margin
        ([entry("a", -0.001, ratio=0.5), entry("b", -0.002, ratio=0.4)], "b"),
        # not the faster one that loses too much, even undecided
        ([entry("a", -0.001, ratio=0.5), entry("b", -0.02, "inconclusive", ratio=0.1)], "a"),
        # inconclusive within the margin still qualifies
        ([entry("a", -0.001, ratio=0.5), entry("b", -0.009, "inconclusive", ratio=0.4)], "b"),
        # a rejected size or latency does not
        ([entry("a", -0.001, ratio=0.5), entry("b", -0.001, ratio=0.4, size="reject")], "a"),
        ([entry("a", -0.001, ratio=0.5), entry("b", -0.001, ratio=0.9, latency="reject")], "a"),
        # no timings: the smallest
        ([entry("a", -0.001), entry("c", -0.003)], "c"),
        # nobody qualifies: the least violation, whatever the speed
        ([entry("a", -0.05, "reject", ratio=0.1), entry("b", -0.03, "reject", ratio=0.5)], "b"),
        # an error comes last
        ([entry("a", -0.05, "reject"), entry("b", 0.0, "error")], "a"),
        # a metric that does not exist is no violation of 0
        ([entry("a", -0.05, "reject"), entry("b", float("nan"), "inconclusive", ratio=0.1)], "a"),
        # ties: smaller file, then digest
        ([entry("a", 0.0, ratio=0.4), entry("c", 0.0, ratio=0.4)], "c"),
        ([entry("z", 0.0), entry("y", 0.0)], "y"),
    ],
)
def test_choice(entries, chosen):
    assert select_candidate(entries, SIZES) == chosen
    assert select_candidate(entries[::-1], SIZES) == chosen


def test_nobody_to_choose():
    with pytest.raises(EvidenceError):
        select_candidate([], {})
