"""The chain table: each hop against the teacher and against what it was made from."""

from dataclasses import replace

import numpy as np
import pytest
from fixtures_run import TARGET, make_evaluation, make_run

from edgekd.errors import EvidenceError
from edgekd.evidence.evaluation import save_evaluation
from edgekd.evidence.run import Hop
from edgekd.metrics import SUMS
from edgekd.report.chain import chain_table, ends_of, link_hops, paired_difference, table_of
from edgekd.report.words import chain_rows, chain_sentences, metric_header
from edgekd.statistics.bootstrap import bca_bounds
from edgekd.statistics.tango import tango_interval


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chain")
    return folder, make_run(folder, lost=30, gained=20)


def graded(values, **changes):
    """An evaluation whose metric is the root of the mean of squared errors."""
    values = np.asarray(values, np.float64)
    return make_evaluation(
        n=len(values), metric="rmse", scores=-values, logits=None, aggregate="root_mean", error=True, unit="mm",
        statistics={SUMS: np.stack([values**2, np.ones(len(values))], axis=1)}, **changes,
    )  # fmt: skip


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
    assert rows["as INT8"].step.interval == tango_interval(0, 4, 2000)
    assert rows["as INT8"].step_from == "as ONNX"
    steps = [rows[k].step.estimate for k in ("distilled student", "as ONNX", "as INT8")]
    assert sum(steps) == pytest.approx(rows["as INT8"].to_teacher.estimate)
    assert [r.what for r in table.path_to(5 + 1)] == ["", "distillation", "export", "int8 quantization"]


def test_a_run_of_an_earlier_version_ends_at_what_was_selected(made):
    folder, run = made
    assert [chain_table(folder, run).rows[i].label for i in chain_table(folder, run).ends] == ["as INT8"]
    floating = {TARGET: next(d for d, r in run.artifacts.items() if r["name"] == "student-float32")}
    table = chain_table(folder, replace(run, selected=floating))
    assert [table.rows[i].label for i in table.ends] == ["as ONNX"]
    assert [r.hop for r in table.path_to(table.ends[0])] == ["teacher", "distilled", "exported"]


def test_what_ran_on_a_target_is_compared_with_the_same_artifact_as_it_is_written(made):
    folder, run = made
    hops = (
        *run.chain,
        Hop(hop="as_run", label="int8 on A", evaluation="evidence/test/student-int8.json"),
        Hop(hop="as_run", label="float on B", evaluation="b"),
    )
    floating = next(d for d, r in run.artifacts.items() if r["name"] == "student-float32")
    save_evaluation(make_evaluation(artifact=floating, lost=40, target="b:x"), folder / "evidence/b.json")
    hops = (*hops[:-1], replace(hops[-1], evaluation="evidence/b.json"))
    table = chain_table(folder, replace(run, chain=hops))
    assert [table.rows[i].label for i in table.ends] == ["int8 on A", "float on B"]
    by_label = {r.label: r for r in table.rows}
    assert (by_label["int8 on A"].step_from, by_label["int8 on A"].step.estimate) == ("as INT8", 0)
    assert (by_label["float on B"].step_from, by_label["float on B"].what) == (
        "as ONNX",
        "the runtime on b:x",
    )
    assert by_label["float on B"].step.estimate == pytest.approx(-(40 - 26 + 20) / 2000)
    assert len(chain_sentences(table)) == 3
    assert "the runtime on b:x cost 1.70 ('float on B')." in chain_sentences(table)[1]


@pytest.mark.parametrize(
    ("hops", "ends", "what"),
    [
        (["teacher", "quantized"], [1], "distillation, export and quantization"),
        (["teacher", "exported"], [1], "distillation and export"),
        (["teacher", "distilled", "quantized", "as_run"], [3], "the runtime on cpu:onnxruntime"),
        (["teacher", "naive", "distilled"], [2], "distillation"),
        (["teacher", "naive"], [], None),
        (["teacher", "from a later version", "exported"], [2], "distillation and export"),
    ],
)
def test_a_chain_that_lacks_hops(made, hops, ends, what):
    one = make_evaluation(n=50)
    links = link_hops(
        tuple(Hop(hop=h, label=h, evaluation=str(i)) for i, h in enumerate(hops)),
        {str(i): one for i in range(len(hops))},
    )
    assert list(ends_of(links, {})) == ends
    table = table_of(links, replace(made[1], artifacts={}, selected={}))
    assert [table.rows[i].what for i in table.ends] == ([] if what is None else [what])
    assert chain_rows(table)
    assert chain_sentences(table) == [] if what is None else chain_sentences(table)


