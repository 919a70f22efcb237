"""examples/ci/edgekd.gitlab-ci.yml: its script lines, run as a runner does, against a GitLab on loopback."""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from fixtures_action import job_environ
from fixtures_forge import Forge, serving
from fixtures_models import classifier, examples

from edgekd.ci.comment import marker


@pytest.fixture
def forge() -> Iterator[Forge]:
    with serving() as made:
        yield made


@pytest.fixture(scope="module")
def job(repository: Path) -> dict[str, object]:
    text = (repository / "examples/ci/edgekd.gitlab-ci.yml").read_text(encoding="utf-8")
    value = yaml.safe_load(text)[".edgekd-gate"]
    assert isinstance(value, dict)
    return value


@pytest.fixture
def place(tmp_path: Path) -> Path:
    classifier(tmp_path / "teacher.onnx", layers=2)
    classifier(tmp_path / "student.onnx", layers=1)
    classifier(tmp_path / "damaged.onnx", layers=1, wrong_classes=(3,))
    np.savez(tmp_path / "test.npz", **examples(2000))
    return tmp_path


def run(
    job: dict[str, object], place: Path, forge: Forge, **variables: str
) -> subprocess.CompletedProcess[str]:
    script = "\n".join(job["script"])  # type: ignore[arg-type]
    defaults = {k: str(v) for k, v in job["variables"].items()}  # type: ignore[attr-defined]
    # GitLab gives the script to `bash`, or to `sh` where the image has none.
    return subprocess.run(
        ["sh", "-e", "-c", script], cwd=place, env=job_environ(**{**forge.gitlab_environ, **defaults, **variables}),
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_rejected_student_has_a_note_and_a_junit_file(
    job: dict[str, object], place: Path, forge: Forge
) -> None:
    done = run(
        job, place, forge, EDGEKD_STUDENT="damaged.onnx", EDGEKD_NAME="digits",
        EDGEKD_BASELINE="none.onnx", EDGEKD_FIRST_RUN="accept",
        EDGEKD_ARGS="--teacher teacher.onnx --data test.npz --max-accuracy-drop 0.01",
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (note,) = forge.comments
    assert note["body"].startswith(marker("digits"))
    assert "REJECT" in note["body"]
    assert "no baseline yet" in note["body"]
    artifacts = job["artifacts"]
    assert isinstance(artifacts, dict)
    report = ElementTree.parse(place / artifacts["reports"]["junit"]).getroot()
    assert len(report.findall(".//failure")) == 1
    assert (place / artifacts["paths"][0] / "verdict.json").is_file()


def test_a_recipe_that_trains_is_refused_and_an_earlier_verdict_is_not_told(
    job: dict[str, object], place: Path, forge: Forge
) -> None:
    (place / "runs/gate").mkdir(parents=True)
    (place / "runs/gate/verdict.json").write_text('{"decision": "pass"}')
    (place / "trains.yaml").write_text(
        "edgekd: 1\nname: trained\ntask: {data: {train: test.npz, test: test.npz}}\n"
        "teacher: {model: teacher.onnx}\nstudent: {model: zoo:digits-s}\ndistill: {epochs: 1}\n"
        "quantize: [float32]\ngates: {size: {max_mib: 4}}\n"
    )
    done = run(job, place, forge, EDGEKD_RECIPE="trains.yaml")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "trains (distill), and training was not asked" in done.stdout
    assert forge.comments[0]["body"].startswith(marker("trained"))
    assert "ERROR: wrong input" in forge.comments[0]["body"]


def test_without_a_token_the_log_has_the_report(job: dict[str, object], place: Path, forge: Forge) -> None:
    done = run(
        job,
        place,
        forge,
        EDGEKD_STUDENT="student.onnx",
        EDGEKD_ARGS="--max-size-mib 2",
        EDGEKD_GITLAB_TOKEN="",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "no comment: there is no token (EDGEKD_GITLAB_TOKEN)" in done.stderr
    assert "student may ship" in done.stdout
    assert forge.asked == []


def test_the_script_passes_shellcheck(job: dict[str, object], tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\nset -e\n" + "\n".join(job["script"]))  # type: ignore[arg-type]
    command = [
        str(Path(sys.executable).parent / "shellcheck"),
        "--external-sources",
        "--exclude=SC2154",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
