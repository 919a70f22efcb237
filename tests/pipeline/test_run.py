"""``edgekd run``: the whole line on digits, twice, killed in the middle, and with what is missing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekd.evidence import load_evaluation
from edgekd.evidence.run import load_run
from edgekd.report import load_view

RECIPE = """
edgekd: 1
name: small
task:
  output: logits:logits
  data:
    train: "sklearn:digits#train"
    calibration: "sklearn:digits#calibration"
    select: "sklearn:digits#select"
    test: "sklearn:digits#test"
teacher: {model: "zoo:digits-cnn-student", train: {epochs: TEACHER, lr: 0.05, batch: 64, seed: 3}}
student: {model: "zoo:digits-cnn-student", naive: 1}
distill: {epochs: STUDENT, lr: 0.05, batch: 64, augment: [shift1]}
shapes: {image: [1x1x8x8, 2x1x8x8, 64x1x8x8]}
targets: [cpu:onnxruntime, {target: "cuda:tensorrt", required: false}]
gates:
  accuracy: {max_drop: 0.5}
  latency: {max_ratio: 20}
provenance: {teacher: {name: t, licence: own, access: weights}, data: {name: digits, licence: own}}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("TEACHER", "2").replace("STUDENT", "3"))
    return tmp_path


def environment(cache: Path, **more: str) -> dict[str, str]:
    return {**os.environ, "EDGEKD_CACHE": str(cache), **more}


def edgekd(place: Path, *args: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "edgekd", *args],
        cwd=place, env=environment(place / "cache", **more), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


def artifacts(run: Path) -> dict[str, str]:
    """Name -> digest of every artifact and model of a run."""
    made = {
        str(p.parent.relative_to(run)): json.loads(p.read_text())["digest"]
        for p in (run / "artifacts").glob("*/artifact.json")
    }
    made.update(
        {
            str(p.parent.relative_to(run)): json.loads(p.read_text())["weights_sha256"]
            for p in (run / "models").glob("*/model.json")
        }
    )
    return made


