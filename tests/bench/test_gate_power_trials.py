"""The power study's moving parts: models, load, one trial from models to a replayed verdict, the command line."""

from __future__ import annotations

import functools
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from fixtures_run import make_measurement
from gate_power import calibrate, command, models, trial
from gate_power.bursts import Injected, read_bursts
from gate_power.journal import open_journal
from gate_power.load import CONDITIONS, load, measuring_children
from gate_power.models import EFFECTS, LAYERS, build, write_models
from gate_power.peers import pytest_benchmark
from gate_power.sources import source_files

from edgekd.errors import ChildError
from edgekd.evidence.measurement import load_measurement, save_measurement
from edgekd.measure import Protocol
from edgekd.stages import StageStore

BENCH = Path(__file__).resolve().parents[2] / "bench"
DOCS = BENCH.parent / "docs"


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(BENCH / "gate_power"), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_layer_more_is_a_hundredth_more_of_the_same_work(tmp_path: Path) -> None:
    base = build(LAYERS, 4)
    for effect, more in EFFECTS.items():
        copy = build(LAYERS + more, 4, f"effect {effect}")
        convs = [n for n in copy.graph.node if n.op_type == "Conv"]
        assert len(convs) / LAYERS == pytest.approx(1 + (0 if effect == "null" else int(effect) / 100))
        # The base's own layers come first, unchanged; those added have the same kernels and shapes.
        assert copy.graph.node[: 2 * LAYERS] == base.graph.node[: 2 * LAYERS]
        assert copy.graph.initializer == base.graph.initializer
        assert {tuple(n.input[1:]) for n in convs} == {
            tuple(n.input[1:]) for n in base.graph.node if n.op_type == "Conv"
        }


def test_the_equal_copy_computes_the_same_and_is_another_file(tmp_path: Path) -> None:
    files = write_models(tmp_path, 4)
    assert files["null"].read_bytes() != files["base"].read_bytes()
    assert [n.op_type for n in onnx.load(files["4"]).graph.node].count("Conv") == LAYERS + 4
    x = np.random.default_rng(0).standard_normal((1, 16, 4, 4)).astype(np.float32)
    outputs = {
        name: onnxruntime.InferenceSession(str(files[name]), providers=["CPUExecutionProvider"]).run(
            None, {"x": x}
        )[0]
        for name in ("base", "null", "4")
    }
    assert np.array_equal(outputs["base"], outputs["null"])
    assert not np.allclose(outputs["base"], outputs["4"])
    assert np.abs(outputs["base"]).max() < 1e3  # a hundred layers neither explode nor fade
    assert np.abs(outputs["base"]).max() > 1e-3


def test_models_are_made_once_and_others_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "choose_side", lambda calls: (4, 0.8))
    folder = Path("runs/models")  # relative, as people type it
    prepare = functools.partial(
        calibrate.prepare,
        folder,
        restarts=0,
        effects=["null"],
        store=StageStore(tmp_path / "store"),
        say=print,
    )
    made = prepare("short")
    assert set(made.digests) == {"base", *EFFECTS}
    assert (made.planted["4"].built, made.planted["4"].ratio) == (1.04, None)
    monkeypatch.setattr(models, "choose_side", None)
    assert prepare("short").digests == made.digests
    with pytest.raises(ValueError, match=r"is of short calls or of other files"):
        prepare("long")
    (folder / "base.onnx").write_bytes(models.build(3, 4).SerializeToString())
    with pytest.raises(ValueError, match=r"is of short calls or of other files"):
        prepare("short")


