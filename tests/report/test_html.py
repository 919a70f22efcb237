"""The page as text: nothing from outside, nothing broken out of, small, and readable in both colour schemes."""

from __future__ import annotations

import dataclasses
import html
import itertools
import re
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path

import pytest
from fixtures_pages import make_graded_run, make_page_run
from fixtures_run import make_run

from edgekd.evidence.run import load_run
from edgekd.gates import judge_run
from edgekd.gates.verdict import Gate, load_verdict
from edgekd.policy import GatesBlock
from edgekd.report import load_view, render
from edgekd.report.html.gates import gate_plot, question, slack, worst_gate
from edgekd.report.html.page import render_html
from edgekd.report.html.slices import OPEN_ROWS
from edgekd.report.view import View

HOSTILE = "</script><img src=x onerror=alert(1)>\"'`\u202e\x00\ud800"
SPOKEN = "</script><img src=x onerror=alert(1)>\"'`\N{REPLACEMENT CHARACTER}"


class Page(HTMLParser):
    """What a parser makes of it."""

    VOID = ("meta", "br", "img", "hr")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *a) for a in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def values(self, name: str, tag: str | None = None) -> list[str]:
        return [v or "" for t, n, v in self.attributes if n == name and tag in (None, t)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_page_run(tmp_path_factory.mktemp("whole"), n=2000, sites=8, damage=0.15)


@pytest.fixture(scope="module")
def view(folder: Path) -> View:
    return load_view(folder)


@pytest.fixture(scope="module")
def page(view: View) -> Page:
    return Page(render_html(view))


def test_nothing_comes_from_outside(page):
    assert page.open == []
    assert not {"script", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert all(v.startswith("#") for v in page.values("href"))
    assert page.values("src")
    assert all(v.startswith("data:image/png;base64,") for v in page.values("src"))
    assert not [n for _, n, _ in page.attributes if n.startswith("on") or n == "style"]
    style = "".join(page.words)
    assert "url(" not in style
    assert "@import" not in style
    policy = page.values("content", "meta")[0]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'; img-src data:")


def test_every_link_and_label_leads_to_one_element(page):
    ids = page.values("id")
    assert len(ids) == len(set(ids))
    wanted = [v.removeprefix("#") for v in page.values("href")]
    wanted += [name for v in page.values("aria-labelledby") for name in v.split()]
    assert set(wanted) <= set(ids)


def test_structure_for_assistive_technology(page):
    assert page.values("lang", "html") == ["en"]
    assert page.tags.count("h1") == page.tags.count("main") == page.tags.count("nav") == 1
    levels = [int(t[1]) for t in page.tags if re.fullmatch(r"h[1-6]", t)]
    assert all(b - a <= 1 for a, b in itertools.pairwise(levels))
    assert page.tags.count("caption") == page.tags.count("table")
    assert len(page.values("scope", "th")) == page.tags.count("th")
    assert page.values("class", "div").count("scroll") == len(page.values("tabindex", "div"))
    named = [v for t, n, v in page.attributes if (t, n) == ("svg", "role")]
    assert len(named) == len(page.values("aria-labelledby", "svg")) > 6
    hidden = page.values("aria-hidden", "svg")
    assert len(named) + len(hidden) + len(page.values("preserveaspectratio", "svg")) == page.tags.count("svg")
    assert all(page.values("alt", "img"))


def test_the_verdict_is_first_and_says_why(view, page):
    text = " ".join(" ".join(page.words).split())
    worst = worst_gate(view.verdict.gates)
    assert worst is not None
    assert worst.decision == "reject" == view.verdict.decision
    at = [
        text.index(w) for w in ("REJECT", "may not ship", f"Decided by: {question(worst)}", "Gates The dot")
    ]
    assert at == sorted(at)
    reason = worst.reason[1:]
    assert text.index(reason) < at[-1]


def test_every_part_is_there(view, page):
    assert page.values("id", "section") == [
        "verdict", "gates", "chain", "candidates", "latency", "slices", "fidelity", "flips", "notes", "provenance",
        "environment", "again",
    ]  # fmt: skip
    text = html.unescape(" ".join(page.words))
    for gate in view.verdict.gates:
        assert gate.gate.startswith("slice") or gate.reason in text
    for said in ("edgekd gate RUN --policy", "involuntary_switches", "CIFAR-10", "is to blame", "sha256:"):
        assert said in text, said
    assert page.values("src") and len(page.values("src")) <= 20


def test_failing_slices_come_first(page):
    text = " ".join(page.words)
    part = text[text.index("Failing slices first") :]
    found = re.findall(r"REJECT|INCONCLUSIVE|PASS|NOT RUN", part[: part.index("Flips")])
    order = ["REJECT", "INCONCLUSIVE", "PASS", "NOT RUN"]
    assert found[0] == "REJECT"
    assert found == sorted(found, key=order.index)
    assert len(found) == 8


def test_a_hundred_slices_fold_only_what_does_not_fail(folder):
    verdict = load_verdict(folder / "verdict.json")
    one = next(g for g in verdict.gates if g.gate == "slice:site" and g.decision == "pass")
    failing = [dataclasses.replace(one, slice=f"bad-{i}", decision="reject") for i in range(OPEN_ROWS + 5)]
    passing = [dataclasses.replace(one, slice=f"good-{i}") for i in range(70)]
    changed = dataclasses.replace(verdict, gates=(*passing, *failing))
    text = render_html(dataclasses.replace(load_view(folder), verdict=changed))
    opened, _, folded = text[text.index('id="slices"') :].partition("<details>")
    assert all(f"site = {g.slice}<" in opened for g in failing)
    assert all(f"site = {g.slice}<" in folded for g in passing)
    assert "70 more slices" in folded


def test_names_ids_and_reasons_stay_text(tmp_path):
    make_page_run(tmp_path, n=300, calls=6, candidates=3, hostile=HOSTILE.replace("\ud800", ""))
    view = load_view(tmp_path)
    gates = tuple(dataclasses.replace(g, reason=g.reason + HOSTILE) for g in view.verdict.gates)
    view = dataclasses.replace(view, verdict=dataclasses.replace(view.verdict, gates=gates))
    text = render_html(view)
    text.encode("utf-8")
    found = Page(text)
    assert found.open == []
    assert "script" not in found.tags
    assert not [n for _, n, _ in found.attributes if n.startswith("on")]
    assert all(v.startswith("data:") for v in found.values("src"))
    assert not set("\x00\u202e\ud800") & set(text)
    seen = html.unescape(text)
    for said in ("cifar10-resnet", "resnet20-float32", "no NVIDIA driver", "AMD EPYC 9B45", "of one."):
        assert f"{said}{SPOKEN}" in seen, said
    assert re.search(r"test-\d{5}" + re.escape(SPOKEN), seen)
    assert re.search(r"site-\d\d" + re.escape(SPOKEN), seen)


def test_a_run_with_nothing_but_gates_has_a_page(tmp_path):
    run = make_run(tmp_path, with_latency=False, policy={"size": {"max_mib": 1.0}})
    judge_run(tmp_path, run, GatesBlock.model_validate(run.policy)).save(tmp_path / "verdict.json")
    (tmp_path / "evidence/test/teacher.npz").unlink()
    found = Page(render(tmp_path, "html"))
    assert "latency" not in found.values("id", "section")
    assert "pareto" not in found.values("class", "svg")
    assert load_run(tmp_path).name in "".join(found.words)


def _gate(**changes: object) -> Gate:
    values: dict[str, object] = {
        "gate": "accuracy", "decision": "pass", "metric": "top1", "against": "teacher", "artifact": "sha256:1",
        "target": "cpu:onnxruntime", "estimate": -0.004, "interval": (-0.008, 0.0), "limit": -0.01,
        "unit": "fraction",
    }  # fmt: skip
    return Gate(**{**values, **changes})  # type: ignore[arg-type]


def test_the_worst_gate_is_the_one_with_the_least_room():
    near, far = _gate(), _gate(gate="latency", unit="ratio", estimate=0.5, interval=(0.4, 0.6), limit=1.0)
    assert slack(near) == pytest.approx(0.2)
    assert slack(far) == pytest.approx(0.4)
    assert worst_gate([far, near]) is near
    assert worst_gate([near, dataclasses.replace(far, decision="inconclusive")]).decision == "inconclusive"
    assert worst_gate([]) is None


@pytest.mark.parametrize("interval", [None, (None, 0.1), (-0.1, None), (float("-inf"), 0.1), (0.02, 0.02)])
def test_a_gate_is_drawn_whatever_its_bounds(interval):
    drawn = gate_plot(_gate(interval=interval, estimate=0.02), 0)
    assert drawn is not None
    assert "nan" not in drawn
    assert "inf" not in drawn.replace("information", "")


@pytest.mark.parametrize("estimate", [None, float("nan"), float("inf")])
def test_a_gate_without_a_figure_is_not_drawn(estimate):
    assert gate_plot(_gate(estimate=estimate), 0) is None


def test_50_artifacts_weigh_under_5_mb(tmp_path):
    make_page_run(tmp_path, candidates=50, n=200, calls=8)
    assert len(render(tmp_path, "html").encode()) < 5_000_000


def _luminance(colour: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2, *relative luminance*)."""
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def _contrast(a: str, b: str) -> float:
    low, high = sorted((_luminance(a), _luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_colours_are_told_apart_in_both_schemes():
    """Text 4.5:1 on whatever it stands on, marks 3:1 (WCAG 2.2, 1.4.3 and 1.4.11)."""
    sheet = files("edgekd.report.html").joinpath("style.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
        for block in re.findall(r":root \{(.*?)\}", sheet, re.S)[:2]
    )
    assert light.keys() == dark.keys()
    decisions = ("pass", "reject", "inconclusive", "error", "not_run")
    for scheme in (light, dark):
        text = [(a, b) for a in ("ink", "soft") for b in ("paper", "card")]
        text += [("link", "paper"), ("ink", "allowed")]
        text += [(d, b) for d in decisions for b in ("paper", "card", f"{d}-tint")]
        marks = [(d, b) for d in decisions for b in ("allowed", "track")]
        marks += [(f"arm{i}", "paper") for i in range(4)] + [("allowed-line", "paper"), ("focus", "paper")]
        for least, pairs in ((4.5, text), (3.0, marks)):
            for a, b in pairs:
                assert _contrast(scheme[a], scheme[b]) >= least, (a, b, _contrast(scheme[a], scheme[b]))


def test_graded_scores_get_worse_and_do_not_flip(tmp_path):
    folder = make_graded_run(tmp_path / "run")
    page = Page(render(folder, "html"))
    said = " ".join(page.words)
    assert "Largest worsenings: what the student answers worse than the teacher" in said
    assert "teacher's error, label units" in said
    assert "greatest excess error" in said or "By excess error" in said
    assert "Flip" not in said
    assert "minus the score" not in said
    assert "mae, label units" in said
