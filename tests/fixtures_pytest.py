"""Suites that use the pytest plugin, run in a folder and a process of their own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fixtures_models import classifier, examples

Outcome = pytest.RunResult
Pytest = Callable[..., Outcome]


@pytest.fixture(scope="session")
def gate_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher, a student a quarter as long, one twice as long, and data that decide or do not."""
    folder = tmp_path_factory.mktemp("models")
    classifier(folder / "teacher.onnx", layers=12)
    classifier(folder / "student.onnx", layers=3)
    classifier(folder / "slow.onnx", layers=24)
    np.savez(folder / "few.npz", **examples(60))
    return folder


@pytest.fixture
def run_suite(pytester: pytest.Pytester, gate_models: Path) -> Pytest:
    """Write the tests into a folder with the models and run pytest there, in a process of its own."""
    for file in gate_models.iterdir():
        shutil.copyfile(file, pytester.path / file.name)

    def start(source: str, *options: str, ini: str = "") -> Outcome:
        pytester.makepyfile(test_student=source)
        pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider\n" + ini)
        return pytester.runpytest_subprocess(*options)

    return start


def cases(junit: Path) -> dict[str, ElementTree.Element]:
    """JUnit's test cases by name."""
    return {case.attrib["name"]: case for case in ElementTree.parse(junit).iter("testcase")}


def properties(case: ElementTree.Element) -> dict[str, str]:
    return {p.attrib["name"]: p.attrib["value"] for p in case.iter("property")}


def outcome(case: ElementTree.Element) -> str:
    """``passed``, ``failure``, ``error`` or ``skipped``."""
    found = [c.tag for c in case if c.tag in ("failure", "error", "skipped")]
    return found[0] if found else "passed"
