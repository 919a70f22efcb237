"""Reports of the lint: text, JSON, SARIF, and what the command line calls."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fixtures_lint_graphs import Build, conv_net

from edgekd.errors import UsageError
from edgekd_tensorrt.lint import RULES, lint_file, run_lint
from edgekd_tensorrt.lint.report import OPTIONS


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Seven pairs with a zero point each."""
    g = Build()
    for i in range(7):
        g.input(f"x{i}", [4, 32])
        g.pair(f"x{i}", f"p{i}", zero=3)
        g.channel(g.weights(f"w{i}", 32, 32), f"w{i}", 32, axis=1)
        g.node("MatMul", [f"p{i}_dq", f"w{i}_dq"], f"y{i}")
        g.output(f"y{i}")
    return g.save(tmp_path)


def test_the_text_names_node_rule_fix_and_source_and_counts_the_rest(planted: Path) -> None:
    report = lint_file(planted, target_sm=89, tensorrt="10.16")
    lines = report.to_text().splitlines()
    assert lines[0] == "model.onnx: opset 19, TensorRT 10.16, SM 89"
    assert lines[1] == "  error TRT010 p0_q (QuantizeLinear): zero point is 3, expected 0"
    assert lines[2].startswith("    fix: quantize symmetrically")
    assert lines[2].endswith("[NvInfer.h; onnx-tensorrt parser]")
    assert lines[-2:] == ["  error TRT010: 9 more like these", "14 errors"]
    assert [f.node for f in report.errors[:4]] == ["p0_q", "p0_dq", "p1_q", "p1_dq"]


def test_the_json_is_whole_and_names_no_folder(planted: Path) -> None:
    report = lint_file(planted, target_sm=89)
    stored = json.loads(json.dumps(report.to_json()))
    assert stored["schema"] == "edgekd.lint/1"
    assert (stored["file"], stored["opset"], stored["tensorrt"], stored["target_sm"]) == ("model.onnx", 19, "11", 89)  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{64}", stored["sha256"])
    assert stored["counts"] == {"error": 14, "warning": 0, "note": 0}
    assert set(stored["findings"][0]) == {"rule", "severity", "node", "op_type", "tensor", "message", "fix", "source"}  # fmt: skip
    assert str(planted.parent) not in json.dumps(stored)


def test_the_same_file_gives_the_same_report(planted: Path) -> None:
    assert lint_file(planted) == lint_file(planted)


def test_the_sarif_log_holds_every_rule_and_finding(planted: Path) -> None:
    log = json.loads(lint_file(planted).to_sarif("models/model.onnx"))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert [r["id"] for r in run["tool"]["driver"]["rules"]] == list(RULES)
    assert len(run["results"]) == 14
    for result in run["results"]:
        assert run["tool"]["driver"]["rules"][result["ruleIndex"]]["id"] == result["ruleId"] == "TRT010"
        assert result["level"] == "error"
        (where,) = result["locations"]
        assert where["physicalLocation"]["artifactLocation"]["uri"] == "models/model.onnx"
    marks = [r["partialFingerprints"]["edgekdFinding/v1"] for r in run["results"]]
    assert len(set(marks)) == 14
    clean = json.loads(lint_file(conv_net().save(planted.parent)).to_sarif("m.onnx"))
    assert clean["runs"][0]["results"] == []


def test_options_arrive_as_text(tmp_path: Path) -> None:
    path = conv_net(batch="batch").save(tmp_path)
    report, text = run_lint(
        path, {"sm": "75", "tensorrt": "10.16", "plugins": "A, B::C", "shapes": "x=1x32x8x8:2x32x8x8:4x32x8x8"}
    )  # fmt: skip
    assert report.findings == (), text
    assert (report.target_sm, report.tensorrt) == (75, "10.16")
    assert text == report.to_text()
    shapes = {"x": ((1, 32, 8, 8),) * 3}
    assert run_lint(path, {"sm": 75, "shapes": shapes, "plugins": ["A"], "dtype": None})[0].findings == ()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"gpu": "90"}, "no option 'gpu'"),
        ({"sm": "8.9"}, "sm '8.9'"),
        ({"sm": "9"}, "SM 9"),
        ({"dtype": "fp16"}, "dtype 'fp16'"),
        ({"tensorrt": "8"}, "version '8'"),
        ({"shapes": "x"}, "--shape 'x'"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, str], says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=re.escape(says)):
        run_lint(conv_net().save(tmp_path), options)


def test_the_page_lists_every_rule_and_option(repository: Path) -> None:
    text = (repository / "docs" / "tensorrt_lint.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (TRT\d+) \| (\w+) \| (.+?) \| (.+?) \|$", text, flags=re.M)
    assert [tuple(r) for r in rows] == [(r.id, r.severity, r.statement, r.source) for r in RULES.values()]
    options = re.findall(r"^\| `(\w+)` \| (.+?) \|$", text, flags=re.M)
    assert dict(options) == dict(OPTIONS)


def test_nothing_of_tensorrt_or_torch_is_imported(tmp_path: Path) -> None:
    path = conv_net().save(tmp_path)
    code = (
        "import sys; from pathlib import Path; from edgekd_tensorrt.lint import lint_file;"
        "lint_file(Path(sys.argv[1]));"
        "print(sorted({m.split('.')[0] for m in sys.modules} & {'tensorrt', 'torch', 'onnxruntime', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
