"""Every view of a run, for every decision."""

import html
import json
import re
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from fixtures_run import TARGET, make_run

from edgekd.cli import report as cli
from edgekd.errors import EvidenceError, UsageError
from edgekd.evidence.run import AbsentTarget, load_run
from edgekd.gates import judge_run
from edgekd.recipe import GatesBlock
from edgekd.report import FORMATS, load_view, render, render_runs
from edgekd.report.view import flatten, ledger_ranges
from edgekd.report.words import mebibytes, milliseconds, points

SCENES = {
    "pass": {},
    "reject": {"lost": 200},
    "inconclusive": {"n": 200},
    "error": {},
}


def judge(folder: Path) -> Path:
    run = load_run(folder)
    judge_run(folder, run, GatesBlock.model_validate(run.policy)).save(folder / "verdict.json")
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    made = {}
    for decision, options in SCENES.items():
        folder = tmp_path_factory.mktemp("runs") / decision
        absent = AbsentTarget(target="cuda:tensorrt", required=False, reason="no <GPU> & no driver")
        make_run(folder, absent=[absent], **options)
        if decision == "error":
            (folder / "evidence/test/student-int8.npz").unlink()
        made[decision] = judge(folder)
    return made


@pytest.mark.parametrize("decision", SCENES)
@pytest.mark.parametrize("format", ["text", "md", "html", "junit"])
def test_every_view_says_the_decision_and_why(runs, decision, format):
    text = render(runs[decision], format)
    view = load_view(runs[decision])
    assert view.verdict.decision == decision
    words = {"junit": f'value="{decision}"'}.get(format, decision.upper())
    assert words in text
    plain = html.unescape(re.sub(r"\\([|_\[\]])", r"\1", text))
    for gate in view.verdict.gates:
        # Markdown is short: of what passed the table is enough.
        assert gate.reason in plain or (format == "md" and gate.decision == "pass")


@pytest.mark.parametrize("decision", SCENES)
@pytest.mark.parametrize("format", FORMATS)
def test_equal_folders_give_equal_bytes(runs, decision, format, tmp_path, monkeypatch):
    text = render(runs[decision], format)
    shutil.copytree(runs[decision], tmp_path / "another place")
    monkeypatch.setattr(time, "gmtime", lambda *a: time.struct_time((1999, 1, 1, 0, 0, 0, 0, 1, 0)))
    assert text.encode() == render(tmp_path / "another place", format).encode()
    assert text.endswith("\n")
    assert "\r" not in text


