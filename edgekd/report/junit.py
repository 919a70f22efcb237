"""JUnit XML: a gate is a test case, so that any CI system can show it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from edgekd.gates.verdict import Gate
from edgekd.report.view import View

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff￾￿]")


def render_junit(view: View) -> str:
    """One suite per target; reject is a failure, inconclusive and error are errors, not_run is skipped.

    A gate of an optional target that did not pass is skipped with its reason: it does not decide the run.
    """
    verdict = view.verdict
    root = ElementTree.Element("testsuites", name=_text(view.run.name))
    for target in dict.fromkeys(g.target for g in verdict.gates):
        gates = [g for g in verdict.gates if g.target == target]
        suite = ElementTree.SubElement(root, "testsuite", name=_text(f"{view.run.name} on {target}"))
        counts = {"failure": 0, "error": 0, "skipped": 0}
        properties = ElementTree.SubElement(suite, "properties")
        for name, value in (
            ("edgekd.decision", verdict.decision),
            ("edgekd.collected_at", verdict.collected_at),
            ("edgekd.version", verdict.edgekd),
        ):
            ElementTree.SubElement(properties, "property", name=name, value=_text(value))
        for gate in gates:
            name = gate.gate if gate.slice is None else f"{gate.gate}:{gate.slice}"
            case = ElementTree.SubElement(
                suite, "testcase", name=_text(name), classname=_text(f"edgekd.{target}"), time="0"
            )
            outcome = _outcome(gate, optional=target in verdict.optional)
            if outcome is None:
                ElementTree.SubElement(case, "system-out").text = _text(gate.reason)
                continue
            counts[outcome] += 1
            element = ElementTree.SubElement(case, outcome, message=_text(gate.reason))
            if outcome != "skipped":
                element.set("type", gate.decision)
            element.text = _text(gate.reason)
        suite.set("tests", str(len(gates)))
        suite.set("failures", str(counts["failure"]))
        suite.set("errors", str(counts["error"]))
        suite.set("skipped", str(counts["skipped"]))
        if verdict.collected_at:
            suite.set("timestamp", _text(verdict.collected_at.removesuffix("Z")))
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"


def _outcome(gate: Gate, *, optional: bool) -> str | None:
    if gate.decision == "pass":
        return None
    if gate.decision == "not_run" or optional:
        return "skipped"
    return "failure" if gate.decision == "reject" else "error"


def _text(value: str) -> str:
    """Without the characters that XML 1.0 cannot hold."""
    return _CONTROL.sub("?", value)
