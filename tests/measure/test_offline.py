"""The offline sweep: larger batches while they pay."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgekd.artifact import Artifact
from edgekd.errors import ChildError
from edgekd.measure import Setting, arms_of, ledger, offline
from edgekd.measure.arm import Arm
from edgekd.measure.offline import sweep_batches
from edgekd.spec import draw_feeds
from edgekd.target import parse_target
from edgekd.testing import write_fake

SETTING = Setting(
    target=parse_target("cpu:fake"), runtime_paths={"fake": "edgekd.testing:FakeRuntime"}, timeout_s=60
)


def arm_at(artifact: Artifact, batch: int) -> Arm:
    return arms_of(("m", artifact, draw_feeds(artifact.inputs, seed=0, shapes={}, batch=batch)), [])[0]


@pytest.fixture
def maker(tmp_path: Path) -> functools.partial[Arm]:
    return functools.partial(arm_at, write_fake(tmp_path))


class Speeds:
    """Stands in for the children: samples per second by batch; counts what was tried."""

    def __init__(self, patch: pytest.MonkeyPatch, speeds: dict[int, float | Exception]) -> None:
        self.tried: list[int] = []
        self.speeds = speeds
        patch.setattr(offline, "_try", self.take)

    def take(self, arm: Arm, setting: Setting, batch: int) -> dict[str, float]:
        self.tried.append(batch)
        assert arm.batch == batch == len(arm.feeds["x"])
        speed = self.speeds[batch]
        if isinstance(speed, Exception):
            raise speed
        return {"batch": batch, "samples_per_s": speed, "ms_per_call": batch / speed * 1e3}


def test_it_stops_when_two_doublings_bring_nothing(
    maker: functools.partial[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, {1: 1e4, 2: 1.9e4, 4: 3e4, 8: 3.02e4, 16: 2.9e4, 32: 9e9})
    found = sweep_batches(maker, SETTING)
    assert speeds.tried == [1, 2, 4, 8, 16]
    assert found.best == 4, "8 is faster by less than 2 %"
    assert found.ended == "throughput no longer rises"
    assert [r["batch"] for r in found.to_json()["rows"]] == [1, 2, 4, 8, 16]


@pytest.mark.parametrize(
    ("speeds", "more", "tried", "ended"),
    [
        ({1: 1e4, 2: 2e4, 4: 4e4}, {"max_batch": 4}, [1, 2, 4], "4 is the greatest batch tried"),
        ({1: 7.0}, {}, [1], "a call of batch 2 would last more than 0.25 s"),
        ({4: 1e4}, {"fixed": 4}, [4], "the model takes batches of 4 only"),
        ({3: 1e4, 6: 2e4}, {"first": 3, "max_batch": 11}, [3, 6], "11 is the greatest batch tried"),
        (
            {1: 1e4, 2: ChildError("out of memory", outcome="out of memory")},
            {},
            [1, 2],
            "batch 2 ran out of memory",
        ),
    ],
)
def test_what_ends_a_sweep(
    maker: functools.partial[Arm],
    monkeypatch: pytest.MonkeyPatch,
    speeds: dict[int, float | Exception],
    more: dict[str, int],
    tried: list[int],
    ended: str,
) -> None:
    seen = Speeds(monkeypatch, dict(speeds))
    found = sweep_batches(maker, SETTING, **more)
    assert (seen.tried, found.ended) == (tried, ended)


def test_a_busy_moment_does_not_make_a_batch_slow(
    maker: functools.partial[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Busy:
        """Four of five blocks take three times as long."""

        blocks = iter([3e6, 3e6, 1e6, 3e6, 3e6])

        def exchange(self, payload: bytes) -> bytes:
            return b""

        def read(self, reply: bytes) -> Any:
            return {}, [np.full(4, next(self.blocks))]

    monkeypatch.setattr(offline, "open_arm", lambda *args: (Busy(), {}))
    monkeypatch.setattr(offline, "warm_up", lambda *args: {})
    assert offline._try(maker(2), SETTING, 2) == {"batch": 2, "samples_per_s": 2000.0, "ms_per_call": 1.0}


def test_inputs_that_would_not_fit_are_not_made(
    maker: functools.partial[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "available_memory_bytes", lambda: 16 * 10 * 4)  # four inputs of four floats
    Speeds(monkeypatch, {1: 1e4, 2: 2e4, 4: 4e4, 8: 8e4})
    assert "the inputs of batch 8 would take" in sweep_batches(maker, SETTING).ended


def test_a_first_batch_that_does_not_run_is_the_users_to_see(
    maker: functools.partial[Arm], monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, {1: ChildError("m ran out of memory", outcome="out of memory")})
    with pytest.raises(ChildError, match="out of memory"):
        sweep_batches(maker, SETTING)
    Speeds(monkeypatch, {1: 1e4, 2: ChildError("m crashed with SIGSEGV", outcome="signal 11")})
    with pytest.raises(ChildError, match="SIGSEGV"):
        sweep_batches(maker, SETTING)


def test_a_call_of_constant_time_pays_with_every_doubling(tmp_path: Path) -> None:
    """Through real children: a fake call takes 2 ms whatever its batch."""
    artifact = write_fake(tmp_path, latency_ns=[2_000_000])
    found = sweep_batches(functools.partial(arm_at, artifact), SETTING, max_batch=4)
    assert found.best == 4
    assert [r["batch"] for r in found.rows] == [1, 2, 4]
    assert found.rows[-1]["samples_per_s"] > 2 * found.rows[0]["samples_per_s"]
