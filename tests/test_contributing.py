"""CONTRIBUTING.md, .ci/run, the Makefile and the commit hooks say the same."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml


def _bash_commands(markdown: str) -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```", markdown, flags=re.M | re.S)
    lines = [line.partition(" # ")[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


def _make_targets(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.M))


def test_ci_runs_the_commands_of_contributing_and_tests_come_last(repository: Path) -> None:
    documented = _bash_commands((repository / "CONTRIBUTING.md").read_text())
    script = (repository / ".ci" / "run").read_text().splitlines()
    assert "make test" in documented
    assert [c for c in documented if c not in script] == []
    assert script[-1] == "make test"


def test_make_commands_in_the_documents_name_targets_that_exist(repository: Path) -> None:
    targets = _make_targets((repository / "Makefile").read_text())
    for name in ("CONTRIBUTING.md", "README.md", ".ci/run"):
        text = (repository / name).read_text()
        named = set(re.findall(r"(?:^|`|\s)make ([a-z][a-z-]*)(?=`|\s*$)", text, flags=re.M))
        assert named <= targets, f"{name} names {sorted(named - targets)}"


def test_ci_script_is_executable(repository: Path) -> None:
    assert (repository / ".ci" / "run").stat().st_mode & stat.S_IXUSR


@pytest.fixture
def hooks(repository: Path) -> list[dict[str, object]]:
    config = yaml.safe_load((repository / ".pre-commit-config.yaml").read_text())
    return [hook for repo in config["repos"] for hook in repo["hooks"]]


def test_hooks_run_what_make_lint_runs(repository: Path, hooks: list[dict[str, object]]) -> None:
    makefile = (repository / "Makefile").read_text()
    for hook in hooks:
        assert hook["language"] == "system"
        tool = str(hook["entry"]).removeprefix(".venv/bin/python -m ").removesuffix(" --force-exclude")
        assert f"$(RUN) {tool}" in makefile


def test_hooks_stop_a_commit_with_a_lint_error(repository: Path, tmp_path: Path) -> None:
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".pre-commit-config.yaml").write_text((repository / ".pre-commit-config.yaml").read_text())
    (tmp_path / "unused.py").write_text("import os\n")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith("GIT_")},
        "PRE_COMMIT_HOME": str(tmp_path / "home"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, env=environment, check=True)
    subprocess.run(
        ["git", "add", "unused.py", ".pre-commit-config.yaml"], cwd=tmp_path, env=environment, check=True
    )
    command = [sys.executable, "-m", "pre_commit", "run", "ruff-check"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "F401" in done.stdout
