"""JUnit of a gate without a verdict: one error, whatever the message holds."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixtures_report import NASTY

from edgekd.ci.no_verdict import junit_of
from edgekd.cli import main


def test_it_is_one_error_and_everything_that_the_schemas_ask() -> None:
    root = ElementTree.fromstring(junit_of(NASTY, NASTY).encode())
    (suite,) = root
    assert [child.tag for child in suite] == ["properties", "testcase", "system-out", "system-err"]
    required = {"name", "timestamp", "hostname", "tests", "failures", "errors", "time", "package", "id"}
    assert required <= set(suite.attrib)
    for element in (root, suite):
        assert (element.get("tests"), element.get("failures"), element.get("errors")) == ("1", "0", "1")
    (error,) = root.iter("error")
    assert error.get("type") == "error"
    assert "日本" in str(error.get("message"))


def test_decision_writes_it_without_a_verdict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "log").write_text("reading\nedgekd: error: no model; give one\nmore\n")
    command = ["ci", "decision", str(tmp_path / "none"), "--code", "2", "--name", "digits"]
    assert main([*command, "--log", str(tmp_path / "log"), "--junit", str(tmp_path / "j.xml")]) == 0
    assert capsys.readouterr().out == "error\nedgekd: error: no model; give one\n"
    (case,) = ElementTree.parse(tmp_path / "j.xml").getroot().iter("testcase")
    assert case.get("name") == "digits"
    assert case[0].get("message") == "edgekd: error: no model; give one"
    assert main([*command, "--junit", str(tmp_path / "j.xml")]) == 0
    (error,) = ElementTree.parse(tmp_path / "j.xml").getroot().iter("error")
    assert error.get("message") == "no verdict: the gate ended with exit code 2"
