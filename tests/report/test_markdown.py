"""The pull request's comment: the verdict first, short where all is well, and nothing in it is markup of somebody else."""

from __future__ import annotations

import html
import re
from dataclasses import replace

import pytest
from fixtures_report import NASTY, TARGET, make_gate, make_slices, make_view

from edgekd.report.github import code, escape
from edgekd.report.grouped import group_slices
from edgekd.report.markdown import render_markdown
from edgekd.report.text import render_text

#: Our own tags; any other angle bracket is somebody's markup.
_TAGS = re.compile(r"</?(?:code|details|summary|sub)>")


def shown(markdown: str) -> str:
    """What a reader sees of the text, more or less."""
    text = html.unescape(re.sub(r"\\([\\`*_~\[\]|$])", r"\1", _TAGS.sub("", markdown)))
    return text.replace("\u200b", "")


@pytest.mark.parametrize(
    ("gates", "first"),
    [
        ([make_gate()], f"✅ **PASS: synthetic may ship.** 1 gate passed on {TARGET}."),
        (
            [make_gate(), make_gate("latency", "reject", reason="student is slow")],
            f"❌ **REJECT: synthetic may not ship.** latency on {TARGET}: student is slow",
        ),
        (
            [make_gate("size", "reject", target="b"), make_gate(decision="inconclusive")],
            f"❔ **INCONCLUSIVE: synthetic not decided.** accuracy on {TARGET}: the reason of accuracy",
        ),
        (
            [make_gate(decision="inconclusive"), make_gate("size", "error", reason="no size")],
            f"⚠️ **ERROR: synthetic could not be judged.** size on {TARGET}: no size",
        ),
        (
            [make_gate(decision="not_run")],
            "❔ **INCONCLUSIVE: synthetic not decided.** The evidence does not decide whether the student may ship.",
        ),
    ],
)
def test_the_first_line_is_the_verdict_and_its_reason(gates, first) -> None:
    text = render_markdown(make_view(gates, optional=["b"]))
    assert shown(text).splitlines()[0] == first
    reason = first.rpartition(": ")[2]
    assert shown(text).count(reason) == 1


def test_the_gate_table() -> None:
    gates = [
        make_gate(),
        make_gate(
            "accuracy",
            against="float32",
            metric="rmse",
            unit="mm",
            estimate=-0.5,
            interval=(-1.0, 0.1),
            limit=-2,
        ),
        make_gate("latency", unit="ratio", estimate=0.5, interval=(0.45, 0.55), limit=0.8, n=4),
        make_gate(
            "regression",
            unit="ratio",
            against="baseline",
            estimate=1.01,
            interval=(1.0, 1.015),
            limit=1.02,
            n=4,
        ),
        make_gate(
            "fidelity", metric="flips", against="float32", estimate=0.031, interval=(0.02, 0.04), limit=0.05
        ),
        make_gate(
            "fidelity",
            metric="kl_mean",
            unit="nats",
            against="float32",
            estimate=0.01,
            interval=None,
            limit=0.1,
        ),
        make_gate("size", unit="MiB", estimate=1.5, interval=None, limit=2.0, against="", n=None),
        make_gate("tail", "not_run", estimate=None, interval=None),
    ]
    rows = [
        [c.strip() for c in line.strip("| ").split(" | ")]
        for line in shown(render_markdown(make_view(gates))).splitlines()
        if line.startswith("| ")
    ]
    assert rows == [
        ["gate", "decision", "estimate", "bounds", "limit", "n"],
        ["accuracy (top1)", "✅ PASS", "-0.42 points", "[-0.81, -0.03]", "-1.00 points", "5,000 examples"],
        [
            "accuracy against float32 (rmse)",
            "✅ PASS",
            "-0.5 mm",
            "[-1, +0.1]",
            "-2 mm",
            "5,000 examples",
        ],
        ["latency", "✅ PASS", "0.500x", "[0.450x, 0.550x]", "0.800x", "4 restarts"],
        ["regression", "✅ PASS", "+1.00 %", "[+0.00 %, +1.50 %]", "+2.00 %", "4 restarts"],
        [
            "fidelity flips against float32",
            "✅ PASS",
            "3.10 %",
            "[2.00 %, 4.00 %]",
            "5.00 %",
            "5,000 examples",
        ],
        ["fidelity kl_mean against float32", "✅ PASS", "0.01 nats", "–", "0.1 nats", "5,000 examples"],
        ["size", "✅ PASS", "1.50 MiB", "–", "2.00 MiB", "–"],
    ]


