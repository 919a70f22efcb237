"""The text of the sticky comment: its marker, its limits, and that it addresses nobody."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from fixtures_run import make_run

from edgekd.ci import comment
from edgekd.ci.tell import Outcome, report_of
from edgekd.evidence.run import load_run
from edgekd.gates.judge import judge_run
from edgekd.gates.verdict import load_verdict
from edgekd.policy import GatesBlock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = make_run(tmp_path / "run")
    judge_run(tmp_path / "run", run, GatesBlock.model_validate(dict(run.policy))).save(
        tmp_path / "run/verdict.json"
    )
    return tmp_path / "run"


def body(folder: Path, name: str = "synthetic", characters: int = 65_536) -> str:
    outcome = Outcome(name=name, folder=folder, code=0, log="")
    return comment.body_of(name, report_of(outcome), "footer", characters=characters)


def test_the_verdict_comes_first_then_the_figures(folder: Path) -> None:
    lines = body(folder).splitlines()
    assert lines[0] == "<!-- edgekd:synthetic -->"
    assert "PASS" in lines[1]
    text = "\n".join(lines)
    for expected in (
        "accuracy",
        "latency",
        "size",
        "| distilled student |",
        "| as INT8 |",
        "0.500x",
        "0.493x",
    ):
        assert expected in text, expected
    assert text.rstrip().endswith("footer")


@pytest.mark.parametrize("name", ["a-->", "<b>", "a--b", "x\ny", "@team", "-", "ä/ö"])
def test_no_name_closes_the_marker(name: str) -> None:
    made = comment.marker(name)
    assert re.fullmatch(r"<!-- edgekd:[A-Za-z0-9._%~-]+ -->", made)
    assert "--" not in made[4:-4]


def test_other_names_have_other_markers() -> None:
    names = ["a", "a-", "a--b", "a-%2Db", "a-%2D", "a%", "A", "a b", "a-b", "a---b"]
    assert len({comment.marker(n) for n in names}) == len(names)


HOSTILE = "<img src=x onerror=alert(1)> @octocat <!-- edgekd:other --> </details> #12 | `x` ![i](http://x/y)"


def test_a_hostile_name_and_reason_inject_nothing(folder: Path) -> None:
    run = load_run(folder)
    replace(run, name=HOSTILE).save(folder)
    verdict = load_verdict(folder / "verdict.json")
    gates = tuple(replace(g, reason=HOSTILE, decision="reject") for g in verdict.gates)
    replace(verdict, gates=gates, decision="reject").save(folder / "verdict.json")
    text = body(folder, HOSTILE) + comment.footer_of(HOSTILE, {}, "")
    assert "<img" not in text
    assert text.count("<!--") == 1
    assert not re.search(r"@[A-Za-z0-9]", text)
    assert not re.search(r"(?<!\\)!\[i\]\(http", text)
    assert text.count("<details") == text.count("</details>")
    assert not re.search(r"(?<![&\w])#\d", text)


def test_no_line_is_a_quick_action() -> None:
    made = comment.defuse("fine\n/close\n  /assign @me\na /path stays, as does src/a\n")
    assert not re.search(r"^\s*/[a-z]", made, flags=re.M)
    assert "a /path stays, as does src/a" in made


def test_a_long_report_is_cut_at_a_line_and_closes_what_it_opened() -> None:
    long = (
        "# verdict\n\n<details><summary>s</summary>\n\n```text\n"
        + "a line of forty characters or so\n" * 9000
    )
    made = comment.body_of("n", long, "the footer", characters=comment.GITHUB_COMMENT_CHARACTERS)
    assert 60_000 < len(made) <= 65_536
    assert made.startswith("<!-- edgekd:n -->\n# verdict")
    assert made.rstrip().endswith("the footer")
    assert "Shortened" in made
    assert made.count("```") == 2
    assert made.count("<details>") == made.count("</details>") == 1


def test_mentions_that_grow_the_text_stay_within_the_limit() -> None:
    made = comment.body_of("n", "@a\n" * 30_000, "f", characters=comment.GITHUB_COMMENT_CHARACTERS)
    assert len(made) <= 65_536


def test_the_summary_keeps_its_limit_in_bytes() -> None:
    made = comment.summary_of("ä🙂" * 10 + "\n" + "🙂🙂🙂\n" * 90_000, "footer")
    assert len(made.encode()) <= 1 << 20
    assert made.rstrip().endswith("footer")


def test_without_a_verdict_the_last_error_is_told(tmp_path: Path) -> None:
    log = "student: evaluating\n\x1b[31medgekd: error: no model\x1b[0m `a` ```b``` @octocat <b>\nTraceback?\n"
    text = report_of(Outcome(name="digits", folder=tmp_path, code=2, log=log))
    assert text.startswith("# digits: ⚠️ ERROR: wrong input\n")
    assert "This is not a pass." in text
    # In a fence longer than any in the line, nothing of it is Markdown.
    assert "````text\nedgekd: error: no model `a` ```b``` @octocat <b>\n````" in text


def test_a_damaged_verdict_is_told_as_such(folder: Path) -> None:
    (folder / "verdict.json").write_text("{")
    text = report_of(Outcome(name="digits", folder=folder, code=0, log=""))
    assert "ERROR: wrong input" in text
    assert "not JSON" in text


def test_only_web_addresses_become_links() -> None:
    links = {"run": "https://x.example/1", "evidence": "javascript:alert(1)", "more": "https://x/)(y"}
    made = comment.footer_of("n", links, "not a commit")
    assert "[run](https://x.example/1)" in made
    assert "evidence" not in made
    assert "more" not in made
    assert "commit" not in made
