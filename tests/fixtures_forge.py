"""GitHub's and GitLab's REST APIs as a real HTTP server on loopback: pages, forks, rate limits, releases, redirects."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

REPOSITORY = "team/models"
BOT = {"login": "github-actions[bot]", "type": "Bot"}
PER_PAGE = 2
GITLAB_USER = {"id": 77, "username": "project_9_bot"}


@dataclass
class Forge:
    """What the server holds, and what it was asked.

    Attributes:
        comments: of pull request 7 (GitHub) and merge request 3 (GitLab), oldest first.
        releases: tag -> asset name -> bytes; the last one is the latest.
        may_write: False plays the token of a fork.
        visible: False hides the repository.
        faults: answers given before anything else: (method, part of the path, status, headers, message).
        wrong_digest: lists another SHA-256 than the asset has; cut: bytes left off a download.
        asked: (method, path, authorization) of every request.
    """

    url: str = ""
    storage_url: str = ""
    comments: list[dict[str, Any]] = field(default_factory=list)
    releases: dict[str, dict[str, bytes]] = field(default_factory=dict)
    may_write: bool = True
    visible: bool = True
    login: str = ""
    faults: list[tuple[str, str, int, dict[str, str], str]] = field(default_factory=list)
    wrong_digest: bool = False
    cut: int = 0
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    stored: list[tuple[str, str]] = field(default_factory=list)

    def add_comment(self, body: str, user: dict[str, Any] | None = None) -> int:
        number = 100 + len(self.comments)
        author = user or BOT
        self.comments.append({"id": number, "body": body, "user": author, "author": author})
        return number

    @property
    def environ(self) -> dict[str, str]:
        """What a job on GitHub finds in its environment."""
        return {
            "GITHUB_ACTIONS": "true",
            "GITHUB_API_URL": self.url,
            "GITHUB_SERVER_URL": "https://github.example",
            "GITHUB_REPOSITORY": REPOSITORY,
            "GITHUB_RUN_ID": "42",
            "GITHUB_RUN_ATTEMPT": "2",
            "GITHUB_SHA": "f" * 40,
            "no_proxy": "127.0.0.1",
        }

    @property
    def gitlab_environ(self) -> dict[str, str]:
        """What a job on GitLab finds in its environment."""
        return {
            "GITLAB_CI": "true",
            "CI_API_V4_URL": f"{self.url}/api/v4",
            "CI_MERGE_REQUEST_IID": "3",
            "CI_MERGE_REQUEST_PROJECT_ID": "9",
            "CI_PROJECT_ID": "1000",
            "CI_JOB_URL": "https://gitlab.example/team/models/-/jobs/5",
            "CI_COMMIT_SHA": "e" * 40,
            "EDGEKD_GITLAB_TOKEN": "gl-secret",
            "no_proxy": "127.0.0.1",
        }


class _Handler(BaseHTTPRequestHandler):
    forge: Forge
    is_storage = False

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _send(self, status: int, value: Any = None, headers: dict[str, str] | None = None) -> None:
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _answer(self) -> None:
        method, url = self.command, urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        payload = json.loads(self.rfile.read(length)) if length else {}
        token = self.headers.get("Authorization") or self.headers.get("Private-Token") or ""
        if self.is_storage:
            self.forge.stored.append((self.path, token))
            tag, name = url.path.strip("/").split("/")
            data = self.forge.releases[tag][name]
            self._send(200, data[: len(data) - self.forge.cut])
            return
        self.forge.asked.append((method, self.path, token))
        for fault in self.forge.faults:
            verb, part, status, headers, message = fault
            if verb == method and part in self.path:
                self.forge.faults.remove(fault)
                self._send(status, {"message": message}, headers)
                return
        self._route(method, url.path, parse_qs(url.query), payload)

    do_GET = do_POST = do_PATCH = do_PUT = _answer  # noqa: N815 - the base class looks for these

    def _route(self, method: str, path: str, query: dict[str, list[str]], payload: dict[str, Any]) -> None:
        forge = self.forge
        if path == "/user":
            if forge.login:
                self._send(200, {"login": forge.login})
            else:
                self._send(403, {"message": "Resource not accessible by integration"})
        elif path == "/api/v4/user":
            self._send(200, GITLAB_USER)
        elif not forge.visible:
            self._send(404, {"message": "Not Found"})
        elif re.fullmatch(rf"/repos/{REPOSITORY}(/issues/7/comments|/issues/comments/\d+)", path):
            self._comments(method, path, query, payload, BOT)
        elif re.fullmatch(r"/api/v4/projects/9/merge_requests/3/notes(/\d+)?", path):
            self._comments(method, path, query, payload, GITLAB_USER)
        elif path == f"/repos/{REPOSITORY}":
            self._send(200, {"full_name": REPOSITORY})
        elif found := re.fullmatch(rf"/repos/{REPOSITORY}/releases/(.+)", path):
            self._releases(found.group(1), query)
        else:
            self._send(404, {"message": "Not Found"})

    def _comments(
        self, method: str, path: str, query: dict[str, list[str]], payload: dict[str, Any], me: dict[str, Any]
    ) -> None:
        forge = self.forge
        if method == "GET":
            self._page(forge.comments, path, query)
        elif not forge.may_write:
            self._send(403, {"message": "Resource not accessible by integration"})
        elif len(payload["body"]) > 65_536:
            self._send(422, {"message": "body is too long (maximum is 65536 characters)"})
        elif method == "POST":
            self._send(201, {"id": forge.add_comment(payload["body"], me)})
        else:
            number = int(path.rpartition("/")[2])
            for comment in forge.comments:
                if comment["id"] == number:
                    comment["body"] = payload["body"]
                    self._send(200, comment)
                    return
            self._send(404, {"message": "Not Found"})

    def _page(self, items: list[Any], path: str, query: dict[str, list[str]]) -> None:
        page = int(query.get("page", ["1"])[0])
        headers = {}
        if page * PER_PAGE < len(items):
            headers["Link"] = (
                f'<{forge_url(self.forge, path)}?page={page + 1}>; rel="next", '
                f'<{forge_url(self.forge, path)}?page=99>; rel="last"'
            )
        self._send(200, items[(page - 1) * PER_PAGE : page * PER_PAGE], headers)

    def _releases(self, rest: str, query: dict[str, list[str]]) -> None:
        forge, tags = self.forge, list(self.forge.releases)
        kind, _, name = rest.partition("/")
        if kind == "assets":
            number = int(name)
            tag = tags[number // 100]
            file = list(forge.releases[tag])[number % 100]
            self._send(302, b"", {"Location": f"{forge.storage_url}/{tag}/{file}"})
            return
        if name == "assets":
            tag = tags[int(kind) - 1]
            self._page(
                [
                    {
                        "id": 100 * tags.index(tag) + i,
                        "name": file,
                        "state": "uploaded",
                        "size": len(data),
                        "digest": "sha256:"
                        + ("0" * 64 if forge.wrong_digest else hashlib.sha256(data).hexdigest()),
                    }
                    for i, (file, data) in enumerate(forge.releases[tag].items())
                ],
                self.path.partition("?")[0],
                query,
            )
            return
        tag = name if kind == "tags" else (tags[-1] if tags else "")
        if tag in tags:
            self._send(200, {"id": tags.index(tag) + 1, "tag_name": tag})
        else:
            self._send(404, {"message": "Not Found"})


def forge_url(forge: Forge, path: str) -> str:
    return f"{forge.url}{path}"


@contextlib.contextmanager
def serving() -> Iterator[Forge]:
    """A forge and its storage host, each on a port of its own, until the block ends."""
    forge = Forge()
    handlers = [
        type(n, (_Handler,), {"forge": forge, "is_storage": s}) for n, s in (("A", False), ("S", True))
    ]
    servers = [ThreadingHTTPServer(("127.0.0.1", 0), handler) for handler in handlers]
    threads = [threading.Thread(target=s.serve_forever, args=(0.05,), daemon=True) for s in servers]
    for thread in threads:
        thread.start()
    forge.url, forge.storage_url = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    try:
        yield forge
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()
