"""Amounts: nouns, numbers without a unit, and texts too long for a table."""

import json
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from fixtures_report import make_gate, make_view
from fixtures_run import make_evaluation, make_run

from edgekd.evidence.run import Hop
from edgekd.gates.verdict import gate_from_json
from edgekd.report import words
from edgekd.report.amounts import plain_number, plural, shortened
from edgekd.report.bmf import render_bmf
from edgekd.report.chain import link_hops, table_of
from edgekd.report.github_benchmark import render_github_benchmark
from edgekd.report.html.page import render_html
from edgekd.report.junit import render_junit
from edgekd.report.markdown import render_markdown
from edgekd.report.openmetrics import render_openmetrics
from edgekd.report.text import render_text

LONG = json.dumps({"note": "long text " * 30})
ALL = {
    "text": render_text,
    "md": render_markdown,
    "html": render_html,
    "junit": lambda view: render_junit([view]),
    "openmetrics": lambda view: render_openmetrics([view]),
    "bmf": lambda view: render_bmf([view]),
    "github-benchmark": lambda view: render_github_benchmark([view]),
}


def names_of(document: str) -> list[str]:
    return [case.get("name", "") for case in ElementTree.fromstring(document).iter("testcase")]


def test_numbers_without_a_unit_have_four_decimals_and_no_minus_zero() -> None:
    assert plain_number(0.98182, "") == "0.9818"
    assert plain_number(-0.00001, "", "+") == "+0.0000"
    assert plain_number(-123.456, "") == "-123.5"
    assert plain_number(-0.0, "mm", "+") == "+0"
    assert (plural(0, "gate"), plural(1, "gate")) == ("0 gates", "1 gate")


def test_a_correlation_is_no_percentage() -> None:
    gate = make_gate(metric="pearson", unit="", estimate=-0.01108, interval=(-0.02214, -0.00016), limit=-0.05)
    assert words.gate_row(gate)[2:5] == ("-0.0111", "[-0.0221, -0.0002]", "-0.0500")
    scored = {"metric": "pearson", "unit": "", "n": 100}
    links = link_hops(
        tuple(Hop(hop=h, label=h, evaluation=h) for h in ("teacher", "distilled")),
        {"teacher": make_evaluation(**scored), "distilled": make_evaluation(lost=10, **scored)},
    )
    run = make_view([gate]).run
    view = make_view([gate], chain=table_of(links, run))
    assert words.chain_rows(view.chain)[0][1] == "0.9000"
    assert words.chain_rows(view.chain)[1][2].startswith("-0.1000 [-0.1")
    for name in ("text", "md", "html"):
        shown = ALL[name](view)
        assert "points" not in shown
        assert "90.00" not in shown


def test_bounds_leave_the_unit_to_the_estimate() -> None:
    gate = make_gate(metric="mae", unit="label units", estimate=-0.7436, interval=(-1.845, 0.16), limit=-10)
    assert words.gate_row(gate)[2:5] == ("-0.7436 label units", "[-1.845, +0.16]", "-10 label units")


@pytest.mark.parametrize("interval", [(-0.02, None), (None, 0.02), (None, None), (-0.02, float("inf"))])
@pytest.mark.parametrize("unit", ["fraction", "label units"])
@pytest.mark.parametrize("name", ALL)
def test_a_bound_that_does_not_exist(name, unit, interval) -> None:
    stored = make_gate(
        "slice:hand",
        slice="a",
        unit=unit,
        estimate=-0.01,
        interval=interval,
        detail={"upper_confidence": 0.9995, "holm_over": 3},
    ).to_json()
    assert all(x is None or isinstance(x, float) for x in stored["interval"])
    gate = gate_from_json(json.loads(json.dumps(stored)))
    shown = ALL[name](make_view([gate, make_gate(interval=interval, unit=unit)]))
    assert not re.search(r"\b(nan|inf|None|Infinity)\b", shown)
    if name == "html":
        assert "The upper bound (one-sided 99.95 %)" in shown
    if name == "junit":
        assert 'edgekd.slice:hand=a.upper_confidence" value="0.9995"' in shown
        assert 'edgekd.slice:hand=a.holm_over" value="3"' in shown
    if name == "md" and interval[0] is not None:
        assert "| at least -" in shown


@pytest.mark.parametrize("name", ALL)
def test_long_slice_values_are_cut_and_stay_apart(name) -> None:
    gates = [
        make_gate("slice:note", "reject", slice=value, reason=f"note {value}: 4.00 points below the teacher")
        for value in (LONG, LONG + "b")
    ]
    shown = ALL[name](make_view(gates))
    assert "long text " * 8 not in shown
    # That format has no differences, hence no slices.
    assert name == "github-benchmark" or shown.count("…") >= 2
    if name == "junit":
        found = names_of(shown)
        assert len(set(found)) == 2
        assert all(len(n) < 80 for n in found)
        # CI follows a test by its name: it is made of the value alone.
        assert names_of(render_junit([make_view(gates[1:])])) == found[1:]


def test_short_values_are_as_they_are() -> None:
    assert shortened("x" * 60) == "x" * 60
    assert len(shortened("x" * 61)) == 60
    gate = make_gate("slice:hand", slice=" ", reason="hand  : so it is")
    assert words.reason(gate) == "hand  : so it is"


def test_one_is_no_plural(tmp_path) -> None:
    view = make_view([make_gate("size", n=1, unit="MiB", limit=2)])
    one = replace(view, verdict=replace(view.verdict, evidence={"evidence/a.json": "sha256:0"}))
    page = render_html(one)
    assert "1 gate: 1 pass." in page
    assert "1 evidence document, by digest" in page
    assert "1 artifact, by digest" in page
    assert words.gate_row(make_gate(n=1))[5] == "1 example"
    assert words.gate_row(make_gate("tail", unit="ms", n=1, scenario="server"))[5] == "1 query"
    run = make_run(tmp_path / "run", n=1, lost=0, gained=0)
    links = link_hops(
        tuple(Hop(hop=h, label=h, evaluation="x") for h in ("teacher", "distilled")),
        {"x": make_evaluation(n=1)},
    )
    assert "on 1 example " in render_html(make_view([make_gate()], chain=table_of(links, run)))


def test_markdown_sets_words_to_the_left() -> None:
    gates = [make_gate(), make_gate(target="b:x")]
    lines = render_markdown(make_view(gates)).splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("| gate |"))
    # gate, decision, estimate, bounds, limit, n, target
    assert lines[at + 1] == "|---|---|---:|---:|---:|---:|---|"
    at = next(i for i, line in enumerate(lines) if line.startswith("| candidate |"))
    assert lines[at + 1] == "|---|---|---:|---:|---:|---|---|"


def test_a_path_at_the_start_of_a_reason_keeps_its_letters() -> None:
    assert "</b> runs/a.npz is missing.</p>" in render_html(
        make_view([make_gate(reason="runs/a.npz is missing")])
    )
    assert "</b> Student is as good.</p>" in render_html(make_view([make_gate(reason="student is as good")]))
