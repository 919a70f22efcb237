"""A merge request's sticky note, through GitLab's REST API (v4, merge request notes)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from edgekd.ci.api import Api, Reply

TOKEN = "EDGEKD_GITLAB_TOKEN"


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeRequest:
    """Which merge request: the project that it goes to, and its number there."""

    project: str
    iid: str


def api_of(environ: Mapping[str, str]) -> Api | None:
    """CI_API_V4_URL with EDGEKD_GITLAB_TOKEN; None without them: a job's own token may not write notes."""
    base, token = environ.get("CI_API_V4_URL", ""), environ.get(TOKEN, "")
    if not base or not token:
        return None
    return Api(base=base.rstrip("/"), secret={"Private-token": token}, headers={"User-Agent": "edgekd"})


def merge_request_of(environ: Mapping[str, str]) -> MergeRequest | None:
    """The merge request of this pipeline; None outside of one."""
    iid = environ.get("CI_MERGE_REQUEST_IID", "")
    # A fork's pipeline runs in the fork: CI_PROJECT_ID would be the wrong project.
    project = environ.get("CI_MERGE_REQUEST_PROJECT_ID") or environ.get("CI_PROJECT_ID", "")
    return MergeRequest(project=project, iid=iid) if iid and project else None


def put_note(api: Api, where: MergeRequest, marker: str, body: str) -> str:
    """Update our note that begins with ``marker``, or write a first one.

    Returns:
        Empty when it is there; else why it cannot be written.

    Raises:
        InfrastructureError: no answer, or a server error.
    """
    notes = f"projects/{quote(where.project, safe='')}/merge_requests/{quote(where.iid, safe='')}/notes"
    reply = api.request("GET", "user")
    me = reply.json()
    if reply.status != 200 or not isinstance(me, dict) or "id" not in me:
        return _refusal(reply)
    for note in api.pages(f"{notes}?sort=asc&order_by=created_at&per_page=100"):
        if isinstance(note, Reply):
            return _refusal(note)
        author = note.get("author") or {}
        if author.get("id") != me["id"] or not str(note.get("body") or "").startswith(marker):
            continue
        reply = api.request("PUT", f"{notes}/{note['id']}", {"body": body})
        if reply.status == 200:
            return ""
        if reply.status != 404:
            return _refusal(reply)
    reply = api.request("POST", notes, {"body": body}, repeat=False)
    return "" if reply.status == 201 else _refusal(reply)


def _refusal(reply: Reply) -> str:
    return f"GitLab answered {reply.status} {reply.message}".rstrip()
