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
from fixtures_forge import GITLAB_USER, Forge, serving
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
    for name in ("verdict.json", "report.md", "run.json", "junit.xml"):
        (place / "runs/gate" / name).write_text('{"decision": "pass"}')
    (place / "trains.yaml").write_text(
        "edgekd: 1\nname: trained\ntask: {data: {train: test.npz, test: test.npz}}\n"
        "teacher: {model: teacher.onnx}\nstudent: {model: zoo:digits-s}\ndistill: {epochs: 1}\n"
        "quantize: [float32]\ngates: {size: {max_mib: 4}}\n"
    )
    done = run(job, place, forge, EDGEKD_RECIPE="trains.yaml")
    assert done.returncode == 2, done.stdout + done.stderr
    assert "trains (distill), and training was not asked" in done.stderr
    assert forge.comments[0]["body"].startswith(marker("trained"))
    assert "ERROR: wrong input" in forge.comments[0]["body"]
    assert [f.name for f in (place / "runs/gate").iterdir()] == ["junit.xml"]
    (error,) = ElementTree.parse(place / "runs/gate/junit.xml").getroot().iter("error")
    assert "training was not asked" in str(error.get("message"))


@pytest.mark.parametrize(
    ("variables", "says"),
    [
        ({}, "the job has nothing to gate"),
        ({"EDGEKD_STUDENT": "student.onnx", "EDGEKD_RECIPE": "r.yaml"}, "both EDGEKD_RECIPE and EDGEKD_STUDENT"),
        ({"EDGEKD_STUDENT": "student.onnx", "EDGEKD_ARGS": "--data pointer.npz#0:9"}, "pointer.npz is a Git LFS pointer"),
        ({"EDGEKD_STUDENT": "student.onnx", "EDGEKD_ARGS": "--data=pointer.npz"}, "pointer.npz is a Git LFS pointer"),
        # Not the files that it would match.
        ({"EDGEKD_STUDENT": "student.onnx", "EDGEKD_ARGS": "--teacher teacher.onnx --data *.npz"}, "*.npz"),
    ],
)  # fmt: skip
def test_wrong_variables_are_one_clear_line(
    variables: dict[str, str], says: str, job: dict[str, object], place: Path, forge: Forge
) -> None:
    (place / "pointer.npz").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    )
    done = run(job, place, forge, **variables)
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in forge.comments[0]["body"]
    assert [says in line for line in done.stderr.splitlines() if "edgekd: error:" in line] == [True]
    (error,) = ElementTree.parse(place / "runs/gate/junit.xml").getroot().iter("error")
    assert says in str(error.get("message"))


def test_a_broken_recipe_updates_the_note_of_the_recipe(
    job: dict[str, object], place: Path, forge: Forge
) -> None:
    forge.add_comment(f"{marker('digits')}\nPASS", GITLAB_USER)
    (place / "r.yaml").write_text("edgekd: 1\nname: digits\nteacher: {\n")
    done = run(job, place, forge, EDGEKD_RECIPE="r.yaml")
    assert done.returncode == 2, done.stdout + done.stderr
    (note,) = forge.comments
    assert "ERROR: wrong input" in note["body"]


def test_stderr_is_shown_while_the_gate_runs(job: dict[str, object], place: Path, forge: Forge) -> None:
    """What a stand-in says is in the log, on stderr, in its order, and its exit code is the job's."""
    (place / "bin").mkdir()
    stub = place / "bin/edgekd"
    stub.write_text(
        '#!/bin/sh\nif [ "$1" = gate ]; then echo measuring >&2; echo table; echo done >&2; exit 4; fi\n'
        f'exec {Path(sys.executable).parent}/edgekd "$@"\n'
    )
    stub.chmod(0o755)
    path = f"{stub.parent}:{job_environ()['PATH']}"
    done = run(job, place, forge, EDGEKD_STUDENT="student.onnx", PATH=path)
    assert done.returncode == 4, done.stdout + done.stderr
    assert done.stderr.index("measuring") < done.stderr.index("done")
    assert "measuring" not in done.stdout
    assert done.stdout.splitlines()[0] == "table"
    assert (place / ".edgekd/gate.log").read_text() == "measuring\ndone\n"


def test_a_failed_installation_leaves_no_earlier_result(job: dict[str, object], place: Path) -> None:
    (place / "runs/gate").mkdir(parents=True)
    (place / "runs/gate/verdict.json").write_text('{"decision": "pass"}')
    (place / "bin").mkdir()
    (place / "bin/python").write_text("#!/bin/sh\nexit 1\n")
    (place / "bin/python").chmod(0o755)
    script = "\n".join(job["before_script"])  # type: ignore[arg-type]
    environ = job_environ(PATH=f"{place / 'bin'}:/usr/bin:/bin", EDGEKD_PACKAGE="edgekd[ort]")
    done = subprocess.run(["sh", "-e", "-c", script], cwd=place, env=environ, capture_output=True, text=True)
    assert done.returncode == 4, done.stderr
    assert "edgekd[ort] cannot be installed" in done.stderr
    assert [f.name for f in (place / "runs/gate").iterdir()] == ["junit.xml"]
    assert len(list(ElementTree.parse(place / "runs/gate/junit.xml").getroot().iter("error"))) == 1


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
    lines = [*job["before_script"], *job["script"]]  # type: ignore[misc]
    script.write_text("#!/bin/sh\nset -e\n" + "\n".join(lines))
    command = [
        str(Path(sys.executable).parent / "shellcheck"),
        "--external-sources",
        "--exclude=SC2154",
        str(script),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
