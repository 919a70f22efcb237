"""The pytest plugin, where it is asked for what means nothing: one line, reported as an error."""

from __future__ import annotations

import pytest
from fixtures_pytest import Pytest, cases, outcome, properties

pytest_plugins = ["pytester", "fixtures_pytest"]

MISUSE = """
    import pytest

    def test_no_limit(edgekd_gate):
        edgekd_gate(teacher="teacher.onnx", student="student.onnx")

    def test_no_student(edgekd_gate):
        edgekd_gate(teacher="teacher.onnx", max_latency_ratio=0.5)

    def test_no_data(edgekd_gate):
        edgekd_gate(teacher="teacher.onnx", student="student.onnx", max_accuracy_drop=0.01)

    def test_keyword(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mb=1)

    def test_value(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mib=-1)

    def test_kind(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mib=True)

    def test_mode(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mib=1, on_inconclusive="ignore")

    def test_file(edgekd_gate):
        edgekd_gate(student="nowhere.onnx", max_size_mib=1)

    def test_target(edgekd_gate):
        edgekd_gate(student="student.onnx", max_size_mib=1, target="cpu:nothing")

    def test_session_file(edgekd_session):
        edgekd_session("nowhere.onnx")

    @pytest.mark.edgekd(treads=2)
    def test_marker(edgekd_gate):
        pass

    @pytest.mark.edgekd("cpu:onnxruntime")
    def test_marker_without_names(edgekd_session):
        pass

    def test_damaged_evidence(edgekd_gate, monkeypatch):
        import edgekd.pipeline.gate
        from edgekd.gates.verdict import Gate, Verdict

        def judged(request, *, out, store):
            gate = Gate(gate="latency", decision="error", metric="latency", against="teacher", artifact="", target="t",
                        reason="a call of 0 ns", error_kind="infrastructure")
            return Verdict(decision="error", gates=(gate,), candidates=(), selected={}, policy={}, environment={},
                           evidence={}, collected_at="", edgekd="")

        monkeypatch.setattr(edgekd.pipeline.gate, "gate_files", judged)
        edgekd_gate(student="student.onnx", max_size_mib=1)

    def test_can_be_expected(edgekd_gate):
        from edgekd import EdgeKDError

        with pytest.raises(EdgeKDError, match="does not exist"):
            edgekd_gate(student="nowhere.onnx", max_size_mib=1)
"""

#: Test -> its one line, and the kind of error.
MESSAGES = {
    "test_no_limit": ("no gate was asked; give data= (accuracy), ", "input"),
    "test_no_student": ('edgekd_gate was given no student; name the model that may ship: student="S.onnx"', "input"),
    "test_no_data": ('a gate that compares answers needs labelled data; give data="D.npz"', "input"),
    "test_keyword": ("edgekd_gate has no keyword 'max_size_mb'; did you mean 'max_size_mib'?", "input"),
    "test_value": ("max_size_mib=: -1 is not above 0", "input"),
    "test_kind": ("max_size_mib=True is neither text, path nor number", "input"),
    "test_mode": ("on_inconclusive is 'ignore'; choose fail, skip, pass", "input"),
    "test_file": ("nowhere.onnx does not exist", "input"),
    "test_target": ("target cpu:nothing: runtime 'nothing' is not provided by any plugin", "input"),
    "test_session_file": ("nowhere.onnx does not exist", None),
    "test_marker": ("the marker edgekd has no keyword 'treads'; did you mean 'threads'?", None),
    "test_marker_without_names": ("the marker edgekd was given 'cpu:onnxruntime' without a name", None),
    "test_damaged_evidence": ("latency: a call of 0 ns; the evidence is in .edgekd/", "infrastructure"),
}  # fmt: skip


def test_what_cannot_be_judged_is_an_error_in_one_line(run_suite: Pytest, pytester: pytest.Pytester) -> None:
    done = run_suite(MISUSE, "--junitxml=junit.xml")
    done.assert_outcomes(passed=1, errors=len(MESSAGES))
    found = cases(pytester.path / "junit.xml")
    for name, (message, kind) in MESSAGES.items():
        assert outcome(found[name]) == "error", name
        element = found[name].find("error")
        assert element is not None
        assert message in element.attrib["message"], name
        assert "\n" not in element.attrib["message"], name
        assert "pytest_gate.py" not in str(element.text), name  # frames that say nothing to a user
        assert properties(found[name]).get("edgekd.error_kind") == kind, name
        if kind:
            done.stdout.fnmatch_lines([f"ERROR         test_student.py::{name}", f"    {kind}: *"])


@pytest.mark.parametrize(
    ("options", "ini", "message"),
    [
        (("--edgekd-only", "--edgekd-skip"), "", "--edgekd-only and --edgekd-skip leave no test"),
        (("--edgekd-threads=0",), "", "edgekd threads is '0'; give a whole number from 1 on"),
        (("--edgekd-reference=none.json",), "", "--edgekd-reference none.json does not exist"),
        (("--edgekd-benchmark-json=.",), "", "--edgekd-benchmark-json . is a folder; name a file"),
        ((), "edgekd_on_inconclusive = maybe", "edgekd_on_inconclusive is 'maybe'; choose fail, skip, pass"),
    ],
)
def test_options_that_mean_nothing_stop_the_session(
    run_suite: Pytest, options: tuple[str, ...], ini: str, message: str
) -> None:
    done = run_suite("def test_nothing(): pass", *options, ini=ini)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    done.stderr.fnmatch_lines([f"ERROR: {message}*"])
