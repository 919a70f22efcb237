"""The judges: pure functions from stored evidence to decisions. They run nothing and know no exporter.

:mod:`edgekd.gates.judge` judges a whole run folder; the other modules each answer one question.
"""

from edgekd.gates.accuracy import judge_accuracy
from edgekd.gates.judge import judge_run, select_candidates
from edgekd.gates.latency import judge_latency, should_stop, summarise
from edgekd.gates.looks import LOOKS
from edgekd.gates.size import judge_size
from edgekd.gates.verdict import (
    CandidateVerdict,
    Decision,
    Gate,
    Verdict,
    exit_code,
    load_verdict,
    worst_decision,
)

__all__ = [
    "LOOKS",
    "CandidateVerdict",
    "Decision",
    "Gate",
    "Verdict",
    "exit_code",
    "judge_accuracy",
    "judge_latency",
    "judge_run",
    "judge_size",
    "load_verdict",
    "select_candidates",
    "should_stop",
    "summarise",
    "worst_decision",
]
