"""The CIFAR-10 example in a shortened form: the committed recipe, with fewer images and one epoch each."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from edgekd.recipe import load_recipe


@pytest.fixture
def example(repository: Path, data_root: Path, tmp_path: Path) -> Path:
    if not (data_root / "vision" / "cifar10_train_jpegbytes.npz").is_file():
        pytest.skip(f"no CIFAR-10 below {data_root}")
    folder = tmp_path / "cifar10"
    shutil.copytree(repository / "examples" / "cifar10", folder)
    recipe = folder / "recipe.yaml"
    text = recipe.read_text()
    text = re.sub(r"epochs: \d+", "epochs: 1", text).replace("naive: 3", "naive: 1")
    for split, rows in (("train", 384), ("calibration", 32), ("select", 200), ("test", 1000)):
        text = text.replace(f"python:cifar_data:{split}", f"python:cifar_data:{split}#0:{rows}")
    recipe.write_text(text)
    return folder


def test_a_committee_teaches_what_fast_yaml_began(example: Path, data_root: Path) -> None:
    """The page's commands, with few images and one epoch each."""
    for name in ("fast.yaml", "tutor.yaml", "fast_tutored.yaml"):
        text = re.sub(r"epochs: \d+", "epochs: 1", (example / name).read_text())
        text = re.sub(r"views: \d+", "views: 1", text)
        for split, rows in (("train", 256), ("calibration", 32), ("select", 64), ("test", 64)):
            text = text.replace(f"python:cifar_data:{split}", f"python:cifar_data:{split}#0:{rows}")
        (example / name).write_text(text)
    given = {**os.environ, "EDGEKD_DATA": str(data_root.resolve()), "EDGEKD_CACHE": str(example / "cache")}

    def distill(name: str) -> Path:
        done = subprocess.run(
            [sys.executable, "-m", "edgekd", "run", name, "--only", "distill", "--out", "out"],
            cwd=example, env=given, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found = re.search(r"distilled: (.+)", done.stdout + done.stderr)
        assert found is not None
        return Path(found.group(1)) / "student.safetensors"

    plain, tutor = distill("fast.yaml"), distill("tutor.yaml")
    made = (example / "cache" / "train").glob("*/student.safetensors")
    (teacher,) = (p for p in made if p not in (plain, tutor))
    subprocess.run(
        [sys.executable, "tutor_student.py", str(teacher), str(tutor), "committee.safetensors"],
        cwd=example, check=True, timeout=300,
    )  # fmt: skip
    given |= {"EDGEKD_COMMITTEE": str(example / "committee.safetensors"), "EDGEKD_PLAIN18": str(plain)}
    tutored = distill("fast_tutored.yaml")
    lineage = json.loads((tutored.parent / "model.json").read_text())["lineage"]
    assert lineage["weights"] == hashlib.sha256(plain.read_bytes()).hexdigest()


def test_the_committed_recipe_is_the_one_that_the_issue_asks_for(repository: Path) -> None:
    recipe = load_recipe(repository / "examples" / "cifar10" / "recipe.yaml", {})
    assert recipe.teacher.model == "zoo:cifar-resnet44"
    assert recipe.teacher.train is not None, "the teacher is fine-tuned first"
    assert (recipe.student.model, recipe.student.naive) == ("zoo:cifar-resnet20", 3)
    assert recipe.gates.accuracy is not None
    assert recipe.gates.accuracy.max_drop == 0.03


def test_shortened_it_runs_to_a_verdict_and_an_untrained_student_is_rejected(
    example: Path, data_root: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "edgekd", "run", "recipe.yaml", "--out", "out"],
        cwd=example, env={**os.environ, "EDGEKD_DATA": str(data_root.resolve())}, capture_output=True, text=True,
        timeout=900, check=False,
    )  # fmt: skip
    # One epoch on 384 images teaches a student next to nothing: it must not ship.
    assert done.returncode == 1, done.stderr
    verdict = json.loads((example / "out" / "verdict.json").read_text())
    gates = {g["gate"]: g for g in verdict["gates"]}
    assert gates["accuracy"]["decision"] == "reject"
    assert gates["accuracy"]["n"] == 1000
    assert gates["accuracy"]["estimate"] < -0.3
    assert gates["latency"]["decision"] == "pass"
    assert gates["latency"]["estimate"] < 0.6
    assert gates["size"]["decision"] == "pass"
    hops = {h["hop"]: h for h in json.loads((example / "out" / "run.json").read_text())["chain"]}
    assert set(hops) == {"teacher", "naive", "distilled", "exported", "quantized", "as_run"}
    teacher = json.loads((example / "out" / hops["teacher"]["evaluation"]).read_text())
    assert teacher["mean"] > 0.7, "the published weights were loaded"


def test_the_given_networks_reach_the_accuracy_measured_elsewhere(
    data_root: Path, repository: Path, tmp_path: Path
) -> None:
    """resnet44 and resnet32 as they come: 82.64 % and 82.90 % on all 5,000 test images."""
    weights = data_root.resolve() / "vision"
    if not (weights / "cifar10_testA_jpegq75.npz").is_file():
        pytest.skip(f"no CIFAR-10 below {data_root}")
    shutil.copy(repository / "examples" / "cifar10" / "cifar_data.py", tmp_path)
    env = {**os.environ, "EDGEKD_DATA": str(data_root.resolve())}

    def edgekd(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "edgekd", *args],
            cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip

    done = edgekd(
        "gate", "--teacher", "zoo:cifar-resnet44", "--student", "zoo:cifar-resnet32",
        "--weights", f"teacher:{weights}/resnet44_cifar10.safetensors",
        "--weights", f"student:{weights}/resnet32_cifar10.safetensors",
        "--data", "python:cifar_data:test", "--task", "image-classification", "--max-accuracy-drop", "0.01",
        "--out", "gate",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    means = {
        p.name: json.loads(p.read_text())["mean"]
        for p in (tmp_path / "gate" / "evidence").glob("eval-*.json")
    }
    assert means["eval-teacher-test.json"] == pytest.approx(0.8264, abs=0.002)
    assert means["eval-student-test.json"] == pytest.approx(0.8290, abs=0.002)
