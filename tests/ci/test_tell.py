"""One comment per name on a pull or merge request, and the job's summary where there may be none."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from fixtures_forge import GITLAB_USER, Forge, serving

from edgekd.ci.comment import marker
from edgekd.ci.tell import Outcome, tell


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as made:
        yield made


@pytest.fixture
def environ(forge: Forge, tmp_path: Path) -> dict[str, str]:
    event = {"pull_request": {"number": 7, "head": {"sha": "a" * 40}}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    return {
        **forge.environ,
        "GITHUB_EVENT_PATH": str(tmp_path / "event.json"),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
        "EDGEKD_TOKEN": "secret",
    }


def say_all(
    environ: Mapping[str, str], tmp_path: Path, log: str = "first", name: str = "digits"
) -> tuple[bool, list[str]]:
    """Whether a comment was written, and the lines: what somebody should see is marked with `!`."""
    said: list[str] = []
    outcome = Outcome(
        name=name,
        folder=tmp_path / "no-run",
        code=2,
        log=f"edgekd: error: {log}",
        evidence_url="https://github.example/artifact/7",
    )
    told = tell(
        outcome, environ=environ, comments=True, say=said.append, warn=lambda line: said.append(f"!{line}")
    )
    return told, said


def test_a_second_run_updates_the_comment_of_the_first(
    forge: Forge, environ: dict[str, str], tmp_path: Path
) -> None:
    for i in range(5):
        forge.add_comment(f"talk {i}", {"login": "octocat", "type": "User"})
    assert say_all(environ, tmp_path) == (True, [])
    assert say_all(environ, tmp_path, "second") == (True, [])
    assert len(forge.comments) == 6
    body = forge.comments[-1]["body"]
    assert body.startswith(marker("digits"))
    assert "second" in body
    assert "first" not in body
    assert "(https://github.example/team/models/actions/runs/42/attempts/2)" in body
    assert "[evidence](https://github.example/artifact/7)" in body
    assert "commit `aaaaaaaaaaaa`" in body
    assert "second" in Path(environ["GITHUB_STEP_SUMMARY"]).read_text()


def test_each_name_has_its_own_comment(forge: Forge, environ: dict[str, str], tmp_path: Path) -> None:
    for name in ("digits", "digits-2", "digits"):
        say_all(environ, tmp_path, name=name)
    assert [c["body"].splitlines()[0] for c in forge.comments] == [marker("digits"), marker("digits-2")]


def test_a_marker_that_somebody_else_wrote_is_not_ours(
    forge: Forge, environ: dict[str, str], tmp_path: Path
) -> None:
    forge.add_comment(f"{marker('digits')}\nmine", {"login": "octocat", "type": "User"})
    forge.add_comment(f"> {marker('digits')}\nquoted")
    say_all(environ, tmp_path)
    assert [c["body"].endswith(("mine", "quoted")) for c in forge.comments] == [True, True, False]


def test_a_users_token_finds_its_own_comment(forge: Forge, environ: dict[str, str], tmp_path: Path) -> None:
    forge.login = "octocat"
    forge.add_comment(f"{marker('digits')}\nmine", {"login": "octocat", "type": "User"})
    say_all(environ, tmp_path)
    assert len(forge.comments) == 1
    assert "first" in forge.comments[0]["body"]


def test_a_fork_has_the_summary(forge: Forge, environ: dict[str, str], tmp_path: Path) -> None:
    forge.may_write = False
    told, said = say_all(environ, tmp_path)
    assert (told, forge.comments) == (False, [])
    assert said == ["!no comment: GitHub answered 403 Resource not accessible by integration"]
    assert "first" in Path(environ["GITHUB_STEP_SUMMARY"]).read_text()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"EDGEKD_TOKEN": ""}, "no comment: there is no token"),
        ({"GITHUB_EVENT_PATH": ""}, "no comment: this job is not about a pull request"),
        ({"GITHUB_REPOSITORY": "team/hidden"}, "!no comment: GitHub answered 404 Not Found"),
    ],
)
def test_where_no_comment_is_possible_the_summary_has_it(
    change: dict[str, str], says: str, environ: dict[str, str], tmp_path: Path
) -> None:
    told, said = say_all({**environ, **change}, tmp_path)
    assert (told, said) == (False, [says])
    assert "first" in Path(environ["GITHUB_STEP_SUMMARY"]).read_text()


def test_a_comment_that_was_deleted_meanwhile_is_written_anew(
    forge: Forge, environ: dict[str, str], tmp_path: Path
) -> None:
    forge.add_comment(f"{marker('digits')}\nold")
    forge.faults.append(("PATCH", "/comments", 404, {}, "Not Found"))
    assert say_all(environ, tmp_path)[0]
    assert len(forge.comments) == 2


def test_a_lost_answer_makes_no_second_comment(
    forge: Forge, environ: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server took the comment and failed to say so."""
    monkeypatch.setattr("time.sleep", lambda s: None)
    forge.faults.append(("POST", "/comments", 502, {}, "Bad Gateway"))
    forge.add_comment("talk")
    original = forge.faults.remove

    def taken(fault: tuple[str, str, int, dict[str, str], str]) -> None:
        original(fault)
        forge.add_comment(f"{marker('digits')}\nwritten all the same")

    monkeypatch.setattr(forge, "faults", _Calling(forge.faults, taken))
    assert say_all(environ, tmp_path)[0]
    assert [c["body"].splitlines()[0] for c in forge.comments] == ["talk", marker("digits")]


