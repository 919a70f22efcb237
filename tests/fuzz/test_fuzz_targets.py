"""A short, seeded session of every fuzz target, and the harness itself on faults that were planted."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))
sys.path.append(str(Path(__file__).parents[2] / "bench"))
from fuzz_all import markdown
from fuzz_one import atheris_or_none, load_targets, run_hypothesis
from fuzz_session import Session, mutated
from fuzz_target import Choices, Target, edited

from edgekd.errors import InputError

HERE = Path(__file__).parent
TARGETS = load_targets()
SHORT = 200


@pytest.mark.parametrize("name", TARGETS)
def test_a_short_session_finds_nothing(name, tmp_path):
    target = TARGETS[name]
    seeds, reader = target.prepare(tmp_path)
    session = Session(target=target, reader=reader, kept=tmp_path / "crashes")
    draw = random.Random(name)
    inputs = [*seeds, *(mutated(seeds, draw, target.longest_bytes) for _ in range(SHORT - len(seeds)))]
    for data in inputs[:SHORT]:
        session.execute(data)
    assert session.executions == SHORT
    assert not session.crashes, [f"{c.kind} at {c.where}: {c.message}" for c in session.crashes.values()]


def test_every_target_takes_some_of_its_seeds(tmp_path):
    """A target whose seeds are all refused looks at nothing behind the first check."""
    for name in (
        "recipe",
        "policy",
        "run",
        "evaluation",
        "bundle-tar",
        "onnx",
        "safetensors",
        "npz",
        "trials",
    ):
        folder = tmp_path / name
        folder.mkdir()
        seeds, reader = TARGETS[name].prepare(folder)
        session = Session(target=TARGETS[name], reader=reader, kept=folder)
        for data in seeds:
            session.execute(data)
        assert session.accepted, name


def _planted(data: bytes) -> None:
    if data == b"refuse":
        raise InputError("no")
    if data == b"crash":
        raise KeyError("planted")
    if data == b"slow":
        total = 0
        while sum(os.times()[:2]) < _planted.until:
            total += 1


_planted.until = 0.0


def test_the_harness_tells_crashes_from_refusals(tmp_path):
    target = Target(name="planted", reads="", prepare=lambda folder: ([], _planted))
    session = Session(target=target, reader=_planted, kept=tmp_path)
    for data in (b"fine", b"refuse", b"crash", b"crash"):
        session.execute(data)
    ((crash,),) = [tuple(session.crashes.values())]
    assert (crash.kind, crash.times, session.accepted) == ("KeyError", 2, 1)
    assert (tmp_path / crash.input).read_bytes() == b"crash"
    _planted.until = sum(os.times()[:2]) + 1.2
    session.execute(b"slow")
    assert {c.kind for c in session.crashes.values()} == {"KeyError", "slow"}


def test_edits_are_those_of_the_bytes():
    document = {"a": [1, 2], "b": {"c": "text"}}
    texts = {repr(edited(document, Choices(bytes(range(i, i + 20))))) for i in range(60)}
    assert len(texts) > 20
    assert document == {"a": [1, 2], "b": {"c": "text"}}


def test_hypothesis_runs_the_same_targets():
    seen = []
    run_hypothesis(seen.append, [b"seed"], 64, 50, 1)
    assert len(seen) >= 50
    assert max(map(len, seen)) <= 64


def test_the_command_ends_with_the_count_that_was_asked(tmp_path):
    if atheris_or_none() is None:
        pytest.skip("atheris is not installed here; hypothesis runs the targets instead")
    command = [
        sys.executable,
        str(HERE / "fuzz_one.py"),
        "github-event",
        "--executions",
        "60",
        "--work",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-400:]
    result = json.loads((tmp_path / "github-event.json").read_text())
    assert (result["engine"], result["executions"], result["crashes"]) == ("atheris", 60, [])
    assert "| github-event |" in markdown([result], 60, 1)
