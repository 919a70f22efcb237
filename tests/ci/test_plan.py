"""Recipes and policies are read, not run: by `edgekd ci check`, which the pre-commit hook calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgekd.ci.plan import check_recipe, read_plan, training_of
from edgekd.cli import main
from edgekd.recipe import load_recipe

BUILT = (
    "edgekd: 1\nname: built\ntask: {data: {train: t.npz, test: t.npz}}\nteacher: {model: teacher.onnx}\n"
    "student: {model: student.onnx}\nquantize: [float32]\ngates: {size: {max_mib: 4}, accuracy: {}}\n"
)
TRAINED = BUILT.replace("student.onnx", "zoo:digits-s") + "distill: {epochs: 1}\n"


def write(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text)
    return str(folder / name)


def test_a_recipe_and_a_policy(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = write(tmp_path, "edgekd.yaml", BUILT)
    policy = write(tmp_path, "edgekd-policy.yaml", "gates: {size: {max_mib: 4}}\n")
    assert main(["ci", "check", "--no-train", built, policy]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["recipe built: accuracy, size", "policy: size"]


@pytest.mark.parametrize(
    ("change", "keys"),
    [
        (lambda t: t, ("distill",)),
        (lambda t: t.replace("zoo:digits-s}", "zoo:digits-s, naive: 2}"), ("distill", "student.naive")),
        (
            lambda t: t.replace("teacher.onnx}", "zoo:digits-l, train: {epochs: 1}}"),
            ("distill", "teacher.train"),
        ),
    ],
)
def test_what_trains_is_named(change, keys, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # type: ignore[no-untyped-def]
    path = write(tmp_path, "r.yaml", change(TRAINED))
    assert training_of(load_recipe(Path(path), {})) == keys
    assert main(["ci", "check", path]) == 0
    assert main(["ci", "check", "--no-train", path]) == 2
    error = capsys.readouterr().err
    assert f"trains ({', '.join(keys)}), and training was not asked" in error
    assert error.count("\n") == 1


def test_all_that_is_wrong_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path, "one.yaml", BUILT.replace("quantize", "quantise"))
    two = write(tmp_path, "two.yaml", "gates: {speed: 1}\n")
    fine = write(tmp_path, "fine.yaml", BUILT)
    write(tmp_path, "student.onnx", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    assert main(["ci", "check", one, two, fine]) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 3
    assert "one.yaml:6: unknown key 'quantise'" in said[0]
    assert "two.yaml:1" in said[1]
    assert "the student" in said[2]
    assert "is a Git LFS pointer" in said[2]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("task: {", "task: {kind: regresion, ", "no task is called 'regresion'"),
        (
            "task: {",
            "task: {kind: classification, metric: mae, ",
            "metric 'mae' is not known for classification",
        ),
        ("task: {", "task: {kind: detection, metric: top1, ", "metric 'top1' is not known for detection"),
        ("quantize:", "export: [onxx]\nquantize:", "no exporter is called 'onxx'"),
        ("quantize:", "targets: ['cpu:onnx']\nquantize:", "runtime 'onnx' is not provided by any plugin"),
        ("quantize:", "targets: ['cpu/onnxruntime']\nquantize:", "is not of the form"),
        ("quantize:", "targets: ['toaster:onnxruntime']\nquantize:", "device 'toaster' is not known"),
        ("task: {", "task: {kind: 'python:mine', ", "'python:mine' is not a python reference"),
        ("task: {", "task: {kind: 'python:mine:tsak', ", "mine.py has no 'tsak'"),
        ("task: {", "task: {kind: 'python:broken:task', ", "broken.py:2: "),
        ("test: t.npz", "test: 'python:mine:rows2#0:9'", "mine.py has no 'rows2'"),
        ("model: teacher.onnx", "model: 'python:mine:net'", "mine.py has no 'net'"),
    ],
)
def test_what_a_run_would_refuse_by_name_is_refused(
    old: str, new: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path, "mine.py", "raise SystemExit('imported')\ndef task(data, base): ...\n")
    write(tmp_path, "broken.py", "def task(data, base): ...\nx = = 1\n")
    assert BUILT.count(old) >= 1
    path = write(tmp_path, "r.yaml", BUILT.replace(old, new))
    assert main(["ci", "check", path]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"edgekd: error: {path}: ") or path in line
    assert says in line


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("task: {", "task: {kind: detection, metric: map50, "),
        ("quantize:", "targets: ['cuda:onnxruntime', {target: 'npu:new', required: false}]\nquantize:"),
        ("task: {", "task: {kind: 'python:mine:task', metric: anything, "),
        ("task: {", "task: {kind: 'python:mine:assigned', "),
        ("task: {", "task: {kind: 'python:mine:guarded', "),
        ("task: {", "task: {kind: 'python:stars:task', "),
        ("test: t.npz", "test: 'python:installed.elsewhere:rows'"),
    ],
)
def test_what_is_absent_or_the_users_own_is_fine(old: str, new: str, tmp_path: Path) -> None:
    """A module is not imported: this one would end the process."""
    write(
        tmp_path, "mine.py",
        "raise SystemExit('imported')\ndef task(data, base): ...\nassigned = 1\n"
        "try:\n    from os import path as guarded\nexcept ImportError:\n    guarded = None\n",
    )  # fmt: skip
    write(tmp_path, "stars.py", "from mine import *\n")
    path = write(tmp_path, "r.yaml", BUILT.replace(old, new))
    assert main(["ci", "check", path]) == 0


POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 9\n"


@pytest.mark.parametrize(
    "asked",
    [
        ["--model", "a.onnx"],
        ["--data", "a.onnx"],
        ["--data", "a.onnx#0:50"],
        ["--data", "a.onnx?columns=x,y#0:50"],
        ["--data", "coco:b.json:pictures"],
        ["--data", "pictures#0:9"],
        ["r.yaml"],
    ],
)
def test_no_pointer_is_taken_for_a_model_or_data(
    asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures/cat").mkdir(parents=True)
    write(tmp_path, "a.onnx", POINTER)
    write(tmp_path, "pictures/cat/1.png", POINTER)
    write(tmp_path, "r.yaml", BUILT.replace("test: t.npz", "test: 'pictures#10:'"))
    assert main(["ci", "check", "--data", "0.01", "--data", "sklearn:digits", "--data", "none.npz"]) == 0
    assert main(["ci", "check", *asked]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is a Git LFS pointer of" in line


def test_nothing_to_check_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ci", "check"]) == 2
    assert main(["ci", "baseline"]) == 2


def test_a_gates_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path, "r.yaml", BUILT)
    for what in (recipe, "models/my student@2.onnx", "models/student.onnx"):
        assert main(["ci", "name", what]) == 0
    assert capsys.readouterr().out.splitlines() == ["built", "my-student-2", "student"]


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (BUILT.replace("quantize", "quantise"), "built"),
        (BUILT.replace("name: built", "name: ${WHERE:-there}").replace("quantize", "quantise"), "there"),
        (BUILT + "gates: {}\n", "built"),
        (BUILT.replace("gates: {", "gates: {{"), "built"),
        (BUILT.replace("name: built", "name: 'built'  # a comment") + "}", "built"),
        (BUILT.replace("name: built", "name: [1]"), "r"),
        (BUILT.replace("name: built\n", "") + "}", "r"),
        ("\x00", "r"),
    ],
)
def test_a_broken_recipe_keeps_its_name(
    text: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The comment of a broken recipe replaces the one of the recipe before it was broken."""
    path = write(tmp_path, "r.yaml", text)
    assert main(["ci", "name", path]) == 0
    assert main(["ci", "name", str(tmp_path / "absent.yaml")]) == 0
    assert capsys.readouterr().out.splitlines() == [name, "absent"]