def test_bursts_within_a_span_are_counted(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    one.write_text("B 1.0\nE 2.0\nB 4.0\nS 4.5\nS 4.6\nE 6.0\nB 9.0\n")
    two.write_text("B 4.5\nE 5.5\nB 7")  # torn
    assert read_bursts([one, two], 2.5, 5.0) == Injected(bursts=2, seconds=1.5, stops=2)
    assert read_bursts([one, two], 2.0, 3.0) == Injected(bursts=0, seconds=0.0, stops=0)
    assert read_bursts([one], 8.0, 11.0) == Injected(bursts=1, seconds=2.0, stops=0)
    assert read_bursts([tmp_path / "not begun"], 0.0, 1.0) == Injected(bursts=0, seconds=0.0, stops=0)


#: Starts the load of a condition and tells its workers; with a child that looks like one that measures.
_HOLDER = """
import os, subprocess, sys, time
sys.path.append(sys.argv[1])
from gate_power import load
load.CONDITIONS["burst"] = (load.Worker(kind="cpu", on_s=0.02, off_s=0.02),)
with load.load("burst", seed=1, cpus=sorted(os.sched_getaffinity(0))[:1]) as running:
    print(*running.pids, flush=True)
    time.sleep(60)
"""


def test_the_load_dies_with_its_parent() -> None:
    holder = subprocess.Popen([sys.executable, "-c", _HOLDER, str(BENCH)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        pids = [int(p) for p in holder.stdout.readline().split()]
        assert pids
        assert all(_alive(p) for p in pids)
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    end = time.monotonic() + 20
    while any(_alive(p) for p in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(_alive(p) for p in pids)


def _state(pid: int) -> str:
    """proc(5): the letter after the command's closing bracket."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _alive(pid: int) -> bool:
    """Whether a process runs; one that is dead and not yet reaped does not."""
    try:
        return _state(pid) != "Z"
    except OSError:
        return False


def test_a_throttle_stops_what_measures_and_says_how_often() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(60)", "edgekd.child"], stdin=subprocess.DEVNULL
    )
    try:
        end = time.monotonic() + 20
        while child.pid not in measuring_children(os.getpid()) and time.monotonic() < end:
            time.sleep(0.02)
        begin = time.monotonic()
        habit = type(CONDITIONS["throttle"][0])(kind="stop", on_s=5.0, off_s=0.001)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(CONDITIONS, "throttle", (habit,))  # type: ignore[arg-type]
            with load("throttle", seed=1, cpus=[0]) as running:
                seen: set[str] = set()
                while not {"T", "S"} <= seen and time.monotonic() < begin + 20:
                    seen.add(_state(child.pid))
                    time.sleep(0.01)
                found = running.injected(begin, time.monotonic())
        assert {"T", "S"} <= seen  # proc(5): stopped, and asleep of its own will
        assert found is not None
        assert found.stops > 0
        assert found.bursts > 0
        assert _state(child.pid) != "T"  # let go at the end
    finally:
        child.kill()
        child.wait()


def test_quiet_has_no_load() -> None:
    with load("quiet", seed=1, cpus=[0]) as running:
        assert running.pids == []
        assert running.injected(0.0, 1e9) is None


def test_candidates_of_one_measurement_are_judged_by_their_own_arm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny = functools.partial(
        Protocol, rounds=3, block_calls=2, block_ms=0.5, warm_s=0.01, warm_calls=2, warm_cap_s=0.1
    )
    monkeypatch.setattr(trial, "Protocol", lambda **more: tiny(min_restarts=1, max_restarts=1, **more))
    write_models(tmp_path / "models", 4)
    artifacts = calibrate._open(tmp_path / "models", StageStore(tmp_path / "store"))
    made = trial.run_trials(
        artifacts["base"], {"null": artifacts["null"], "10": artifacts["10"]}, setting=calibrate.setting(),
        limit=1.02, seed=3, work=tmp_path / "work", keep=tmp_path / "evidence",
    )  # fmt: skip
    measurement = load_measurement(tmp_path / "evidence" / "measurement.json")
    for effect, record in made.items():
        assert record["decision"] == "inconclusive"  # one restart, the first look needs more
        assert measurement.arms[record["arm"]]["artifact"] == artifacts[effect].digest
        assert (record["candidates"], record["restarts"]) == (2, 1)
        blocks = measurement.restarts[0].blocks
        assert record["block_minima_ns"] == {
            name: [[int(b.min()) for b in blocks[arm]]]
            for name, arm in (
                ("baseline", "baseline"), ("baseline_twin", "baseline_twin"), ("candidate", record["arm"]),
            )
        }  # fmt: skip
        assert 0 <= record["disturbed_calls"] < 1
    assert made["null"]["arm"] != made["10"]["arm"]


def test_a_child_that_dies_is_an_error_of_every_candidate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object, **__: object) -> None:
        raise ChildError("the child died", "look into its log", outcome="crashed")

    monkeypatch.setattr(trial, "measure_comparison", die)
    write_models(tmp_path / "models", 4)
    artifacts = calibrate._open(tmp_path / "models", StageStore(tmp_path / "store"))
    made = trial.run_trials(
        artifacts["base"], {"null": artifacts["null"], "10": artifacts["10"]}, setting=calibrate.setting(),
        limit=1.02, seed=3, work=tmp_path / "work", keep=tmp_path / "evidence",
    )  # fmt: skip
    assert {e: (r["decision"], r["candidates"], r["restarts"]) for e, r in made.items()} == {
        "null": ("error", 2, 0), "10": ("error", 2, 0),
    }  # fmt: skip
    assert not (tmp_path / "evidence").exists()


def test_an_answer_replays_and_an_altered_one_does_not(tmp_path: Path) -> None:
    measurement = make_measurement(ratio=1.04)
    save_measurement(measurement, tmp_path / "measurement.json")
    record = {**trial.gate_record(trial.judge(measurement, 1.02)), "arm": "candidate"}
    assert record["decision"] == "reject"
    assert trial.replay(tmp_path, record, 1.02) == 0.0
    assert trial.replay(
        tmp_path, {**record, "estimate": record["estimate"] * (1 + 1e-6)}, 1.02
    ) == pytest.approx(1e-6, rel=1e-3)
    lower, upper = record["interval"]
    assert trial.replay(tmp_path, {**record, "interval": [lower, upper + 1e-7]}, 1.02) > 1e-9
    assert trial.replay(tmp_path, {**record, "interval": None}, 1.02) is None
    assert trial.replay(tmp_path, {**record, "decision": "inconclusive"}, 1.02) is None


def _study_with_evidence(folder: Path, estimate: float = 1.0) -> Path:
    """Two trials of one measurement, whose evidence was kept, and one whose was not."""
    measurement = make_measurement(ratio=1.04)
    (folder / "evidence" / "0000").mkdir(parents=True)
    save_measurement(measurement, folder / "evidence" / "0000" / "measurement.json")
    record = {**trial.gate_record(trial.judge(measurement, 1.02)), "arm": "candidate"}
    journal = open_journal(folder, {"limit": 1.02}, {})
    journal.append({"index": 0, "group": 0, "edgekd": record})
    journal.append({"index": 1, "group": 0, "edgekd": {**record, "estimate": estimate * record["estimate"]}})
    journal.append({"index": 2, "group": 2, "edgekd": record})
    return folder


def test_replay_says_for_each_study(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = _study_with_evidence(tmp_path / "good"), _study_with_evidence(tmp_path / "bad", 1 + 1e-6)
    assert command.main(["replay", str(good)]) == 0
    assert command.main(["replay", str(good), str(bad)]) == 1
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{good}: 2 of 2 kept verdicts replay to 9 digits (largest difference 0.0e+00)",
        f"{bad}: 1 of 2 kept verdicts replay to 9 digits (largest difference 1.0e-06)",
    ]


def test_the_peers_really_run(tmp_path: Path) -> None:
    files = write_models(tmp_path, 2)
    stat = pytest_benchmark(files["base"])
    assert 0 < stat["min"] <= stat["median"] <= stat["max"]
    assert stat["rounds"] >= 5


def test_repetitions_are_of_both_models(tmp_path: Path) -> None:
    files = write_models(tmp_path, 2)
    script = BENCH / "gate_power" / "peer_repetitions.py"
    done = subprocess.run(
        [sys.executable, str(script), str(files["base"]), str(files["4"]), "3", "0.001"], capture_output=True, text=True, check=True
    )  # fmt: skip
    assert re.fullmatch(r'\{"a": \[[\d.]+(, [\d.]+){2}\], "b": \[[\d.]+(, [\d.]+){2}\]\}\n', done.stdout)


def test_what_measures_and_judges_is_in_the_digest() -> None:
    found = set(source_files())
    assert {
        "edgekd.measure.interleave",
        "edgekd.measure.arm",
        "edgekd.measure.run",
        "edgekd.gates.timing",
        "edgekd.gates.statistic",
        "edgekd.child.process",
    } <= found
    assert "edgekd.report" not in found


def test_help_names_every_option_that_the_page_documents() -> None:
    for verb in ("run", "report", "replay"):
        assert _run(verb, "--help").returncode == 0
    shown = set(re.findall(r"--[a-z-]+", _run("run", "--help").stdout)) - {"--help", "--max-regression"}
    rows = [
        line.split("|")[1]
        for line in (DOCS / "gate_power.md").read_text().splitlines()
        if line.startswith("| `--")
    ]
    assert {o for row in rows for o in re.findall(r"--[a-z-]+", row)} == shown
    conditions = re.findall(r"^\| `([a-z]+)` \| (?!does)", (DOCS / "gate_power.md").read_text(), flags=re.M)
    assert set(conditions) == set(CONDITIONS)


def test_wrong_use_is_one_line_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["report", str(tmp_path)]) == 2
    assert command.main(["replay", str(tmp_path)]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all("does not exist; run the study first" in line for line in lines)
    assert command.main(["run", "--out", str(tmp_path / "x"), "--trials", "7=1"]) == 2
    assert "'7=1' is not EFFECT=TRIALS" in capsys.readouterr().err
