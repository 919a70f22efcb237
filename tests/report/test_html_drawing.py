"""Axes, labels, markup, Pareto points and distributions: what the drawings are made of."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from fixtures_pages import POLICY, make_page_run
from fixtures_run import make_measurement
from hypothesis import given
from hypothesis import strategies as st

from edgekd.evidence.run import load_run
from edgekd.gates.verdict import load_verdict
from edgekd.report.distribution import BINS, distribution_of
from edgekd.report.html.labels import Box, Label, place_labels
from edgekd.report.html.latency import distribution_figure
from edgekd.report.html.markup import Html, el, join, text
from edgekd.report.html.scale import Scale, scale_over
from edgekd.report.pareto import front, pareto_charts, wilson_interval

AREA = Box(x0=0, y0=0, x1=600, y1=400)


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks_lie_within_the_axis_and_are_few(low, length, wanted):
    scale = Scale(low=low, high=low + length)
    ticks = scale.ticks(wanted)
    assert len(ticks) <= wanted + 1
    assert ticks == sorted(set(ticks))
    slack = 1e-6 * length + 1e-9 * abs(low)
    assert all(low - slack <= t <= low + length + slack for t in ticks)


@given(st.floats(-6, 6), st.floats(0.02, 8))
def test_logarithmic_ticks(exponent, decades):
    scale = Scale(low=10**exponent, high=10 ** (exponent + decades), log=True)
    ticks = scale.ticks(5)
    assert len(ticks) <= 9
    assert all(0 <= scale.at(t) <= 1 for t in ticks)
    assert scale.at(scale.low) == 0
    assert scale.at(scale.high) == pytest.approx(1)


def test_an_axis_over_nothing_or_one_value():
    assert scale_over([None, float("nan")]).at(0) == pytest.approx(0.5)
    assert scale_over([3.0]).at(3.0) == pytest.approx(0.5)
    assert scale_over([2.0], log=True).at(2.0) == pytest.approx(0.5)


@given(st.lists(st.tuples(st.floats(10, 590), st.floats(10, 390)), max_size=50))
def test_labels_cover_neither_each_other_nor_a_mark(points):
    labels = [Label(text=f"{i}", x=x, y=y, width=20, height=14) for i, (x, y) in enumerate(points)]
    marks = [Box(x0=x - 7, y0=y - 7, x1=x + 7, y1=y + 7) for x, y in points]
    placed = place_labels(labels, marks, AREA)
    boxes = [b for b in placed if b is not None]
    assert len(placed) == len(labels)
    assert all(b.within(AREA) for b in boxes)
    assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
    assert not any(b.overlaps(m) for b in boxes for m in marks)


def test_50_labels_around_a_cluster_all_find_room():
    rng = np.random.default_rng(0)
    points = rng.normal((300, 200), (60, 40), (50, 2)).clip(20, 380)
    labels = [Label(text="00", x=float(x), y=float(y), width=19, height=14) for x, y in points]
    marks = [Box(x0=lb.x - 5, y0=lb.y - 5, x1=lb.x + 5, y1=lb.y + 5) for lb in labels]
    assert None not in place_labels(labels, marks, AREA)
    assert None in place_labels(labels, marks, AREA, reach=10)


@given(st.text())
def test_text_never_opens_a_tag_or_leaves_an_attribute(value):
    for made in (el("p", value), el("p", title=value), join(value)):
        inner = made.removeprefix("<p").removesuffix("</p>").removeprefix(">")
        assert "<" not in inner
        assert made.count('"') == (2 if "title" in made[:9] else 0)
        made.encode("utf-8")
    assert text(value) == text(str(value))


def test_markup_is_kept_and_text_is_escaped():
    assert el("p", Html("<b>x</b>"), "<", None, ["a", ["&"]], class_="k", hidden=True, id=None) == (
        '<p class="k" hidden><b>x</b>&lt;a&amp;</p>'
    )


def test_wilson_is_that_of_the_textbook():
    # R. Newcombe, Statistics in Medicine 17, 1998, table I, method 3: 81 of 263.
    assert wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@given(st.lists(st.tuples(st.floats(0.01, 2), st.floats(-1, 1)), max_size=30))
def test_the_front_is_what_nothing_beats_in_both(points):
    found = front(points)
    for i, (time, accuracy) in enumerate(points):
        beaten = any(t <= time and a >= accuracy and (t, a) != (time, accuracy) for t, a in points)
        assert not (i in found and beaten)
        assert i in found or beaten or any(points[j] == points[i] for j in found)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_page_run(tmp_path_factory.mktemp("pareto"), n=600, calls=8, candidates=4)


def test_pareto_points_are_the_gates_own_figures(folder):
    run, verdict = load_run(folder), load_verdict(folder / "verdict.json")
    (chart,) = pareto_charts(folder, run, verdict)
    assert (chart.max_ratio, chart.least_difference) == (0.5, -0.02)
    assert (chart.target, chart.metric, chart.unit, chart.against) == (
        "cpu:onnxruntime", "top1", "fraction", "teacher",
    )  # fmt: skip
    assert len(chart.points) == 4
    assert [p.selected for p in chart.points].count(True) == 1
    for point, candidate in zip(chart.points, verdict.candidates, strict=True):
        gates = {g.gate: g for g in candidate.gates}
        assert point.time.estimate == gates["latency"].estimate
        assert (point.accuracy.lower, point.accuracy.upper) == gates["accuracy"].interval
    reference = chart.reference
    assert reference.time.lower < 1 < reference.time.upper
    assert reference.accuracy.lower < 0 < reference.accuracy.upper


def test_without_gates_the_points_come_from_the_evidence(folder):
    run, verdict = load_run(folder), load_verdict(folder / "verdict.json")
    plain = dataclasses.replace(
        verdict,
        candidates=tuple(
            dataclasses.replace(c, gates=tuple(g for g in c.gates if g.gate == "size"))
            for c in verdict.candidates
        ),
    )
    (whole,), (chart,) = pareto_charts(folder, run, verdict), pareto_charts(folder, run, plain)
    assert (chart.max_ratio, chart.least_difference) == (None, None)
    for a, b in zip(whole.points, chart.points, strict=True):
        assert a.accuracy == b.accuracy
        assert b.time.estimate == pytest.approx(a.time.estimate, rel=0.02)
        assert b.time.lower < b.time.estimate < b.time.upper


def test_damaged_evidence_leaves_its_candidate_out_by_name(folder, tmp_path):
    make_page_run(tmp_path, n=300, calls=6, candidates=3, policy={"size": POLICY["size"]})
    (tmp_path / "evidence/select/latency-1.npz").write_bytes(b"x")
    run, verdict = load_run(tmp_path), load_verdict(tmp_path / "verdict.json")
    (chart,) = pareto_charts(tmp_path, run, verdict)
    assert len(chart.points) == 2
    assert chart.missing == (run.candidates[1].artifact,)


def test_a_distribution_counts_every_call_once():
    measurement = make_measurement(ratio=0.4, calls=50, rounds=10)
    found = distribution_of(measurement)
    assert found is not None
    assert [a.arm for a in found.arms] == ["baseline", "candidate"]
    for arm in found.arms:
        calls = measurement.calls_ns(arm.arm)
        assert len(arm.counts) == BINS
        assert sum(arm.counts) + arm.beyond == len(calls)
        assert arm.quantiles_ns[0] == pytest.approx(np.median(calls), rel=1e-3)
    assert not found.log
    assert distribution_of(make_measurement(ratio=0.1)).log


def test_the_drawing_of_a_million_calls_is_as_small_as_that_of_a_thousand():
    sizes = []
    for calls in (10, 2000):
        found = distribution_of(make_measurement(ratio=0.4, calls=calls, rounds=10))
        sizes.append(len(distribution_figure(found, 0)))
    assert sizes[1] < 12_000
    assert sizes[1] < 3 * sizes[0]
