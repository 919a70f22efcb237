"""Recipes and policies are read, not run: by `edgekd ci check`, which the pre-commit hook calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from edgekd.ci.plan import read_plan, training_of
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


def test_nothing_to_check_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ci", "check"]) == 2
    assert main(["ci", "baseline"]) == 2


def test_a_gates_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path, "r.yaml", BUILT)
    for what in (recipe, "models/my student@2.onnx", "models/student.onnx"):
        assert main(["ci", "name", what]) == 0
    assert capsys.readouterr().out.splitlines() == ["built", "my-student-2", "student"]


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
