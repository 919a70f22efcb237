"""A pull request's sticky comment, through GitHub's REST API (issues/comments, version 2022-11-28)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgekd.ci.api import Api, Reply
from edgekd.documents import parse_json, read_plain_file
from edgekd.errors import InfrastructureError, InputError

_HEADERS = {
    "Accept": "application/vnd.github+json",
    "X-GitHub-Api-Version": "2022-11-28",
    "User-Agent": "edgekd",
}


def api_of(environ: Mapping[str, str]) -> Api:
    """GITHUB_API_URL with EDGEKD_TOKEN, GITHUB_TOKEN or GH_TOKEN, whichever is set first.

    Raises:
        UsageError: the address is not http(s).
    """
    token = next(filter(None, map(environ.get, ("EDGEKD_TOKEN", "GITHUB_TOKEN", "GH_TOKEN"))), "")
    return Api(
        base=(environ.get("GITHUB_API_URL") or "https://api.github.com").rstrip("/"),
        secret={"Authorization": f"Bearer {token}"} if token else {},
        headers=_HEADERS,
    )


def event_of(environ: Mapping[str, str]) -> dict[str, Any]:
    """The event that started the job; empty where there is none."""
    path = Path(environ.get("GITHUB_EVENT_PATH") or "/nonexistent")
    try:
        value = parse_json(read_plain_file(path, InputError))
    except (OSError, ValueError, InputError):
        return {}  # outside of GitHub Actions
    return value if isinstance(value, dict) else {}


def pull_request_of(event: Mapping[str, Any]) -> int | None:
    """The number of the pull request that an event is about."""
    found = event.get("pull_request")
    if not isinstance(found, dict):
        issue = event.get("issue")
        found = issue if isinstance(issue, dict) and "pull_request" in issue else {}
    number = found.get("number")
    return number if isinstance(number, int) else None


def commit_of(event: Mapping[str, Any], environ: Mapping[str, str]) -> str:
    """The commit that was pushed; GITHUB_SHA of a pull request is a merge that nobody knows."""
    pull = event.get("pull_request")
    head = pull.get("head") if isinstance(pull, dict) else None
    sha = head.get("sha") if isinstance(head, dict) else None
    return sha if isinstance(sha, str) else environ.get("GITHUB_SHA", "")


def run_url_of(environ: Mapping[str, str]) -> str:
    """Where the job's log is; empty outside of GitHub Actions."""
    server, repository, run = map(environ.get, ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID"))
    if not (server and repository and run):
        return ""
    attempt = environ.get("GITHUB_RUN_ATTEMPT")
    return f"{server}/{repository}/actions/runs/{run}" + (f"/attempts/{attempt}" if attempt else "")


def put_comment(api: Api, repository: str, number: int, marker: str, body: str) -> str:
    """Update the comment that begins with ``marker``, or write a first one.

    Only a comment of a bot, or of the token's own user, counts: anyone may write a marker.

    Args:
        api: with a token; repository: ``owner/name``; number: of the pull request.
        marker: the first line of ``body``.

    Returns:
        Empty when it is there; else why it cannot be written (a fork's token, a locked conversation).

    Raises:
        InfrastructureError: no answer, or a server error.
    """
    comments = f"repos/{repository}/issues/{number}/comments"
    refusal = _update(api, repository, comments, marker, body)
    if refusal is not None:
        return refusal
    try:
        reply = api.request("POST", comments, {"body": body}, repeat=False)
    except InfrastructureError:
        # The answer was lost, and perhaps only the answer: look before a second comment is written.
        api.sleep(1.0)
        refusal = _update(api, repository, comments, marker, body)
        if refusal is not None:
            return refusal
        reply = api.request("POST", comments, {"body": body}, repeat=False)
    return "" if reply.status == 201 else _refusal(reply)


def _update(api: Api, repository: str, comments: str, marker: str, body: str) -> str | None:
    """Empty: updated; text: why not; None: there is no comment of ours yet."""
    me: str | None = None
    for comment in api.pages(f"{comments}?per_page=100"):
        if isinstance(comment, Reply):
            return _refusal(comment)
        if not str(comment.get("body") or "").startswith(marker):
            continue
        user = comment.get("user") or {}
        if user.get("type") != "Bot":
            if me is None:
                me = _login(api)
            if not me or user.get("login") != me:
                continue
        reply = api.request("PATCH", f"repos/{repository}/issues/comments/{comment['id']}", {"body": body})
        if reply.status == 200:
            return ""
        if reply.status != 404:  # deleted meanwhile: write a new one
            return _refusal(reply)
    return None


def _login(api: Api) -> str:
    """Whose token it is; empty for a token of an app, which may not ask."""
    reply = api.request("GET", "user")
    found = reply.json()
    return str(found.get("login", "")) if reply.status == 200 and isinstance(found, dict) else ""


def _refusal(reply: Reply) -> str:
    return f"GitHub answered {reply.status} {reply.message}".rstrip()
