"""The chain table: each hop against the teacher and against what it was made from."""

import numpy as np
import pytest
from fixtures_run import make_evaluation, make_run

from edgekd.errors import EvidenceError
from edgekd.gates.tango import tango_interval
from edgekd.report.chain import chain_table, paired_difference
from edgekd.report.words import chain_sentences


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    return folder, make_run(folder, lost=30, gained=20)


def test_hops(made):
    table = chain_table(*made)
    rows = {r.label: r for r in table.rows}
    assert (table.metric, table.split) == ("top1", "test")
    assert rows["teacher"].to_teacher is None
    assert rows["teacher"].step is None
    # 2,000 examples, right on 1,800; the distilled student loses 26 and gains 20, INT8 loses four more.
    assert rows["distilled student"].to_teacher.estimate == pytest.approx(-6 / 2000)
    assert rows["distilled student"].to_teacher.interval == tango_interval(20, 26, 2000)
    assert rows["as ONNX"].step.estimate == 0
    assert rows["as ONNX"].step_from == "distilled student"
    assert rows["as INT8"].step.estimate == pytest.approx(-4 / 2000)
    assert rows["as INT8"].step_from == "as ONNX"
    steps = [rows[k].step.estimate for k in ("distilled student", "as ONNX", "as INT8")]
    assert sum(steps) == pytest.approx(rows["as INT8"].to_teacher.estimate)


def test_distillation_against_the_naive_students(made):
    naive = chain_table(*made).naive
    assert naive.seeds == 3
    means = [(1800 - lost + 10) / 2000 for lost in (70, 64, 76)]
    assert naive.mean == pytest.approx(np.mean(means))
    assert (naive.best, naive.worst) == (pytest.approx(max(means)), pytest.approx(min(means)))
    assert naive.gain_over_mean == pytest.approx(1794 / 2000 - np.mean(means))
    assert naive.gain_over_best.estimate == pytest.approx(1794 / 2000 - max(means))
    assert naive.gain_over_best.interval[0] > 0


def test_sentences(made):
    said = chain_sentences(chain_table(*made))
    assert said[0] == "Distillation cost 0.30 points ('distilled student' against the teacher)."
    assert said[2] == "Quantization cost 0.20 points ('as INT8' against 'as ONNX')."
    assert "+2.70 points over their mean and +2.40" in said[3]


def test_other_rows_have_no_difference():
    a = make_evaluation(n=10)
    assert paired_difference(a, make_evaluation(n=12)) is None
    assert paired_difference(a, make_evaluation(n=10, ids=a.ids[::-1])) is None
    soft = paired_difference(a, make_evaluation(n=10, scores=np.full(10, 0.25)))
    assert (soft.estimate, soft.interval) == (pytest.approx(-0.65), None)


def test_a_missing_hop_is_an_error(made, tmp_path):
    with pytest.raises(EvidenceError, match="does not exist"):
        chain_table(tmp_path, made[1])
