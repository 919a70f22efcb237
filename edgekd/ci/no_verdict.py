"""JUnit XML of a gate that came to no verdict: one test case that is an error, so that a CI system shows it in red."""

from __future__ import annotations

import re
import time
from xml.etree import ElementTree

#: Characters that XML 1.0 cannot hold or discourages.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]")


def junit_of(name: str, message: str) -> str:
    """One suite with one error, within both schemas that :mod:`edgekd.report.junit` keeps to.

    Args:
        name: the gate's name.
        message: why there is no verdict.
    """
    name, message = (" ".join(_CONTROL.sub("?", text).split()) for text in (name, message))
    root = ElementTree.Element("testsuites", name=name, tests="1", failures="0", errors="1")
    suite = ElementTree.SubElement(
        root, "testsuite", name=name, package="edgekd", hostname="localhost", id="0",
        tests="1", failures="0", errors="1", skipped="0", time="0",
        timestamp=time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime()),
    )  # fmt: skip
    ElementTree.SubElement(suite, "properties")
    case = ElementTree.SubElement(suite, "testcase", name=name, classname="edgekd", time="0")
    ElementTree.SubElement(case, "error", message=message, type="error").text = message
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(root, encoding="unicode") + "\n"
