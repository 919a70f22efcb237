"""A forge's REST API over the standard library: timeouts, retries, pages, and a token that stays with its host."""

from __future__ import annotations

import http.client
import json
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import SplitResult, urlsplit

from edgekd.errors import InfrastructureError, UsageError

_TIMEOUT_S = 30.0
_ATTEMPTS = 4
#: A forge that asks for a longer pause than this is not waited for: the job's minutes cost more than the comment.
_LONGEST_WAIT_S = 60.0
_CHUNK = 1 << 20
#: Headers that carry a token, spelt as urllib keeps them.
_SECRET = ("Authorization", "Private-token")
_NEXT = re.compile(r'<([^>]+)>\s*;[^,]*\brel="?next"?')


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What the forge answered: any status below 500 that is no rate limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def message(self) -> str:
        """The forge's own word for a refusal, one line."""
        value = self.json()
        said = value.get("message") or value.get("error") if isinstance(value, dict) else ""
        return " ".join(str(said or http.client.responses.get(self.status, "")).split())[:200]

    def json(self) -> Any:
        """The body as JSON; None where it is none."""
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            return None


def _origin(url: SplitResult) -> tuple[str, str | None, int | None]:
    return url.scheme, url.hostname, url.port or {"http": 80, "https": 443}.get(url.scheme)


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, with the token only where scheme, host and port stay the same."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is None:
            return None
        old_url, new_url = urlsplit(req.full_url), urlsplit(new.full_url)
        if new_url.scheme not in ("http", "https") or (old_url.scheme, new_url.scheme) == ("https", "http"):
            raise InfrastructureError(
                f"{old_url.netloc} redirects to {new_url.scheme}://{new_url.netloc}, which is not encrypted",
                "that redirect is not followed",
            )
        if _origin(old_url) == _origin(new_url):
            for name in _SECRET:
                if value := req.unredirected_hdrs.get(name):
                    new.add_unredirected_header(name, value)
        return new


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """One API host and the token for it.

    Attributes:
        base: e.g. ``https://api.github.com``, without a slash at its end.
        secret: the header that carries the token; sent to the host of ``base`` only. Empty without a token.
        headers: sent always.
        sleep: waits so many seconds between attempts.
    """

    base: str
    secret: Mapping[str, str] = field(default_factory=dict, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    sleep: Callable[[float], None] = time.sleep

    def __post_init__(self) -> None:
        if urlsplit(self.base).scheme not in ("http", "https"):
            raise UsageError(f"the API address {self.base!r} is not http(s)://…", "correct its variable")

    def request(
        self, method: str, path: str, payload: Mapping[str, Any] | None = None, *, repeat: bool = True
    ) -> Reply:
        """One request, repeated on network failures, 5xx and rate limits.

        Args:
            method: GET, POST, PATCH, PUT.
            path: below ``base``, or a whole address.
            payload: sent as JSON.
            repeat: False where a second request could do the thing twice (POST): only a rate limit is repeated then,
                since it says that nothing was done.

        Raises:
            InfrastructureError: no answer, a server error or a rate limit, after the last attempt.
        """
        asked = self._asked(method, path, payload)
        for attempt in range(_ATTEMPTS):
            wait_s = float(2**attempt)
            try:
                with self._open(asked) as reply:
                    return Reply(status=reply.status, headers=_plain(reply.headers), body=reply.read())
            except urllib.error.HTTPError as e:
                found = Reply(status=e.code, headers=_plain(e.headers), body=_body_of(e))
                limited = _is_rate_limit(found)
                if e.code < 500 and not limited:
                    return found
                problem = f"{asked.host} answered {e.code} {found.message}".rstrip()
                if not repeat and not limited:
                    raise InfrastructureError(problem, "run the job again") from e
                wait_s = _asked_wait_s(found, wait_s)
            except (OSError, http.client.HTTPException) as e:
                reason = e.reason if isinstance(e, urllib.error.URLError) else e
                problem = f"{asked.host} cannot be reached ({' '.join(str(reason).split())})"
                if not repeat:
                    raise InfrastructureError(problem, "run the job again") from e
            if wait_s > _LONGEST_WAIT_S:
                raise InfrastructureError(f"{problem} and asks to wait {wait_s:.0f} s", "run the job later")
            if attempt + 1 < _ATTEMPTS:
                self.sleep(wait_s)
        raise InfrastructureError(f"{problem}, {_ATTEMPTS} times", "check the network, or run the job again")

    def pages(self, path: str) -> Iterator[dict[str, Any] | Reply]:
        """Items of all pages of a list; a refusal is the only item, as a Reply.

        Raises:
            InfrastructureError: as :meth:`request`, or an answer that is no list.
        """
        following = path
        while following:
            reply = self.request("GET", following)
            if reply.status != 200:
                yield reply
                return
            items = reply.json()
            if not isinstance(items, list):
                raise InfrastructureError(f"{self.base} gave no list for {path}", "check the API's address")
            yield from (i for i in items if isinstance(i, dict))
            found = _NEXT.search(reply.headers.get("link", ""))
            following = found.group(1) if found else ""

    def download(self, path: str, target: Path, *, accept: str, size_bytes: int | None) -> Reply | None:
        """Stream a file to ``target``; redirects are followed, the token is not sent elsewhere.

        Returns:
            None when the file is whole; the refusal otherwise.

        Raises:
            InfrastructureError: as :meth:`request`, or fewer or more bytes than ``size_bytes``.
        """
        asked = self._asked("GET", path, None)
        asked.add_header("Accept", accept)
        for attempt in range(_ATTEMPTS):
            wait_s = float(2**attempt)
            try:
                with self._open(asked) as reply, target.open("wb") as file:
                    wanted = reply.headers.get("Content-Length") if size_bytes is None else size_bytes
                    while chunk := reply.read(_CHUNK):
                        file.write(chunk)
                    got = file.tell()
                if wanted is None or got == int(wanted):
                    return None
                problem = f"{target.name} came as {got:,} bytes instead of {int(wanted):,}"
            except urllib.error.HTTPError as e:
                found = Reply(status=e.code, headers=_plain(e.headers), body=_body_of(e))
                if e.code < 500 and not _is_rate_limit(found):
                    return found
                problem = f"{urlsplit(e.url or asked.full_url).netloc} answered {e.code} for {target.name}"
                wait_s = min(_asked_wait_s(found, wait_s), _LONGEST_WAIT_S)
            except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as e:
                reason = e.reason if isinstance(e, urllib.error.URLError) else e
                problem = f"{target.name} cannot be downloaded ({' '.join(str(reason).split())})"
            if attempt + 1 < _ATTEMPTS:
                self.sleep(wait_s)
        raise InfrastructureError(f"{problem}, {_ATTEMPTS} times", "check the network, or run the job again")

    def _asked(self, method: str, path: str, payload: Mapping[str, Any] | None) -> urllib.request.Request:
        url = path if path.startswith(("http://", "https://")) else f"{self.base}/{path.lstrip('/')}"
        data = None if payload is None else json.dumps(payload).encode()
        made = urllib.request.Request(url, data=data, method=method, headers=dict(self.headers))
        if data is not None:
            made.add_header("Content-Type", "application/json")
        if _origin(urlsplit(url)) == _origin(urlsplit(self.base)):
            for name, value in self.secret.items():
                made.add_unredirected_header(name, value)
        return made

    @staticmethod
    def _open(asked: urllib.request.Request) -> Any:
        return urllib.request.build_opener(_Redirects).open(asked, timeout=_TIMEOUT_S)


def _plain(headers: Message) -> dict[str, str]:
    return {k.lower(): v for k, v in headers.items()}


def _body_of(error: urllib.error.HTTPError) -> bytes:
    try:
        return error.read()
    except (OSError, http.client.HTTPException):
        return b""  # the status alone says enough


def _is_rate_limit(reply: Reply) -> bool:
    """429, or 403 in the words of GitHub's rate limits (docs.github.com, "Rate limits for the REST API")."""
    if reply.status == 429:
        return True
    limited = "retry-after" in reply.headers or reply.headers.get("x-ratelimit-remaining") == "0"
    return reply.status == 403 and (limited or "rate limit" in reply.message.lower())


def _asked_wait_s(reply: Reply, otherwise_s: float) -> float:
    text = reply.headers.get("retry-after", "")
    if text.isdigit():
        return float(text)
    reset = reply.headers.get("x-ratelimit-reset", "")
    if reply.headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(0.0, int(reset) - time.time())
    return otherwise_s