def killed_when(place: Path, cache: Path, there: Callable[[Path], bool]) -> None:
    """Start a run and kill -9 its whole session as soon as ``there(cache)`` holds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd", "run", "recipe.yaml", "--out", "out"],
        cwd=place, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 400
    try:
        while not there(cache):
            assert process.poll() is None, "the run ended before the moment to kill it came"
            assert time.monotonic() < deadline
            time.sleep(0.002)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def check_chain(folder: Path) -> None:
    """Every hop, run as it says; the flipped digits with their pictures."""
    run = load_run(folder)
    assert [h.hop for h in run.chain] == ["teacher", "naive", "distilled", "exported", "quantized", "as_run"]
    found = {h.hop: load_evaluation(folder / h.evaluation) for h in run.chain}
    level = {hop: e.environment["placement"]["detail"].get("graph_level") for hop, e in found.items()}
    assert (level["exported"], level["quantized"]) == ("ORT_DISABLE_ALL", "ORT_DISABLE_ALL")
    assert (level["teacher"], level["as_run"]) == ("ORT_ENABLE_ALL", "ORT_ENABLE_ALL")
    assert (found["quantized"].environment["batch"], found["as_run"].environment["batch"]) == (64, 1)
    # What the chain ends with is what was judged, and the artifact that was selected.
    judged = next(c.test for c in run.candidates if c.test is not None)
    assert judged.accuracy is not None
    assert run.chain[-1].evaluation == judged.accuracy.candidate
    assert found["as_run"].artifact == run.selected["cpu:onnxruntime"]
    view = load_view(folder)
    assert view.chain is not None
    steps = view.chain.path_to(view.chain.ends[0])
    assert steps[-1].what == "the runtime on cpu:onnxruntime"
    assert all(r.step is not None and r.step.interval is not None for r in steps[1:])
    (flips,) = view.flips
    assert flips.lost > 0
    assert all(flip.png.startswith(b"\x89PNG") for flip in flips.rows)
    assert sum(flips.lost_on.values()) == flips.lost


def test_the_line_ends_in_a_verdict_and_a_second_run_redoes_nothing(place: Path) -> None:
    done = edgekd(place, "run", "recipe.yaml", "--out", "out")
    assert done.returncode == 0, done.stderr
    run = place / "out"
    for name in ("run.json", "verdict.json", "report.md", "report.html", "recipe.json"):
        assert (run / name).is_file(), name
    verdict = json.loads((run / "verdict.json").read_text())
    assert verdict["decision"] == "pass"
    assert {g["gate"] for g in verdict["gates"] if g["target"] == "cpu:onnxruntime"} == {
        "accuracy",
        "latency",
    }
    assert {c["dtype"] for c in verdict["candidates"] if c["target"] == "cpu:onnxruntime"} == {
        "float32",
        "int8",
    }
    check_chain(run)
    absent = json.loads((run / "run.json").read_text())["absent"]
    assert [(a["target"], a["required"]) for a in absent] == [("cuda:tensorrt", False)]
    assert "tensorrt" in done.stdout

    # torch is not there the second time: everything comes out of the cache.
    (place / "poison" / "torch").mkdir(parents=True)
    (place / "poison" / "torch" / "__init__.py").write_text("raise ImportError('torch was imported')")
    again = edgekd(place, "run", "recipe.yaml", "--out", "out", PYTHONPATH=str(place / "poison"))
    assert again.returncode == 0, again.stderr
    stages = [line for line in again.stderr.splitlines() if "✓" in line]
    assert stages
    assert [line for line in stages if "(cached)" not in line] == []
    second = json.loads((run / "verdict.json").read_text())
    assert second["gates"] == verdict["gates"]

    # Released, verified, and judged again from the bundle's own evidence.
    assert edgekd(place, "release", "out", "-o", "bundle").returncode == 0
    assert edgekd(place, "verify", "bundle").returncode == 0
    assert edgekd(place, "verify", "bundle.tar").returncode == 0
    model = next((place / "bundle").rglob("*.onnx"))
    damaged = bytearray(model.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    model.write_bytes(bytes(damaged))
    refused = edgekd(place, "verify", "bundle")
    assert refused.returncode == 5
    assert model.name in refused.stderr
    assert edgekd(place, "report", "out", "--format", "junit").stdout.startswith("<?xml")


def test_kill_9_in_training_and_in_quantization_then_resume_to_the_same_bytes(place: Path) -> None:
    whole = edgekd(place, "run", "recipe.yaml", "--out", "whole")
    assert whole.returncode == 0, whole.stderr
    cache = place / "killed"

    def trained_one_epoch(root: Path) -> bool:
        # The student's stage: the teacher's is finished already.
        return bool(list((root / "train").glob("[0-9a-f]*"))) and bool(
            list((root / "work").glob("train-*/resume/checkpoint.safetensors"))
        )

    killed_when(place, cache, trained_one_epoch)
    assert not (place / "out").exists()
    assert len(list((cache / "train").glob("[0-9a-f]*"))) == 1
    checkpoint = next((cache / "work").glob("train-*/resume/checkpoint.safetensors"))
    assert checkpoint.stat().st_size > 0

    killed_when(place, cache, lambda root: bool(list((root / "quantize").glob(".*.tmp"))))
    assert not list((cache / "quantize").glob("[0-9a-f]*"))
    assert not (place / "out").exists()

    done = subprocess.run(
        [sys.executable, "-m", "edgekd", "run", "recipe.yaml", "--out", "out"],
        cwd=place, env=environment(cache), capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "distilled student (cached)" in done.stderr
    assert artifacts(place / "out") == artifacts(place / "whole")


def test_interrupted_by_the_user_is_130_and_leaves_nothing_half_made(place: Path) -> None:
    cache = place / "cache"
    process = subprocess.Popen(
        [sys.executable, "-m", "edgekd", "run", "recipe.yaml", "--out", "out"],
        cwd=place, env=environment(cache), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while not list((cache / "work").glob("train-*/resume/checkpoint.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert not (place / "out").exists()


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_drop", "max_dorp", ["recipe.yaml:17", "gates.accuracy.max_dorp", "did you mean 'max_drop'"]),
        ("cpu:onnxruntime", "cpu:onnxruntim", ["runtime 'onnxruntim'", "onnxruntime"]),
        ("zoo:digits-cnn-student", "zoo:digits-rnn", ["zoo has no 'digits-rnn'", "digits-cnn-student"]),
        ("#test", "#tset", ["sklearn:digits has no split 'tset'"]),
        ("edgekd: 1", "edgekd: 1\nexport: [flatbuffer]", ["flatbuffer", "onnx"]),
    ],
)
def test_a_wrong_recipe_is_one_line_before_any_work(
    place: Path, old: str, new: str, words: list[str]
) -> None:
    (place / "recipe.yaml").write_text((place / "recipe.yaml").read_text().replace(old, new))
    done = edgekd(place, "run", "recipe.yaml", "--out", "out")
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]
    assert not (place / "out").exists()


def test_a_required_target_that_is_absent_is_inconclusive(place: Path) -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has an NVIDIA driver")
    recipe = (place / "recipe.yaml").read_text()
    recipe = recipe.replace('[cpu:onnxruntime, {target: "cuda:tensorrt", required: false}]', '["cuda:torch"]')
    recipe = (
        recipe.replace("epochs: 2", "epochs: 1").replace("epochs: 3", "epochs: 1").replace(", naive: 1", "")
    )
    (place / "recipe.yaml").write_text(recipe)
    done = edgekd(place, "run", "recipe.yaml", "--out", "out")
    assert done.returncode == 3, done.stderr
    verdict = json.loads((place / "out" / "verdict.json").read_text())
    assert verdict["decision"] == "inconclusive"
