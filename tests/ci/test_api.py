"""The forge's API over loopback: retries, pages, and where the token goes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from fixtures_forge import REPOSITORY, Forge, serving

from edgekd.ci.api import Api, Reply
from edgekd.errors import InfrastructureError, UsageError


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as made:
        yield made


def api_to(forge: Forge, waits: list[float]) -> Api:
    return Api(base=forge.url, secret={"Authorization": "Bearer secret"}, sleep=waits.append)


def test_a_server_error_is_asked_again_and_then_answered(forge: Forge) -> None:
    waits: list[float] = []
    forge.faults += [("GET", "/repos", 502, {}, "Bad Gateway")] * 2
    assert api_to(forge, waits).request("GET", f"repos/{REPOSITORY}").status == 200
    assert waits == [1.0, 2.0]


def test_a_server_that_stays_down_is_infrastructure_not_an_answer(forge: Forge) -> None:
    forge.faults += [("GET", "/repos", 503, {}, "Service Unavailable")] * 9
    with pytest.raises(InfrastructureError, match="503 Service Unavailable, 4 times"):
        api_to(forge, []).request("GET", f"repos/{REPOSITORY}")
    assert len(forge.asked) == 4


def test_a_host_that_is_not_there_is_infrastructure() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    waits: list[float] = []
    with pytest.raises(InfrastructureError, match="cannot be reached"):
        Api(base=f"http://127.0.0.1:{port}", sleep=waits.append).request("GET", "user")
    assert len(waits) == 3


@pytest.mark.parametrize(
    ("status", "headers", "message"),
    [
        (429, {"Retry-After": "7"}, "Too Many Requests"),
        (403, {"Retry-After": "7"}, "You have exceeded a secondary rate limit."),
    ],
)
def test_a_rate_limit_waits_as_long_as_it_says(
    forge: Forge, status: int, headers: dict[str, str], message: str
) -> None:
    waits: list[float] = []
    forge.faults.append(("POST", "/comments", status, headers, message))
    reply = api_to(forge, waits).request(
        "POST", f"repos/{REPOSITORY}/issues/7/comments", {"body": "x"}, repeat=False
    )
    assert (reply.status, waits) == (201, [7.0])


def test_a_rate_limit_without_a_time_is_still_told_from_a_refusal(forge: Forge) -> None:
    waits: list[float] = []
    forge.faults.append(("GET", "/repos", 403, {}, "You have exceeded a secondary rate limit."))
    assert api_to(forge, waits).request("GET", f"repos/{REPOSITORY}").status == 200
    assert waits == [1.0]


def test_an_hour_is_not_waited_for(forge: Forge) -> None:
    waits: list[float] = []
    forge.faults.append(("GET", "/repos", 429, {"Retry-After": "3600"}, "slow down"))
    with pytest.raises(InfrastructureError, match="asks to wait 3600 s"):
        api_to(forge, waits).request("GET", f"repos/{REPOSITORY}")
    assert waits == []


def test_a_refusal_is_an_answer_and_not_asked_again(forge: Forge) -> None:
    reply = api_to(forge, []).request("GET", "repos/nobody/nothing")
    assert (reply.status, reply.message, len(forge.asked)) == (404, "Not Found", 1)


def test_what_would_be_done_twice_is_not_asked_again(forge: Forge) -> None:
    forge.faults.append(("POST", "/comments", 502, {}, "Bad Gateway"))
    with pytest.raises(InfrastructureError, match="502"):
        api_to(forge, []).request(
            "POST", f"repos/{REPOSITORY}/issues/7/comments", {"body": "x"}, repeat=False
        )
    assert len(forge.asked) == 1


def test_every_page_is_read(forge: Forge) -> None:
    for i in range(5):
        forge.add_comment(f"comment {i}")
    items = list(api_to(forge, []).pages(f"repos/{REPOSITORY}/issues/7/comments"))
    assert [i["body"] for i in items if not isinstance(i, Reply)] == [f"comment {i}" for i in range(5)]
    assert len(forge.asked) == 3


def test_an_address_that_is_no_web_address_is_refused() -> None:
    with pytest.raises(UsageError, match="not http"):
        Api(base="file:///etc")


def test_the_token_does_not_show_in_messages() -> None:
    assert "secret" not in repr(Api(base="http://x", secret={"Authorization": "Bearer secret"}))