def test_a_float32_student_steps_from_its_own_float32(made):
    """`gate --float32 A --student B`, B in float32 too: two exported students, and the second was made from the first."""
    hops = ("teacher", "exported", "exported", "as_run")
    chain = tuple(Hop(hop=h, label=f"{h} {i}", evaluation=str(i)) for i, h in enumerate(hops))
    scores = (
        make_evaluation(artifact=f"sha256:{k}", lost=lost)
        for k, lost in zip("abcc", (0, 10, 40, 40), strict=True)
    )
    table = table_of(
        link_hops(chain, {str(i): e for i, e in enumerate(scores)}),
        replace(made[1], artifacts={}, selected={}),
    )
    assert [r.parent for r in table.rows] == [None, 0, 1, 2]
    assert [r.step_from for r in table.rows[1:]] == ["teacher 0", "exported 1", "exported 2"]
    assert [r.what for r in table.path_to(3)] == [
        "", "distillation and export", "the step from 'exported 1'", "the runtime on cpu:onnxruntime"
    ]  # fmt: skip
    assert [r.step.estimate for r in table.rows[1:]] == pytest.approx([-0.005, -0.015, 0])
    assert chain_sentences(table)[1].startswith("The step from 'exported 1' is to blame")


def test_exports_of_one_distilled_student_each_step_from_it(made):
    hops = ("teacher", "distilled", "exported", "exported")
    chain = tuple(Hop(hop=h, label=h, evaluation="0") for h in hops)
    assert [link.parent for link in link_hops(chain, {"0": make_evaluation(n=50)})] == [None, 0, 1, 1]


def test_distillation_against_the_naive_students(made):
    naive = chain_table(*made).naive
    assert naive.seeds == 3
    means = [(1800 - lost + 10) / 2000 for lost in (70, 64, 76)]
    assert naive.mean == pytest.approx(np.mean(means))
    assert (naive.best, naive.worst) == (pytest.approx(max(means)), pytest.approx(min(means)))
    assert naive.gain_over_mean == pytest.approx(1794 / 2000 - np.mean(means))
    assert naive.gain_over_best.estimate == pytest.approx(1794 / 2000 - max(means))
    assert naive.gain_over_best.interval[0] > 0


def test_a_quantized_student_is_no_match_for_naive_floats(made):
    folder, run = made
    kept = tuple(h for h in run.chain if h.hop not in ("distilled", "exported"))
    assert chain_table(folder, replace(run, chain=kept)).naive is None


def test_sentences(made):
    said = chain_sentences(chain_table(*made))
    assert said[0] == "Distillation cost 0.30 points, export cost 0.00, int8 quantization cost 0.20."
    assert said[1].startswith("Int8 quantization is to blame: it cost 0.20 points [0.06, 0.44], 40 % of")
    assert "+2.70 over their mean and +2.40 [" in said[1]


def test_a_metric_that_is_no_proportion_gets_the_bootstrap_and_errors_change_sign():
    rng = np.random.default_rng(0)
    teacher = graded(rng.gamma(2, 1, 400))
    student = graded(np.abs(teacher.scores) + rng.normal(0.3, 0.1, 400))
    found = paired_difference(teacher, student)
    assert found.estimate == pytest.approx(teacher.mean - student.mean)
    assert found.estimate < 0
    assert found.is_loss
    bounds = bca_bounds(teacher, student)
    assert found.interval == (bounds.lower, bounds.upper)
    assert found.interval[0] < found.estimate < found.interval[1] < 0
    assert paired_difference(student, teacher).is_gain
    assert (found.unit, paired_difference(teacher, teacher).estimate) == ("mm", 0)


