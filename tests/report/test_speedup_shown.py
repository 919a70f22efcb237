"""Is it faster? What the reports say of quantized candidates beside their float twins."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_report import NASTY
from fixtures_run import TARGET, make_run

from edgekd.evidence.run import load_run
from edgekd.evidence.speedup import Speedup, save_speedup
from edgekd.gates import judge_run
from edgekd.quantize.reason import Reason
from edgekd.quantize.slowness import _RULES
from edgekd.recipe import GatesBlock
from edgekd.report import render
from edgekd.report.speedup import KINDS, sentence, why_lines
from edgekd.report.view import load_view

WHY = (
    Reason(
        kind="qdq_not_fused",
        sentence="184 Q/DQ nodes (1,088 µs)",
        nodes=("q",),
        time_share=0.41,
        fix="fuse them",
    ),
    Reason(kind="depthwise", sentence="16 of 37 Conv", nodes=("c",), time_share=0.12, fix="leave them"),
)
SLOW = Speedup(
    label="student-int8", artifact="sha256:" + "b" * 64, dtype="int8", twin_label="student-float32",
    twin="sha256:" + "c" * 64, twin_dtype="float32", target=TARGET, ratio=(1.722, 1.651, 1.795), batch=1, threads=1,
    operators=(55, 315), operator_ns=(1.178e6, 2.676e6), reasons=WHY,
)  # fmt: skip


def write(folder: Path, *found: Speedup) -> Path:
    """A run whose candidates have these speedups, judged."""
    run = make_run(folder)
    named = []
    for i, candidate in enumerate(run.candidates):
        path = f"evidence/speedup-{i}.json" if i < len(found) else ""
        if path:
            save_speedup(found[i], folder / path)
        named.append(replace(candidate, speedup=path))
    replace(run, candidates=tuple(named)).save(folder)
    judge_run(folder, load_run(folder), GatesBlock.model_validate(run.policy)).save(folder / "verdict.json")
    return folder


@pytest.mark.parametrize("kind", ["md", "html", "text"])
def test_the_figure_and_the_reasons(tmp_path: Path, kind: str) -> None:
    page = render(write(tmp_path, SLOW), kind)
    assert "Is it faster?" in page
    assert "1.722x" in page
    assert "184 Q/DQ nodes" in re.sub(r"\s+", " ", page)
    if kind != "text":
        assert "Q/DQ not fused (41 %)" in page
        assert "16 of 37 Conv. To do: leave them." in page


@pytest.mark.parametrize("kind", ["md", "html", "text"])
def test_a_run_without_quantized_candidates_says_nothing(tmp_path: Path, kind: str) -> None:
    assert "Is it faster?" not in render(write(tmp_path), kind)


def test_one_that_is_faster_has_no_reasons(tmp_path: Path) -> None:
    fast = replace(SLOW, ratio=(0.5, 0.4, 0.6), reasons=())
    page = render(write(tmp_path, fast), "md")
    assert "| yes |" in page
    assert "is not faster" not in page
    assert sentence(fast).endswith(f"of student-float32's time on {TARGET}.")


def test_a_damaged_document_leaves_a_note(tmp_path: Path) -> None:
    folder = write(tmp_path, SLOW)
    (folder / "evidence/speedup-0.json").write_text("{}")
    view = load_view(folder)
    assert view.speedups == ()
    assert any("is not shown" in n for n in view.notes)


@pytest.mark.parametrize("kind", ["md", "html", "text"])
def test_names_of_nodes_stay_text(tmp_path: Path, kind: str) -> None:
    nasty = Reason(
        kind="float_fallback", sentence=f"1 Conv ({NASTY})".replace("\ud800", ""), nodes=("x",), fix="f"
    )
    page = render(write(tmp_path, replace(SLOW, reasons=(nasty,))), kind)
    assert "\x1b" not in page.replace("\x1b[0m", "")
    assert kind == "text" or '<b a="1">' not in page
    assert kind != "md" or "@octocat" not in page


def test_the_terminal_is_told_all_reasons() -> None:
    lines = why_lines(SLOW)
    assert lines[0] == "  student-int8 (int8) beside student-float32 (float32): slower"
    assert "  1. Q/DQ not fused (41 %): 184 Q/DQ nodes (1,088 µs)" in lines
    assert "     to do: leave them" in lines
    assert lines[-1].startswith("  operators: 55 in 1.178 ms in float, 315 in 2.676 ms quantized")
    assert why_lines(replace(SLOW, problem="no\nchild"))[-1] == "  not known: no child"


def test_every_kind_has_words() -> None:
    source = Path(__import__("edgekd.quantize.slowness", fromlist=["_"]).__file__).read_text(encoding="utf-8")
    kinds = set(re.findall(r'kind="(\w+)"', source)) | {"accuracy_level_missing", "depthwise", "same_kernels"}
    assert kinds == set(KINDS)
    assert len(_RULES) >= 14
