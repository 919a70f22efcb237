"""Tells what a gate came to: the job's summary always, the sticky comment where the token may."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from edgekd.ci import comment, github, gitlab
from edgekd.errors import EdgeKDError, InfrastructureError


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What there is to tell.

    Attributes:
        name: the gate's name; its comment is found by it.
        folder: the run folder; it may be missing, or without a verdict.
        code: how the gate ended; None where that is not known.
        log: the gate's stderr.
        evidence_url: where the run folder was uploaded; empty where it was not.
    """

    name: str
    folder: Path
    code: int | None
    log: str
    evidence_url: str = ""


def report_of(outcome: Outcome) -> str:
    """The Markdown of a verdict, else a notice of what happened instead."""
    from edgekd.report import render

    if comment.has_verdict(outcome.folder):
        try:
            return render(outcome.folder, "md")
        except EdgeKDError as e:
            return comment.notice(outcome.name, e.exit_code, f"edgekd: error: {e}")
    return comment.notice(outcome.name, 4 if outcome.code is None else outcome.code, outcome.log)


def tell(
    outcome: Outcome,
    *,
    environ: Mapping[str, str],
    comments: bool,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> bool:
    """Write the job's summary, then the comment.

    A comment that cannot be written changes no exit code: what it would say stands in the summary.

    Args:
        outcome: what to tell.
        environ: the job's environment; GitHub's and GitLab's variables say where it runs.
        comments: False for the summary alone.
        say: takes one line for the log: no comment was to be expected (a push, a job without a token).
        warn: takes one line that somebody should see: a comment was refused, or the forge did not answer.

    Returns:
        Whether a comment was written.
    """
    report = report_of(outcome)
    event = github.event_of(environ)
    on_gitlab = environ.get("GITLAB_CI") == "true"
    run_url = environ.get("CI_JOB_URL", "") if on_gitlab else github.run_url_of(environ)
    commit = environ.get("CI_COMMIT_SHA", "") if on_gitlab else github.commit_of(event, environ)
    evidence = outcome.evidence_url or (f"{run_url}/artifacts/browse" if on_gitlab and run_url else "")
    footer = comment.footer_of(outcome.name, {"run": run_url, "evidence": evidence}, commit)
    if path := environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(comment.summary_of(report, footer))
    if not comments:
        return False
    try:
        if on_gitlab:
            refusal = _to_gitlab(outcome, report, footer, environ)
        else:
            refusal = _to_github(outcome, report, footer, environ, github.pull_request_of(event))
    except _NobodyToTellError as e:
        say(f"no comment: {e}")
        return False
    except InfrastructureError as e:
        refusal = str(e)
    if refusal:
        warn(f"no comment: {refusal}")
    return not refusal


class _NobodyToTellError(Exception):
    """There is no pull request, or nothing to write to it with."""


def _to_github(
    outcome: Outcome, report: str, footer: str, environ: Mapping[str, str], number: int | None
) -> str:
    if number is None:
        raise _NobodyToTellError("this job is not about a pull request")
    api = github.api_of(environ)
    if not api.secret:
        raise _NobodyToTellError("there is no token")
    body = comment.body_of(outcome.name, report, footer, characters=comment.GITHUB_COMMENT_CHARACTERS)
    return github.put_comment(
        api, environ.get("GITHUB_REPOSITORY", ""), number, comment.marker(outcome.name), body
    )


def _to_gitlab(outcome: Outcome, report: str, footer: str, environ: Mapping[str, str]) -> str:
    where, api = gitlab.merge_request_of(environ), gitlab.api_of(environ)
    if where is None:
        raise _NobodyToTellError("this job is not about a merge request")
    if api is None:
        raise _NobodyToTellError(f"there is no token ({gitlab.TOKEN})")
    body = comment.body_of(outcome.name, report, footer, characters=comment.GITLAB_NOTE_CHARACTERS)
    return gitlab.put_note(api, where, comment.marker(outcome.name), body)