def test_an_error_rate_falls_where_the_student_gains():
    rate = {"metric": "error rate", "error": True}
    wrong = {n: (np.arange(400) % n == 0).astype(float) for n in (4, 8)}
    found = paired_difference(
        make_evaluation(n=400, scores=wrong[4], **rate), make_evaluation(n=400, scores=wrong[8], **rate)
    )
    assert found.estimate == pytest.approx(1 / 8)
    assert found.is_gain


def test_the_views_of_a_run_share_one_bootstrap(monkeypatch):
    rng = np.random.default_rng(5)
    teacher, student = graded(rng.gamma(2, 1, 300)), graded(rng.gamma(2, 1, 300))
    found = paired_difference(teacher, student)
    monkeypatch.setattr("edgekd.report.chain.bca_bounds", None)
    assert paired_difference(teacher, replace(student, name="read again")) == found
    with pytest.raises(TypeError):  # not for other rows
        paired_difference(teacher, graded(rng.gamma(2, 1, 300)))


def test_scores_of_grouped_examples_are_not_independent():
    groups = np.repeat([f"g{i}" for i in range(40)], 50)
    plain = paired_difference(make_evaluation(), make_evaluation(lost=100))
    grouped = paired_difference(make_evaluation(clusters=groups), make_evaluation(lost=100, clusters=groups))
    assert grouped.estimate == pytest.approx(plain.estimate)
    # Two whole groups are lost, none in part: forty groups tell less than two thousand examples.
    assert grouped.interval[0] < plain.interval[0]


def test_an_error_metric_in_its_own_unit(made):
    rng = np.random.default_rng(1)
    teacher = graded(rng.gamma(2, 1, 400), name="teacher")
    links = link_hops(
        tuple(
            Hop(hop=h.split()[0], label=h, evaluation=h) for h in ("teacher", "naive", "naive 2", "distilled")
        ),
        {
            "teacher": teacher,
            "naive": graded(np.abs(teacher.scores) + 0.9),
            "naive 2": graded(np.abs(teacher.scores) + 1.5),
            "distilled": graded(np.abs(teacher.scores) + 0.3),
        },
    )
    table = table_of(links, made[1])
    assert metric_header(table) == "rmse, mm"
    assert float(chain_rows(table)[0][1]) == pytest.approx(teacher.mean, rel=1e-3)
    assert chain_rows(table)[3][2].startswith("-0.2")
    # The naive students err more, so distillation gained; the best of them errs least.
    assert table.naive.best == links[1].evaluation.mean < table.naive.worst
    assert 0 < table.naive.gain_over_best.estimate < table.naive.gain_over_mean
    said = chain_sentences(table)
    assert said[0].startswith("Distillation cost 0.2")
    assert said[0].endswith(" mm.")
    assert " points" not in said[1]


def test_other_rows_have_no_difference():
    a = make_evaluation(n=10)
    assert paired_difference(a, make_evaluation(n=12)) is None
    assert paired_difference(a, make_evaluation(n=10, ids=a.ids[::-1])) is None
    assert paired_difference(a, graded(np.ones(10))) is None
    # Ids may be row numbers, which every file has.
    assert paired_difference(a, make_evaluation(n=10)) is not None
    assert paired_difference(a, make_evaluation(n=10, data="sha256:" + "0" * 64)) is None
    assert paired_difference(a, make_evaluation(n=10, labels=a.labels[::-1])) is None
    assert paired_difference(a, make_evaluation(n=10, metric="top5")) is None
    soft = paired_difference(a, make_evaluation(n=10, scores=np.full(10, 0.25)))
    # Ten examples are too few for a bootstrap.
    assert (soft.estimate, soft.interval) == (pytest.approx(-0.65), None)


def test_a_missing_hop_is_an_error(made, tmp_path):
    with pytest.raises(EvidenceError, match="does not exist"):
        chain_table(tmp_path, made[1])
