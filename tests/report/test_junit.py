"""JUnit: both schemas in use, every decision, and nothing that a CI system would show in green by mistake."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixtures_report import NASTY, make_gate, make_slices, make_view
from junitparser import Error, Failure, JUnitXml, Skipped

from edgekd.report.junit import render_junit

ANY = ".*"
COUNT = r"\d+"
#: xunit plugin's SUREFIRE_TIME and Ant's xs:decimal: this satisfies both.
TIME = r"\d+(\.\d+)?"
TOKEN = r"\S+( \S+)*"
STAMP = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d"


@dataclass(frozen=True)
class Rule:
    """What a schema says of an element: required and optional attributes with their form, and children in order."""

    required: Mapping[str, str]
    optional: Mapping[str, str]
    children: str
    text: bool = False


#: Ant's schema as windyroad published it (testsuites has no attributes there; see below).
ANT = {
    "testsuites": Rule({}, {}, "(testsuite )*"),
    "testsuite": Rule(
        {
            "name": TOKEN, "timestamp": STAMP, "hostname": TOKEN, "tests": COUNT, "failures": COUNT, "errors": COUNT,
            "time": TIME, "package": TOKEN, "id": COUNT,
        },
        {"skipped": COUNT},
        "properties (testcase )*system-out system-err ",
    ),
    "properties": Rule({}, {}, "(property )*"),
    "property": Rule({"name": TOKEN, "value": ANY}, {}, ""),
    "testcase": Rule({"name": TOKEN, "classname": TOKEN, "time": TIME}, {}, "(skipped |error |failure )?"),
    "failure": Rule({"type": ANY}, {"message": ANY}, "", True),
    "error": Rule({"type": ANY}, {"message": ANY}, "", True),
    "skipped": Rule({}, {"message": ANY}, "", True),
    "system-out": Rule({}, {}, "", True),
    "system-err": Rule({}, {}, "", True),
}  # fmt: skip

#: Jenkins's junit-10.xsd.
JENKINS = {
    **ANT,
    "testsuites": Rule({}, {"name": ANY, "time": TIME, "tests": ANY, "failures": ANY, "errors": ANY}, "(testsuite )*"),
    "testsuite": Rule(
        {"name": ANY, "tests": ANY, "failures": ANY, "errors": ANY},
        dict.fromkeys(("group", "skipped", "timestamp", "hostname", "id", "package", "file", "log", "url"), ANY)
        | {"time": TIME},
        "(testsuite |properties |testcase |system-out |system-err )*",
    ),
    "testcase": Rule(
        {"name": ANY},
        {"time": ANY, "classname": ANY, "group": ANY},
        "(skipped |error |failure |rerunFailure |rerunError |flakyFailure |flakyError |system-out |system-err )*",
    ),
    "failure": Rule({}, {"type": ANY, "message": ANY}, "", True),
    "error": Rule({}, {"type": ANY, "message": ANY}, "", True),
    "skipped": Rule({}, {"type": ANY, "message": ANY}, "", True),
}  # fmt: skip


def violations(element: ElementTree.Element, schema: Mapping[str, Rule]) -> list[str]:
    """What the schema forbids in an element and below it."""
    rule = schema.get(element.tag)
    if rule is None:
        return [f"no element {element.tag}"]
    known = {**rule.required, **rule.optional}
    found = [f"{element.tag} lacks {name}" for name in rule.required if name not in element.attrib]
    for name, value in element.attrib.items():
        if name not in known:
            found.append(f"{element.tag} has {name}")
        elif not re.fullmatch(known[name], value, re.S):
            found.append(f"{element.tag} {name} is {value!r}")
    order = "".join(f"{child.tag} " for child in element)
    if not re.fullmatch(rule.children, order):
        found.append(f"{element.tag} holds {order}")
    if not rule.text and (element.text or "").strip():
        found.append(f"{element.tag} has text")
    return found + [v for child in element for v in violations(child, schema)]


def parse(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text.encode())


EVERY = [
    make_gate(),
    make_gate("latency", "reject", unit="ratio", estimate=1.2, limit=1.0, n=4),
    make_gate("accuracy", "inconclusive", against="float32"),
    make_gate("fidelity", "error", metric="kl_p99", against="float32", estimate=float("nan"), interval=None),
    make_gate("regression", "not_run", against="baseline", estimate=None, interval=None, n=None),
    *make_slices(3, 1),
    make_gate(target="cuda:tensorrt", decision="not_run", artifact=""),
]


def test_the_checker_finds_what_a_schema_forbids() -> None:
    good = render_junit([make_view(EVERY)])
    for a, b in (
        ('time="0"', 'time="0 s"'),
        ('hostname="localhost"', 'host="localhost"'),
        ("<system-err />", "<system-err /><properties/>"),
        ('classname="', 'klass="'),
    ):
        assert a in good
        assert violations(parse(good.replace(a, b, 1)), ANT), b
    assert violations(
        parse(good.replace("<testcase", "<testcase><properties/></testcase><testcase", 1)), JENKINS
    )


@pytest.mark.parametrize(
    "gates", [EVERY, [], [make_gate(reason=NASTY, slice=NASTY, target=NASTY, metric=NASTY)]]
)
def test_both_schemas_accept_it(gates) -> None:
    root = parse(render_junit([make_view(gates), make_view(gates, name="another")]))
    assert violations(root, JENKINS) == []
    root.attrib.clear()  # Ant's root has no attributes; the totals there are everybody else's
    assert violations(root, ANT) == []


def test_committed_examples_are_of_their_decisions() -> None:
    folder = Path(__file__).parents[2] / "docs" / "results"
    outcome = {"pass": None, "reject": Failure, "inconclusive": Error, "error": Error}
    for decision, kind in outcome.items():
        path = folder / f"junit_{decision}.xml"
        assert violations(ElementTree.parse(path).getroot(), JENKINS) == []
        cases = [case for suite in JUnitXml.fromfile(str(path)) for case in suite]
        found = [r for case in cases for r in case.result if not isinstance(r, Skipped)]
        assert cases
        assert [type(r) for r in found] == ([kind] if kind else []), decision
        assert all(r.type == decision and len(r.message) > 20 for r in found)


def test_it_reads_back(tmp_path: Path) -> None:
    view = make_view(EVERY, optional=["cuda:tensorrt"])
    path = tmp_path / "junit.xml"
    path.write_text(render_junit([view]), encoding="utf-8")
    read = JUnitXml.fromfile(str(path))
    here, away = list(read)
    assert (read.tests, read.failures, read.errors) == (9, 2, 2)
    assert (here.tests, here.failures, here.errors, here.skipped) == (8, 2, 2, 1)
    assert (away.tests, away.skipped) == (1, 1)
    cases = {case.name: case for case in here}
    assert list(cases) == [
        "accuracy", "latency", "accuracy against float32", "fidelity kl_p99 against float32", "regression",
        "slice:class=value 000", "slice:class=value 001", "slice:class=value 002",
    ]  # fmt: skip
    wanted = {"latency": Failure, "accuracy against float32": Error, "fidelity kl_p99 against float32": Error,
              "regression": Skipped, "slice:class=value 002": Failure}  # fmt: skip
    assert {name: type(c.result[0]) for name, c in cases.items() if c.result} == wanted
    assert cases["accuracy against float32"].result[0].type == "inconclusive"
    assert cases["accuracy against float32"].result[0].message == "the reason of accuracy"
    assert {c.classname for c in here} == {"edgekd.cpu:onnxruntime"}
    figures = {p.name.removeprefix("edgekd.accuracy."): p.value for p in here.properties()}
    assert [figures[k] for k in ("estimate", "interval", "limit", "n", "confidence", "method", "reason")] == [
        "-0.0042", "[-0.0081, -0.0003]", "-0.01", "5000", "0.95", "tango", "the reason of accuracy",
    ]  # fmt: skip
    told = parse(path.read_text(encoding="utf-8")).findtext("testsuite/system-out", "")
    assert told.splitlines()[0] == "accuracy: the reason of accuracy"
    written = tmp_path / "again.xml"
    read.write(str(written))
    assert [(c.name, [type(r) for r in c.result]) for s in JUnitXml.fromfile(str(written)) for c in s] == [
        (c.name, [type(r) for r in c.result]) for s in read for c in s
    ]


def test_names_are_unique_in_a_suite_and_do_not_depend_on_other_gates() -> None:
    twice = [make_gate(), make_gate(), make_gate(detail={"min_ratio": 0.99}), make_gate(against="naive")]
    names = [c.get("name") for c in parse(render_junit([make_view(twice)])).iter("testcase")]
    assert names == ["accuracy", "accuracy (2)", "accuracy 99 %", "accuracy against naive"]
    many = [make_gate("slice:a", slice=v) for v in ("x", " x", "x\n", "y")]
    names = [c.get("name") for c in parse(render_junit([make_view(many)])).iter("testcase")]
    assert max(Counter(names).values()) == 1
    alone = parse(render_junit([make_view(twice[3:])])).find(".//testcase")
    assert alone is not None
    assert alone.get("name") == "accuracy against naive"


@pytest.mark.parametrize(
    ("gates", "optional", "decision"),
    [
        ([], (), None),
        ([make_gate(decision="not_run")], (), None),
        ([make_gate(decision="not_run"), make_gate("size", "not_run")], (), "not_run"),
        ([make_gate(decision="pass", target="a")], ("a",), "inconclusive"),
        ([make_gate(decision="reject", target="a")], ("a",), "inconclusive"),
        ([make_gate(decision="pass")], (), "reject"),
        ([make_gate(decision="not_run")], (), "pass"),
    ],
)
def test_a_run_that_did_not_pass_is_never_green(gates, optional, decision) -> None:
    text = render_junit([make_view(gates, optional=optional, decision=decision)])
    root = parse(text)
    assert int(root.get("failures", "0")) + int(root.get("errors", "0")) == 1
    verdict = [c for c in root.iter("testcase") if c.get("name") == "verdict"]
    assert len(verdict) == 1
    assert len(verdict[0]) == 1
    assert violations(root, JENKINS) == []


def test_a_run_that_passed_or_failed_has_no_case_of_its_own() -> None:
    for gates in ([make_gate()], [make_gate(decision="reject")], [make_gate(), make_gate("size", "not_run")]):
        assert "verdict" not in [
            c.get("name") for c in parse(render_junit([make_view(gates)])).iter("testcase")
        ]


def test_no_character_breaks_it() -> None:
    gate = make_gate(decision="reject", reason=NASTY, target="cpu\x01:x")
    case = parse(render_junit([make_view([gate], name=NASTY)])).find(".//failure")
    assert case is not None
    assert '<b a="1">&amp;|' in case.get("message", "")
    assert "日本" in (case.text or "")
    assert not re.search("[\x00-\x08\ud800\ufffe]", case.get("message", ""))


def test_a_time_that_is_none_is_left_out() -> None:
    from dataclasses import replace

    view = make_view([make_gate()])
    for at, stamp in (("2026-01-31T12:00:00.25Z", "2026-01-31T12:00:00"), ("", None), ("yesterday", None)):
        other = replace(view, verdict=replace(view.verdict, collected_at=at))
        suite = parse(render_junit([other])).find("testsuite")
        assert suite is not None
        assert suite.get("timestamp") == stamp