def test_the_hook_checks_the_recipes_it_should(repository: Path, tmp_path: Path) -> None:
    (hook,) = yaml.safe_load((repository / ".pre-commit-hooks.yaml").read_text())
    chosen, left = re.compile(hook["files"]), re.compile(hook["exclude"])
    files = (
        "edgekd.yaml",
        "models/edgekd-policy.yml",
        ".github/workflows/edgekd.yml",
        "edgekd.gitlab-ci.yml",
    )
    assert [f for f in files if chosen.search(f) and not left.search(f)] == list(files[:2])
    write(tmp_path, "edgekd.yaml", BUILT)
    write(tmp_path, "edgekd-bad.yaml", BUILT.replace("edgekd: 1", "edgekd: 2"))
    program, *arguments = hook["entry"].split()
    command = [str(Path(sys.executable).parent / program), *arguments]
    for names, code in ((["edgekd.yaml"], 0), (["edgekd.yaml", "edgekd-bad.yaml"], 2)):
        done = subprocess.run([*command, *names], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stderr


def test_the_shipped_recipes_are_fine(repository: Path) -> None:
    shipped = [
        *(repository / "edgekd/pipeline/recipes").glob("*.yaml"),
        repository / "examples/cifar10/recipe.yaml",
    ]
    assert len(shipped) > 1
    for path in shipped:
        assert read_plan(path, {}).gates, path
        check_recipe(path, {})