def test_a_passing_run_is_short() -> None:
    text = render_markdown(make_view([make_gate(), make_gate("latency"), *make_slices(100)]))
    assert len(text.splitlines()) < 15
    assert "slice:class: 100 passed." in shown(text)


def test_slices_that_fail_are_shown_and_the_others_counted() -> None:
    gates = [make_gate(), *make_slices(100, 3), make_gate("slice:class", "not_run", slice="rare")]
    text = shown(render_markdown(make_view(gates)))
    assert "slice:class: 3 rejected, 97 passed, 1 reported, not gated." in text
    assert "slice:class=value 097" in text
    assert "slice:class=value 001" not in text
    assert text.count("class value 098 is so") == 1
    many = shown(render_markdown(make_view(make_slices(1000, 500))))
    assert "490 more of them are in verdict.json" in many
    assert len(many) < 10_000


def test_text_groups_slices_too() -> None:
    gates = [make_gate(), *make_slices(100, 30), make_gate("slice:lang", slice="de", reason="lang de is so")]
    text = render_text(make_view(gates))
    assert "slice:class    cpu:onnxruntime: 30 rejected, 70 passed (against teacher)" in text
    assert "slice:lang=de  cpu:onnxruntime: lang de is so" in text
    assert "and 20 more, listed in verdict.json" in text
    assert len(text.splitlines()) < 20
    tame = render_text(make_view([make_gate(reason=NASTY, slice=NASTY)], name=NASTY))
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", tame)


def test_groups_are_by_column_target_and_reference_and_worst_first() -> None:
    slices = [*make_slices(3, 1), make_gate("slice:class", "error", slice="x"), *make_slices(2, name="lang")]
    other = [replace(g, target="b") for g in make_slices(2)]
    plain, groups = group_slices([make_gate(), *slices, *other])
    assert [g.gate for g in plain] == ["accuracy"]
    assert [(g.gate, g.target, g.decision, len(g.gates)) for g in groups] == [
        ("slice:class", TARGET, "error", 4), ("slice:lang", TARGET, "pass", 2), ("slice:class", "b", "pass", 2),
    ]  # fmt: skip
    assert [g.decision for g in groups[0].gates] == ["error", "reject", "pass", "pass"]
    assert groups[0].told == "1 could not be judged, 1 rejected, 2 passed"


@pytest.mark.parametrize("decision", ["pass", "reject", "error"])
def test_nothing_from_evidence_is_markup(decision) -> None:
    gate = make_gate(
        decision=decision, reason=NASTY, slice=NASTY, metric=NASTY, target=NASTY, against=NASTY, unit="$x$"
    )
    view = make_view([gate, make_gate()], name=NASTY, notes=(NASTY,))
    text = render_markdown(view)
    assert "<" not in _TAGS.sub("", text)
    assert not re.search(r"@(?!&#8203;)|#(?=\d)(?!8203)|://|(?<!\\)[`$]", text)
    assert not re.search(r"^# ", text, re.M)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u2028\ud800-\udfff]", text)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", r)) for r in rows}) == 1
    text.encode()
    assert "@octocat #12 https://x.example :tada: 日本" in shown(text)


def test_escaping() -> None:
    assert escape("a|b") == r"a\|b"
    assert escape("a\\|b") == r"a\\\|b"
    assert escape("@user fixes #7, GH-8") == "@&#8203;user fixes #&#8203;7, GH-&#8203;8"
    assert escape(":+1: :x: :100: 12:00:00Z cpu:onnxruntime: a") == (
        ":&#8203;+1: :&#8203;x: :&#8203;100: 12:00:00Z cpu:&#8203;onnxruntime: a"
    )
    assert [escape(s) for s in ("- a", "# a", "1. a", "-0.42", "#a")] == [
        r"\- a", r"\# a", "1&#8203;. a", "-0.42", "#a",
    ]  # fmt: skip
    assert code("a<b") == "<code>a&lt;b</code>"


def test_optional_targets_and_absent_ones_are_told() -> None:
    gates = [
        make_gate(),
        make_gate(decision="reject", target="b"),
        make_gate("size", "not_run", target="c", estimate=None),
    ]
    text = shown(render_markdown(make_view(gates, optional=["b", "c"])))
    assert "❌ **accuracy** on b: the reason of accuracy (optional target, does not decide)" in text
    assert "➖ **size** on c: the reason of size (optional target, does not decide)" in text