class _Calling(list):  # type: ignore[type-arg]
    def __init__(self, items, remove) -> None:  # type: ignore[no-untyped-def]
        super().__init__(items)
        self.remove = remove


def test_a_short_rate_limit_is_waited_for(forge: Forge, environ: dict[str, str], tmp_path: Path) -> None:
    forge.faults.append(("POST", "/comments", 403, {"Retry-After": "0"}, "secondary rate limit"))
    assert say_all(environ, tmp_path) == (True, [])


def test_a_forge_that_is_down_changes_no_exit_code(
    forge: Forge, environ: dict[str, str], tmp_path: Path
) -> None:
    forge.faults += [("GET", "/comments", 429, {"Retry-After": "900"}, "later")]
    told, said = say_all(environ, tmp_path)
    assert not told
    assert said[0].startswith("!no comment: ")
    assert "asks to wait 900 s" in said[0]


@pytest.fixture
def gitlab(forge: Forge, tmp_path: Path) -> dict[str, str]:
    return {**forge.gitlab_environ}


def test_a_merge_request_has_one_note(forge: Forge, gitlab: dict[str, str], tmp_path: Path) -> None:
    forge.add_comment("talk", {"id": 1})
    forge.add_comment(f"{marker('digits')}\nnot ours", {"id": 2})
    assert say_all(gitlab, tmp_path) == (True, [])
    assert say_all(gitlab, tmp_path, "second") == (True, [])
    assert [c["author"]["id"] for c in forge.comments] == [1, 2, GITLAB_USER["id"]]
    assert "second" in forge.comments[-1]["body"]
    assert "[run](https://gitlab.example/team/models/-/jobs/5)" in forge.comments[-1]["body"]
    assert "[evidence](https://github.example/artifact/7)" in forge.comments[-1]["body"]
    assert {token for _, _, token in forge.asked} == {"gl-secret"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"EDGEKD_GITLAB_TOKEN": ""}, "no comment: there is no token (EDGEKD_GITLAB_TOKEN)"),
        ({"CI_MERGE_REQUEST_IID": ""}, "no comment: this job is not about a merge request"),
    ],
)
def test_without_a_token_or_a_merge_request_there_is_no_note(
    change: dict[str, str], says: str, gitlab: dict[str, str], forge: Forge, tmp_path: Path
) -> None:
    told, said = say_all({**gitlab, **change}, tmp_path)
    assert (told, said, forge.asked) == (False, [says], [])