@pytest.mark.parametrize("format", ["sarif", "bmf", "github-action-benchmark", "pytest-benchmark"])
def test_runs_in_one_json_document(runs, format, tmp_path):
    make_run(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"synthetic"', '"another"'))
    both = [runs["pass"], judge(tmp_path)]
    sizes = [len(_items(format, render_runs(f, format))) for f in ([both[0]], [both[1]], both)]
    assert sizes[0] + sizes[1] == sizes[2] > 1
    with pytest.raises(UsageError, match="two of the runs are called 'synthetic'"):
        render_runs([runs["pass"], runs["reject"]], format)


def _items(format, text):
    value = json.loads(text)
    return value[{"sarif": "runs", "pytest-benchmark": "benchmarks"}[format]] if format[0] in "sp" else value


def test_the_verb_knows_every_format():
    assert cli.FORMATS == FORMATS


def test_several_runs_for_people(runs):
    both = render_runs([runs["pass"], runs["reject"]], "md")
    assert both == render(runs["pass"], "md") + "\n" + render(runs["reject"], "md")
    with pytest.raises(UsageError, match="an HTML report is of one run"):
        render_runs([runs["pass"], runs["reject"]], "html")


@pytest.mark.parametrize("format", ["text", "md", "html"])
def test_tables(runs, format):
    text = render(runs["pass"], format).replace("\\[", "[")
    for figure in ("89.50 %", "-0.50", "0.500x", "0.504 ms", "+2.40 [", "The margin is 3 points", "p99"):
        assert figure in text, figure


def test_text_is_plain_unless_colour_is_asked(runs):
    assert "\033" not in render(runs["reject"], "text")
    assert "\033[1;31mREJECT\033[0m" in render(runs["reject"], "text", colour=True)
    assert "\033" not in render(runs["reject"], "md", colour=True)


class _Page(HTMLParser):
    VOID = ("meta", "br", "link", "img")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.parametrize("decision", SCENES)
def test_html_is_whole_and_needs_nothing_from_outside(runs, decision):
    text = render(runs[decision], "html")
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    outside = [a for a in page.attributes if a[0] in ("src", "href") and not str(a[1]).startswith("#")]
    assert not outside
    assert not [a for a in page.attributes if a[0].startswith("on")]
    assert "url(" not in text
    assert "@import" not in text
    assert "no &lt;GPU&gt; &amp; no driver" in text


def test_names_cannot_break_out(tmp_path):
    run = make_run(tmp_path)
    (tmp_path / "run.json").write_text(
        (tmp_path / "run.json").read_text().replace('"synthetic"', '"<script>x</script>|\\n# y\\u0001"')
    )
    assert run.name == "synthetic"
    judge(tmp_path)
    assert "<script>" not in render(tmp_path, "html")
    markdown = render(tmp_path, "md")
    assert "<script>" not in markdown
    assert "\n# y" not in markdown
    ElementTree.fromstring(render(tmp_path, "junit"))


@pytest.mark.parametrize(
    ("decision", "counts", "element"),
    [
        ("pass", (3, 0, 0, 0), None),
        ("reject", (3, 1, 0, 0), "failure"),
        ("inconclusive", (3, 0, 1, 0), "error"),
        ("error", (3, 0, 1, 0), "error"),
    ],
)
def test_junit(runs, decision, counts, element):
    root = ElementTree.fromstring(render(runs[decision], "junit"))
    here, away = root.findall("testsuite")
    assert tuple(int(here.get(k)) for k in ("tests", "failures", "errors", "skipped")) == counts
    assert away.get("skipped") == "3"
    assert len(away.findall("testcase/skipped")) == 3
    cases = {c.get("name"): c for c in here.findall("testcase")}
    assert set(cases) == {"accuracy", "latency", "size"}
    if element:
        assert cases["accuracy"].find(element).get("type") == decision


def test_optional_targets_are_marked(tmp_path):
    make_run(tmp_path, lost=200, optional=[TARGET])
    judge(tmp_path)
    assert "does not decide" in render(tmp_path, "text")
    root = ElementTree.fromstring(render(tmp_path, "junit"))
    assert root.find("testsuite").get("failures") == "0"


def test_a_damaged_run_still_has_a_report(tmp_path):
    make_run(tmp_path)
    (tmp_path / "evidence/test/naive-0.npz").unlink()
    (tmp_path / "evidence/select/latency-student-float32.npz").write_bytes(b"x")
    judge(tmp_path)
    for format in ("text", "md", "html"):
        text = render(tmp_path, format)
        assert "The chain is not shown" in text
        assert "Timings are not shown" in text


def test_no_verdict_no_report(tmp_path):
    make_run(tmp_path)
    with pytest.raises(EvidenceError, match=r"verdict\.json does not exist"):
        render(tmp_path, "md")
    with pytest.raises(UsageError, match="unknown report format 'pdf'"):
        render(judge(tmp_path), "pdf")


def test_the_markdown_tables_are_tables(runs):
    for block in re.split(r"\n\n", render(runs["pass"], "md")):
        rows = [line for line in block.splitlines() if line.startswith("|")]
        assert len({len(re.findall(r"(?<!\\)\|", r)) for r in rows}) <= 1


def test_figures():
    assert points(-0.0042) == "-0.42"
    assert points(-0.0) == "+0.00"
    assert milliseconds(1_234_567) == "1.235 ms"
    assert milliseconds(4_200) == "4.20 µs"
    assert mebibytes(3 << 20) == "3.00 MiB"
    assert mebibytes(600) == "0.59 KiB"


def test_ledger_and_environment_rows():
    assert flatten({"cpu": {"model": "x", "flags": ["avx2", "vnni"]}, "governor": None}) == [
        ("cpu.model", "x"),
        ("cpu.flags", "avx2, vnni"),
        ("governor", "unavailable"),
    ]
    assert ledger_ranges(({"steal": 0.0, "mhz": None}, {"steal": 0.02, "mhz": None})) == [
        ("mhz", "unavailable"),
        ("steal", "0 to 0.02"),
    ]
