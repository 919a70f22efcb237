"""``--target ssh/board:onnxruntime`` from the command line: gate, bench, eval, compare, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures_board import Sshd
from fixtures_builds import built_twice

from edgekd.artifact import Artifact
from edgekd.board import session as sessions
from edgekd.board.session import open_board
from edgekd.cli import main
from edgekd.errors import TargetUnavailableError, UsageError
from edgekd.measure import Setting, ledger
from edgekd.pipeline.collect import Comparison, Feeds, measure_comparison
from edgekd.pipeline.sessions import open_model
from edgekd.pipeline.targets import ResolvedTarget, present_target, resolve_target
from edgekd.stages import StageStore
from edgekd.target import parse_target

TARGET = "ssh/board:onnxruntime"
Edgekd = Callable[..., tuple[int, str, str]]


@pytest.fixture
def edgekd(
    board: Sshd, models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Edgekd:
    """Run a verb beside the models; exit code, stdout and stderr."""
    monkeypatch.chdir(models)

    def call(*args: str) -> tuple[int, str, str]:
        code = main(list(args))
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def test_gate_measures_evaluates_and_judges_there(edgekd: Edgekd, tmp_path: Path) -> None:
    asked = [
        "gate", "--teacher", "teacher.onnx", "--student", "student.onnx", "--data", "test.npz", "--max-accuracy-drop", "0.02",
        "--max-latency-ratio", "0.9", "--target", TARGET,
    ]  # fmt: skip
    code, said, _ = edgekd(*asked, "--out", str(tmp_path / "run"))
    assert code == 0, said
    assert f"PASS          latency     {TARGET}" in said
    verdict = json.loads((tmp_path / "run/verdict.json").read_text())
    assert {g["gate"]: g["decision"] for g in verdict["gates"]} == {"accuracy": "pass", "latency": "pass"}
    assert {g["target"] for g in verdict["gates"]} == {TARGET}
    (measured,) = (tmp_path / "run/evidence").glob("measure-*.json")
    evidence = json.loads(measured.read_text())
    assert evidence["target"] == TARGET
    assert evidence["environment"]["board"]["device"] == "ssh/board"
    # A third of the work is decided at the judge's first look: its limits went there.
    assert len(evidence["restarts"]) == 4
    evaluated = [json.loads(p.read_text()) for p in (tmp_path / "run/evidence").glob("eval-*.json")]
    placed = [e["environment"]["placement"] for e in evaluated]
    assert {p["device"] for p in placed} == {"ssh/board"}
    assert {p["detail"]["machine"]["cpu"] for p in placed} == {ledger.machine()["cpu"]}
    # The same machine, boot and versions: nothing is measured again. The run judges again anywhere.
    assert edgekd(*asked, "--out", str(tmp_path / "again"))[0] == 0
    assert (tmp_path / "again/evidence" / measured.name).read_bytes() == measured.read_bytes()
    assert edgekd("gate", str(tmp_path / "run"))[0] == 0


@pytest.mark.parametrize(("layers", "decision"), [(1, "pass"), (12, "reject")])
def test_the_worst_build_is_judged_there(edgekd: Edgekd, tmp_path: Path, layers: int, decision: str) -> None:
    built_twice(tmp_path / "student", layers)
    code, said, _ = edgekd(
        "gate", "--teacher", "student.onnx", "--student", str(tmp_path / "student"), "--max-latency-ratio", "1.5",
        "--target", TARGET, "--out", str(tmp_path / "run"),
    )  # fmt: skip
    (gate,) = json.loads((tmp_path / "run/verdict.json").read_text())["gates"]
    assert (gate["decision"], code) == (decision, {"pass": 0, "reject": 1}[decision]), said
    assert gate["reason"].endswith("the worst of 2 builds")


def test_the_placement_gate_is_decided_there(edgekd: Edgekd, tmp_path: Path) -> None:
    asked = [
        "gate", "--student", "student.onnx", "--min-placement", "1.0", "--placement-on", "cpu", "--target", TARGET,
    ]  # fmt: skip
    code, said, _ = edgekd(*asked, "--out", str(tmp_path / "run"))
    (gate,) = json.loads((tmp_path / "run/verdict.json").read_text())["gates"]
    assert (gate["gate"], gate["decision"], gate["estimate"], code) == ("placement", "pass", 1.0, 0), said


def test_bench_with_the_boards_resources(edgekd: Edgekd, tmp_path: Path) -> None:
    out = tmp_path / "measurement.json"
    code, said, _ = edgekd("bench", "student.onnx", "--target", TARGET, "--restarts", "1", "-o", str(out))
    assert code == 0
    assert f"{TARGET}, single-stream" in said
    resources = json.loads(out.read_text())["resources"]["baseline"]
    assert resources["memory"]["peak_bytes"] > 1 << 20
    assert resources["load"]["warm"]["load_ns"]["median"] > 0
    assert resources["cost"]["parameters"] > 0
    assert "energy.rapl" in resources["unavailable"] or "energy" in resources


def test_compare(edgekd: Edgekd, tmp_path: Path) -> None:
    code, said, _ = edgekd(
        "compare", "teacher.onnx", "student.onnx", "--target", TARGET, "-o", str(tmp_path / "comparison.json")
    )
    assert code == 0
    assert "same answer 100.0%" in said


def test_a_board_that_vanishes_is_exit_4_and_loses_nothing(
    edgekd: Edgekd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "measurement.json"
    out.write_text("earlier")

    def vanish(self: object, do: str, *args: object, **more: object) -> None:
        raise TargetUnavailableError(
            "ssh/board vanished while it was asked to measure (x)", "look at its power"
        )

    opened = open_board(parse_target(TARGET))
    request = opened.request
    monkeypatch.setattr(
        opened, "request", lambda do, *a, **m: vanish(opened, do) if do == "measure" else request(do, *a, **m)
    )
    code, _, said = edgekd("bench", "student.onnx", "--target", TARGET, "-o", str(out))
    assert code == 4
    assert said.splitlines()[-1] == (
        "edgekd: error: ssh/board vanished while it was asked to measure (x); look at its power"
    )
    assert out.read_text() == "earlier"
    asked = [
        "gate",
        "--teacher",
        "teacher.onnx",
        "--student",
        "student.onnx",
        "--max-latency-ratio",
        "0.5",
        "--target",
        TARGET,
    ]
    assert edgekd(*asked, "--remeasure", "--out", str(tmp_path / "run"))[0] == 4
    assert not (tmp_path / "run").exists()


def test_a_board_that_is_not_there(edgekd: Edgekd, tmp_path: Path) -> None:
    asked = ["gate", "--teacher", "teacher.onnx", "--student", "student.onnx", "--max-latency-ratio", "0.9"]
    where = ["--target", "ssh/nosuch.invalid:onnxruntime", "--out", str(tmp_path / "run")]
    code, said, _ = edgekd(*asked, *where)
    assert code == 3
    assert "ssh/nosuch.invalid cannot be reached: ssh: Could not resolve hostname" in said
    code, _, said = edgekd("bench", "student.onnx", *where[:2])
    assert code == 4
    assert said.startswith(
        "edgekd: error: ssh/nosuch.invalid cannot be reached: ssh: Could not resolve hostname"
    )
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (("--sweep",), "--sweep does not reach ssh/board:onnxruntime"),
        (("--threads", "4096"), "ssh/board: 4096 threads were asked for"),
        (("--meter", "nosuch"), "ssh/board: no meter is called 'nosuch'"),
    ],
)
def test_what_a_board_does_not_do(edgekd: Edgekd, args: tuple[str, ...], line: str) -> None:
    code, _, said = edgekd("bench", "student.onnx", "--target", TARGET, *args)
    assert code == 2
    assert said.splitlines()[-1].startswith(f"edgekd: error: {line}")


def test_targets_by_prefix(board: Sshd) -> None:
    found = resolve_target(TARGET)
    assert isinstance(found, ResolvedTarget)
    assert found.runtime_paths["onnx"] == "edgekd_devices.remote:onnxruntime"
    for text, line in (
        ("ssh/board:torch", "torch modules are not sent to boards"),
        ("ssh/board:nosuch", "runtime 'nosuch' is not provided by any plugin"),
        ("serial/x:onnxruntime", "device 'serial' is not known"),
        ("cpu/x:onnxruntime", "'cpu' is no link to a board; known: adb, ssh"),
        ("ssh/-V:onnxruntime", "names no host"),
    ):
        with pytest.raises(UsageError, match=line):
            resolve_target(text)
    with pytest.raises(
        UsageError, match=r"a call from here would time the link; .*edgekd bench m.onnx --target"
    ):
        open_model("m.onnx", target=TARGET, store=StageStore(Path("/nowhere")))


def test_measurements_are_kept_by_the_boards_machine_and_boot(
    board: Sshd, student: Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = present_target(TARGET)
    keys: list[dict[str, Any]] = []

    class _EnoughError(Exception):
        pass

    def run(
        self: StageStore, kind: str, name: str, key: dict[str, Any], build: object, **more: object
    ) -> None:
        keys.append(key)
        raise _EnoughError

    monkeypatch.setattr(StageStore, "run", run)
    comparison = Comparison(
        baseline=("s", student), candidates=[], limits={}, feeds=Feeds(), occasion="test",
        setting=Setting(target=found.target, runtime_paths=found.runtime_paths),
    )  # fmt: skip
    opened = open_board(found.target)
    monkeypatch.setattr(ledger, "machine", lambda: {"boot_id": "of the host"})
    for boot in ("one", "two"):
        monkeypatch.setattr(opened, "machine", {**opened.machine, "boot_id": boot})
        with pytest.raises(_EnoughError):
            measure_comparison(comparison, StageStore(tmp_path), remeasure=False)
    assert keys[0]["machine"] != keys[1]["machine"]
    assert {k: v for k, v in keys[0].items() if k != "machine"} == {
        k: v for k, v in keys[1].items() if k != "machine"
    }
    assert keys[0]["tools"] == opened.tools
    assert set(sessions.PACKAGES) < set(opened.tools)
