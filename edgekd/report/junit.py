"""JUnit XML: a gate is a test case, so that any CI system can show it.

There is no one schema. What is written satisfies Jenkins's (xunit plugin, ``junit-10.xsd``) and, but for the totals on
the root, the stricter one of Apache Ant (windyroad's ``JUnit.xsd``): so figures are properties of the suite, and what
passed says so in the suite's output, for neither schema has properties in a test case.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from xml.etree import ElementTree

from edgekd.gates.verdict import Decision, Gate, Verdict
from edgekd.report import words
from edgekd.report.view import View

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")
_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|\+00:00)?")
#: Judging stored evidence has no clock, and both schemas want a time.
_NO_TIME = "0"
#: One test case: its name, the element that says its outcome (None: it passed), decision, reason and figures.
_Case = tuple[str, str | None, Decision, str, Mapping[str, str]]
_FAILED: dict[Decision, str] = {"reject": "failure", "inconclusive": "error", "error": "error"}


def render_junit(views: Sequence[View]) -> str:
    """One suite per target; reject is a failure, inconclusive and error are errors, not_run is skipped.

    A gate of an optional target that did not pass is skipped with its reason: it does not decide the run. A run that
    did not pass although no gate of it failed (nothing was judged, say) has one more test case, ``verdict``, which is
    an error: CI systems show a file of skipped tests in green.
    """
    root = ElementTree.Element("testsuites", name=_line(", ".join(v.run.name for v in views)))
    for view in views:
        for suite in _suites(view):
            suite.set("id", str(len(root)))
            root.append(suite)
    for key in ("tests", "failures", "errors"):
        root.set(key, str(sum(int(suite.get(key, "0")) for suite in root)))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _suites(view: View) -> list[ElementTree.Element]:
    verdict = view.verdict
    suites = []
    failed = False
    for target in dict.fromkeys(g.target for g in verdict.gates):
        gates = [g for g in verdict.gates if g.target == target]
        optional = target in verdict.optional
        failed |= not optional and any(g.decision in _FAILED for g in gates)
        cases: list[_Case] = [
            (name, _outcome(g, optional=optional), g.decision, words.reason(g), _figures(g))
            for name, g in zip(words.gate_names(gates), gates, strict=True)
        ]
        # Provenance is the run's, on no target.
        named = (f"{view.run.name} on {target}", f"edgekd.{target}") if target else (view.run.name, "edgekd")
        suites.append(_suite(*named, verdict, cases))
    judged = any(g.decision == "pass" and g.target not in verdict.optional for g in verdict.gates)
    if not failed and (verdict.decision != "pass" or not judged):
        reason = (
            "no gate of a required target was judged" if not judged else words.HEADLINES[verdict.decision]
        )
        decision: Decision = "inconclusive" if verdict.decision in ("pass", "not_run") else verdict.decision
        case: _Case = ("verdict", _FAILED[decision], decision, f"{decision}: {reason}", {})
        suites.append(_suite(view.run.name, "edgekd", verdict, [case]))
    return suites


def _suite(name: str, classname: str, verdict: Verdict, cases: Sequence[_Case]) -> ElementTree.Element:
    outcomes = [outcome for _, outcome, *_ in cases]
    suite = ElementTree.Element("testsuite", name=_line(name), package="edgekd", hostname="localhost")
    suite.set("tests", str(len(cases)))
    for key, element in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(key, str(outcomes.count(element)))
    suite.set("time", _NO_TIME)
    if match := _TIME.fullmatch(verdict.collected_at):
        suite.set("timestamp", match[1])  # neither schema takes a time zone
    properties = ElementTree.SubElement(suite, "properties")
    about = {
        "edgekd.decision": verdict.decision,
        "edgekd.collected_at": verdict.collected_at,
        "edgekd.version": verdict.edgekd,
    }
    about |= {f"edgekd.{case}.{key}": text for case, *_, figures in cases for key, text in figures.items()}
    for key, text in about.items():
        ElementTree.SubElement(properties, "property", name=_line(key), value=_text(text))
    passed = []
    for case, outcome, decision, reason, figures in cases:
        test = ElementTree.SubElement(suite, "testcase", name=_line(case), classname=_line(classname))
        test.set("time", _NO_TIME)
        if outcome is None:
            passed.append(f"{case}: {reason}")
            continue
        why = ElementTree.SubElement(test, outcome, message=_text(reason))
        if outcome != "skipped":
            why.set("type", decision)
        told = [f"{key}: {text}" for key, text in figures.items() if key != "reason"]
        why.text = _text("\n".join([reason, *told]))
    ElementTree.SubElement(suite, "system-out").text = _text("\n".join(passed))
    ElementTree.SubElement(suite, "system-err")
    return suite


def _outcome(gate: Gate, *, optional: bool) -> str | None:
    """The element that says it; None for a gate that passed."""
    if gate.decision == "pass":
        return None
    return "skipped" if gate.decision == "not_run" or optional else _FAILED[gate.decision]


def _figures(gate: Gate) -> dict[str, str]:
    """What was found, unrounded, as in verdict.json; what does not exist is left out."""
    found = {
        "decision": gate.decision,
        "metric": gate.metric,
        "against": gate.against,
        "estimate": gate.estimate,
        "interval": None if gate.interval is None else words.sides(gate),
        "limit": gate.limit,
        "unit": gate.unit,
        "confidence": gate.confidence,
        "upper_confidence": gate.detail.get("upper_confidence"),
        "holm_over": gate.detail.get("holm_over", gate.detail.get("slices")),
        "n": gate.n,
        "method": gate.method,
        "split": gate.split,
        "scenario": gate.scenario,
        "error_kind": gate.error_kind,
        "artifact": gate.artifact,
        "reason": words.reason(gate),
    }
    return {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in found.items()
        if value is not None and value != ""
    }


def _line(value: str) -> str:
    """A name: one line, single spaces."""
    return " ".join(_text(value).split()) or "unnamed"


def _text(value: str) -> str:
    """Without the characters that XML 1.0 cannot hold or discourages."""
    return _CONTROL.sub("?", value)
